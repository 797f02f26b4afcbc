"""The `strict` protocol on masks small enough to count."""

from __future__ import annotations

import numpy as np
import pytest

from amodal.metrics.strict import StrictIoU
from tests.drawing import mask

VISIBLE = mask("##..", "##..")
AMODAL = mask("####", "##..")  # two hidden pixels


def score(**masks: np.ndarray) -> dict[str, float]:
    scores = StrictIoU()
    scores.update(**masks)
    return scores.compute()


@pytest.mark.parametrize(
    ("predicted", "full", "occ"),
    [
        (AMODAL, 1.0, 1.0),
        (VISIBLE, 4 / 6, 0.0),
        (mask("####", "####"), 6 / 8, 2 / 4),
        (mask("....", "...."), 0.0, 0.0),
        (mask("..##", "...."), 2 / 6, 1.0),  # the hidden part alone: V does not count for occ
    ],
)
def test_truth_table(predicted: np.ndarray, full: float, occ: float) -> None:
    got = score(amodal_pred=predicted, amodal_true=AMODAL, visible_true=VISIBLE)
    assert got["mIoU_full"] == pytest.approx(full)
    assert got["mIoU_occ"] == pytest.approx(occ)
    assert "mIoU_visible" not in got


def test_objects_without_a_hidden_part_count_for_full_only() -> None:
    scores = StrictIoU()
    scores.update(VISIBLE, VISIBLE, VISIBLE, VISIBLE)
    scores.update(VISIBLE, AMODAL, VISIBLE, mask("#...", "...."))
    got = scores.compute()
    assert got["num_objects"] == 2
    assert got["num_occluded"] == 1
    assert got["mIoU_full"] == pytest.approx((1 + 4 / 6) / 2)
    assert got["mIoU_occ"] == 0
    assert got["mIoU_visible"] == pytest.approx((1 + 1 / 4) / 2)


def test_ranges_part_the_objects() -> None:
    scores = StrictIoU()
    scores.update(VISIBLE, VISIBLE, VISIBLE)
    scores.update(AMODAL, AMODAL, VISIBLE)  # a third hidden
    rows = scores.by_occlusion()
    assert [row["num_objects"] for row in rows] == [1, 0, 0, 1, 0, 0]
    assert sum(row["num_objects"] for row in rows) == 2


def test_a_range_holds_its_upper_end() -> None:
    scores = StrictIoU()
    row = mask("##########")
    for visible in ("#########.", "#######...", "#####.....", "###.......", "#........."):
        scores.update(row, row, mask(visible))
    assert [r["num_objects"] for r in scores.by_occlusion()] == [0, 1, 1, 1, 1, 1]


def test_a_visible_mask_that_spills_out_is_scored_and_counted() -> None:
    scores = StrictIoU()
    scores.update(AMODAL, AMODAL, mask(".#..", "####"))  # as large as the truth, three pixels of it hidden
    assert scores.num_spilled == 1
    assert scores.compute()["mIoU_occ"] == 1
    assert [r["num_occluded"] for r in scores.by_occlusion()] == [0, 0, 0, 1, 0, 0]


def test_empty_masks_agree() -> None:
    nothing = mask("....", "....")
    got = score(amodal_pred=nothing, amodal_true=nothing, visible_true=nothing, visible_pred=nothing)
    assert got["mIoU_full"] == got["mIoU_visible"] == 1
    assert got["num_occluded"] == 0


def test_masks_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"masks: expected all of size \[2, 4\], got \[1, 4\]"):
        StrictIoU().update(AMODAL, AMODAL, VISIBLE, mask("####"))


def test_equals_a_literal_implementation() -> None:
    rng = np.random.default_rng(0)
    scores, full, occ = StrictIoU(), [], []
    for _ in range(300):
        amodal = rng.random((4, 5)) < rng.random()
        visible = amodal & (rng.random((4, 5)) < 0.6)
        predicted = rng.random((4, 5)) < rng.random()
        scores.update(predicted, amodal, visible)
        pixels = [(y, x) for y in range(4) for x in range(5)]
        for name, region in ((full, pixels), (occ, [p for p in pixels if not visible[p]])):
            union = sum(predicted[p] or amodal[p] for p in region)
            overlap = sum(predicted[p] and amodal[p] for p in region)
            if name is full or (amodal & ~visible).any():
                name.append(overlap / union if union else 1.0)
    got = scores.compute()
    assert got["mIoU_full"] == pytest.approx(np.mean(full))
    assert got["mIoU_occ"] == pytest.approx(np.mean(occ))
