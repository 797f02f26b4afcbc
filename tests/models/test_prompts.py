"""PLUG's prompts: boxes, points and masks as SAM embeds them, one mask per object, and the crops of masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import SamModel

from amodal.errors import InputError
from amodal.models.bases.prompts import MASK_LOGIT, embed_masks
from amodal.models.increments import increment_state
from amodal.models.plug import PlugConfig, PlugModel, PlugProcessor
from tests.models.conftest import small_sam_config
from tests.models.test_plug import BOXES, trained

POINTS = torch.tensor([[[[10.0, 12.0], [30.0, 40.0], [5.0, 60.0]], [[25.0, 10.0], [50.0, 20.0], [0.0, 0.0]]]])
LABELS = torch.tensor([[[1, 0, -1], [1, 1, -10]]])
MASKS = torch.randn(1, 2, 32, 32, generator=torch.Generator().manual_seed(5)) * 5  # 4 times the grid of 8 cells
PIXELS = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(6))


def every_prompt() -> dict[str, Tensor]:
    return {"input_boxes": BOXES, "input_points": POINTS, "input_labels": LABELS, "input_masks": MASKS}


@pytest.mark.parametrize(
    "kinds",
    ["boxes", "points", "masks", "boxes points", "boxes masks", "points masks", "boxes points masks"],
)
def test_new_model_predicts_what_sam_does_for_every_kind_of_prompt(
    sam: SamModel, sam_folder: Path, small_plug: PlugConfig, kinds: str
) -> None:
    model = PlugModel.from_base(sam_folder, small_plug)
    names = [f"input_{kind}" for kind in kinds.split()] + (["input_labels"] if "points" in kinds else [])
    prompts = {name: every_prompt()[name] for name in names}
    with torch.no_grad():
        ours = model(PIXELS, **prompts)
        for p in range(2):  # transformers takes one mask per image
            own = {name: tensor[:, p : p + 1] for name, tensor in prompts.items()}
            theirs = sam(pixel_values=PIXELS, multimask_output=False, **own)
            expected = torch.nn.functional.interpolate(theirs.pred_masks[:, :, 0], size=(64, 64), mode="bilinear")
            for logits in (ours.pred_masks, ours.visible_logits):
                torch.testing.assert_close(logits[:, p : p + 1], expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(ours.iou_scores[:, p], theirs.iou_scores[:, 0, 0], atol=1e-5, rtol=1e-5)


def test_points_without_labels_are_on_the_object(sam_folder: Path, small_plug: PlugConfig) -> None:
    model = PlugModel.from_base(sam_folder, small_plug)
    with torch.no_grad():
        got = model(PIXELS, input_points=POINTS)
        expected = model(PIXELS, input_points=POINTS, input_labels=torch.ones(1, 2, 3, dtype=torch.long))
    assert torch.equal(got.pred_masks, expected.pred_masks)


def test_without_masks_nothing_changes(sam_folder: Path, small_plug: PlugConfig) -> None:
    """The prompt encoder and the decoders get exactly what they got before there were mask prompts."""
    model = trained(PlugModel.from_base(sam_folder, small_plug))
    with torch.no_grad():
        got = model(PIXELS, BOXES)
        visible, amodal = model.encode(PIXELS)
        sparse, dense = model.prompt_encoder(None, None, BOXES, None)
        positions = model.prompt_encoder.shared_embedding.image_positions(8)
        for logits, decoder, features in (
            (got.coarse_amodal_logits, model.amodal_decoder, amodal),
            (got.visible_logits, model.visible_decoder, visible),
        ):
            low = decoder(features.embedding, positions, sparse, dense)[0]
            assert torch.equal(logits, torch.nn.functional.interpolate(low, size=(64, 64), mode="bilinear"))
        same = model(PIXELS, BOXES, input_masks=MASKS, mask_given=torch.zeros(1, 2, dtype=torch.bool))
    torch.testing.assert_close(same.pred_masks, got.pred_masks, atol=1e-5, rtol=1e-5)


def test_a_mixed_batch_equals_one_object_at_a_time(sam_folder: Path, small_plug: PlugConfig) -> None:
    model = trained(PlugModel.from_base(sam_folder, small_plug))
    pixels = torch.randn(3, 3, 64, 64)
    boxes = BOXES.expand(3, -1, -1) + torch.arange(3).view(3, 1, 1)
    masks = torch.rand(3, 2, 64, 64) > 0.5
    given = torch.tensor([[True, False], [False, False], [True, True]])
    with torch.no_grad():
        together = model(pixels, boxes, input_masks=masks, mask_given=given)
        for image in range(3):
            for prompt in range(2):
                one = slice(image, image + 1), slice(prompt, prompt + 1)
                own = {"input_masks": masks[one]} if given[image, prompt] else {}
                alone = model(pixels[one[0]], boxes[one], **own)
                for name in ("pred_masks", "visible_logits", "iou_scores"):
                    torch.testing.assert_close(alone[name], together[name][one], atol=1e-4, rtol=1e-4)
        without = model(pixels, boxes)
    assert not torch.allclose(without.pred_masks[0, 0], together.pred_masks[0, 0], atol=1e-3)


def test_binary_masks_become_logits_at_four_times_the_grid(sam_folder: Path, small_plug: PlugConfig) -> None:
    encoder = PlugModel.from_base(sam_folder, small_plug).prompt_encoder
    small = torch.rand(2, 3, 32, 32) > 0.5
    with torch.no_grad():
        expected = embed_masks(encoder, torch.where(small, MASK_LOGIT, -MASK_LOGIT))
        assert torch.equal(embed_masks(encoder, small), expected)
        half = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
        half[..., 32:] = True
        fine, coarse = embed_masks(encoder, half), embed_masks(encoder, half[..., ::2, ::2])
    inner = [0, 1, 2, 5, 6, 7]  # away from the outline, which is antialiased
    torch.testing.assert_close(fine[..., inner], coarse[..., inner], atol=1e-5, rtol=1e-5)
    assert expected.shape == (2, 3, 16, 8, 8)


@pytest.mark.parametrize("mask_prompts", [False, True])
def test_mask_embedding_is_trained_only_with_mask_prompts(
    sam_folder: Path, small_plug: PlugConfig, tmp_path: Path, mask_prompts: bool
) -> None:
    small_plug.mask_prompts = mask_prompts
    model = trained(PlugModel.from_base(sam_folder, small_plug))
    names = {name for name, p in model.named_parameters() if p.requires_grad and "mask_embed." in name}
    assert any("prompt_encoder.mask_embed." in name for name in names) == mask_prompts
    assert names <= increment_state(model).keys()
    model.save_pretrained(tmp_path / "plug")
    again = PlugModel.from_pretrained(tmp_path / "plug")
    assert again.config.mask_prompts == mask_prompts
    with torch.no_grad():
        ours, theirs = (m(PIXELS, BOXES, input_masks=MASKS).pred_masks for m in (model, again))
    assert torch.equal(ours, theirs)


def test_models_saved_before_mask_prompts_have_none() -> None:
    settings = PlugConfig().to_dict()
    del settings["mask_prompts"]
    assert PlugConfig.from_dict(settings).mask_prompts is False


def test_mask_prompts_in_bfloat16_and_under_autocast(sam_folder: Path, small_plug: PlugConfig) -> None:
    model = PlugModel.from_base(sam_folder, small_plug)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(PIXELS, **every_prompt()).pred_masks.isfinite().all()
    with torch.no_grad():
        assert model.to(torch.bfloat16)(PIXELS, **every_prompt()).pred_masks.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict.fromkeys(every_prompt()), "prompts: expected input_boxes, input_points or input_masks, got none"),
        ({"input_points": POINTS[:, :1], "input_labels": None},
         r"input_points: expected \(B, P\) = \(1, 2\) as in input_boxes, got \(1, 1\)"),
        ({"input_masks": MASKS[:, :1]}, r"input_masks: expected \(B, P\) = \(1, 2\) as in input_boxes, got \(1, 1\)"),
        ({"input_labels": LABELS[..., :2]}, r"input_labels: expected shape \(1, 2, 3\), got \(1, 2, 2\)"),
        ({"input_points": None}, "input_labels: expected together with input_points, got it alone"),
        ({"mask_given": torch.ones(1, 3)}, r"mask_given: expected shape \(1, 2\), got \(1, 3\)"),
        ({"input_masks": None, "mask_given": torch.ones(1, 2)},
         "mask_given: expected together with input_masks, got it alone"),
        ({"input_masks": MASKS.long()},
         r"input_masks: expected bool or float logits of shape \(B, P, H, W\), got int64 of shape \(1, 2, 32, 32\)"),
        ({"input_masks": MASKS[0]},
         r"input_masks: expected bool or float logits of shape \(B, P, H, W\), got float32 of shape \(2, 32, 32\)"),
    ],
)  # fmt: skip
def test_prompts_that_do_not_fit_are_refused(small_plug: PlugConfig, changes: dict[str, Any], message: str) -> None:
    model = PlugModel.from_base(small_sam_config(), small_plug)
    with pytest.raises(InputError, match=message):
        model(PIXELS, **every_prompt() | changes)


@pytest.mark.parametrize("whole", [False, True])
def test_the_processor_crops_masks_as_it_crops_the_image(whole: bool) -> None:
    processor = PlugProcessor(image_size=32)
    prepare = processor.whole if whole else processor
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)
    boxes = np.array([[10.0, 10, 30, 30], [40, 20, 70, 50]])
    mask = np.zeros((60, 80), bool)
    mask[10:30, 10:30] = True
    inputs = prepare(image, boxes, [mask, None])
    assert inputs.input_masks is not None and inputs.mask_given is not None
    shape = (1, 2) if whole else (2, 1)
    assert inputs.input_masks.shape == (*shape, 32, 32) and inputs.input_masks.dtype == torch.bool
    assert inputs.mask_given.tolist() == ([[True, False]] if whole else [[True], [False]])
    x0, y0, x1, y1 = inputs.input_boxes[0, 0].round().int().tolist()
    expected = torch.zeros(32, 32, dtype=torch.bool)
    expected[y0:y1, x0:x1] = True
    assert torch.equal(inputs.input_masks[0, 0], expected)
    assert not inputs.input_masks.flatten(0, 1)[1].any()
    plain = prepare(image, boxes)
    assert (plain.input_masks, plain.mask_given) == (None, None)
    assert torch.equal(plain.pixel_values, inputs.pixel_values) and torch.equal(plain.input_boxes, inputs.input_boxes)


def test_the_processor_refuses_masks_that_do_not_fit() -> None:
    processor, image, boxes = PlugProcessor(image_size=32), np.zeros((60, 80, 3), np.uint8), np.array([[1, 1, 9, 9]])
    with pytest.raises(InputError, match="masks: expected one mask per box, got 2 masks and 1 boxes"):
        processor(image, boxes, np.ones((2, 60, 80), bool))
    with pytest.raises(InputError, match=r"masks: expected bool masks of shape \(60, 80\), got bool of shape \(6, 8\)"):
        processor(image, boxes, np.ones((1, 6, 8), bool))
    with pytest.raises(InputError, match=r"masks: expected bool masks .*, got float64 of shape \(60, 80\)"):
        processor.whole(image, boxes, np.ones((1, 60, 80)))
