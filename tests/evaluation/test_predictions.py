"""The predictions file: reading, writing, error messages, and scoring it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amodal.data.samples import AnnotatedDataset, ImageSample
from amodal.errors import InputError
from amodal.evaluation.detection import detections_from_file, evaluate_detections
from amodal.evaluation.evaluator import EvaluationSettings, evaluate_model, evaluate_predictions
from amodal.evaluation.predictions import (
    MaskPrediction,
    PredictionRecord,
    image_sizes,
    predictions_file,
    read_predictions,
)
from amodal.ops.rle import encode_mask
from tests.drawing import mask
from tests.evaluation.toy_predictions import perfect, shifted, toy, write

PIXEL = encode_mask(mask("#...", "...."))
OTHER = encode_mask(mask("....", "..##"))
DATASET = AnnotatedDataset((ImageSample(1, Path("1.png"), 2, 4, ()),), {2: "cup"}, "canonical")
GOOD = {"image_id": 1, "annotation_id": 5, "category_id": 2, "segmentation": PIXEL, "score": 0.5}


def quiet(**changes: Any) -> EvaluationSettings:
    return EvaluationSettings(progress=False, **changes)


def read(path: Path, **options: Any) -> list[PredictionRecord]:
    return list(read_predictions(path, DATASET, **options))


def test_a_record_is_read(tmp_path: Path) -> None:
    (one,) = read(write(tmp_path / "p.json", [GOOD | {"visible_segmentation": OTHER}]))
    assert one == PredictionRecord(1, 5, 2, MaskPrediction(PIXEL, OTHER, 0.5))
    (bare,) = read(write(tmp_path / "q.json", [{"image_id": 1, "segmentation": PIXEL}]))
    assert bare == PredictionRecord(1, None, None, MaskPrediction(PIXEL, None, 1.0), has_score=False)


def test_polygons_and_uncompressed_runs_are_read(tmp_path: Path) -> None:
    runs = {"size": [2, 4], "counts": [0, 1, 7]}
    path = write(tmp_path / "p.json", [GOOD | {"segmentation": m} for m in (runs, [[0, 0, 1, 0, 1, 1, 0, 1]])])
    assert [one.masks.amodal for one in read(path)] == [PIXEL, PIXEL]


def test_the_visible_mask_is_united_on_request(tmp_path: Path) -> None:
    path = write(tmp_path / "p.json", [GOOD | {"visible_segmentation": OTHER}])
    (one,) = read(path, union_visible=True)
    assert one.masks.amodal == encode_mask(mask("#...", "..##"))
    lacking = write(tmp_path / "q.json", [GOOD])
    with pytest.raises(InputError, match=r"record 0: expected a visible_segmentation to unite with, got none"):
        read(lacking, union_visible=True)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"image_id": 9}, "record 0: expected the image_id of an annotated image, got 9"),
        ({"image_id": "one"}, "record 0: expected image_id to be an integer, got 'one'"),
        ({"image_id": True}, "expected image_id to be an integer, got True"),
        ({"annotation_id": 1.5}, "expected annotation_id to be an integer, got 1.5"),
        ({"score": "high"}, "expected score to be a finite number, got 'high'"),
        ({"score": float("inf")}, "expected score to be a finite number, got inf"),
        ({"segmentation": None}, "segmentation: expected polygons or an RLE, got None"),
        ({"segmentation": {"size": [3, 4], "counts": "1"}}, r"segmentation: expected an RLE of size \[2, 4\]"),
        ({"segmentation": [[0, 0, float("nan"), 1, 1, 1]]}, "segmentation: expected finite coordinates, got NaN"),
        ({"segmentation": {"size": [2, 4], "counts": "0" * 100}}, r"expected at most 63 counts .* got 100"),
        ({"segmentation": {"size": [2, 4], "counts": "###"}}, "segmentation: expected an RLE's counts"),
        (
            {"visible_segmentation": {"size": [2, 4], "counts": [3]}},
            "visible_segmentation: expected runs over 8 pixels",
        ),
    ],
)
def test_invalid_records_raise_with_their_position(record: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(write(tmp_path / "p.json", [GOOD | record]))
    assert str(caught.value).startswith(f"predictions {tmp_path / 'p.json'}: record 0: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "expected JSON"),
        (
            '{"annotations": [{"image_id": 1}]}',
            "expected a list of records, or a COCO file with images and annotations, got other content",
        ),
        ("[1, 2]", "expected a list of records, got other content"),
        ("", "expected JSON"),
    ],
)
def test_other_files_raise(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith("predictions")


def test_missing_files_and_folders_raise(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="predictions: expected a file, got .* does not exist"):
        read(tmp_path / "none.json")
    with pytest.raises(InputError, match="predictions: expected a file or a folder of Parquet files, got .*, without"):
        read(tmp_path)
    with pytest.raises(InputError, match="predictions: expected a file, got .* does not exist"):
        read(tmp_path / "none.parquet")


def test_files_are_written_completely_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "p.json"
    predictions = [
        PredictionRecord(1, 5, 2, MaskPrediction(PIXEL, OTHER, 0.25)),
        PredictionRecord(1, None, None, MaskPrediction(OTHER, None)),
    ]
    with predictions_file(path) as add:
        for one in predictions:
            add(one)
        assert not path.exists()
    assert read(path) == [predictions[0], predictions[1]]
    with predictions_file(tmp_path / "empty.json"):
        pass
    assert json.loads((tmp_path / "empty.json").read_text()) == []
    with pytest.raises(KeyError), predictions_file(tmp_path / "half.json"):
        raise KeyError
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty.json", "new"]
    with (
        pytest.raises(InputError, match="save-predictions: expected a file, got the folder"),
        predictions_file(tmp_path),
    ):
        pass
    with (
        pytest.raises(InputError, match="save-predictions: expected a file to write, got"),
        predictions_file(tmp_path / "empty.json" / "below"),
    ):
        pass


def test_correct_and_shifted_predictions_score_their_overlap(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path)
    records = perfect(dataset)
    report = evaluate_predictions(write(tmp_path / "p.json", records), dataset, quiet())
    assert [report.metrics[f"mIoU_{n}"] for n in ("full", "occ", "visible")] == [1, 1, 1]
    assert report.options["model"] == "p.json"
    assert report.options["box_source"] is None
    moved = [r | {"segmentation": shifted(r["segmentation"], 6)} for r in records]
    report = evaluate_predictions(write(tmp_path / "m.json", moved), dataset, quiet(), box_source="gt_amodal")
    assert report.metrics["mIoU_full"] == pytest.approx(18 / 30)  # 24 x 24 squares, six columns off
    assert report.options["box_source"] == "gt_amodal"


def test_objects_without_a_prediction_score_0_and_are_counted(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path)
    path = write(tmp_path / "p.json", perfect(dataset)[1:])
    with pytest.warns(UserWarning, match="1 of 4 objects have no prediction and score 0"):
        report = evaluate_predictions(path, dataset, quiet())
    assert report.metrics["mIoU_full"] == pytest.approx(3 / 4)
    assert report.options["num_without_answer"] == 1
    assert report.options["without_answer"] == [1]
    assert report.options["num_unused_predictions"] == 0


def test_predictions_of_other_objects_are_counted_or_raise(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path)
    records = perfect(dataset)
    extra = write(tmp_path / "p.json", [*records, records[0] | {"annotation_id": 99}])
    assert evaluate_predictions(extra, dataset, quiet()).options["num_unused_predictions"] == 1
    unknown = write(tmp_path / "q.json", [r | {"annotation_id": 1000 + i} for i, r in enumerate(records)])
    with pytest.raises(InputError, match="expected records of the annotated objects, got none of their ids"):
        evaluate_predictions(unknown, dataset, quiet())


def test_metrics_and_baselines_that_need_visible_masks_are_left_out(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path)
    records = [{k: v for k, v in r.items() if k != "visible_segmentation"} for r in perfect(dataset)]
    report = evaluate_predictions(write(tmp_path / "p.json", records), dataset, quiet())
    assert "mIoU_visible" not in report.metrics
    assert "hull_own_visible" not in report.baselines
    assert "hull_true_visible" in report.baselines


def test_saved_predictions_score_as_the_model_does(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path)

    class RandomMasks:
        def predict(self, image: np.ndarray, boxes_xyxy: np.ndarray) -> list[MaskPrediction]:
            rng = np.random.default_rng(int(boxes_xyxy.sum()))
            return [
                MaskPrediction(*(encode_mask(rng.random(image.shape[:2]) < 0.5) for _ in range(2)), float(rng.random()))
                for _ in boxes_xyxy
            ]

    path = tmp_path / "saved.json"
    report = evaluate_model(RandomMasks(), dataset, quiet(save_predictions=path))
    again = evaluate_predictions(path, dataset, quiet())
    assert again.metrics == report.metrics
    assert again.by_occlusion == report.by_occlusion
    assert again.baselines == report.baselines
    assert again.options["objects_sha256"] == report.options["objects_sha256"]
    assert {r["annotation_id"] for r in json.loads(path.read_text())} == {1, 2, 3, 4}


def test_image_sizes(tmp_path: Path) -> None:
    assert image_sizes(toy(tmp_path)[1]) == {1: (64, 64), 2: (64, 64)}


@pytest.mark.parametrize("form", [str, float, lambda i: f"{i}.0", lambda i: f" {i} "])
@pytest.mark.parametrize("named", [True, False])
def test_ids_in_every_form_are_the_same_ids(named: bool, form: Callable[[int], Any], tmp_path: Path) -> None:
    """Text such as "1" and "1.0" had matched nothing, so that every object scored 0 without an error."""
    _, dataset = toy(tmp_path, 2)
    names = ("image_id", "category_id", *(["annotation_id"] if named else []))
    records = [
        {k: v for k, v in r.items() if named or k != "annotation_id"} | {n: form(r[n]) for n in names}
        for r in perfect(dataset)
    ]
    path = write(tmp_path / "p.json", records)
    read_back = list(read_predictions(path, dataset))
    ids = [(r.image_id, r.annotation_id if named else None, r.category_id) for r in read_back]
    assert ids == [(i.id, o.id if named else None, o.category_id) for i in dataset.images for o in i.objects]
    assert {type(number) for key in ids for number in key} <= {int, type(None)}
    for selected in (None, 1):
        report = evaluate_predictions(path, dataset, quiet(max_objects=selected))
        assert report.metrics["mIoU_full"] == 1 and report.options["num_without_answer"] == 0
    found = evaluate_detections(detections_from_file(path, dataset), dataset, {"model": "m"})
    assert found.metrics["amodal"]["AP"] == pytest.approx(1)
