"""Predictions without annotation ids: matching them, and scoring them like predictions that have ids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.evaluation.evaluator import EvaluationSettings, evaluate_predictions
from amodal.evaluation.matching import MatchedRecords, Matcher, ObjectRecords, read_by_object
from amodal.evaluation.predictions import MaskPrediction, PredictionRecord
from amodal.metrics.mask_protocols import MASK_PROTOCOLS
from amodal.ops.rle import encode_mask, rle_box_xyxy
from tests.drawing import mask
from tests.evaluation.toy_predictions import perfect, shifted, toy, write

PIXEL, OTHER = encode_mask(mask("#...", "....")), encode_mask(mask("....", "..##"))
GOOD = {"image_id": 1, "annotation_id": 5, "category_id": 2, "segmentation": PIXEL, "score": 0.5}


def obj(annotation_id: int, *rows: str, category: int = 2, amodal: tuple[str, ...] | None = None) -> ObjectSample:
    visible, whole = encode_mask(mask(*rows)), encode_mask(mask(*(amodal or rows)))
    return ObjectSample(annotation_id, category, visible, whole, rle_box_xyxy(visible), rle_box_xyxy(whole))


def dataset_of(*objects: ObjectSample) -> AnnotatedDataset:
    H, W = objects[0].visible_rle["size"] if objects else (2, 4)
    return AnnotatedDataset((ImageSample(1, Path("1.png"), H, W, objects),), {2: "cup"}, "canonical")


def prediction(*rows: str, category: int | None = None, visible: tuple[str, ...] | None = None) -> PredictionRecord:
    amodal = encode_mask(mask(*rows))
    return PredictionRecord(1, None, category, MaskPrediction(amodal, encode_mask(mask(*(visible or rows)))))


def unnamed(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "annotation_id"} for record in records]


def quiet(**changes: Any) -> EvaluationSettings:
    return EvaluationSettings(progress=False, **changes)


def test_the_assignment_has_the_largest_sum_of_ious() -> None:
    """The best pair alone is not taken if another assignment is better as a whole."""
    objects = [obj(1, "######...."), obj(2, "####......")]
    predictions = [prediction("#####....."), prediction("#######...")]  # IoUs 5/6 and 4/5, 6/7 and 4/7
    assert Matcher().match(predictions, objects, use_visible=True) == {0: 1, 1: 0}
    assert Matcher(min_iou=0.85).match(predictions, objects, use_visible=True) == {0: 1}
    assert Matcher(min_iou=0.9).match(predictions, objects, use_visible=True) == {}
    assert Matcher(min_iou=6 / 7).match(predictions, objects, use_visible=True) == {0: 1}  # the threshold is included


def test_pairs_below_the_threshold_do_not_shape_the_assignment() -> None:
    objects = [obj(1, "##########"), obj(2, "####......")]
    predictions = [prediction("######...."), prediction("#.........")]  # IoUs 0.6 and 0.67, 0.1 and 0.25
    assert Matcher().match(predictions, objects, use_visible=True) == {1: 0}


def test_categories_are_compared_where_both_are_stated() -> None:
    objects = [obj(1, "##..", category=1), obj(2, "..##", category=2)]
    predictions = [prediction("##..", category=2), prediction("..##")]
    assert Matcher().match(predictions, objects, use_visible=True) == {1: 1}
    assert Matcher(same_category=False).match(predictions, objects, use_visible=True) == {0: 0, 1: 1}


def test_nothing_matches_in_an_image_without_predictions_or_objects() -> None:
    assert Matcher().match([], [obj(1, "##")], use_visible=True) == {}
    assert Matcher().match([prediction("##")], [], use_visible=True) == {}
    empty = prediction("..")  # its IoU with any object is 0
    assert Matcher().match([empty], [obj(1, "##")], use_visible=True) == {}


@pytest.mark.parametrize("iou", [0, -1, 1.1, float("nan")])
def test_invalid_thresholds_raise(iou: float) -> None:
    with pytest.raises(InputError, match=r"match_iou: expected a number in \(0, 1\], got"):
        Matcher(iou)


def test_visible_masks_are_compared_and_amodal_ones_where_the_file_has_no_visible_masks(tmp_path: Path) -> None:
    back = obj(1, "##....", amodal=("######",))
    data = dataset_of(back, obj(2, "..####"))
    record = {"image_id": 1, "segmentation": encode_mask(mask("######"))}
    with_visible = record | {"visible_segmentation": back.visible_rle}
    records = read_by_object(write(tmp_path / "v.json", [with_visible]), data)
    assert records.options["matcher"] == "Hungarian on the IoU of visible masks"
    found = records.predictions(data.images[0], data.images[0].objects, False)
    assert [one is not None for one in found] == [True, False]
    records = read_by_object(write(tmp_path / "a.json", [record]), data)
    assert records.options["matcher"] == "Hungarian on the IoU of amodal masks"
    assert not records.have_visible
    found = records.predictions(data.images[0], data.images[0].objects, False)
    assert [one is not None for one in found] == [True, False]


def test_a_selection_of_objects_does_not_change_the_matches(tmp_path: Path) -> None:
    """The prediction belongs to the second object, also where only the first is scored."""
    data = dataset_of(obj(1, "###......."), obj(2, "####......"))
    path = write(tmp_path / "p.json", [{"image_id": 1, "segmentation": encode_mask(mask("####......"))}])
    (tmp_path / "list.txt").write_text("1_1\n")
    with pytest.warns(UserWarning, match="score 0|1 of 1 predictions match no scored object"):
        report = evaluate_predictions(path, data, quiet(objects=tmp_path / "list.txt"))
    assert report.metrics["mIoU_full"] == 0
    assert report.options["num_unmatched"] == 1


def test_repeated_objects_and_mixed_files_raise(tmp_path: Path) -> None:
    data = dataset_of(obj(5, "#...", "...."))
    with pytest.raises(InputError, match="record 1: expected one record per object, got a second one of annotation 5"):
        read_by_object(write(tmp_path / "p.json", [GOOD, GOOD]), data)
    mixed = write(tmp_path / "q.json", [GOOD, *unnamed([GOOD])])
    with pytest.raises(
        InputError,
        match="expected an annotation_id in all records or in none, got one in record 0 and none in record 1",
    ):
        read_by_object(mixed, data)
    with pytest.raises(InputError, match="record 0: expected annotation_id to be an integer, got 'five'"):
        read_by_object(write(tmp_path / "r.json", [GOOD | {"annotation_id": "five"}]), data)
    with pytest.raises(InputError, match="record 0: expected the image_id of an annotated image, got 9"):
        read_by_object(write(tmp_path / "s.json", [GOOD | {"image_id": 9}]), data)


@pytest.mark.parametrize("bad", [{"size": [2, 4], "counts": "11"}, None, "x"])
@pytest.mark.parametrize("named", [True, False])
def test_an_invalid_mask_among_valid_ones_is_named(bad: Any, named: bool, tmp_path: Path) -> None:
    """Masks of an image are checked together, but the message names one record."""
    records = [GOOD | {"annotation_id": i} for i in range(5)]
    records[3] = records[3] | {"segmentation": bad}
    data = dataset_of(*(obj(i, "#...", "....") for i in (0, 9, 2, 3)))
    image, (first, unknown, second, broken) = data.images[0], data.images[0].objects
    found = read_by_object(write(tmp_path / "p.json", records if named else unnamed(records)), data)
    if named:
        expected = [MaskPrediction(PIXEL, None, 0.5), None, MaskPrediction(PIXEL, None, 0.5)]
        assert found.predictions(image, [first, unknown, second], False) == expected
    with pytest.raises(InputError, match="record 3: segmentation: expected"):
        found.predictions(image, [first, broken], False)


@pytest.mark.parametrize("protocol", sorted(MASK_PROTOCOLS))
def test_matched_predictions_score_as_those_with_ids(protocol: str, tmp_path: Path) -> None:
    _, data = toy(tmp_path, 6)
    records = perfect(data)
    for i, record in enumerate(records):
        for key in ("segmentation", "visible_segmentation"):
            record[key] = shifted(record[key], i % 4)
    settings = quiet(protocol=protocol)
    named = evaluate_predictions(write(tmp_path / "n.json", records), data, settings, name="x")
    order = np.random.default_rng(0).permutation(len(records))
    path = write(tmp_path / "u.json", unnamed([records[i] for i in order]))
    matched = evaluate_predictions(path, data, settings, name="x")
    assert matched.metrics == named.metrics
    assert matched.baselines == named.baselines
    assert matched.intervals == named.intervals
    expected = {
        "matcher": "Hungarian on the IoU of visible masks",
        "match_iou": 0.5,
        "match_category": True,
        "num_matched": 12,
        "num_unmatched": 0,
    }
    assert matched.options == named.options | expected
    several = evaluate_predictions(path, data, quiet(protocol=protocol, num_workers=2), name="x")
    assert several.to_json() == matched.to_json()
    # The shifts of two and three columns leave IoUs below 0.9.
    with pytest.warns(UserWarning, match="score 0|predictions match no scored object"):
        strict = evaluate_predictions(path, data, settings, match_iou=0.9)
    assert 0 < strict.options["num_matched"] < 12
    assert strict.options["num_matched"] + strict.options["num_without_answer"] == 12
    assert strict.options["match_iou"] == 0.9


def test_unmatched_predictions_and_objects_are_counted(tmp_path: Path) -> None:
    _, data = toy(tmp_path)
    records = unnamed(perfect(data))
    stray = encode_mask(np.eye(64, dtype=bool))
    records[0] = records[0] | {"segmentation": stray, "visible_segmentation": stray}
    with pytest.warns(UserWarning, match="score 0|no scored object") as caught:
        report = evaluate_predictions(write(tmp_path / "p.json", [*records, records[1]]), data, quiet())
    assert [str(one.message) for one in caught] == [
        "1 of 4 objects have no prediction and score 0",
        "2 of 5 predictions match no scored object",
    ]
    assert report.metrics["mIoU_full"] == pytest.approx(3 / 4)
    assert report.options["num_matched"] == 3
    assert report.options["num_unmatched"] == report.options["num_unused_predictions"] == 2
    assert report.options["without_answer"] == [1]


def test_wrong_categories_do_not_match_by_default(tmp_path: Path) -> None:
    _, data = toy(tmp_path)
    path = write(tmp_path / "p.json", [r | {"category_id": 3 - r["category_id"]} for r in unnamed(perfect(data))])
    with pytest.warns(UserWarning, match="4 of 4 predictions match no scored object"):
        assert evaluate_predictions(path, data, quiet()).metrics["mIoU_full"] == 0
    report = evaluate_predictions(path, data, quiet(), match_category=False)
    assert report.metrics["mIoU_full"] == 1
    assert report.options["match_category"] is False


def test_crowds_and_objects_without_amodal_masks_match_nothing(tmp_path: Path) -> None:
    whole = obj(1, "##..")
    crowd, modal = replace(whole, id=2, iscrowd=True), replace(whole, id=3, amodal_rle=None)
    data = dataset_of(crowd, modal, whole)
    path = write(tmp_path / "p.json", [{"image_id": 1, "segmentation": whole.amodal_rle}])
    assert evaluate_predictions(path, data, quiet()).options["num_matched"] == 1


def test_the_kind_of_records_follows_the_file(tmp_path: Path) -> None:
    data = dataset_of(obj(5, "#...", "...."))
    assert isinstance(read_by_object(write(tmp_path / "p.json", [GOOD]), data), ObjectRecords)
    assert isinstance(read_by_object(write(tmp_path / "q.json", unnamed([GOOD])), data), MatchedRecords)
    empty = write(tmp_path / "e.json", [])
    with (
        pytest.raises(InputError, match="expected records of the annotated objects, got none of their ids"),
        pytest.warns(UserWarning, match="1 of 1 objects have no prediction"),
    ):
        evaluate_predictions(empty, data, quiet())
