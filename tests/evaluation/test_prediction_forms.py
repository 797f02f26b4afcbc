"""Predictions in other forms than a JSON list: Parquet from `amodal batch`, and canonical annotation files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from amodal.data.formats.canonical import canonical_record
from amodal.data.samples import AnnotatedDataset, ImageSample
from amodal.errors import InputError
from amodal.evaluation.detection import detections_from_file
from amodal.evaluation.evaluator import EvaluationSettings, evaluate_predictions
from amodal.evaluation.predictions import is_predictions, iterate_records, read_predictions
from amodal.inference.batch import _write_part
from tests.evaluation.toy_predictions import perfect, toy, write

Records = list[dict[str, Any]]
QUIET = EvaluationSettings(progress=False)


@pytest.fixture
def dataset(tmp_path: Path) -> AnnotatedDataset:
    return toy(tmp_path, 3)[1]


def canonical(dataset: AnnotatedDataset, first_image: int = 70, names: tuple[str, ...] = ("green", "red")) -> Any:
    """The true masks as a canonical file with ids of its own; `names` are its categories."""
    annotations = []
    for i, image in enumerate(dataset.images):
        for obj in image.objects:
            category = names.index(dataset.categories[obj.category_id]) + 1 if "red" in names else 1
            record = canonical_record(
                900 + len(annotations), first_image + i, category, obj.visible_rle, obj.amodal_rle, score=0.5
            )
            annotations.append(record)
    return {
        "annotations": annotations,  # before the images, as the library writes it
        "images": [
            {"id": first_image + i, "file_name": image.file_name, "height": image.height, "width": image.width}
            for i, image in enumerate(dataset.images)
        ],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
    }


@pytest.mark.parametrize("named", [True, False])
def test_a_folder_of_parts_and_a_parquet_file_score_as_the_json(
    dataset: AnnotatedDataset, named: bool, tmp_path: Path
) -> None:
    records = perfect(dataset)
    if not named:  # as for a Parquet file of images without annotations
        records = [record | {"annotation_id": None, "category_id": None} for record in records]
    folder = tmp_path / "batch"
    _write_part(records[:2], folder / "part-000000.parquet")
    _write_part(records[2:], folder / "part-000001.parquet")
    (folder / "batch.json").write_text("{}")
    (folder / ".writing_part-000002.parquet").touch()  # of a run that goes on
    whole = tmp_path / "whole.parquet"
    _write_part(records, whole)
    expected = list(iterate_records(write(tmp_path / "p.json", records), dataset))
    assert list(iterate_records(folder, dataset)) == list(iterate_records(whole, dataset)) == expected
    for path in (folder, whole):
        report = evaluate_predictions(path, dataset, QUIET)
        assert report.metrics["mIoU_full"] == report.metrics["mIoU_occ"] == 1
        assert report.options["model"] == path.name
        assert report.options.get("num_matched") == (None if named else 6)
    if named:
        assert detections_from_file(folder, dataset) == detections_from_file(tmp_path / "p.json", dataset)


def test_invalid_parquet_raises(dataset: AnnotatedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.parquet").write_text("PAR")
    with pytest.raises(InputError, match=r"predictions .*broken.parquet: expected a Parquet file, got"):
        list(iterate_records(tmp_path / "broken.parquet", dataset))
    _write_part([{"path": "x.png"}], tmp_path / "other.parquet")
    with pytest.raises(InputError, match="record 0: expected image_id to be an integer, got None"):
        list(read_predictions(tmp_path / "other.parquet", dataset))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="expected a file or a folder of Parquet files, got .*, without any"):
        list(iterate_records(tmp_path / "empty", dataset))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"expected pyarrow to be installed \(pip install 'amodal\[ray\]'\), got none"):
        list(iterate_records(tmp_path / "other.parquet", dataset))


def test_a_canonical_file_is_matched_by_file_and_category_names(dataset: AnnotatedDataset, tmp_path: Path) -> None:
    path = write(tmp_path / "coco.json", canonical(dataset))
    records = list(read_predictions(path, dataset))
    assert [(r.image_id, r.annotation_id, r.category_id) for r in records] == [
        (image.id, None, obj.category_id) for image in dataset.images for obj in image.objects
    ]
    assert {r.masks.score for r in records} == {0.5}
    report = evaluate_predictions(path, dataset, QUIET)
    assert [report.metrics[f"mIoU_{n}"] for n in ("full", "occ", "visible")] == [1, 1, 1]
    assert report.options["num_matched"] == 6


def test_unknown_categories_and_missing_masks_and_scores_count_as_not_stated(
    dataset: AnnotatedDataset, tmp_path: Path
) -> None:
    content = canonical(dataset, names=("object",))
    for record in content["annotations"]:
        del record["visible_mask"], record["score"]
    del content["annotations"][0]["category_id"], content["categories"]
    path = write(tmp_path / "coco.json", content)
    records = list(read_predictions(path, dataset))
    assert {r.category_id for r in records} == {None}
    assert not any(r.has_score or r.masks.visible for r in records)
    report = evaluate_predictions(path, dataset, QUIET)
    assert report.metrics["mIoU_full"] == 1
    assert report.options["matcher"] == "Hungarian on the IoU of amodal masks"


def test_images_are_found_by_the_last_part_of_their_names(dataset: AnnotatedDataset, tmp_path: Path) -> None:
    content = canonical(dataset)
    for image in content["images"]:
        image["file_name"] = f"/some/folder/{image['file_name']}"
    path = write(tmp_path / "coco.json", content)
    assert [r.image_id for r in read_predictions(path, dataset)] == [1, 1, 2, 2, 3, 3]
    nested = [ImageSample(i, Path(name), 64, 64, ()) for i, name in enumerate(("a.png", "a.png", "b.png"))]
    files = ("x/a.png", "y/a.png", "x/b.png")
    images = tuple(
        ImageSample(one.id, one.path, 64, 64, (), file_name=name) for one, name in zip(nested, files, strict=True)
    )
    other = AnnotatedDataset(images, {}, "canonical")
    content["images"] = [{"id": 70, "file_name": "y/a.png"}]
    content["annotations"] = content["annotations"][:1]
    assert [r.image_id for r in read_predictions(write(path, content), other)] == [1]
    for name, fault in (("a.png", "which names 2 of them"), ("c.png", "which names none")):
        content["images"] = [{"id": 70, "file_name": name}]
        with pytest.raises(
            InputError, match=f"record 0: expected the file name of an annotated image, got '{name}', {fault}"
        ):
            list(read_predictions(write(path, content), other))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": ["x"]}, "record 0: expected an annotation, got 'x'"),
        ({"annotations": [{"image_id": 99}]}, "record 0: expected the image_id of a listed image, got 99"),
        ({"annotations": [{"image_id": "x70"}]}, "record 0: expected image_id to be an integer, got 'x70'"),
        ({"annotations": [{"image_id": 70, "category_id": []}]}, "expected category_id to be an integer"),
        ({"annotations": [{"image_id": 70}]}, "record 0: segmentation: expected polygons or an RLE, got None"),
        ({"images": [{"id": 70}]}, "expected images with id and file_name, got {'id': 70}"),
        ({"images": [7]}, "expected images with id and file_name, got 7"),
        ({"categories": [{"id": 1}]}, "expected categories with id and name, got {'id': 1}"),
    ],
)
def test_invalid_canonical_files_raise(
    change: dict[str, Any], message: str, dataset: AnnotatedDataset, tmp_path: Path
) -> None:
    path = write(tmp_path / "coco.json", canonical(dataset) | change)
    with pytest.raises(InputError, match=message) as caught:
        list(read_predictions(path, dataset))
    assert str(caught.value).startswith(f"predictions {path}: ")
    assert "\n" not in str(caught.value)


def test_predictions_are_told_from_other_files(dataset: AnnotatedDataset, tmp_path: Path) -> None:
    _write_part(perfect(dataset), tmp_path / "batch" / "part-000000.parquet")
    (tmp_path / "run").mkdir()
    for path, expected in (
        (tmp_path / "batch", True),
        (tmp_path / "batch" / "part-000000.parquet", True),
        (write(tmp_path / "list.json", perfect(dataset)), True),
        (write(tmp_path / "coco.json", canonical(dataset)), True),
        (write(tmp_path / "report.json", {"protocol": "strict", "options": {}}), False),
        (tmp_path / "run", False),
        (tmp_path / "none.json", False),
        (tmp_path / "none.parquet", False),
    ):
        assert is_predictions(path) is expected, path
    (tmp_path / "broken.json").write_text("{")
    assert not is_predictions(tmp_path / "broken.json")
