"""Faster ways to run the bundled model keep its masks: the mean IoU with float32 is at least 0.995, cleaned 0.994.

Cleaning decides whether a part is kept, so that one object near the limit changes the mean of a few scenes by 0.01. So
raw masks are compared in a few scenes, and cleaned ones in many.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from amodal.errors import InputError
from amodal.inference.onnx import ENCODER, export_onnx
from amodal.inference.scene_object import SceneObject
from amodal.inference.segmenter import AmodalSegmenter
from amodal.models.plug import PlugModel
from amodal.nn.attention import use_int8
from amodal.nn.packing import can_use_int8
from amodal.ops.boxes import mask_to_box
from amodal.ops.cleaning import CleanSettings
from amodal.ops.masks import mask_iou
from amodal.synthetic.scenes import render_scene
from tests.models.conftest import random_plug

needs_int8 = pytest.mark.skipif(not can_use_int8(), reason="CPU without 8-bit dot products")


def segment_scenes(
    segmenter: AmodalSegmenter, clean: bool | CleanSettings = False, num_scenes: int = 6
) -> list[SceneObject]:
    """Objects of drawn scenes."""
    found = []
    for seed in range(901, 901 + num_scenes):
        scene = render_scene(seed)
        boxes = [mask_to_box(o.visible_mask) for o in scene.objects if o.visible_mask.any()]
        found += segmenter(scene.image, np.array(boxes), clean=clean).objects
    return found


def agreement(a: list[SceneObject], b: list[SceneObject]) -> tuple[float, float]:
    """Mean IoU of the amodal and of the visible masks."""
    pairs = list(zip(a, b, strict=True))
    assert len(pairs) > 10
    amodal = [mask_iou(x.amodal_mask, y.amodal_mask) for x, y in pairs]
    visible = [mask_iou(x.visible_mask, y.visible_mask) for x, y in pairs]
    return float(np.mean(amodal)), float(np.mean(visible))


@pytest.fixture(scope="module")
def exact() -> list[SceneObject]:
    return segment_scenes(AmodalSegmenter.from_pretrained("plug-small", device="cpu", dtype="float32"))


@pytest.mark.parametrize(
    "dtype",
    [
        "bfloat16",
        pytest.param("int8", marks=needs_int8),
    ],
)
def test_lower_precisions(dtype: str, exact: list[SceneObject]) -> None:
    narrow = segment_scenes(AmodalSegmenter.from_pretrained("plug-small", device="cpu", dtype=dtype))
    assert 0.995 <= min(agreement(narrow, exact)) < 1


@pytest.mark.slow
def test_cleaned_masks_in_bfloat16() -> None:
    narrow, exact = (
        segment_scenes(AmodalSegmenter.from_pretrained("plug-small", device="cpu", dtype=dtype), True, num_scenes=24)
        for dtype in ("bfloat16", "float32")
    )
    assert 0.994 <= min(agreement(narrow, exact)) < 1


@needs_int8
def test_8_bits_change_nothing_more_than_bfloat16_in_the_bundled_model() -> None:
    """It has convolutions where 8 bits change linear layers."""
    narrow, halved = (
        segment_scenes(AmodalSegmenter.from_pretrained("plug-small", device="cpu", dtype=dtype))
        for dtype in ("int8", "bfloat16")
    )
    assert agreement(narrow, halved) == (1, 1)


@needs_int8
def test_8_bits_keep_the_features_of_a_vit() -> None:
    """Within 2 %, and further away than bfloat16 alone, in both branches."""
    model, pixels = random_plug(), torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    exact = encoded(model, pixels)
    with torch.autocast("cpu", torch.bfloat16):
        halved = encoded(model, pixels)
        use_int8(model.vision_encoder)
        narrow = encoded(model, pixels)
    for one, other, third in zip(exact, halved, narrow, strict=True):
        error, error_of_bfloat16 = ((x - one).abs().mean() / one.abs().mean() for x in (third, other))
        assert error_of_bfloat16 < error < 0.02


def encoded(model: PlugModel, pixels: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        return [features.embedding.float() for features in model.encode(pixels)]


@pytest.mark.slow
def test_onnx(tmp_path: Path) -> None:
    """An export takes no masks as prompts, so both models answer once."""
    export_onnx(PlugModel.from_pretrained("plug-small"), tmp_path)
    models = (tmp_path, "plug-small")
    exported, exact = (AmodalSegmenter.from_pretrained(model, device="cpu", dtype="float32") for model in models)
    once = CleanSettings(min_confirmed=0)
    assert min(agreement(segment_scenes(exported, once), segment_scenes(exact, once))) >= 0.999


def test_an_onnx_export_has_one_precision(tmp_path: Path) -> None:
    (tmp_path / ENCODER).touch()
    for dtype in ("bfloat16", "int8"):
        with pytest.raises(InputError, match=f"dtype: expected auto or float32 for a model exported .*, got '{dtype}'"):
            AmodalSegmenter.from_pretrained(tmp_path, dtype=dtype)
