"""Scoring in several processes, resuming a stopped run, and the worst objects."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from PIL import Image

from amodal.errors import InputError
from amodal.evaluation.baselines import rle_convex_hull
from amodal.evaluation.evaluator import (
    EvaluationSettings,
    evaluate_baseline,
    evaluate_model,
    evaluate_predictions,
    evaluate_share,
)
from amodal.evaluation.predictions import MaskPrediction
from amodal.evaluation.report import EvaluationReport
from amodal.evaluation.resume import Processes
from amodal.evaluation.scoring import MIN_MASKS_FOR_PROCESSES, Resampling, pick_num_workers
from amodal.ops.masks import convex_hull_mask
from amodal.ops.rle import encode_columns, encode_mask, encode_window
from tests.evaluation.toy_predictions import perfect, shifted, toy, write


def test_several_processes_and_one_give_the_same_report(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 6)
    records = perfect(dataset)
    for i, record in enumerate(records):
        record["segmentation"] = shifted(record["segmentation"], i)
    path = write(tmp_path / "p.json", records)
    one = evaluate_predictions(path, dataset, EvaluationSettings(progress=False, num_worst=3))
    two = evaluate_predictions(path, dataset, EvaluationSettings(progress=False, num_worst=3, num_workers=2))
    assert one.to_json() == two.to_json()
    assert len({r["mIoU_full"] for r in one.baselines.values()}) > 2


def test_parts_of_a_dataset_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Including the order of the worst objects: ties go by the position in the file."""
    _, dataset = toy(tmp_path, 5)
    records = perfect(dataset)
    records[4]["segmentation"] = shifted(records[4]["segmentation"], 2)
    path = write(tmp_path / "p.json", records[1:])
    whole = evaluate_predictions(path, dataset, EvaluationSettings(progress=False, num_worst=6))
    assert [line["annotation_id"] for line in whole.worst] == [1, 5, 2, 3, 4, 6]
    monkeypatch.setattr("amodal.evaluation.scoring.IMAGES_PER_PART", 1)
    assert (
        evaluate_predictions(path, dataset, EvaluationSettings(progress=False, num_worst=6)).to_json()
        == whole.to_json()
    )


