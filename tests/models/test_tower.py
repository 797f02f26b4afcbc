"""The residual network as a small LLaVA's vision tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from amodal.models.aura import AuraModel, ResNetTower
from amodal.models.aura.tiny_mllm import new_tiny_mllm
from tests.models.aura import STAGES, TEXTS, moved, picture, small_config, training_batch, write_sam


def small_model(folder: Path, **changes: Any) -> AuraModel:
    sam = folder / "sam"
    if not sam.is_dir():
        write_sam(sam)
    config = small_config(train_mllm=True, lora_rank=0, **changes)
    return moved(AuraModel.from_base(new_tiny_mllm(STAGES, TEXTS), sam, config))


def tower_of(model: AuraModel) -> ResNetTower:
    tower = model.mllm.model.vision_tower
    assert isinstance(tower, ResNetTower)
    return tower


def test_a_token_for_each_cell(tmp_path: Path) -> None:
    model = small_model(tmp_path)
    assert model.processor is not None
    row = model.processor.first_turn(picture(), "What could I drink from?")
    images = int((row["input_ids"] == model.mllm.config.image_token_id).sum())
    tokens = tower_of(model)(row["pixel_values"]).last_hidden_state
    assert tokens.shape == (1, images, 24) and images == (64 // 16) ** 2


def test_tokens_are_read_row_by_row(tmp_path: Path) -> None:
    """What changes at the right of the top changes the tokens there."""
    tower = tower_of(small_model(tmp_path)).eval()
    pixels = torch.zeros(2, 3, 64, 64)
    pixels[1, :, :8, -8:] = 3.0
    with torch.no_grad():
        tokens = tower(pixels).last_hidden_state
    moved_by = (tokens[0] - tokens[1]).abs().sum(-1).reshape(4, 4)
    assert moved_by.argmax() == 3


def test_save_and_load_is_bitwise(tmp_path: Path) -> None:
    model = small_model(tmp_path)
    tower_of(model).train()(torch.randn(4, 3, 64, 64))  # batch statistics are part of it
    model.eval().save_pretrained(tmp_path / "aura")
    again = AuraModel.from_pretrained(tmp_path / "aura")
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    batch = training_batch(model)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, again(**batch).logits)


@pytest.mark.parametrize("rests", [False, True])
def test_at_rest_its_batch_statistics_rest_too(tmp_path: Path, rests: bool) -> None:
    model = small_model(tmp_path, train_tower=not rests).train()
    before = {name: tensor.clone() for name, tensor in tower_of(model).state_dict().items()}
    model(**training_batch(model))
    after = tower_of(model).state_dict()
    changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
    assert (changed == []) == rests
