"""The mask protocols against a slow reference implementation, and their special cases."""

from __future__ import annotations

import numpy as np
import pytest

from amodal.metrics.mask_protocols import MASK_PROTOCOLS, PixelCounts, StrictIoU, count_pixels
from amodal.ops.rle import count_components, encode_mask
from tests.drawing import mask
from tests.metrics.reference import KINDS, REFERENCE, Masks, random_objects

VISIBLE = mask("##..", "##..")
AMODAL = mask("####", "##..")  # two occluded pixels


Metrics = dict[str, float | None]


def counts_of(objects: list[Masks]) -> PixelCounts:
    """Counts with the components, as the evaluator makes them."""
    counts = PixelCounts.from_rows([count_pixels(*(encode_mask(m) for m in (o.P, o.G, o.V, o.W))) for o in objects])
    return counts._replace(num_components=count_components([encode_mask(o.P) for o in objects]))


def compute(protocol: str, counts: PixelCounts) -> Metrics:
    ratios = MASK_PROTOCOLS[protocol](counts)
    values: Metrics = {name: ratio.value() for name, ratio in ratios.items()}
    return values | {"num_occluded": int(ratios["mIoU_occ"].counted.sum())}


def masks(*rows: str) -> Masks:
    """P, G, V, W as one string each."""
    return Masks(*(mask(row) for row in rows))


@pytest.mark.parametrize("protocol", sorted(MASK_PROTOCOLS))
def test_sets_of_objects_match_the_reference(protocol: str) -> None:
    """300 sets of 1 to 20 objects, over 3,000 in all."""
    rng = np.random.default_rng(5)
    objects = random_objects(11, 20 * 300)
    total = 0
    for start in range(0, len(objects), 20):
        some = objects[start : start + int(rng.integers(1, 21))]
        total += len(some)
        assert compute(protocol, counts_of(some)) == pytest.approx(REFERENCE[protocol](some), abs=1e-12), start
    assert total > 3000


@pytest.mark.parametrize("protocol", sorted(MASK_PROTOCOLS))
@pytest.mark.parametrize("kind", range(len(KINDS)), ids=[k.__name__ for k in KINDS])
def test_single_objects_of_each_kind_match_the_reference(protocol: str, kind: int) -> None:
    for one in random_objects(3, 100 * len(KINDS))[kind :: len(KINDS)]:
        got = compute(protocol, counts_of([one]))
        assert got == pytest.approx(REFERENCE[protocol]([one]), abs=1e-12), one


def test_the_random_objects_cover_the_special_cases() -> None:
    objects = dict(zip([k.__name__ for k in KINDS], (random_objects(3, 800)[i::8] for i in range(8)), strict=True))
    assert any((o.V & ~o.G).any() and not (o.G & ~o.V).any() for o in objects["spilled"])
    assert all(o.G.sum() == o.V.sum() for o in objects["cancelled"])
    assert any((o.G & ~o.V).any() for o in objects["cancelled"])
    assert any(not (o.P | o.G).any() for o in objects["empty_unions"])
    assert all(o.G.sum() == 1 for o in objects["one_pixel"])


def test_c2f_counts_an_unoccluded_object_with_a_spilled_visible_mask_as_0() -> None:
    spilled = masks("##..", "##..", "###.", "##..")
    assert compute("c2f", counts_of([spilled]))["mIoU_occ"] == 0
    assert compute("c2f", counts_of([spilled]))["num_occluded"] == 1
    assert compute("strict", counts_of([spilled]))["num_occluded"] == 0


def test_c2f_adds_but_does_not_count_an_object_whose_signed_sum_is_0() -> None:
    cancelled = masks("##..", "##..", "#..#", "#...")  # one pixel occluded, one spilled
    half = masks("###.", "####", "##..", "##..")  # one of two occluded pixels predicted
    assert compute("c2f", counts_of([cancelled])) == pytest.approx(
        {"mIoU_full": 1, "mIoU_occ": None, "mIoU_visible": 0.5, "num_occluded": 0}, abs=1e-6
    )
    both = compute("c2f", counts_of([cancelled, half]))
    assert both["num_occluded"] == 1
    assert both["mIoU_occ"] == pytest.approx(1.5, abs=1e-5)  # 1 + 1/2 over a count of one


def test_cumulative_divides_sums_over_the_dataset() -> None:
    small, large = masks("#...", "#...", "#...", "#..."), masks("....", "####", "##..", "....")
    assert compute("cumulative", counts_of([small, large]))["mIoU_full"] == pytest.approx(1 / 5)
    assert compute("strict", counts_of([small, large]))["mIoU_full"] == pytest.approx(1 / 2)


def test_an_unoccluded_object_that_is_reported_as_occluded_is_counted() -> None:
    row, right, wrong = "#" * 100, "#" * 95 + "." * 5, "#" * 94 + "." * 6  # 5 % is allowed
    almost = "#" * 99 + "."  # an object with 1 % occluded is occluded
    objects = [masks(row, row, row, w) for w in (row, right, wrong)] + [masks(row, row, almost, wrong)]
    ratio = MASK_PROTOCOLS["strict"](counts_of(objects))["false_occlusion_rate"]
    assert ratio.counted.tolist() == [True, True, True, False]
    assert ratio.value() == pytest.approx(1 / 3)
    outside = masks("##..", "##..", "##..", "..##")  # the predicted visible mask lies outside the amodal mask
    assert compute("strict", counts_of([outside]))["false_occlusion_rate"] == 1
    empty = masks("....", "##..", "##..", "....")
    assert compute("strict", counts_of([empty]))["false_occlusion_rate"] == 0


