"""The convolutional segmenter: how prompts are drawn, and what its U-Net does with them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from amodal.errors import InputError
from amodal.models.bases.conv_prompt import ConvPromptFamily
from amodal.models.bases.prompt_maps import NUM_MAPS, PromptMaps
from amodal.models.bases.protocol import ImageFeatures, PromptEmbeddings, Prompts
from tests.models.families import small_conv_prompt_config

INSIDE, ACROSS, DOWN, BOX_GIVEN, ON, OFF, POINTS_GIVEN, MASK, MASK_GIVEN = range(NUM_MAPS)


def drawn(**prompts: Tensor) -> Tensor:
    """The maps of the first object in an input of 32 pixels, 16 cells."""
    return PromptMaps(32)(Prompts(**prompts))[0, 0]


def test_a_box_is_drawn_with_the_share_of_each_cell_and_positions_between_its_edges() -> None:
    maps = drawn(boxes=torch.tensor([[[4.0, 8.0, 13.0, 24.0]]]))
    assert maps[INSIDE, 5].tolist() == [0, 0, 1, 1, 1, 1, 0.5] + [0] * 9
    assert maps[INSIDE, :, 3].tolist() == [0] * 4 + [1] * 8 + [0] * 4
    assert maps[ACROSS, 0, 2] == pytest.approx((5 - 8.5) / 4.5)
    assert maps[DOWN, 7, 0] == pytest.approx((15 - 16) / 8)
    assert maps[ACROSS].max() <= 3
    assert maps[BOX_GIVEN].eq(1).all()
    assert not maps[[ON, OFF, POINTS_GIVEN, MASK, MASK_GIVEN]].any()


def test_points_are_spots_of_their_kind_and_padding_is_not_drawn() -> None:
    points = torch.tensor([[[[9.0, 5.0], [25.0, 21.0], [3.0, 30.0], [0.0, 0.0]]]])
    maps = drawn(points=points, labels=torch.tensor([[[1, 0, -1, -10]]]))
    assert divmod(int(maps[ON].argmax()), 16) == (2, 4)
    assert divmod(int(maps[OFF].argmax()), 16) == (10, 12)
    assert maps[ON, 2, 4] == 1
    assert maps[ON, 15, 1] < 1e-3
    assert maps[ON, 0, 0] < 0.01
    assert maps[POINTS_GIVEN].eq(1).all()
    assert not maps[BOX_GIVEN].any()
    unused = drawn(points=points, labels=torch.full((1, 1, 4), -10))
    assert not unused[[ON, OFF, POINTS_GIVEN]].any()


def test_a_mask_is_drawn_at_any_resolution_and_only_where_it_is_given() -> None:
    mask = torch.zeros(1, 2, 32, 32, dtype=torch.bool)
    mask[:, :, 8:20, 4:17] = True
    given = torch.tensor([[True, False]])
    maps = PromptMaps(32)(Prompts(masks=mask, mask_given=given))[0]
    assert maps[0, MASK, 5].tolist() == [-1, -1] + [1] * 6 + [0] + [-1] * 7
    assert maps[0, MASK_GIVEN].eq(1).all()
    assert not maps[1, [MASK, MASK_GIVEN]].any()
    large = mask.repeat_interleave(3, 2).repeat_interleave(3, 3)
    again = PromptMaps(32)(Prompts(masks=large, mask_given=given))[0]
    assert (again[0, MASK] - maps[0, MASK]).abs().mean() < 0.05
    logits = PromptMaps(32)(Prompts(masks=torch.where(mask, 20.0, -20.0)))[0]
    torch.testing.assert_close(logits[0, MASK], maps[0, MASK])


def test_no_prompt_is_refused() -> None:
    with pytest.raises(InputError, match="prompts: expected boxes, points or masks, got none"):
        PromptMaps(32)(Prompts())


def test_objects_do_not_depend_on_each_other_and_every_prompt_changes_the_mask() -> None:
    model = ConvPromptFamily().new_model(small_conv_prompt_config(), seed=0).double().eval()
    boxes = torch.tensor([[[4.0, 8.0, 40.0, 50.0], [20.0, 3.0, 60.0, 30.0]]])
    masks = torch.zeros(1, 2, 64, 64, dtype=torch.bool)
    masks[..., 10:30, 10:30] = True
    pixels = torch.randn(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points, labels = torch.tensor([[[[20.0, 20.0]], [[30.0, 10.0]]]]), torch.ones(1, 2, 1, dtype=torch.long)
    with torch.no_grad():
        both = model(pixels, boxes).pred_masks
        second = model(pixels, boxes[:, 1:]).pred_masks
        others = [
            model(pixels, boxes, points, labels),
            model(pixels, boxes, points, labels * 0),
            model(pixels, boxes, input_masks=masks),
            model(pixels, boxes + 6),
        ]
    assert both.shape == (1, 2, 1, 32, 32)
    torch.testing.assert_close(both[:, 1:], second)
    for one in others:
        assert not torch.allclose(one.pred_masks, both)


def test_a_token_changes_nothing_at_first_and_any_mask_when_trained() -> None:
    config = small_conv_prompt_config()
    torch.manual_seed(0)
    decoder = ConvPromptFamily().build_decoder(config)
    features = ImageFeatures(torch.randn(1, 16, 8, 8), (torch.randn(1, 8, 32, 32), torch.randn(1, 8, 16, 16)))
    maps = torch.zeros(1, 2, NUM_MAPS, 32, 32)
    none = PromptEmbeddings(torch.zeros(1, 2, 0, 16), maps, torch.zeros(1, 0, 1, 1))
    token = PromptEmbeddings(torch.randn(1, 2, 1, 16), maps, torch.zeros(1, 0, 1, 1))
    torch.testing.assert_close(decoder(features, none), decoder(features, token))
    for parameter in decoder.token_parameters():
        torch.nn.init.normal_(parameter)
    logits, _ = decoder(features, token)
    assert not torch.allclose(logits[:, 0], logits[:, 1])
    logits.mean().backward()
    assert all(parameter.grad is not None for parameter in decoder.token_parameters())