def test_small_datasets_start_no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, workers in ((None, 1), (4, 4), (64, 8)):
        monkeypatch.setattr("amodal.evaluation.scoring.os.cpu_count", lambda cores=cores: cores)
        assert pick_num_workers(MIN_MASKS_FOR_PROCESSES - 1, 1) == 1
        assert pick_num_workers(MIN_MASKS_FOR_PROCESSES // 5 + 1, 5) == workers


@pytest.mark.parametrize(
    ("changes", "message"), [({"num_workers": 0}, "workers: expected 1"), ({"num_worst": -1}, "worst: expected 0")]
)
def test_invalid_settings_raise(changes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EvaluationSettings(**changes)


@pytest.mark.parametrize("changes", [{"num_resamples": -1}, {"seed": -1}])
def test_negative_resampling_is_refused_before_the_work(changes: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(changes))}: expected 0 or more, got -1"):
        Resampling(**changes)


def test_a_mask_in_a_window_is_encoded_like_the_full_mask() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        H, W = (int(n) for n in rng.integers(1, 12, 2))
        x0, y0 = int(rng.integers(0, W)), int(rng.integers(0, H))
        x1, y1 = int(rng.integers(x0 + 1, W + 1)), int(rng.integers(y0 + 1, H + 1))
        part = rng.random((y1 - y0, x1 - x0)) < rng.random()
        whole = np.zeros((H, W), bool)
        whole[y0:y1, x0:x1] = part
        rle = encode_window(part, (x0, y0, x1, y1), (H, W))
        assert rle == encode_mask(whole)


def test_masks_with_one_run_per_column_are_encoded_like_others() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        H, W = (int(n) for n in rng.integers(1, 12, 2))
        x0, y0 = int(rng.integers(0, W)), int(rng.integers(0, H))
        part = np.zeros((H - y0, W - x0), bool)
        for column in range(W - x0):
            ends = np.sort(rng.integers(0, H - y0 + 1, 2))
            part[ends[0] : ends[1], column] = True
        whole = np.zeros((H, W), bool)
        whole[y0:, x0:] = part
        assert encode_columns(part, (x0, y0), (H, W)) == encode_mask(whole)
    full = np.ones((3, 4), bool)
    assert encode_columns(full, (0, 0), (3, 4)) == encode_mask(full)


def test_the_hull_of_an_rle_is_the_hull_of_its_mask() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        mask = rng.random([int(n) for n in rng.integers(1, 25, 2)]) < rng.random() ** 2
        assert rle_convex_hull(encode_mask(mask)) == encode_mask(convex_hull_mask(mask))


class Stopping:
    """Predicts the filled box, counts its calls, and raises after a number of them."""

    def __init__(self, after: int | None = None) -> None:
        self.calls, self.after = 0, after

    def predict(self, image: np.ndarray, boxes_xyxy: np.ndarray) -> list[MaskPrediction]:
        if self.calls == self.after:
            raise KeyboardInterrupt
        self.calls += 1
        predictions = []
        for x0, y0, x1, y1 in boxes_xyxy.astype(int):
            window = (int(x0), int(y0), int(x1), int(y1))
            part = encode_window(np.ones((y1 - y0, x1 - x0), bool), window, image.shape[:2])
            predictions.append(MaskPrediction(part, None if self.calls % 2 else part, 0.25))
        return predictions


def test_a_stopped_run_is_resumed(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 5)
    path, settings = tmp_path / "out" / "partial.jsonl", EvaluationSettings(progress=False, baselines=())
    with pytest.raises(KeyboardInterrupt):
        evaluate_model(Stopping(after=3), dataset, settings, resume_file=path)
    with path.open("a") as file:
        file.write('{"image_id": 4, "answ')  # a line that was cut off
    second = Stopping()
    report = evaluate_model(second, dataset, settings, resume_file=path)
    assert second.calls == 2
    straight = Stopping()
    assert report.metrics["mIoU_full"] == evaluate_model(straight, dataset, settings).metrics["mIoU_full"]
    assert straight.calls == 5
    assert not path.exists()


def test_predictions_with_other_settings_are_not_resumed(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 3)
    path, settings = tmp_path / "partial.jsonl", EvaluationSettings(progress=False)
    with pytest.raises(KeyboardInterrupt):
        evaluate_model(Stopping(after=2), dataset, settings, resume_file=path)
    assert len(path.read_text().splitlines()) == 3
    other = Stopping()
    evaluate_model(other, dataset, settings, box_source="gt_amodal", resume_file=path)
    assert other.calls == 3


@pytest.mark.parametrize("changed", ["model", "boxes", "objects"])
def test_a_run_with_other_content_of_a_file_is_not_resumed(changed: str, tmp_path: Path) -> None:
    """The names are the same, and the content of the model, of the boxes or of the list of objects is another."""
    _, dataset = toy(tmp_path, 3)
    boxes, objects = tmp_path / "boxes.json", tmp_path / "objects.txt"
    found = [
        {"image_id": i.id, "annotation_id": o.id, "bbox": [2, 2, 30, 30]} for i in dataset.images for o in i.objects
    ]
    write(boxes, found)
    keys = [f"{image.id}_{obj.id}\n" for image in dataset.images for obj in image.objects]
    objects.write_text("".join(keys[:5]))
    path, settings = tmp_path / "partial.jsonl", EvaluationSettings(progress=False, baselines=(), objects=objects)

    def calls(after: int | None, weights: str) -> int:
        model, source = Stopping(after), f"predicted:{boxes}"
        with suppress(KeyboardInterrupt):
            evaluate_model(
                model, dataset, settings, box_source=source, resume_file=path, contents={"model_content": weights}
            )
        return model.calls

    assert calls(2, "a") == 2
    if changed == "boxes":
        write(boxes, [record | {"bbox": [3, 3, 20, 20]} for record in found])
    if changed == "objects":
        objects.write_text("".join(keys[1:]))
    assert calls(1, "b" if changed == "model" else "a") == 1
    assert calls(None, "b" if changed == "model" else "a") == 2  # the same content is resumed


@pytest.mark.parametrize(
    "changed", ["nothing", "the box", "the amodal box", "the visible mask", "the ids", "the pixels", "the folder"]
)
def test_images_with_other_annotations_or_pixels_are_predicted_again(changed: str, tmp_path: Path) -> None:
    """The ids of the images and the names of all files are the same. The other images are not predicted again."""
    _, dataset = toy(tmp_path, 3)
    path, settings = tmp_path / "partial.jsonl", EvaluationSettings(progress=False, baselines=())
    with pytest.raises(KeyboardInterrupt):
        evaluate_model(Stopping(after=2), dataset, settings, resume_file=path)
    first, *others = dataset.images
    obj, rest = first.objects[0], first.objects[1:]
    x0, y0, x1, y1 = obj.visible_box_xyxy
    if changed == "the box":
        obj = replace(obj, visible_box_xyxy=(x0, y0, x1 - 4, y1))
    if changed == "the amodal box":
        obj = replace(obj, amodal_box_xyxy=(x0, y0, x1 + 4, y1))
    if changed == "the visible mask":
        obj = replace(obj, visible_rle=shifted(obj.visible_rle, 1))
    if changed == "the ids":
        obj = replace(obj, id=77)
    if changed == "the pixels":
        Image.new("RGB", (64, 64), "red").save(first.path)
    if changed == "the folder":
        (tmp_path / "elsewhere").mkdir()
        first = replace(first, path=Path(shutil.copy2(first.path, tmp_path / "elsewhere")))
    now = replace(dataset, images=(replace(first, objects=(obj, *rest)), *others))
    # The third image, and before it the first one if it changed; the run with the changed one is stopped and resumed.
    for after in (None,) if changed == "nothing" else (1, None):
        model = Stopping(after)
        with suppress(KeyboardInterrupt):
            evaluate_model(model, now, settings, resume_file=path)
        assert model.calls == 1
    assert not path.exists()


DAMAGED = [
    b'{"image_id": 1, "inputs": "a", "answers": [[1, [{"si',
    b"\x00" * 50,
    b'{"answers": "\xe9"}',
    b"3",
    b"null",
    b"[]",
    b"{}",
    b'{"inputs": [], "answers": []}',
    b'{"inputs": "a", "answers": [[1, [0]]]}',
    b'{"inputs": "a", "answers": 1}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("damaged", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_line_of_a_stopped_run_is_predicted_again(damaged: bytes, tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 4)
    path, settings = tmp_path / "partial.jsonl", EvaluationSettings(progress=False, baselines=())
    with pytest.raises(KeyboardInterrupt):
        evaluate_model(Stopping(after=3), dataset, settings, resume_file=path)
    head, _, *rest = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([head, damaged, *rest]))
    for after in (1, None):  # stopped again, with the damaged line still in the file
        model = Stopping(after)
        with suppress(KeyboardInterrupt):
            report = evaluate_model(model, dataset, settings, resume_file=path)
        assert model.calls == 1
    assert report.metrics["mIoU_full"] == evaluate_model(Stopping(), dataset, settings).metrics["mIoU_full"]


def test_a_second_run_with_the_same_file_is_refused_before_it_predicts(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 2)
    path, settings, second = tmp_path / "partial.jsonl", EvaluationSettings(progress=False), Stopping()

    class Slow(Stopping):
        def predict(self, image: np.ndarray, boxes_xyxy: np.ndarray) -> list[MaskPrediction]:
            if not self.calls:
                with ThreadPoolExecutor(1) as pool, pytest.raises(InputError, match="expected no other run that write"):
                    pool.submit(evaluate_model, second, dataset, settings, resume_file=path).result()
            return super().predict(image, boxes_xyxy)

    report = evaluate_model(Slow(), dataset, settings, resume_file=path)
    assert second.calls == 0 and report.metrics["num_objects"] == 4
    evaluate_model(second, dataset, settings, resume_file=path)  # the lock ends with the run


@pytest.mark.parametrize("stopped", [False, True])
def test_processes_share_the_images(stopped: bool, tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 5)
    path, settings = tmp_path / "partial.jsonl", EvaluationSettings(progress=False, baselines=())
    models = [Stopping(), Stopping()]
    if stopped:
        with pytest.raises(KeyboardInterrupt):
            evaluate_model(Stopping(after=2), dataset, settings, resume_file=path)
    gate = Barrier(2)

    class Meeting:
        def wait_for_everyone(self) -> None:
            gate.wait(timeout=60)

    def run(rank: int) -> EvaluationReport | None:
        processes = Processes(rank, 2, Meeting())
        return evaluate_share(models[rank], dataset, settings, processes, resume_file=path)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, range(2))
    assert second is None and first is not None
    assert first.metrics["mIoU_full"] == evaluate_model(Stopping(), dataset, settings).metrics["mIoU_full"]
    assert [model.calls for model in models] == ([2, 1] if stopped else [3, 2])
    assert list(tmp_path.glob("partial*")) == []


