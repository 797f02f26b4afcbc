"""The segmenter: geometry with a network that predicts known shapes, everything else with a tiny PLUG model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

from amodal.errors import InputError
from amodal.inference import segmenter as module
from amodal.inference.devices import pick_device, pick_dtype
from amodal.inference.prompts import check_box
from amodal.inference.scene import Scene
from amodal.inference.segmenter import AmodalSegmenter
from amodal.models.increments import bundled_models
from amodal.models.plug import PlugConfig, PlugModel, PlugOutput
from amodal.nn.packing import Int8Linear, can_use_int8
from amodal.ops.cleaning import CleanSettings
from amodal.ops.masks import mask_iou
from tests.models.conftest import random_plug

SIDE = 64


class BoxNetwork(torch.nn.Module):
    """Predicts the box as visible mask, and an amodal mask from the box down to the bottom of the crop."""

    dtype = torch.float32

    def __init__(self, quality: float = 0.75, visible_branch: bool = True, finds: bool = True) -> None:
        super().__init__()
        self.config = PlugConfig(image_size=SIDE)
        self.quality = quality
        self.visible_branch = visible_branch
        self.finds = finds
        self.calls: list[int] = []

    def encode(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        return pixel_values, pixel_values

    def predict(self, pixel_values: Tensor, visible: Tensor, amodal: Tensor, input_boxes: Tensor) -> PlugOutput:
        self.calls.append(len(pixel_values))
        x0, y0, x1, y1 = input_boxes[..., None, None].unbind(2)  # (B, 1, 1, 1)
        y, x = torch.arange(SIDE)[:, None] + 0.5, torch.arange(SIDE)[None] + 0.5
        across = (x > x0) & (x < x1) & torch.tensor(self.finds)
        inside, below = across & (y > y0) & (y < y1), across & (y >= y1)  # amodal: without the box itself
        return PlugOutput(
            pred_masks=below * 40.0 - 20,
            visible_logits=inside * 40.0 - 20 if self.visible_branch else None,
            amodal_uncertainty=torch.full_like(pixel_values[:, :1], 0.5),
            iou_scores=torch.full((len(pixel_values), 1), self.quality),
        )


def box_segmenter(**settings: Any) -> AmodalSegmenter:
    return AmodalSegmenter(BoxNetwork(**settings))


@pytest.fixture(scope="module")
def plug() -> PlugModel:
    return random_plug(SIDE)


def noise(*size: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 255, (*size, 3), dtype=np.uint8)


def test_masks_are_in_image_pixels() -> None:
    # the crop is twice the box, here exactly the network's square, so that nothing is interpolated
    scene = box_segmenter()(noise(100, 150), [[40, 30, 72, 62]], clean=False)  # noise has edges everywhere
    (obj,) = scene.objects
    visible, amodal = np.zeros((2, 100, 150), bool)
    visible[30:62, 40:72] = amodal[30:78, 40:72] = True
    np.testing.assert_array_equal(obj.visible_mask, visible)
    np.testing.assert_array_equal(obj.amodal_mask, amodal)  # united with the visible mask
    assert obj.occlusion_rate == pytest.approx(1 / 3) and obj.score == 0.75
    assert obj.visible_box_xyxy == (40, 30, 72, 62) and obj.amodal_box_xyxy == (40, 30, 72, 78)
    assert obj.uncertainty[50, 50] == 0.5 and obj.uncertainty[0, 0] == 0
    assert obj.uncertainty[15, 25] == 0.5  # the map covers the whole crop, not only the object


@pytest.mark.parametrize("box", [[10, 10, 90, 50], [3.5, 7.25, 20, 95], [0, 0, 150, 100], [149, 99, 150, 100]])
def test_any_box_is_found_within_the_rounding_of_the_crop(box: list[float]) -> None:
    obj = box_segmenter()(noise(100, 150), [box], clean=False).objects[0]
    found = np.argwhere(obj.visible_mask)
    steps = np.array([(box[3] - box[1]) * 2 / SIDE, (box[2] - box[0]) * 2 / SIDE]) + 1
    assert (np.abs(found.min(0) - [box[1], box[0]]) <= steps).all()
    assert (np.abs(found.max(0) + 1 - [box[3], box[2]]) <= steps).all()


def test_a_box_that_leaves_the_image_is_clipped() -> None:
    obj = box_segmenter()(noise(40, 60), [[-20, -5, 30, 200]]).objects[0]
    assert obj.visible_box_xyxy == (0, 0, 30, 40)


def test_images_of_several_sizes_share_forward_passes() -> None:
    segmenter = box_segmenter()
    images = [noise(30, 40), noise(50, 20), noise(9, 9)]
    boxes = [[[0, 0, 20, 20]], [[5, 5, 15, 40], [0, 0, 9, 9], [1, 1, 20, 50]], [[2, 2, 5, 7]]]
    scenes = segmenter.segment_batch(images, boxes, batch_size=2)
    assert segmenter.model.calls == [2, 2, 1]
    assert [s.size for s in scenes] == [(30, 40), (50, 20), (9, 9)]
    for scene, own in zip(scenes, boxes, strict=True):
        assert [list(t.visible_box_xyxy) for t in scene.objects] == own
    assert segmenter.segment_batch([], []) == []


def test_batched_equals_single(plug: PlugModel) -> None:
    segmenter = AmodalSegmenter(plug)
    image, boxes = noise(70, 90), [[5, 5, 40, 60], [50, 10, 85, 69], [0, 0, 90, 70]]
    together = segmenter(image, boxes, threshold=0.5).objects
    for box, obj in zip(boxes, together, strict=True):
        (alone,) = segmenter(image, [box], threshold=0.5).objects
        assert (alone.amodal_mask != obj.amodal_mask).mean() < 1e-3  # rounding at the threshold
        assert (alone.visible_mask != obj.visible_mask).mean() < 1e-3
        np.testing.assert_allclose(alone.uncertainty, obj.uncertainty, atol=1e-4)
        assert alone.score == pytest.approx(obj.score, abs=1e-5)


def test_a_tiny_model_returns_valid_objects(plug: PlugModel) -> None:
    segmenter = AmodalSegmenter(plug)
    boxes = np.array([[1, 2, 30, 40], [10, 10, 20, 20]])
    objects = segmenter(noise(50, 60), boxes).objects
    assert len(objects) == 2
    for obj in objects:
        assert not (obj.visible_mask & ~obj.amodal_mask).any()
        assert 0 <= obj.occlusion_rate <= 1 and 0 <= obj.score <= 1
        assert obj.uncertainty.dtype == np.float32 and 0 <= obj.uncertainty.max() <= math.log(2) + 1e-6
    assert not plug.training


def test_a_higher_threshold_gives_smaller_masks(plug: PlugModel) -> None:
    segmenter = AmodalSegmenter(plug)
    areas = [
        int(segmenter(noise(50, 60), [[5, 5, 40, 40]], threshold=t).objects[0].amodal_mask.sum())
        for t in (0.01, 0.5, 0.99)
    ]
    assert areas[0] > areas[1] > areas[2]


def test_without_visible_branch_the_visible_mask_is_the_amodal_mask() -> None:
    clean = CleanSettings(min_thickness=0, min_occlusion=0)
    obj = box_segmenter(visible_branch=False)(noise(80, 80), [[20, 20, 52, 52]], clean=clean).objects[0]
    np.testing.assert_array_equal(obj.visible_mask, obj.amodal_mask)
    assert obj.occlusion_rate == 0 and obj.amodal_mask.any()


def test_an_object_that_is_not_found_keeps_its_place_with_score_zero() -> None:
    (obj,) = box_segmenter(finds=False)(noise(80, 80), [[20, 20, 52, 52]]).objects
    assert not obj.amodal_mask.any() and obj.score == 0 and obj.visible_box_xyxy == (20, 20, 52, 52)


@pytest.mark.parametrize(("quality", "score"), [(1.25, 1.0), (-0.5, 0.0)])
def test_scores_are_clipped(quality: float, score: float) -> None:
    assert box_segmenter(quality=quality)(noise(20, 20), [[2, 2, 9, 9]]).objects[0].score == score


def test_a_path_a_pil_image_and_an_array_give_the_same_result(tmp_path: Path) -> None:
    image = noise(40, 50)
    Image.fromarray(image).save(tmp_path / "a.png")
    segmenter = box_segmenter()
    scenes = [segmenter(source, [[5, 5, 30, 30]]) for source in (image, Image.fromarray(image), tmp_path / "a.png")]
    for scene in scenes:
        np.testing.assert_array_equal(scene.image, image)
        np.testing.assert_array_equal(scene.objects[0].amodal_mask, scenes[0].objects[0].amodal_mask)


def test_one_pixel(plug: PlugModel, tmp_path: Path) -> None:
    scene = AmodalSegmenter(plug)(noise(1, 1), [[0, 0, 1, 1]])
    assert scene.objects[0].amodal_mask.shape == (1, 1)
    assert (scene.save(tmp_path) / "overlay.png").is_file()


@pytest.mark.slow
def test_a_hundred_megapixels(tmp_path: Path) -> None:
    image = np.zeros((9000, 12000, 3), np.uint8)
    boxes = [[0, 0, 12000, 9000], [6000, 4000, 6400, 4500], [11999, 8999, 12000, 9000]]
    scene = box_segmenter()(image, boxes)
    assert scene.objects[0].visible_mask.all()
    assert max(scene.draw().shape) == 2048
    Image.MAX_IMAGE_PIXELS, limit = None, Image.MAX_IMAGE_PIXELS
    try:
        assert Image.open(scene.save(tmp_path) / "object_01_amodal.png").size == (12000, 9000)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    back = Scene.load(tmp_path)
    np.testing.assert_array_equal(back.objects[1].amodal_mask, scene.objects[1].amodal_mask)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (None, "prompts: expected boxes, points, masks or detections, got none"),
        ([[1, 2, 3]], r"box: expected four numbers X0,Y0,X1,Y1, got \[1.0, 2.0, 3.0\]"),
        ([["a", 2, 3, 4]], r"box: expected four numbers X0,Y0,X1,Y1, got \['a', 2, 3, 4\]"),
        ([[None, 2, 3, [4]]], "box: expected four numbers"),
        ([[0, 0, math.nan, 4]], r"box: expected finite numbers, got \[0.0, 0.0, nan, 4.0\]"),
        ([[0, 0, math.inf, 4]], "box: expected finite numbers"),
        ([[0, 0, 5, 5], [9, 0, 1, 4]], "object 1: box: expected X0 < X1 and Y0 < Y1, got .* inverted"),
        ([[3, 0, 3, 4]], "box: expected an area, got .* none"),
        ([[20, 0, 30, 4]], r"box: expected a box inside the 20 x 10 image, got \[20.0, 0.0, 30.0, 4.0\]"),
        ([[-5, 0, 0, 4]], "box: expected a box inside the 20 x 10 image"),
        ([[0, 10, 5, 12]], "box: expected a box inside the 20 x 10 image"),
        ([[0, -3, 5, 0]], "box: expected a box inside the 20 x 10 image"),
    ],
)
def test_impossible_boxes(boxes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        box_segmenter()(noise(10, 20), boxes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["crop", "image"])
def test_an_image_without_objects(plug: PlugModel, mode: str) -> None:
    segmenter = AmodalSegmenter(plug, mode=mode)
    assert len(segmenter(noise(10, 20), [])) == len(segmenter(noise(10, 20), detections=[])) == 0
    scenes = segmenter.segment_batch([noise(10, 20)] * 3, [[], [[0, 0, 5, 5]], np.zeros((0, 4))])
    assert [len(scene) for scene in scenes] == [0, 1, 0]


def test_the_prompts_of_several_images(plug: PlugModel) -> None:
    segmenter, image, mask = AmodalSegmenter(plug), noise(10, 20), np.zeros((10, 20), bool)
    mask[2:6, 3:9] = True
    given = {"masks": [mask], "names": ["mug"]}
    first, second = segmenter.segment_batch([image] * 2, [given, {"detections": [{"bbox": [3, 2, 6, 4]}]}])
    alone = segmenter(image, **given)
    assert (first[0].name, second[0].name) == ("mug", None)
    np.testing.assert_array_equal(first[0].amodal_mask, alone[0].amodal_mask)
    for prompts, message in (
        ([[[0, 0, 5, 5]], [[9, 0, 1, 4]]], "image 1: box: expected X0 < X1"),
        ([[[0, 0, 5, 5]], {"mask": [mask]}], "image 1: prompts: expected some of boxes_xyxy, .*, got mask"),
        ([[mask], []], "image 0: prompts: expected boxes .* or a dictionary such as .*, got masks"),
    ):
        with pytest.raises(InputError, match=message):
            segmenter.segment_batch([image] * 2, prompts)


def test_device_and_precision_by_name(plug: PlugModel) -> None:
    segmenter = AmodalSegmenter(plug, "cpu", "bfloat16")
    assert (segmenter.device, segmenter.dtype) == (torch.device("cpu"), torch.bfloat16)
    with pytest.raises(InputError, match="device: expected"):
        AmodalSegmenter(plug, "gpu")
    with pytest.raises(InputError, match="dtype: expected"):
        AmodalSegmenter(plug, dtype="half")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_objects_are_found_in_the_precision_of_the_segmenter(dtype: str) -> None:
    segmenter = AmodalSegmenter.from_pretrained("plug-small", device="cpu", dtype=dtype)
    assert segmenter.finder.dtype == segmenter.dtype == getattr(torch, dtype)


@pytest.mark.parametrize("mode", ["crop", "image"])
def test_the_outline_of_a_cleaned_visible_mask_follows_the_edges_of_the_image(mode: str) -> None:
    image, shown = noise(400, 400) // 16, np.zeros((400, 400), bool)
    shown[110:290, 110:290] = True
    image[shown] += 180
    segmenter = AmodalSegmenter(BoxNetwork(), mode=mode)
    box, mask = [[100, 100, 300, 300]], shown[None]  # the network predicts the box, with a border of ten pixels
    at_edges, as_predicted = (
        segmenter(image, box, clean=CleanSettings(edge_radius=radius))[0].visible_mask for radius in (4, 0)
    )
    assert mask_iou(at_edges, shown) > mask_iou(as_predicted, shown) + 0.03
    np.testing.assert_array_equal(as_predicted, segmenter(image, box, clean=False)[0].visible_mask)
    np.testing.assert_array_equal(segmenter(image, masks=mask)[0].visible_mask, shown)


def test_finding_the_objects_of_an_image(tmp_path: Path) -> None:
    segmenter = AmodalSegmenter.from_pretrained("plug-small", device="cpu", dtype="float32")
    Image.fromarray(noise(60, 80)).save(tmp_path / "noise.png")
    scene = segmenter.find(tmp_path / "noise.png", confidence=0.0)
    assert scene.image_path == tmp_path / "noise.png" and scene.size == (60, 80)
    assert len(scene) == len(segmenter.find(Image.open(tmp_path / "noise.png"), confidence=0.0)) > 0
    assert len(segmenter.find(noise(2, 2)[..., 0], confidence=0.0)) > 0, "also on two pixels"
    with pytest.raises(InputError, match="`find` finds the objects"):
        segmenter(noise(5, 5))


def test_valid_boxes_are_unchanged() -> None:
    for box in ([0, 0, 20, 10], [0.5, 0.25, 1.75, 0.5]):
        assert check_box(box, (10, 20)) == tuple(box)


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0, math.nan])
def test_impossible_threshold(threshold: float) -> None:
    with pytest.raises(InputError, match=r"threshold: expected a number in \(0, 1\), got"):
        box_segmenter()(noise(10, 20), [[0, 0, 5, 5]], threshold=threshold)


def test_impossible_batches() -> None:
    with pytest.raises(InputError, match="batch_size: expected 1 or more, got 0"):
        box_segmenter()(noise(10, 20), [[0, 0, 5, 5]], batch_size=0)
    with pytest.raises(InputError, match="prompts: expected one list per image for 2 images, got 1"):
        box_segmenter().segment_batch([noise(5, 5)] * 2, [[[0, 0, 5, 5]]])


def test_loading_by_folder(plug: PlugModel, tmp_path: Path) -> None:
    plug.save_pretrained(tmp_path, merged=True)
    loaded = AmodalSegmenter.from_pretrained(tmp_path, device="cpu", dtype="float32")
    image, boxes = noise(50, 60), [[5, 5, 40, 40]]
    ours, theirs = AmodalSegmenter(plug)(image, boxes).objects[0], loaded(image, boxes).objects[0]
    np.testing.assert_array_equal(ours.amodal_mask, theirs.amodal_mask)
    assert ours.score == theirs.score


def test_bfloat16_gives_nearly_the_same_masks(plug: PlugModel) -> None:
    image, boxes = noise(50, 60), [[5, 5, 40, 40]]
    exact = AmodalSegmenter(plug)(image, boxes, threshold=0.5).objects[0]
    narrow = AmodalSegmenter(plug, dtype=torch.bfloat16)(image, boxes, threshold=0.5).objects[0]
    assert (exact.amodal_mask != narrow.amodal_mask).mean() < 0.1


@pytest.mark.skipif(not can_use_int8(), reason="CPU without 8-bit dot products")
def test_8_bits_give_nearly_the_same_masks_and_affect_the_encoder_only(plug: PlugModel) -> None:
    image, boxes = noise(50, 60), [[5, 5, 40, 40]]
    exact = AmodalSegmenter(plug)(image, boxes, threshold=0.5).objects[0]
    narrow = AmodalSegmenter(plug, dtype=torch.int8)
    assert narrow.dtype == torch.bfloat16 and plug.vision_encoder.layers[0].attn.int8
    found = narrow(image, boxes, threshold=0.5).objects[0]
    assert isinstance(plug.vision_encoder.layers[0].mlp._prepared[0]._value, Int8Linear)
    assert (exact.amodal_mask != found.amodal_mask).mean() < 0.1
    again = AmodalSegmenter(plug)(image, boxes, threshold=0.5).objects[0]
    np.testing.assert_array_equal(again.amodal_mask, exact.amodal_mask)


def test_8_bits_where_they_cannot_run(plug: PlugModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "can_use_int8", lambda: False)
    with pytest.raises(InputError, match="dtype: expected int8 for a PlugModel on a CPU .* got PlugModel on cpu"):
        AmodalSegmenter(plug, dtype=torch.int8)


def test_unknown_model_lists_the_bundled_ones() -> None:
    known = ", ".join(bundled_models()) or "none"
    with pytest.raises(InputError, match=rf"model: expected a bundled name \({known}\), .* got 'plug-huge'"):
        AmodalSegmenter.from_pretrained("plug-huge")


def test_unknown_device_and_dtype() -> None:
    with pytest.raises(InputError, match="device: expected auto, cpu, cuda, ... of this machine, got 'abacus'"):
        AmodalSegmenter.from_pretrained("plug-small", device="abacus")
    with pytest.raises(InputError, match="dtype: expected one of auto, float32, bfloat16, int8, got 'float3'"):
        AmodalSegmenter.from_pretrained("plug-small", device="cpu", dtype="float3")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_device_that_this_machine_does_not_have() -> None:
    assert pick_device("auto").type == "cpu"
    with pytest.raises(InputError, match="device: expected .* of this machine, got 'cuda'"):
        pick_device("cuda")


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx512_f": True, "amx_bf16": False}, torch.float32),
    ],
)
def test_auto_is_bfloat16_only_where_the_cpu_computes_in_it(
    features: dict[str, bool], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.torch.cpu, "get_capabilities", lambda: features, raising=False)
    assert pick_dtype("auto", torch.device("cpu")) == expected
    assert pick_dtype("float32", torch.device("cpu")) == torch.float32
    assert pick_dtype("auto", torch.device("meta")) == torch.float32


def test_image_mode_equals_crop_mode_where_the_crop_is_the_whole_image(plug: PlugModel) -> None:
    image, boxes = noise(60, 80), [[2, 3, 79, 58]]  # twice this box is the whole image
    crop = AmodalSegmenter(plug)(image, boxes, threshold=0.5).objects[0]
    whole = AmodalSegmenter(plug, mode="image")(image, boxes, threshold=0.5).objects[0]
    assert whole.window == (0, 0, 80, 60) == crop.window
    np.testing.assert_array_equal(whole.amodal_mask, crop.amodal_mask)
    np.testing.assert_array_equal(whole.visible_mask, crop.visible_mask)
    assert whole.score == pytest.approx(crop.score, abs=1e-5)


def test_image_mode_encodes_once_and_segments_every_box(plug: PlugModel, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter, encodings = AmodalSegmenter(plug, mode="image"), []
    encode = plug.encode
    monkeypatch.setattr(plug, "encode", lambda pixels: encodings.append(len(pixels)) or encode(pixels))
    image, boxes = noise(70, 90), [[5, 5, 40, 60], [50, 10, 85, 69], [0, 0, 90, 70]]
    in_pairs = segmenter(image, boxes, threshold=0.5, batch_size=2).objects
    assert encodings == [1]
    together = segmenter(image, boxes, threshold=0.5).objects
    assert [t.visible_box_xyxy for t in together] == [tuple(map(float, box)) for box in boxes]
    for one, other in zip(in_pairs, together, strict=True):
        assert (one.amodal_mask != other.amodal_mask).mean() < 1e-3  # rounding at the threshold


def test_a_larger_image_size_keeps_the_weights(plug: PlugModel) -> None:
    segmenter = AmodalSegmenter(plug, mode="image", image_size=2 * SIDE)
    assert segmenter.model.config.image_size == 2 * SIDE and plug.config.image_size == SIDE
    ours, theirs = segmenter.model.state_dict(), plug.state_dict()
    changed = {name for name in theirs if ours[name].shape != theirs[name].shape}
    assert changed == {
        "vision_encoder.pos_embed", "vision_encoder.layers.1.attn.rel_pos_h", "vision_encoder.layers.1.attn.rel_pos_w"
    }  # fmt: skip
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs.keys() - changed)
    assert segmenter(noise(50, 60), [[5, 5, 40, 40]]).objects[0].amodal_mask.shape == (50, 60)
    assert AmodalSegmenter(plug, mode="image", image_size=SIDE).model is plug


def test_impossible_modes(plug: PlugModel) -> None:
    with pytest.raises(InputError, match="mode: expected one of crop, image, got 'tiles'"):
        AmodalSegmenter(plug, mode="tiles")
    with pytest.raises(InputError, match="image_size: expected with mode 'image' only, got 128 with 'crop'"):
        AmodalSegmenter(plug, image_size=128)
    with pytest.raises(InputError, match="image_size: expected a positive multiple of 8.*, got 100"):
        AmodalSegmenter(plug, mode="image", image_size=100)
