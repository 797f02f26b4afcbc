"""Box prompts from annotations and from files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amodal.errors import InputError
from amodal.evaluation.boxes import BoxSource, read_boxes
from amodal.evaluation.detection import detections_from_model
from amodal.evaluation.evaluator import evaluate
from amodal.evaluation.predictions import MaskPrediction, image_sizes
from amodal.evaluation.rows import ImageCache, ModelRow
from amodal.ops.rle import encode_mask
from tests.drawing import mask
from tests.evaluation.toy_predictions import toy, write

SIZES = {1: (10, 20), 2: (10, 20)}


def test_box_sources_are_parsed(tmp_path: Path) -> None:
    assert BoxSource.parse("gt_visible", SIZES) == BoxSource("gt_visible")
    path = write(tmp_path / "b.json", [{"image_id": 1, "bbox": [1, 2, 3, 4]}])
    assert BoxSource.parse(f"predicted:{path}", SIZES) == BoxSource("predicted", read_boxes(path, SIZES))
    for text in ("predicted:", "gt_visible:x", "truth", ""):
        with pytest.raises(InputError, match="expected gt_visible, gt_visible_mask, gt_amodal or predicted:FILE"):
            BoxSource.parse(text, SIZES)


def test_a_dataset_without_boxes_of_its_own_needs_a_file(tmp_path: Path) -> None:
    dataset = toy(tmp_path)[1]
    with pytest.raises(InputError, match="box source: expected predicted:FILE for a dataset without boxes of its own"):
        BoxSource.parse("predicted", SIZES).boxes_for(dataset.images[0], dataset.images[0].objects)


def test_the_visible_box_is_read_if_a_record_has_several(tmp_path: Path) -> None:
    pixels = encode_mask(mask(*["...##..............."] * 2, *["." * 20] * 8))
    records = [
        {"image_id": 1, "annotation_id": 1, "bbox": [1, 2, 3, 4], "visible_bbox": [1, 2, 2, 2]},
        {"image_id": 1, "annotation_id": 2, "bbox": [1, 2, 3, 4], "visible_segmentation": pixels},
        {"image_id": 1, "annotation_id": 3, "bbox": [15, 5, 30, 30]},
    ]
    boxes = read_boxes(write(tmp_path / "b.json", records), SIZES).by_object
    assert [boxes[(1, i)].box_xyxy for i in (1, 2, 3)] == [(1, 2, 3, 4), (3, 0, 5, 2), (15, 5, 20, 10)]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"bbox": None}, "expected visible_bbox, visible_segmentation or bbox, got none of them"),
        ({"bbox": [1, 2, 3]}, "bbox: expected four numbers x, y, w, h, got"),
        ({"bbox": "wide"}, "bbox: expected four numbers"),
        ({"bbox": [1, 2, float("nan"), 4]}, "bbox: expected finite x, y, w, h"),
        ({"bbox": [5, 5, -2, 2]}, "w and h 0 or more"),
        ({"bbox": [30, 5, 4, 4]}, "expected a box with an area inside the 20 x 10 image"),
        ({"bbox": [3, 5, 0, 4]}, "expected a box with an area"),
        ({"image_id": 7}, "expected the image_id of an annotated image, got 7"),
        ({"score": "x"}, "expected score to be a finite number"),
        ({"annotation_id": "one"}, "expected annotation_id to be an integer, got 'one'"),
    ],
)
def test_invalid_boxes_raise_with_their_position(record: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "b.json", [{"image_id": 1, "bbox": [1, 1, 4, 4]} | record])
    with pytest.raises(InputError, match=message) as caught:
        read_boxes(path, SIZES)
    assert "record 0" in str(caught.value)


@pytest.mark.parametrize("second", [7, "7"])
def test_a_second_box_of_one_annotation_is_refused(second: int | str, tmp_path: Path) -> None:
    first = {"image_id": 1, "annotation_id": 7, "bbox": [1, 1, 4, 4]}
    path = write(tmp_path / "b.json", [first, first | {"annotation_id": 8}, first | {"annotation_id": second}])
    message = f"boxes {path}: record 2: expected one box per object, got two of annotation 7"
    with pytest.raises(InputError, match=message):
        read_boxes(path, SIZES)


def test_boxes_without_annotation_are_matched_by_iou(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 1)
    image = dataset.images[0]
    back, front = (t.visible_box_xyxy for t in image.objects)
    near_front = [front[0] + 1, front[1], front[2] - front[0], front[3] - front[1]]
    exact_front = [front[0], front[1], front[2] - front[0], front[3] - front[1]]
    records = [{"image_id": 1, "bbox": near_front}, {"image_id": 1, "bbox": exact_front}]
    boxes = BoxSource("predicted", read_boxes(write(tmp_path / "b.json", records), {1: (64, 64)}))
    assert boxes.boxes_for(image, image.objects) == [None, front]  # no box overlaps the back object enough
    records.append({"image_id": 1, "annotation_id": image.objects[0].id, "bbox": [2, 2, 9, 9]})
    named = BoxSource("predicted", read_boxes(write(tmp_path / "c.json", records), {1: (64, 64)}))
    assert named.boxes_for(image, image.objects) == [(2, 2, 11, 11), front]
    assert back != named.boxes_for(image, image.objects)[0]


def test_predicted_boxes_reach_the_model_and_the_report(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 1)
    boxes_seen: list[list[float]] = []

    class EmptyMasks:
        def predict(self, image: np.ndarray, boxes_xyxy: np.ndarray) -> list[MaskPrediction]:
            boxes_seen.extend(boxes_xyxy.tolist())
            empty = encode_mask(np.zeros(image.shape[:2], bool))
            return [MaskPrediction(empty, empty)] * len(boxes_xyxy)

    path = write(tmp_path / "b.json", [{"image_id": 1, "annotation_id": 2, "bbox": [1, 2, 3, 4]}])
    report = evaluate(EmptyMasks(), dataset, box_source=f"predicted:{path}", progress=False)
    assert boxes_seen == [[1, 2, 4, 6]]
    assert report.options["box_source"] == f"predicted:{path}"
    assert report.options["num_without_answer"] == 1
    assert report.options["without_answer"] == [1]


@pytest.mark.parametrize("form", [str, float, lambda i: f"{i}.0"])
def test_ids_in_every_form_are_the_same_ids(form: Callable[[int], Any], tmp_path: Path) -> None:
    named = {name: form(1) for name in ("image_id", "annotation_id", "category_id")}
    records = [named | {"bbox": [1, 2, 3, 4]}, {"image_id": form(2), "bbox": [1, 2, 3, 4], "annotation_id": None}]
    boxes = read_boxes(write(tmp_path / "b.json", records), SIZES)
    assert list(boxes.by_object) == [(1, 1)] and list(boxes.by_image) == [2]
    assert boxes.by_object[1, 1].category_id == 1


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("missing", ["category_id", "score"])
def test_average_precision_needs_the_category_and_the_score_of_each_box(
    missing: str, named: bool, tmp_path: Path
) -> None:
    """A box without them was a detection of category 0, or one with score 1."""
    _, dataset = toy(tmp_path, 1)
    record = {"image_id": 1, "category_id": 2, "score": 0.5, "bbox": [1, 2, 30, 40]}
    second = {k: v for k, v in record.items() if k != missing}
    if named:
        record["annotation_id"], second["annotation_id"] = 1, 2
    path = write(tmp_path / "b.json", [record, second])

    class Unused:
        def predict(self, image: np.ndarray, boxes_xyxy: np.ndarray) -> list[MaskPrediction]:
            pytest.fail("it predicts")

    source = BoxSource.parse(f"predicted:{path}", image_sizes(dataset))
    row, saved = ModelRow(Unused(), source, ImageCache()), tmp_path / "saved.json"
    with pytest.raises(InputError, match=f"^boxes {path}: record 1: expected a {missing} for amodal_ap, got none$"):
        detections_from_model(row, dataset, progress=False, save_predictions=saved)
    assert not saved.exists()
