"""The segmenter on a pretrained trunk, as training builds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from amodal.errors import InputError
from amodal.models.bases.efficientnet_lite import LITE0_STAGES
from amodal.training.optimizers import new_optimizer
from amodal.training.pretrained_trunk import new_segmenter
from amodal.training.recipe import SamModelRecipe, TrainingRecipe
from tests.models.test_efficientnet_lite import published_state


def recipe(**settings: Any) -> SamModelRecipe:
    """A small input; the trunk is the whole EfficientNet-Lite0."""
    return SamModelRecipe(**({"image_size": 64, "output_channels": 16} | settings))


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


def test_the_trunk_has_its_own_learning_rate() -> None:
    model = new_segmenter(recipe(frozen_blocks=3), 0)
    optimizer = new_optimizer(model, TrainingRecipe(steps=1, learning_rate=0.01, trunk_rate=0.1))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    trunk = model.vision_encoder.backbone
    assert rates[id(trunk.blocks[5].project.weight)] == pytest.approx(0.001)
    assert rates[id(trunk.lateral["8"].weight)] == 0.01
    assert rates[id(model.mask_decoder.lateral[0].weight)] == 0.01
    assert len(rates) == sum(p.requires_grad for p in model.parameters())