def test_processes_without_a_file_raise(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="out: expected --out with a model scored by 2 processes, got none"):
        evaluate_share(Stopping(), toy(tmp_path, 1)[1], EvaluationSettings(progress=False), Processes(1, 2))


def test_the_worst_are_listed_first_and_drawn(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 3)
    records = perfect(dataset)
    for record, by in zip(records, (0, 9, 3, 0, 20, 1), strict=True):
        record["segmentation"] = shifted(record["segmentation"], by)
    path = write(tmp_path / "p.json", records)
    (tmp_path / "worst").mkdir()
    (tmp_path / "worst" / "0009_1_1.png").touch()  # of an earlier run
    settings = EvaluationSettings(progress=False, num_worst=3, worst_folder=tmp_path / "worst")
    report = evaluate_predictions(path, dataset, settings)
    assert [line["annotation_id"] for line in report.worst] == [5, 2, 3]
    assert report.worst[1]["iou"] == pytest.approx(15 / 33)
    assert report.worst[0]["occlusion_rate"] == pytest.approx(0.25)
    assert report.worst[1]["iou_occ"] is None  # it is not occluded
    drawn = sorted((tmp_path / "worst").iterdir())
    assert [p.name for p in drawn] == ["0001_3_5.png", "0002_1_2.png", "0003_2_3.png"]
    pixels = np.asarray(Image.open(drawn[0]))
    assert pixels.shape[1] > 3 * pixels.shape[0] * 0.9
    assert pixels.std() > 10
    every = evaluate_predictions(path, dataset, EvaluationSettings(progress=False, num_worst=100))
    assert [line["iou"] for line in every.worst] == sorted(line["iou"] for line in every.worst)
    assert len(every.worst) == 6


def test_drawing_the_worst_objects_needs_images(tmp_path: Path) -> None:
    annotations, dataset = toy(tmp_path, 1)
    for image in (annotations.parent / "images").iterdir():
        image.unlink()
    settings = EvaluationSettings(progress=False, num_worst=1, worst_folder=tmp_path / "worst")
    with pytest.raises(InputError, match="image: expected a file"):
        evaluate_baseline("true_visible", dataset, settings)
    assert not (tmp_path / "worst").exists()


def test_a_baseline_can_be_scored_alone(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 2)
    settings = EvaluationSettings(progress=False, save_predictions=tmp_path / "saved.json")
    report = evaluate_baseline("true_visible", dataset, settings)
    assert report.options["model"] == "true_visible"
    assert "true_visible" not in report.baselines
    assert report.metrics["mIoU_full"] == pytest.approx((0.75 + 1) / 2)
    assert [r["category_id"] for r in report.by_category] == [1, 2]
    assert [r["mIoU_full"] for r in report.by_category] == pytest.approx([0.75, 1])
    assert report.by_category[1]["mIoU_occ"] is None
    assert len(json.loads((tmp_path / "saved.json").read_text())) == 4