def test_masks_in_one_piece_are_counted() -> None:
    whole, corners, parts, empty = (masks(p, "####", "##..", "##..") for p in ("##..", "###.", "#.#.", "...."))
    ratio = MASK_PROTOCOLS["strict"](counts_of([whole, corners, parts, empty]))["single_component"]
    assert ratio.counted.tolist() == [True, True, True, False]
    assert ratio.value() == pytest.approx(2 / 3)
    assert compute("strict", counts_of([empty]))["single_component"] is None
    scores, whole_mask = StrictIoU(), mask("###", "###", "###")
    scores.update(mask("#..", ".#.", "..#"), whole_mask, whole_mask)
    assert scores.compute()["single_component"] == 1


def test_visible_metrics_need_a_predicted_visible_mask() -> None:
    one = masks("##..", "####", "##..", "##..")
    row = count_pixels(*(encode_mask(m) for m in (one.P, one.G, one.V)))
    for ratios_of in MASK_PROTOCOLS.values():
        alone = ratios_of(PixelCounts.from_rows([row]))
        assert {"mIoU_visible", "false_occlusion_rate", "single_component"}.isdisjoint(alone)
        mixed = ratios_of(PixelCounts.from_rows([row, *zip(*counts_of([one]), strict=True)]))
        assert mixed["mIoU_visible"].value() == pytest.approx(1)
        assert mixed["mIoU_visible"].counted.tolist() == [False, True]


def test_counts_match_boolean_masks_at_full_size() -> None:
    """The size of KINS' images, at which a crop or an overflow would show."""
    rng = np.random.default_rng(2)
    size = (375, 1242)
    P, G, V, W = (np.zeros(size, bool) for _ in range(4))
    for m in (P, G, V, W):
        y, x = rng.integers(0, 200), rng.integers(0, 900)
        m[y : y + 170, x : x + 340] = rng.random((170, 340)) < 0.8
    got = count_pixels(*(encode_mask(m) for m in (P, G, V, W)))
    assert PixelCounts(*got) == PixelCounts(
        intersection=(P & G).sum(), union=(P | G).sum(),
        occluded_intersection=(P & G & ~V).sum(), occluded_union=((P | G) & ~V).sum(),
        amodal_area=G.sum(), visible_area=V.sum(), occluded_area=(G & ~V).sum(), spilled_area=(V & ~G).sum(),
        visible_intersection=(W & V).sum(), visible_union=(W | V).sum(),
        occluded_area_pred=(P & ~W).sum(), num_components=-1, is_detected=0,
    )  # fmt: skip


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
        (mask("..##", "...."), 2 / 6, 1.0),  # the occluded part only: V does not count for occ
    ],
)
def test_strict_truth_table(predicted: np.ndarray, full: float, occ: float) -> None:
    got = score(amodal_pred=predicted, amodal_true=AMODAL, visible_true=VISIBLE)
    assert got["mIoU_full"] == pytest.approx(full)
    assert got["mIoU_occ"] == pytest.approx(occ)
    assert "mIoU_visible" not in got


def test_objects_that_are_not_occluded_count_for_full_only() -> None:
    scores = StrictIoU()
    scores.update(VISIBLE, VISIBLE, VISIBLE, VISIBLE)
    scores.update(VISIBLE, AMODAL, VISIBLE, mask("#...", "...."))
    got = scores.compute()
    assert got["num_objects"] == 2
    assert got["num_occluded"] == 1
    assert got["mIoU_full"] == pytest.approx((1 + 4 / 6) / 2)
    assert got["mIoU_occ"] == 0
    assert got["mIoU_visible"] == pytest.approx((1 + 1 / 4) / 2)


def test_each_object_belongs_to_one_occlusion_range() -> None:
    scores = StrictIoU()
    scores.update(VISIBLE, VISIBLE, VISIBLE)
    scores.update(AMODAL, AMODAL, VISIBLE)  # a third occluded
    rows = scores.by_occlusion()
    assert [row["num_objects"] for row in rows] == [1, 0, 0, 1, 0, 0]
    assert sum(row["num_objects"] for row in rows) == 2


def test_an_occlusion_range_includes_its_upper_end() -> None:
    scores = StrictIoU()
    row = mask("##########")
    for visible in ("#########.", "#######...", "#####.....", "###.......", "#........."):
        scores.update(row, row, mask(visible))
    assert [r["num_objects"] for r in scores.by_occlusion()] == [0, 1, 1, 1, 1, 1]


def test_a_spilled_visible_mask_is_scored_and_counted() -> None:
    scores = StrictIoU()
    scores.update(AMODAL, AMODAL, mask(".#..", "####"))  # as large as the truth, three pixels of it occluded
    assert scores.num_spilled == 1
    assert scores.compute()["mIoU_occ"] == 1
    assert [r["num_occluded"] for r in scores.by_occlusion()] == [0, 0, 0, 1, 0, 0]


def test_the_iou_of_two_empty_masks_is_1() -> None:
    nothing = mask("....", "....")
    got = score(amodal_pred=nothing, amodal_true=nothing, visible_true=nothing, visible_pred=nothing)
    assert got["mIoU_full"] == got["mIoU_visible"] == 1
    assert got["num_occluded"] == 0


def test_masks_of_different_sizes_raise() -> None:
    with pytest.raises(ValueError, match=r"masks: expected all of size \[2, 4\], got \[1, 4\]"):
        StrictIoU().update(AMODAL, AMODAL, VISIBLE, mask("####"))


def test_strict_iou_matches_a_literal_implementation() -> None:
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
