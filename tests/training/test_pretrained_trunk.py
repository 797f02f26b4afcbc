"""The segmenter on a pretrained trunk, as training builds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EdgeTamModel

from amodal.errors import InputError
from amodal.models.bases.efficientnet_lite import LITE0_STAGES
from amodal.models.bases.families import load_base
from amodal.training.optimizers import new_optimizer
from amodal.training.pretrained_trunk import TrainableEdgeTam, new_segmenter
from amodal.training.recipe import SamModelRecipe, TrainingRecipe
from tests.models.test_efficientnet_lite import published_state, small_config


def recipe(**settings: Any) -> SamModelRecipe:
    """A small input; the trunk is the whole EfficientNet-Lite0."""
    return SamModelRecipe(**({"trunk": "efficientnet-lite0", "image_size": 64, "output_channels": 16} | settings))


@torch.no_grad()
def test_training_computes_what_transformers_computes() -> None:
    torch.manual_seed(0)
    model = TrainableEdgeTam(small_config(64)).eval()
    reference = EdgeTamModel(model.config).eval()
    reference.load_state_dict(model.state_dict())
    image = torch.randn(2, 3, 64, 64)
    boxes = torch.tensor([[[4.0, 8.0, 30.0, 40.0], [20.0, 10.0, 60.0, 50.0]]]).repeat(2, 1, 1)
    points, labels = boxes.unflatten(2, (2, 2)), torch.ones(2, 2, 2, dtype=torch.long)
    for prompts in ({"input_boxes": boxes}, {"input_points": points, "input_labels": labels}):
        ours = model(image, **prompts)
        theirs = reference(pixel_values=image, multimask_output=False, **prompts)
        torch.testing.assert_close(ours.pred_masks, theirs.pred_masks, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.iou_scores, theirs.iou_scores, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_each_object_has_its_own_mask_prompt() -> None:
    torch.manual_seed(0)
    model = TrainableEdgeTam(small_config(64)).eval()
    reference = EdgeTamModel(model.config).eval()
    reference.load_state_dict(model.state_dict())
    image = torch.randn(1, 3, 64, 64)
    boxes = torch.tensor([[[4.0, 8.0, 30.0, 40.0], [20.0, 10.0, 60.0, 50.0]]])
    masks = torch.zeros(1, 2, 64, 64, dtype=torch.bool)
    masks[0, 0, 8:40, 4:30] = masks[0, 1, 10:50, 20:60] = True
    ours = model(image, boxes, input_masks=masks, mask_given=torch.tensor([[False, True]])).pred_masks
    logits = (masks[:, 1:].float() * 2 - 1) * 10
    alone = reference(pixel_values=image, input_boxes=boxes[:, 1:], input_masks=logits, multimask_output=False)
    torch.testing.assert_close(ours[:, 1:], alone.pred_masks, atol=1e-5, rtol=1e-5)
    without = reference(pixel_values=image, input_boxes=boxes[:, :1], multimask_output=False)
    torch.testing.assert_close(ours[:, :1], without.pred_masks, atol=1e-5, rtol=1e-5)


def test_the_trunk_starts_from_the_file_and_its_first_blocks_stay(tmp_path: Path) -> None:
    torch.save(published_state(new_segmenter(recipe(), 0).vision_encoder.backbone.config), tmp_path / "lite.pth")
    model = new_segmenter(recipe(trunk_weights=str(tmp_path / "lite.pth"), frozen_blocks=3), 0)
    plain = new_segmenter(recipe(), 0)
    trunk, other = model.vision_encoder.backbone, plain.vision_encoder.backbone
    assert not torch.equal(trunk.blocks[5].project.weight, other.blocks[5].project.weight)
    assert torch.equal(trunk.mix["8"].project.weight, other.mix["8"].project.weight)
    frozen = {name for name, p in trunk.named_parameters() if not p.requires_grad}
    assert {name.split(".")[0] + "." + name.split(".")[1] for name in frozen} == {
        "stem.weight", "stem.bias", "blocks.0", "blocks.1", "blocks.2"
    }  # fmt: skip
    assert len(LITE0_STAGES) == 7


@pytest.mark.parametrize("name", ["no-such-file.pth", "amodal", "no_such_package", "../x"])
def test_missing_weights_of_the_trunk_are_named(name: str) -> None:
    with pytest.raises(InputError, match="trunk_weights: expected a file, or an installed package"):
        new_segmenter(recipe(trunk_weights=name), 0)


def test_the_decoder_starts_from_that_of_a_sam() -> None:
    model = new_segmenter(recipe(output_channels=128, decoder_init="sam-tiny"), 0)
    sam: Any = load_base("sam-tiny").model
    ours, theirs = model.mask_decoder.transformer.layers[1], sam.mask_decoder.transformer.layers[1]
    assert torch.equal(ours.self_attn.o_proj.weight, theirs.self_attn.out_proj.weight)
    assert torch.equal(ours.mlp.proj_in.weight, theirs.mlp.lin1.weight)
    assert torch.equal(model.prompt_encoder.point_embed.weight[2], sam.prompt_encoder.point_embed[2].weight[0])
    with pytest.raises(InputError, match="decoder_init: expected a SAM with 16 output channels, got 'sam-tiny'"):
        new_segmenter(recipe(decoder_init="sam-tiny"), 0)


def test_the_trunk_has_its_own_learning_rate() -> None:
    model = new_segmenter(recipe(frozen_blocks=3), 0)
    optimizer = new_optimizer(model, TrainingRecipe(steps=1, learning_rate=0.01, trunk_rate=0.1))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    trunk = model.vision_encoder.backbone
    assert rates[id(trunk.blocks[5].project.weight)] == pytest.approx(0.001)
    assert rates[id(trunk.lateral["8"].weight)] == 0.01
    assert rates[id(model.mask_decoder.iou_token.weight)] == 0.01
    assert len(rates) == sum(p.requires_grad for p in model.parameters())
