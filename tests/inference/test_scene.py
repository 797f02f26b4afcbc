"""Scenes: invariants, truth tables, and what is written to disk."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from amodal.data.formats.canonical import read_canonical
from amodal.errors import InputError
from amodal.inference import scene as scene_module
from amodal.inference.scene import MIN_COVER, Scene, SceneObject
from amodal.ops.boxes import mask_to_box
from amodal.ops.rle import encode_mask
from tests.drawing import mask

Mask = npt.NDArray[np.bool_]


@st.composite
def mask_pairs(draw: st.DrawFn, count: int = 1) -> list[tuple[Mask, Mask]]:
    """Pairs of unrelated masks of one size: visible is not inside amodal."""
    size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    return [(draw(arrays(bool, size)), draw(arrays(bool, size))) for _ in range(count)]


def occluded_pair() -> Scene:
    """A pole (0) in front of a board (1)."""
    pole = mask("..#..", "..#..", "..#..")
    board = mask(".....", "#####", ".....")
    things = [SceneObject.from_masks(pole, pole), SceneObject.from_masks(board & ~pole, board, score=0.5)]
    return Scene(things, (3, 5), np.full((3, 5, 3), 200, np.uint8))


@given(mask_pairs())
def test_masks_keep_their_relations(pairs: list[tuple[Mask, Mask]]) -> None:
    visible, amodal = pairs[0]
    thing = SceneObject.from_masks(visible, amodal)
    np.testing.assert_array_equal(thing.visible_mask, visible)
    np.testing.assert_array_equal(thing.amodal_mask, amodal | visible)
    np.testing.assert_array_equal(thing.occluded_mask, thing.amodal_mask & ~thing.visible_mask)
    np.testing.assert_array_equal(thing.amodal_box_xyxy, mask_to_box(thing.amodal_mask))
    np.testing.assert_array_equal(thing.visible_box_xyxy, mask_to_box(visible))
    assert 0 <= thing.occlusion_rate <= 1
    if thing.amodal_mask.any():
        assert thing.occlusion_rate == pytest.approx(1 - visible.sum() / thing.amodal_mask.sum())


@given(mask_pairs(3))
@settings(max_examples=25)
def test_a_saved_scene_comes_back_to_the_bit(pairs: list[tuple[Mask, Mask]]) -> None:
    things = [SceneObject.from_masks(*pair, score=0.25, phrase="a cup") for pair in pairs]
    scene = Scene(things, pairs[0][0].shape, question="what?", answer="this")
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
def test_windowed_rle_is_the_rle_of_the_whole_image(pairs: list[tuple[Mask, Mask]]) -> None:
    thing = SceneObject.from_masks(*pairs[0])
    record = Scene([thing], thing.size).to_json()["objects"][0]
    assert record["visible"] == encode_mask(thing.visible_mask)
    assert record["amodal"] == encode_mask(thing.amodal_mask)


def test_a_window_is_placed_in_the_image_and_shrinks_to_the_object() -> None:
    thing = SceneObject(
        window=(1, 0, 5, 3),
        visible_in_window=mask("....", ".#..", "...."),
        amodal_in_window=mask("....", "..#.", "...."),
        size=(4, 6),
        visible_box_xyxy=(2, 1, 3, 2),
    )
    np.testing.assert_array_equal(thing.visible_mask, mask("......", "..#...", "......", "......"))
    np.testing.assert_array_equal(thing.amodal_mask, mask("......", "..##..", "......", "......"))
    assert thing.window == (2, 1, 4, 2)


def test_an_object_keeps_no_large_array_alive_and_cannot_be_written_to() -> None:
    large = np.zeros((50, 50), bool)
    large[3, 4] = True
    thing = SceneObject.from_masks(large, large)
    assert thing.visible_in_window.base is None and thing.visible_in_window.shape == (1, 1)
    with pytest.raises(ValueError, match="read-only"):
        thing.visible_in_window[0, 0] = False


def test_an_empty_object_has_no_score_no_box_and_no_hidden_part() -> None:
    thing = SceneObject.from_masks(np.zeros((4, 5), bool), np.zeros((4, 5), bool), score=0.9)
    assert (thing.score, thing.occlusion_rate, thing.amodal_box_xyxy) == (0, 0, (0, 0, 0, 0))
    assert thing.amodal_mask.shape == (4, 5) and not thing.amodal_mask.any()


def test_uncertainty_is_resized_into_its_own_window() -> None:
    one = np.ones((1, 1), bool)
    crop = np.full((8, 8), 0.5, np.float32)
    thing = SceneObject((2, 2, 3, 3), one, one, (5, 6), (2, 2, 3, 3), 1.0, (crop, (1, 0, 4, 4)))
    expected = np.zeros((5, 6), np.float32)
    expected[0:4, 1:4] = 0.5
    np.testing.assert_array_equal(thing.uncertainty, expected)
    without = SceneObject.from_masks(one, one)
    assert without.uncertainty.shape == (1, 1) and without.uncertainty.dtype == np.float32
    with_map = SceneObject.from_masks(one, one, uncertainty=np.full((1, 1), 0.25, np.float32))
    assert with_map.uncertainty[0, 0] == 0.25


@pytest.mark.parametrize(
    ("front", "behind_visible", "behind", "expected"),
    [
        (mask("#..."), mask(".###"), mask("####"), [(0, 1)]),  # covers all that is hidden
        (mask("#..."), mask("####"), mask("####"), []),  # nothing is hidden
        (mask("...#"), mask(".##."), mask("###."), []),  # stands elsewhere
        (mask("#..."), mask("...."), mask("####"), [(0, 1)]),  # a quarter of the hidden part
        (mask("...."), mask(".###"), mask("####"), []),  # nothing in front is seen
    ],
)
def test_occlusion_order_of_two(front: Mask, behind_visible: Mask, behind: Mask, expected: list[Any]) -> None:
    things = [SceneObject.from_masks(front, front), SceneObject.from_masks(behind_visible, behind)]
    assert Scene(things, (1, 4)).occlusion_order() == expected


def test_occlusion_order_needs_more_than_a_rim() -> None:
    hidden = np.ones((1, 100), bool)
    for covered, expected in ((int(100 * MIN_COVER) - 1, []), (int(100 * MIN_COVER), [(0, 1)])):
        rim = np.zeros((1, 100), bool)
        rim[0, :covered] = True
        things = [SceneObject.from_masks(rim, rim), SceneObject.from_masks(~hidden, hidden)]
        assert Scene(things, (1, 100)).occlusion_order() == expected


def test_a_hidden_part_in_front_of_nothing_does_not_occlude() -> None:
    a = SceneObject.from_masks(mask("#..."), mask("###."))
    b = SceneObject.from_masks(mask("...#"), mask(".###"))
    assert Scene([a, b], (1, 4)).occlusion_order() == []


def test_interlocked_objects_give_a_pair_each_way() -> None:
    a = SceneObject.from_masks(mask("##..", "...."), mask("##..", "##.."))
    b = SceneObject.from_masks(mask("....", "##.."), mask("##..", "##.."))
    assert Scene([a, b], (2, 4)).occlusion_order() == [(1, 0), (0, 1)]


def test_saved_files(tmp_path: Path) -> None:
    scene = occluded_pair()
    folder = scene.save(tmp_path / "deep" / "out")
    names = {f"object_{i:02d}_{kind}.png" for i in (0, 1) for kind in ("visible", "amodal", "occluded")}
    assert {f.name for f in folder.iterdir()} == names | {"scene.json", "overlay.png"}
    for index, thing in enumerate(scene.objects):
        for kind in ("visible", "amodal", "occluded"):
            stored = np.asarray(Image.open(folder / f"object_{index:02d}_{kind}.png"))
            np.testing.assert_array_equal(stored, getattr(thing, f"{kind}_mask"))
    content = json.loads((folder / "scene.json").read_text())
    assert content["size"] == [3, 5] and content["occlusion_order"] == [[0, 1]]
    assert set(content) == {"size", "objects", "occlusion_order"}
    assert set(content["objects"][1]) == {
        "visible",
        "amodal",
        "visible_box_xyxy",
        "amodal_box_xyxy",
        "occlusion_rate",
        "score",
        "phrase",
    }
    assert content["objects"][1]["occlusion_rate"] == pytest.approx(0.2)


def test_saving_again_leaves_nothing_of_the_earlier_scene_but_all_else(tmp_path: Path) -> None:
    occluded_pair().save(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    Scene([occluded_pair().objects[0]], (3, 5)).save(tmp_path)
    kinds = {f"object_00_{kind}.png" for kind in ("visible", "amodal", "occluded")}
    assert {f.name for f in tmp_path.iterdir()} == kinds | {"scene.json", "notes.txt"}


def test_a_failing_save_leaves_the_earlier_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    occluded_pair().save(tmp_path)
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}

    def full_disk(*_: Any, **__: Any) -> str:
        raise OSError("no space left")

    monkeypatch.setattr(scene_module.json, "dumps", full_disk)
    with pytest.raises(OSError, match="no space left"):
        Scene([occluded_pair().objects[0]], (3, 5)).save(tmp_path)
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before


def test_saving_where_a_file_is(tmp_path: Path) -> None:
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
def test_loading_what_is_no_scene(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "scene.json").write_text(content)
    with pytest.raises(InputError, match="scene: expected a readable .*scene.json, got "):
        Scene.load(tmp_path)


def test_coco_annotations_are_read_as_canonical(tmp_path: Path) -> None:
    scene = occluded_pair()
    annotations = scene.to_coco(image_id=7, first_id=10)
    image = {"id": 7, "file_name": "a.jpg", "height": 3, "width": 5}
    file = tmp_path / "annotations.json"
    categories = [{"id": 1, "name": "thing"}]
    file.write_text(json.dumps({"images": [image], "annotations": annotations, "categories": categories}))
    samples = read_canonical(file, tmp_path).images[0].objects
    assert [s.id for s in samples] == [10, 11] and samples[1].occluders == (10,)
    for sample, thing, record in zip(samples, scene.objects, annotations, strict=True):
        np.testing.assert_array_equal(sample.visible_mask(), thing.visible_mask)
        np.testing.assert_array_equal(sample.amodal_mask(), thing.amodal_mask)
        assert record["area"] == thing.amodal_mask.sum() and record["occlude_rate"] == thing.occlusion_rate
    assert annotations[0]["bbox"] == [2, 0, 1, 3] and annotations[1]["visible_bbox"] == [0, 1, 5, 1]


def test_coco_boxes_are_those_of_the_masks() -> None:
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
    thing = occluded_pair().objects[0]
    with pytest.raises(InputError, match=r"expected objects of size \(9, 9\), got \(3, 5\) for object 0"):
        Scene([thing], (9, 9))
    with pytest.raises(InputError, match=r"expected an image of shape \(3, 5, 3\), got \(3, 5\)"):
        Scene([thing], (3, 5), np.zeros((3, 5), np.uint8))
    with pytest.raises(InputError, match="expected an image to draw on"):
        Scene([thing], (3, 5)).draw()


def test_many_objects_of_a_huge_picture_stay_small() -> None:
    H, W = 9000, 12000
    square = np.ones((100, 100), bool)
    things = [
        SceneObject((x, 4000, x + 100, 4100), square, square, (H, W), (x, 4000, x + 100, 4100))
        for x in range(0, 10000, 50)
    ]
    stored = sum(t.visible_in_window.nbytes + t.amodal_in_window.nbytes for t in things)
    assert stored == 2 * len(things) * square.size
    assert things[3].amodal_mask.shape == (H, W) and things[3].amodal_mask.sum() == square.size
    annotation = Scene(things[:2], (H, W)).to_coco()[1]
    assert annotation["segmentation"]["size"] == [H, W] and annotation["bbox"] == [50, 4000, 100, 100]
