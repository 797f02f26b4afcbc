"""Scenes: invariants, truth tables of the occlusion order, and saved files."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from amodal.data.datasets import read_dataset
from amodal.errors import InputError
from amodal.inference import scene as scene_module
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from amodal.ops.arrays import Mask
from amodal.ops.boxes import mask_to_box
from amodal.ops.occlusion import MIN_OCCLUDER_SHARE
from amodal.ops.rle import encode_mask
from tests.drawing import mask


@st.composite
def mask_pairs(draw: st.DrawFn, count: int = 1) -> list[tuple[Mask, Mask]]:
    """Pairs of unrelated masks of one size: the visible mask need not lie inside the amodal mask."""
    size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    return [(draw(arrays(bool, size)), draw(arrays(bool, size))) for _ in range(count)]


def occluded_pair() -> Scene:
    """A pole (0) in front of a board (1)."""
    pole = mask("..#..", "..#..", "..#..")
    board = mask(".....", "#####", ".....")
    objects = [SceneObject.from_masks(pole, pole), SceneObject.from_masks(board & ~pole, board, score=0.5)]
    return Scene(objects, (3, 5), np.full((3, 5, 3), 200, np.uint8))


@given(mask_pairs())
def test_masks_keep_their_relations(pairs: list[tuple[Mask, Mask]]) -> None:
    visible, amodal = pairs[0]
    obj = SceneObject.from_masks(visible, amodal)
    np.testing.assert_array_equal(obj.visible_mask, visible)
    np.testing.assert_array_equal(obj.amodal_mask, amodal | visible)
    np.testing.assert_array_equal(obj.occluded_mask, obj.amodal_mask & ~obj.visible_mask)
    np.testing.assert_array_equal(obj.amodal_box_xyxy, mask_to_box(obj.amodal_mask))
    np.testing.assert_array_equal(obj.visible_box_xyxy, mask_to_box(visible))
    assert 0 <= obj.occlusion_rate <= 1
    if obj.amodal_mask.any():
        assert obj.occlusion_rate == pytest.approx(1 - visible.sum() / obj.amodal_mask.sum())


@given(mask_pairs(3))
@settings(max_examples=25)
def test_a_saved_scene_is_loaded_exactly(pairs: list[tuple[Mask, Mask]]) -> None:
    objects = [SceneObject.from_masks(*pair, score=0.25, phrase="a cup") for pair in pairs]
    scene = Scene(objects, pairs[0][0].shape, question="what?", answer="this")
    with tempfile.TemporaryDirectory() as folder:
        back = Scene.load(scene.save(folder))
    assert back.size == scene.size and (back.question, back.answer) == ("what?", "this")
    assert back.occlusion_order() == scene.occlusion_order()
    for one, other in zip(scene.objects, back.objects, strict=True):
        np.testing.assert_array_equal(one.visible_mask, other.visible_mask)
        np.testing.assert_array_equal(one.amodal_mask, other.amodal_mask)
        assert one.visible_box_xyxy == other.visible_box_xyxy and one.score == other.score
        assert one.phrase == other.phrase


@given(mask_pairs())
def test_rle_of_a_window_is_the_rle_of_the_full_mask(pairs: list[tuple[Mask, Mask]]) -> None:
    obj = SceneObject.from_masks(*pairs[0])
    record = Scene([obj], obj.size).to_json()["objects"][0]
    assert record["visible"] == encode_mask(obj.visible_mask)
    assert record["amodal"] == encode_mask(obj.amodal_mask)


def test_a_window_is_placed_in_the_image_and_shrinks_to_the_object() -> None:
    obj = SceneObject(
        window=(1, 0, 5, 3),
        visible_in_window=mask("....", ".#..", "...."),
        amodal_in_window=mask("....", "..#.", "...."),
        size=(4, 6),
        visible_box_xyxy=(2, 1, 3, 2),
    )
    np.testing.assert_array_equal(obj.visible_mask, mask("......", "..#...", "......", "......"))
    np.testing.assert_array_equal(obj.amodal_mask, mask("......", "..##..", "......", "......"))
    assert obj.window == (2, 1, 4, 2)


def test_masks_of_an_object_are_small_read_only_copies() -> None:
    large = np.zeros((50, 50), bool)
    large[3, 4] = True
    obj = SceneObject.from_masks(large, large)
    assert obj.visible_in_window.base is None and obj.visible_in_window.shape == (1, 1)
    with pytest.raises(ValueError, match="read-only"):
        obj.visible_in_window[0, 0] = False


def test_an_empty_object_has_score_and_boxes_of_zero() -> None:
    obj = SceneObject.from_masks(np.zeros((4, 5), bool), np.zeros((4, 5), bool), score=0.9)
    assert (obj.score, obj.occlusion_rate, obj.amodal_box_xyxy) == (0, 0, (0, 0, 0, 0))
    assert obj.amodal_mask.shape == (4, 5) and not obj.amodal_mask.any()


def test_uncertainty_is_resized_into_its_own_window() -> None:
    one = np.ones((1, 1), bool)
    crop = np.full((8, 8), 0.5, np.float32)
    obj = SceneObject((2, 2, 3, 3), one, one, (5, 6), (2, 2, 3, 3), 1.0, (crop, (1, 0, 4, 4)))
    expected = np.zeros((5, 6), np.float32)
    expected[0:4, 1:4] = 0.5
    np.testing.assert_array_equal(obj.uncertainty, expected)
    without = SceneObject.from_masks(one, one)
    assert without.uncertainty.shape == (1, 1) and without.uncertainty.dtype == np.float32
    with_map = SceneObject.from_masks(one, one, uncertainty=np.full((1, 1), 0.25, np.float32))
    assert with_map.uncertainty[0, 0] == 0.25


@pytest.mark.parametrize(
    ("front", "behind_visible", "behind", "expected"),
    [
        (mask("#..."), mask(".###"), mask("####"), [(0, 1)]),  # covers the whole occluded part
        (mask("#..."), mask("####"), mask("####"), []),  # no occluded part
        (mask("...#"), mask(".##."), mask("###."), []),  # covers another place
        (mask("#..."), mask("...."), mask("####"), [(0, 1)]),  # covers a quarter of the occluded part
        (mask("...."), mask(".###"), mask("####"), []),  # the other object is not visible
    ],
)
def test_occlusion_order_of_two(front: Mask, behind_visible: Mask, behind: Mask, expected: list[Any]) -> None:
    objects = [SceneObject.from_masks(front, front), SceneObject.from_masks(behind_visible, behind)]
    assert Scene(objects, (1, 4)).occlusion_order() == expected


def test_an_occluder_covers_the_minimum_share() -> None:
    amodal = np.ones((1, 100), bool)
    for covered, expected in ((int(100 * MIN_OCCLUDER_SHARE) - 1, []), (int(100 * MIN_OCCLUDER_SHARE), [(0, 1)])):
        rim = np.zeros((1, 100), bool)
        rim[0, :covered] = True
        objects = [SceneObject.from_masks(rim, rim), SceneObject.from_masks(~amodal, amodal)]
        assert Scene(objects, (1, 100)).occlusion_order() == expected


def test_an_occluded_part_does_not_occlude() -> None:
    a = SceneObject.from_masks(mask("#..."), mask("###."))
    b = SceneObject.from_masks(mask("...#"), mask(".###"))
    assert Scene([a, b], (1, 4)).occlusion_order() == []


def test_objects_that_occlude_each_other_give_a_pair_each_way() -> None:
    a = SceneObject.from_masks(mask("##..", "...."), mask("##..", "##.."))
    b = SceneObject.from_masks(mask("....", "##.."), mask("##..", "##.."))
    assert Scene([a, b], (2, 4)).occlusion_order() == [(1, 0), (0, 1)]


def test_saved_files(tmp_path: Path) -> None:
    scene = occluded_pair()
    folder = scene.save(tmp_path / "deep" / "out")
    names = {f"object_{i:02d}_{kind}.png" for i in (0, 1) for kind in ("visible", "amodal", "occluded")}
    assert {f.name for f in folder.iterdir()} == names | {"scene.json", "overlay.png"}
    for index, obj in enumerate(scene.objects):
        for kind in ("visible", "amodal", "occluded"):
            stored = np.asarray(Image.open(folder / f"object_{index:02d}_{kind}.png"))
            np.testing.assert_array_equal(stored, getattr(obj, f"{kind}_mask"))
    content = json.loads((folder / "scene.json").read_text())
    assert content["size"] == [3, 5] and content["occlusion_order"] == [[0, 1]]
    assert set(content) == {"size", "image", "objects", "occlusion_order"}
    assert set(content["objects"][1]) == {
        "visible",
        "amodal",
        "visible_box_xyxy",
        "amodal_box_xyxy",
        "occlusion_rate",
        "score",
        "name",
        "class_id",
        "source_id",
        "tracker_id",
        "phrase",
    }
    assert content["objects"][1]["occlusion_rate"] == pytest.approx(0.2)


def test_saving_again_replaces_the_earlier_scene_and_keeps_other_files(tmp_path: Path) -> None:
    occluded_pair().save(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    Scene([occluded_pair().objects[0]], (3, 5)).save(tmp_path)
    kinds = {f"object_00_{kind}.png" for kind in ("visible", "amodal", "occluded")}
    assert {f.name for f in tmp_path.iterdir()} == kinds | {"scene.json", "notes.txt"}


def test_a_failing_save_keeps_the_earlier_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    occluded_pair().save(tmp_path)
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}

    def full_disk(*_: Any, **__: Any) -> str:
        raise OSError("no space left")

    monkeypatch.setattr(scene_module.json, "dumps", full_disk)
    with pytest.raises(OSError, match="no space left"):
        Scene([occluded_pair().objects[0]], (3, 5)).save(tmp_path)
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before


def test_saving_to_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="out: expected a folder, got the file"):
        occluded_pair().save(tmp_path / "file")
    with pytest.raises(InputError, match="out: expected a folder to write to, got .*Not a directory"):
        occluded_pair().save(tmp_path / "file" / "below")


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "[]",
        '{"size": [3]}',
        '{"size": [1, 1], "objects": [{}]}',
        '{"size": [2, 2], "objects": [{"visible": {"size": [1, 1], "counts": "1"}, "amodal": '
        '{"size": [1, 1], "counts": "1"}, "visible_box_xyxy": [0, 0, 0, 0], "score": 0}]}',
    ],
)
def test_loading_an_invalid_scene(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "scene.json").write_text(content)
    with pytest.raises(InputError, match="scene: expected a readable .*scene.json, got "):
        Scene.load(tmp_path)


def test_coco_annotations_are_read_as_canonical(tmp_path: Path) -> None:
    scene = occluded_pair()
    annotations = scene.to_coco(image_id=7, first_id=10)
    image = {"id": 7, "file_name": "a.jpg", "height": 3, "width": 5}
    file = tmp_path / "annotations.json"
    categories = [{"id": 1, "name": "object"}]
    file.write_text(json.dumps({"images": [image], "annotations": annotations, "categories": categories}))
    samples = read_dataset("canonical", file, tmp_path).images[0].objects
    assert [s.id for s in samples] == [10, 11] and samples[1].occluders == (10,)
    for sample, obj, record in zip(samples, scene.objects, annotations, strict=True):
        np.testing.assert_array_equal(sample.visible_mask(), obj.visible_mask)
        np.testing.assert_array_equal(sample.amodal_mask(), obj.amodal_mask)
        assert record["area"] == obj.amodal_mask.sum() and record["occlude_rate"] == pytest.approx(obj.occlusion_rate)
    assert annotations[0]["bbox"] == [2, 0, 1, 3] and annotations[1]["visible_bbox"] == [0, 1, 5, 1]


def test_coco_boxes_are_the_tight_boxes_of_the_masks() -> None:
    full = np.ones((4, 4), bool)
    asked = SceneObject.from_masks(~full, full, visible_box_xyxy=(1, 1, 3, 3))
    assert asked.visible_box_xyxy == (1, 1, 3, 3)
    assert Scene([asked], (4, 4)).to_coco()[0]["visible_bbox"] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": (0, 0, 6, 2)}, r"window: expected \(x0, y0, x1, y1\) inside size \(4, 5\), got \(0, 0, 6, 2\)"),
        ({"window": (2, 0, 2, 2)}, "window: expected"),
        ({"visible_in_window": np.ones((2, 3), bool)}, r"masks: expected bool of shape \(2, 2\), got bool \(2, 3\)"),
        ({"amodal_in_window": np.ones((2, 2))}, r"masks: expected bool of shape \(2, 2\), got float64 \(2, 2\)"),
        ({"score": 1.5}, r"score: expected a number in \[0, 1\], got 1.5"),
        ({"score": float("nan")}, "score: expected .* got nan"),
    ],
)
def test_impossible_objects(changes: dict[str, Any], message: str) -> None:
    square = np.ones((2, 2), bool)
    fields: dict[str, Any] = {
        "window": (0, 0, 2, 2),
        "visible_in_window": square,
        "amodal_in_window": square,
        "size": (4, 5),
        "visible_box_xyxy": (0, 0, 2, 2),
    }
    with pytest.raises(InputError, match=message):
        SceneObject(**(fields | changes))


def test_masks_of_two_sizes() -> None:
    with pytest.raises(InputError, match=r"masks: expected one \(H, W\) shape, got \(1, 4\) and \(4, 1\)"):
        SceneObject.from_masks(np.ones((1, 4), bool), np.ones((4, 1), bool))


def test_scene_of_another_size() -> None:
    obj = occluded_pair().objects[0]
    with pytest.raises(InputError, match=r"expected objects of size \(9, 9\), got \(3, 5\) for object 0"):
        Scene([obj], (9, 9))
    with pytest.raises(InputError, match=r"expected an image of shape \(3, 5, 3\), got \(3, 5\)"):
        Scene([obj], (3, 5), np.zeros((3, 5), np.uint8))
    with pytest.raises(InputError, match="expected a scene with its image"):
        Scene([obj], (3, 5)).draw()


def test_many_objects_of_a_huge_image_need_little_memory() -> None:
    H, W = 9000, 12000
    square = np.ones((100, 100), bool)
    objects = [
        SceneObject((x, 4000, x + 100, 4100), square, square, (H, W), (x, 4000, x + 100, 4100))
        for x in range(0, 10000, 50)
    ]
    stored = sum(o.visible_in_window.nbytes + o.amodal_in_window.nbytes for o in objects)
    assert stored == 2 * len(objects) * square.size
    assert objects[3].amodal_mask.shape == (H, W) and objects[3].amodal_mask.sum() == square.size
    annotation = Scene(objects[:2], (H, W)).to_coco()[1]
    assert annotation["segmentation"]["size"] == [H, W] and annotation["bbox"] == [50, 4000, 100, 100]


def test_a_loaded_scene_can_have_its_image_again(tmp_path: Path) -> None:
    folder = occluded_pair().save(tmp_path / "scene")
    Image.new("RGB", (5, 3)).save(tmp_path / "a.png")
    assert Scene.load(folder / "scene.json").image is None
    assert Scene.load(str(folder), tmp_path / "a.png").draw().any()
    with pytest.raises(InputError, match="expected an image of shape"):
        Scene.load(folder, np.zeros((4, 5, 3), np.uint8))
    with pytest.raises(InputError, match=r"Scene.load\(folder, image\)"):
        Scene.load(folder).draw()


@pytest.mark.parametrize(
    ("sources", "first_id", "ids"),
    [((77, 99), None, [77, 99]), ((77, None), None, [1, 2]), ((77, 77), None, [1, 2]), ((77, 99), 5, [5, 6])],
)
def test_annotations_keep_the_ids_of_their_source(
    sources: tuple[int | None, ...], first_id: int | None, ids: list[int]
) -> None:
    pair = [replace(obj, source_id=source) for obj, source in zip(occluded_pair(), sources, strict=True)]
    found = Scene(pair, (3, 5)).to_coco(first_id=first_id)
    assert [one["id"] for one in found] == ids
    assert found[1]["occluders"] == [ids[0]]


def test_an_object_is_shown_in_one_line() -> None:
    obj = replace(occluded_pair()[1], name="car", score=0.79)
    assert repr(obj) == f"SceneObject(car, {obj.occlusion_rate:.0%} occluded, score 0.79, box (0, 1, 5, 2))"


@pytest.mark.parametrize("union", [True, False])
def test_an_empty_amodal_mask_has_score_0(union: bool) -> None:
    full, empty = np.ones((2, 2), bool), np.zeros((2, 2), bool)
    seen = SceneObject.from_masks(full, empty, score=0.7, union_visible=union)
    assert seen.score == (0.7 if union else 0.0)
    assert SceneObject.from_masks(empty, empty, score=0.7).score == 0
