"""Average precision compared with pycocotools, run from files as a script would."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from amodal.metrics.amodal_ap import METRIC_NAMES, AveragePrecision, Instance, MaskKind
from amodal.metrics.intervals import range_indices
from amodal.ops.rle import encode_mask, rle_area
from tests.drawing import mask

SIZE = (90, 120)


def random_set(seed: int, num_images: int = 12) -> tuple[list[Instance], list[Instance]]:
    """True objects of three categories with a few crowds; shifted, missing, repeated and false detections."""
    rng = np.random.default_rng(seed)
    truth, detections = list[Instance](), list[Instance]()
    for image in range(1, num_images + 1):
        for _ in range(int(rng.integers(0, 7))):
            y, x, h, w = (int(rng.integers(*r)) for r in ((0, 50), (0, 70), (6, 40), (6, 50)))
            category, crowd = int(rng.integers(1, 4)), bool(rng.random() < 0.1)
            truth.append(instance(image, category, (y, x, h, w), rng.random() * 0.9, 1.0, crowd))
            for _ in range(int(rng.choice([0, 1, 1, 1, 2]))):
                y2, x2 = max(y + int(rng.integers(-4, 5)), 0), max(x + int(rng.integers(-4, 5)), 0)
                detections.append(instance(image, category, (y2, x2, h, w), rng.random() * 0.9, float(rng.random())))
        if rng.random() < 0.4:
            box = (int(rng.integers(0, 50)), int(rng.integers(0, 70)), 20, 30)
            detections.append(instance(image, int(rng.integers(1, 5)), box, 0.2, float(rng.random())))
    return truth, detections


def instance(
    image: int, category: int, box: tuple[int, ...], occlusion_rate: float, score: float = 1.0, crowd: bool = False
) -> Instance:
    y, x, h, w = box
    amodal = np.zeros(SIZE, bool)
    amodal[y : y + h, x : x + w] = True
    visible = amodal.copy()
    visible[:, x + round(w * (1 - occlusion_rate)) :] = False
    share = 1 - visible.sum() / amodal.sum()
    index = int(range_indices(np.array([share]))[0])
    return Instance(image, category, encode_mask(amodal), encode_mask(visible), index, score, crowd)


def sizes(num_images: int = 12) -> dict[int, tuple[int, int]]:
    return dict.fromkeys(range(1, num_images + 1), SIZE)


def by_pycocotools(
    truth: list[Instance], detections: list[Instance], kind: MaskKind, folder: Path, num_images: int = 12
) -> list[float]:
    """`COCOeval.stats` through files and `loadRes`."""
    annotations = [
        {
            "id": i + 1,
            "image_id": t.image_id,
            "category_id": t.category_id,
            "segmentation": getattr(t, kind),
            "area": rle_area(getattr(t, kind)),
            "iscrowd": int(t.iscrowd),
            "bbox": [0, 0, 1, 1],
        }
        for i, t in enumerate(truth)
    ]
    images = [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(1, num_images + 1)]
    categories = [{"id": i, "name": str(i)} for i in range(1, 5)]
    (folder / "truth.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    results = [
        {
            "image_id": d.image_id,
            "category_id": d.category_id,
            "segmentation": getattr(d, kind),
            "score": d.score,
        }
        for d in detections
    ]
    coco = COCO(str(folder / "truth.json"))
    run = COCOeval(coco, coco.loadRes(results), "segm")
    run.evaluate()
    run.accumulate()
    run.summarize()
    return [float(v) for v in run.stats]


@pytest.mark.parametrize("kind", ["amodal", "visible"])
@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(seed: int, kind: MaskKind, tmp_path: Path) -> None:
    truth, detections = random_set(seed)
    got = AveragePrecision(truth, detections, sizes(), kind).metrics()
    expected = by_pycocotools(truth, detections, kind, tmp_path)
    assert list(got) == list(METRIC_NAMES)
    assert [-1 if v is None else v for v in got.values()] == expected
    assert 0 < expected[0] < 1


def test_more_than_100_detections_per_image_are_cut_as_in_coco(tmp_path: Path) -> None:
    truth, _ = random_set(1, num_images=2)
    rng = np.random.default_rng(0)
    detections = [replace(truth[int(rng.integers(len(truth)))], score=float(rng.random())) for _ in range(300)]
    got = AveragePrecision(truth, detections, sizes(2), "amodal").metrics()
    expected = by_pycocotools(truth, detections, "amodal", tmp_path, 2)
    assert [-1 if v is None else v for v in got.values()] == expected


def test_the_mean_over_categories_is_the_overall_metric() -> None:
    truth, detections = random_set(2)
    run = AveragePrecision(truth, detections, sizes(), "amodal")
    per_category = [f["AP"] for f in run.by_category().values() if f["AP"] is not None]
    assert np.mean(per_category) == pytest.approx(run.metrics()["AP"])


@pytest.mark.parametrize("kind", ["amodal", "visible"])
def test_weights_of_1_give_the_unweighted_metrics(kind: MaskKind) -> None:
    for seed in range(5):
        run = AveragePrecision(*random_set(seed), sizes(), kind)
        metrics = run.metrics()
        assert run.weighted(np.ones(12)) == pytest.approx([metrics[n] for n in ("AP", "AP50", "AP75")], abs=1e-12)


def test_a_weight_equals_copies_of_the_image() -> None:
    truth, detections = random_set(7)
    weights = np.random.default_rng(1).multinomial(12, np.full(12, 1 / 12)).astype(float)
    assert (weights == 0).any() and (weights > 1).any()
    copies, truth_again, detections_again = 0, list[Instance](), list[Instance]()
    for image, weight in enumerate(weights, 1):
        for _ in range(int(weight)):
            copies += 1
            truth_again += [replace(t, image_id=copies) for t in truth if t.image_id == image]
            detections_again += [replace(d, image_id=copies) for d in detections if d.image_id == image]
    expected = AveragePrecision(truth_again, detections_again, sizes(copies), "amodal").metrics()
    got = AveragePrecision(truth, detections, sizes(), "amodal").weighted(weights)
    assert got == pytest.approx([expected[n] for n in ("AP", "AP50", "AP75")], abs=1e-12)


def test_intervals_contain_the_metric_and_are_reproducible() -> None:
    run = AveragePrecision(*random_set(3, 40), sizes(40), "amodal")
    ends = run.intervals(100, seed=1)
    assert ends == run.intervals(100, seed=1)
    for name in ("AP", "AP50", "AP75"):
        low, high = ends[name] or [1, 0]
        assert low < (run.metrics()[name] or 0) < high


def test_a_single_image_with_true_objects_has_no_interval() -> None:
    """Images without true objects do not make two of one; they had made an interval without width."""
    first, same, second = (
        instance(image, category, (5, 5, 20, 40), 0.3) for image, category in ((1, 1), (1, 2), (2, 1))
    )
    crowd, false_positive = replace(second, iscrowd=True), replace(second, image_id=3)
    none = dict.fromkeys(("AP", "AP50", "AP75"))
    for kind in ("amodal", "visible"):
        for num_images, truth in ((1, [first]), (1, [first, same]), (4, [first, same]), (4, [first, crowd])):
            run = AveragePrecision(truth, [first, false_positive], sizes(num_images), kind)
            assert run.intervals(50, seed=1) == none and run.metrics()["AP"]
        for truth in ([first, second], [same, second]):  # also where each category is in one image
            run = AveragePrecision(truth, [first, same, false_positive], sizes(4), kind)
            assert all(ends is not None and ends[0] < ends[1] for ends in run.intervals(50, seed=1).values())
        assert AveragePrecision([], [first], sizes(4), kind).intervals(50, seed=1) == none


def test_each_range_scores_its_own_objects() -> None:
    whole, half = instance(1, 1, (5, 5, 20, 40), 0.0), instance(1, 1, (50, 50, 20, 40), 0.5)
    run = AveragePrecision([whole, half], [replace(whole, score=0.9)], sizes(1), "amodal")
    assert [f["AP"] for f in run.by_range()] == [pytest.approx(1), None, None, 0, None, None]
    both = AveragePrecision([whole, half], [whole, half], sizes(1), "amodal")
    assert [f["AP"] for f in both.by_range()] == [pytest.approx(1), None, None, pytest.approx(1), None, None]


def test_an_unmatched_detection_is_wrong_in_the_range_of_its_own_occlusion_rate() -> None:
    whole, half = instance(1, 1, (5, 5, 20, 40), 0.0), instance(1, 1, (50, 50, 20, 40), 0.5)
    false_positive = instance(1, 1, (30, 5, 10, 20), 0.5, score=2.0)
    run = AveragePrecision([whole, half], [whole, half, false_positive], sizes(1), "amodal")
    by_range = run.by_range()
    assert by_range[0]["AP"] == pytest.approx(1)
    assert by_range[3]["AP"] == pytest.approx(0.5)
    without_visible = replace(false_positive, visible=None, range_index=-1)
    run = AveragePrecision([whole, half], [whole, half, without_visible], sizes(1), "amodal")
    assert [run.by_range()[i]["AP"] for i in (0, 3)] == pytest.approx([0.5, 0.5])


def test_detections_without_a_visible_mask_are_ignored_for_visible_metrics() -> None:
    whole = instance(1, 1, (5, 5, 20, 40), 0.0)
    run = AveragePrecision([whole], [replace(whole, visible=None)], sizes(1), "visible")
    assert run.metrics()["AP"] == 0


def test_categories_without_detections_or_without_true_objects() -> None:
    whole = instance(1, 1, (5, 5, 20, 40), 0.0)
    assert AveragePrecision([whole], [], sizes(1), "amodal").metrics()["AP"] == 0
    other_category = AveragePrecision([whole], [whole, replace(whole, category_id=9)], sizes(1), "amodal")
    assert other_category.metrics()["AP"] == pytest.approx(1)
    assert other_category.by_category()[1] == pytest.approx({"AP": 1, "AP50": 1, "AP75": 1})
    assert other_category.by_category()[9] == dict.fromkeys(("AP", "AP50", "AP75"))


def test_masks_of_one_pixel() -> None:
    pixel = encode_mask(mask("#...", "...."))
    one = Instance(1, 1, pixel, pixel)
    assert AveragePrecision([one], [one], {1: (2, 4)}, "amodal").metrics()["AP"] == pytest.approx(1)
