"""Counting in several processes, going on after a kill, and the worst objects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amodal.errors import InputError
from amodal.evaluation.answers import Answer, ask
from amodal.evaluation.baselines import hull
from amodal.evaluation.evaluator import evaluate, evaluate_predictions, evaluate_row
from amodal.evaluation.plan import Plan
from amodal.evaluation.scoring import POOL_FROM, pick_workers
from amodal.ops.masks import convex_hull_mask
from amodal.ops.rle import encode_columns, encode_mask, encode_window
from tests.evaluation.world import perfect, shifted, toy, write


def test_several_processes_say_the_same_as_one(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 6)
    records = perfect(dataset)
    for i, record in enumerate(records):
        record["segmentation"] = shifted(record["segmentation"], i)
    path = write(tmp_path / "p.json", records)
    one = evaluate_predictions(path, dataset, Plan(progress=False, worst=3))
    two = evaluate_predictions(path, dataset, Plan(progress=False, worst=3, workers=2))
    assert one.to_json() == two.to_json()
    assert len({r["mIoU_full"] for r in one.baselines.values()}) > 2


def test_parts_add_up_to_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in what a tie of the worst objects is broken by: the place in the file."""
    _, dataset = toy(tmp_path, 5)
    records = perfect(dataset)
    records[4]["segmentation"] = shifted(records[4]["segmentation"], 2)
    path = write(tmp_path / "p.json", records[1:])
    whole = evaluate_predictions(path, dataset, Plan(progress=False, worst=6))
    assert [line["annotation_id"] for line in whole.worst] == [1, 5, 2, 3, 4, 6]
    monkeypatch.setattr("amodal.evaluation.tally.PART_IMAGES", 1)
    assert evaluate_predictions(path, dataset, Plan(progress=False, worst=6)).to_json() == whole.to_json()


def test_small_sets_start_no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, workers in ((None, 1), (4, 4), (64, 8)):
        monkeypatch.setattr("amodal.evaluation.scoring.os.cpu_count", lambda cores=cores: cores)
        assert pick_workers(POOL_FROM - 1, 1) == 1
        assert pick_workers(POOL_FROM // 5 + 1, 5) == workers


@pytest.mark.parametrize(
    ("changes", "message"), [({"workers": 0}, "workers: expected 1"), ({"worst": -1}, "worst: expected 0")]
)
def test_impossible_plans(changes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Plan(**changes)


def test_windows_hold_what_whole_masks_hold() -> None:
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


def test_masks_of_one_run_a_column_are_encoded_as_others_are() -> None:
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


def test_hulls_are_those_of_all_pixels() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        mask = rng.random([int(n) for n in rng.integers(1, 25, 2)]) < rng.random() ** 2
        assert hull(encode_mask(mask)) == encode_mask(convex_hull_mask(mask))


class Stops:
    """Answers with the filled box; raises at the n-th call, counts them all."""

    def __init__(self, after: int | None = None) -> None:
        self.calls, self.after = 0, after

    def predict(self, image: np.ndarray, boxes_xyxy: np.ndarray) -> list[Answer]:
        if self.calls == self.after:
            raise KeyboardInterrupt
        self.calls += 1
        answers = []
        for x0, y0, x1, y1 in boxes_xyxy.astype(int):
            window = (int(x0), int(y0), int(x1), int(y1))
            part = encode_window(np.ones((y1 - y0, x1 - x0), bool), window, image.shape[:2])
            answers.append(Answer(part, None if self.calls % 2 else part, 0.25))
        return answers


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 5)
    keep, plan = tmp_path / "out" / "partial.jsonl", Plan(progress=False, baselines=())
    with pytest.raises(KeyboardInterrupt):
        evaluate(Stops(after=3), dataset, plan=plan, keep=keep)
    with keep.open("a") as file:
        file.write('{"image_id": 4, "answ')  # the line that was being written
    second = Stops()
    report = evaluate(second, dataset, plan=plan, keep=keep)
    assert second.calls == 2
    straight = Stops()
    assert report.metrics["mIoU_full"] == evaluate(straight, dataset, plan=plan).metrics["mIoU_full"]
    assert straight.calls == 5
    assert not keep.exists()


def test_answers_to_another_question_are_not_taken(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 3)
    keep, plan = tmp_path / "partial.jsonl", Plan(progress=False)
    with pytest.raises(KeyboardInterrupt):
        evaluate(Stops(after=2), dataset, plan=plan, keep=keep)
    assert len(keep.read_text().splitlines()) == 3
    other = Stops()
    evaluate(other, dataset, box_source="gt_amodal", plan=plan, keep=keep)
    assert other.calls == 3


def test_a_predictor_that_answers_too_little_is_refused() -> None:
    class Lazy:
        def predict(self, image: np.ndarray, boxes_xyxy: np.ndarray) -> list[Answer]:
            return []

    with pytest.raises(InputError, match="predictor: expected an answer for each of 2 boxes, got 0"):
        ask(Lazy(), np.zeros((4, 4, 3), np.uint8), np.zeros((2, 4)), 8)


def test_the_worst_are_listed_first_and_drawn(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 3)
    records = perfect(dataset)
    for record, by in zip(records, (0, 9, 3, 0, 20, 1), strict=True):
        record["segmentation"] = shifted(record["segmentation"], by)
    path = write(tmp_path / "p.json", records)
    (tmp_path / "worst").mkdir()
    (tmp_path / "worst" / "0009_1_1.png").touch()  # of an earlier run
    plan = Plan(progress=False, worst=3, pictures=tmp_path / "worst")
    report = evaluate_predictions(path, dataset, plan)
    assert [line["annotation_id"] for line in report.worst] == [5, 2, 3]
    assert report.worst[1]["iou"] == pytest.approx(15 / 33)
    assert report.worst[0]["hidden_share"] == pytest.approx(0.25)
    assert report.worst[1]["iou_occ"] is None  # nothing of it is hidden
    drawn = sorted((tmp_path / "worst").iterdir())
    assert [p.name for p in drawn] == ["0001_3_5.png", "0002_1_2.png", "0003_2_3.png"]
    pixels = np.asarray(Image.open(drawn[0]))
    assert pixels.shape[1] > 3 * pixels.shape[0] * 0.9
    assert pixels.std() > 10
    every = evaluate_predictions(path, dataset, Plan(progress=False, worst=100))
    assert [line["iou"] for line in every.worst] == sorted(line["iou"] for line in every.worst)
    assert len(every.worst) == 6


def test_pictures_need_images(tmp_path: Path) -> None:
    annotations, dataset = toy(tmp_path, 1)
    for image in (annotations.parent / "images").iterdir():
        image.unlink()
    plan = Plan(progress=False, worst=1, pictures=tmp_path / "worst")
    with pytest.raises(InputError, match="image: expected a file"):
        evaluate_row("true_visible", dataset, plan)
    assert not (tmp_path / "worst").exists()


def test_a_row_in_the_place_of_a_model(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 2)
    plan = Plan(progress=False, save_predictions=tmp_path / "saved.json")
    report = evaluate_row("true_visible", dataset, plan)
    assert report.options["model"] == "true_visible"
    assert "true_visible" not in report.baselines
    assert report.metrics["mIoU_full"] == pytest.approx((0.75 + 1) / 2)
    assert [r["category_id"] for r in report.by_category] == [1, 2]
    assert [r["mIoU_full"] for r in report.by_category] == pytest.approx([0.75, 1])
    assert report.by_category[1]["mIoU_occ"] is None
    assert len(json.loads((tmp_path / "saved.json").read_text())) == 4
