"""Several increments share one base in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from amodal.errors import InputError
from amodal.inference.segmenter import AmodalSegmenter
from amodal.models.plug import PlugConfig, PlugModel
from amodal.models.plug.sharing import load_beside
from tests.training.tiny import tiny_base

BOXES = [[8, 8, 30, 40]]
ATOL = 1e-6  # for an uncertainty of at most ln 2 in float32, whose last bit is 6e-8


def increment(folder: Path, name: str, seed: int, base: str | Path, **settings: object) -> Path:
    """Save an increment with random trained tensors."""
    options = {"image_size": 32, "lora_rank": 2, "refine_channels": 8} | settings
    model = PlugModel.from_base(base, PlugConfig(**options))
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder / name)
    return folder / name


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def probabilities(segmenter: AmodalSegmenter, image: np.ndarray) -> np.ndarray:
    return segmenter(image, BOXES).objects[0].uncertainty


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_switching_gives_the_same_results_as_each_model_alone(tmp_path: Path, image: np.ndarray, dtype: str) -> None:
    base = tiny_base(tmp_path)
    a, b = increment(tmp_path, "a", 1, base), increment(tmp_path, "b", 2, base, lora_rank=4)
    alone = [probabilities(AmodalSegmenter.from_pretrained(m, dtype=dtype, device="cpu"), image) for m in (a, b)]
    both = AmodalSegmenter.from_pretrained(a, dtype=dtype, device="cpu")
    both.add("b", b)
    found = [probabilities(both.use(name), image) for name in ("first", "b", "first")]
    assert not np.allclose(alone[0], alone[1])
    for one, two in zip(found, (alone[0], alone[1], alone[0]), strict=True):
        # Without AVX-512 the order of a sum depends on the memory addresses of its operands, so the last bits differ.
        np.testing.assert_allclose(one, two, rtol=0, atol=ATOL)


def test_base_is_in_memory_once(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    first = PlugModel.from_pretrained(increment(tmp_path, "a", 1, base))
    second = load_beside(increment(tmp_path, "b", 2, base), first)
    ours, theirs = dict(first.named_parameters()), dict(second.named_parameters())
    same = {name for name in ours if ours[name].data_ptr() == theirs[name].data_ptr()}
    frozen = {name for name in ours if name.startswith("vision_encoder.") and ".lora." not in name}
    assert same == frozen | {"prompt_encoder.shared_embedding.positional_embedding"} & ours.keys()
    assert {n for n, p in ours.items() if p.requires_grad} == {n for n, p in theirs.items() if p.requires_grad}


def test_models_that_cannot_share_a_base_are_refused(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    segmenter = AmodalSegmenter.from_pretrained(increment(tmp_path, "a", 1, base), device="cpu")
    with pytest.raises(InputError, match="expected two models on a frozen base"):
        segmenter.add("b", increment(tmp_path, "b", 2, base, train_base=True))
    with pytest.raises(InputError, match="expected image_size 32 of the model that is in memory, got 64"):
        segmenter.add("b", increment(tmp_path, "c", 2, base, image_size=64))
    with pytest.raises(InputError, match="expected one of first, got 'b'"):
        segmenter.use("b")
    segmenter.add("d", increment(tmp_path, "d", 3, base))
    with pytest.raises(InputError, match=r"expected a name that is not taken \(first, d\), got 'd'"):
        segmenter.add("d", tmp_path / "d")


def test_another_base_is_refused(tmp_path: Path) -> None:
    from amodal.models.bases.sam import new_sam
    from tests.models.conftest import small_sam_config

    segmenter = AmodalSegmenter.from_pretrained(increment(tmp_path, "a", 1, tiny_base(tmp_path)), device="cpu")
    new_sam(small_sam_config(32), seed=5).save_pretrained(tmp_path / "another")
    with pytest.raises(InputError, match="expected base .* of the model that is in memory, got"):
        segmenter.add("b", increment(tmp_path, "b", 2, tmp_path / "another"))
    merged = PlugModel.from_pretrained(tmp_path / "a")
    merged.save_pretrained(tmp_path / "whole", merged=True)
    with pytest.raises(InputError, match="expected an increment, which has increment.safetensors, got none"):
        segmenter.add("whole", tmp_path / "whole")
