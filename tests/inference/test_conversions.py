"""A `Scene` as a sequence, and its conversions to other libraries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from amodal.errors import InputError
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from amodal.ops.rle import decode_mask, segmentation_to_rle
from tests.drawing import mask

FRONT = mask("##...", "##...", ".....")
BEHIND = mask("..##.", "..##.", ".....")
WHOLE = mask(".###.", ".###.", ".....")


def scene() -> Scene:
    return Scene(
        [
            SceneObject.from_masks(FRONT, FRONT, name="mug", class_id=5, source_id=11, tracker_id=1, score=0.5),
            SceneObject.from_masks(BEHIND, WHOLE, name="book", class_id=2, source_id=12, tracker_id=2),
        ],
        (3, 5),
        np.zeros((3, 5, 3), np.uint8),
        image_path=Path("photos/desk.jpg"),
    )


def test_a_scene_is_a_sequence() -> None:
    own = scene()
    assert len(own) == 2 and own[1].name == "book" and [obj.name for obj in own] == ["mug", "book"]
    assert repr(own) == "Scene(2 objects (mug, book), 1 occluded, 5 x 3 pixels, image desk.jpg)"
    assert repr(Scene([], (3, 5))) == "Scene(0 objects, 0 occluded, 5 x 3 pixels)"


def test_names_ids_and_path_are_saved(tmp_path: Path) -> None:
    loaded = Scene.load(scene().save(tmp_path))
    assert loaded.image_path == Path("photos/desk.jpg")
    for old, new in zip(scene(), loaded, strict=True):
        for key in ("name", "class_id", "source_id", "tracker_id", "score"):
            assert getattr(old, key) == getattr(new, key)


def test_older_files_without_the_new_keys_load(tmp_path: Path) -> None:
    import json

    file = scene().save(tmp_path) / "scene.json"
    content = json.loads(file.read_text())
    del content["image"]
    for record in content["objects"]:
        for key in ("name", "class_id", "source_id", "tracker_id"):
            del record[key]
    file.write_text(json.dumps(content))
    loaded = Scene.load(tmp_path)
    assert loaded.image_path is None and loaded[0].label == "object"


def test_a_truncated_mask_is_refused(tmp_path: Path) -> None:
    """Decoded as it is, it would show whatever the memory holds."""
    import json

    file = scene().save(tmp_path) / "scene.json"
    content = json.loads(file.read_text())
    content["objects"][0]["amodal"]["counts"] = "05"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="scene: expected a readable"):
        Scene.load(tmp_path)


def test_notebook_display_has_a_drawing_and_a_table() -> None:
    shown = scene()._repr_html_()
    assert shown.startswith('<img src="data:image/png;base64,') and "<td>book</td>" in shown
    without_image = Scene([SceneObject.from_masks(FRONT, FRONT, name="<b>")], (3, 5))._repr_html_()
    assert without_image.startswith("<table>") and "&lt;b&gt;" in without_image


def test_show_needs_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr("PIL.Image.Image.show", lambda self: shown.append(self.size))
    scene().show()
    assert len(shown) == 1
    with pytest.raises(InputError, match="expected a scene with its image"):
        Scene([], (3, 5)).show()


def test_table() -> None:
    pytest.importorskip("pandas")
    table = scene().to_pandas()
    assert table.name.tolist() == ["mug", "book"] and table.source_id.tolist() == [11, 12]
    assert table.occluders.tolist() == ["", "0"] and table.image.tolist() == ["desk.jpg"] * 2
    assert table.amodal_area.tolist() == [4, 6]


def test_coco_keeps_the_class_ids() -> None:
    first, second = scene().to_coco(image_id=4, first_id=9)
    assert (first["category_id"], second["category_id"]) == (5, 2)
    assert second["occluders"] == [9] and second["image_id"] == 4


@pytest.mark.parametrize("part", ["visible", "amodal"])
def test_yolo_lines_draw_the_mask(part: str) -> None:
    for line, obj in zip(scene().to_yolo(part), scene(), strict=True):
        number, *values = line.split()
        assert int(number) == obj.class_id
        polygon = (np.array(values, float).reshape(-1, 2) * [5, 3]).ravel().tolist()
        drawn = decode_mask(segmentation_to_rle([polygon], 3, 5))
        np.testing.assert_array_equal(drawn, getattr(obj, f"{part}_mask"))


def test_yolo_joins_parts_and_names_classes() -> None:
    parts = mask("##...##", "##...##", ".......")
    own = Scene([SceneObject.from_masks(parts, parts, name="cat")], (3, 7))
    (line,) = own.to_yolo(classes=["dog", "cat"])
    number, *values = line.split()
    polygon = (np.array(values, float).reshape(-1, 2) * [7, 3]).ravel().tolist()
    drawn = decode_mask(segmentation_to_rle([polygon], 3, 7))
    assert number == "1" and (drawn & parts).sum() == parts.sum()
    with pytest.raises(InputError, match="classes: expected the name of every object, got none for cat"):
        own.to_yolo(classes=["dog"])
    with pytest.raises(InputError, match="part: expected 'visible' or 'amodal', got 'hidden'"):
        own.to_yolo("hidden")  # type: ignore[arg-type]


def test_an_empty_object_has_no_yolo_line() -> None:
    empty = np.zeros((3, 5), bool)
    assert Scene([SceneObject.from_masks(empty, empty)], (3, 5)).to_yolo() == []
