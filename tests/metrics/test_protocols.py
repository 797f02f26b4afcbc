"""Every protocol against its literal reading, and its quirks one by one."""

from __future__ import annotations

import numpy as np
import pytest

from amodal.evaluation.summary import PROTOCOLS
from amodal.metrics.counts import Counts, count_pixels
from amodal.ops.rle import encode_mask
from tests.drawing import mask
from tests.metrics.cases import KINDS, random_objects
from tests.metrics.literal import LITERAL, Masks

Figures = dict[str, float | None]


def counts_of(objects: list[Masks]) -> Counts:
    return Counts.of_rows([count_pixels(*(encode_mask(m) for m in (o.P, o.G, o.V, o.W))) for o in objects])


def figures(protocol: str, counts: Counts) -> Figures:
    ratios = PROTOCOLS[protocol](counts)
    values: Figures = {name: ratio.value() for name, ratio in ratios.items()}
    return values | {"num_occluded": int(ratios["mIoU_occ"].counted.sum())}


def masks(*rows: str) -> Masks:
    """P, G, V, W as one string each."""
    return Masks(*(mask(row) for row in rows))


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_equals_the_literal_implementation_on_sets(protocol: str) -> None:
    """300 sets of 1 to 20 objects, over 3,000 in all."""
    rng = np.random.default_rng(5)
    objects = random_objects(11, 20 * 300)
    total = 0
    for start in range(0, len(objects), 20):
        some = objects[start : start + int(rng.integers(1, 21))]
        total += len(some)
        assert figures(protocol, counts_of(some)) == pytest.approx(LITERAL[protocol](some), abs=1e-12), start
    assert total > 3000


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
@pytest.mark.parametrize("kind", range(len(KINDS)), ids=[k.__name__ for k in KINDS])
def test_equals_the_literal_implementation_on_single_objects_of_each_kind(protocol: str, kind: int) -> None:
    for one in random_objects(3, 100 * len(KINDS))[kind :: len(KINDS)]:
        got = figures(protocol, counts_of([one]))
        assert got == pytest.approx(LITERAL[protocol]([one]), abs=1e-12), one


def test_the_awkward_kinds_are_what_they_claim() -> None:
    objects = dict(zip([k.__name__ for k in KINDS], (random_objects(3, 800)[i::8] for i in range(8)), strict=True))
    assert any((o.V & ~o.G).any() and not (o.G & ~o.V).any() for o in objects["spilled"])
    assert all(o.G.sum() == o.V.sum() for o in objects["cancelled"])
    assert any((o.G & ~o.V).any() for o in objects["cancelled"])
    assert any(not (o.P | o.G).any() for o in objects["nothing_at_all"])
    assert all(o.G.sum() == 1 for o in objects["one_pixel"])


def test_c2f_counts_an_unoccluded_object_whose_visible_mask_spills_as_0() -> None:
    spilled = masks("##..", "##..", "###.", "##..")
    assert figures("c2f", counts_of([spilled]))["mIoU_occ"] == 0
    assert figures("c2f", counts_of([spilled]))["num_occluded"] == 1
    assert figures("strict", counts_of([spilled]))["num_occluded"] == 0


def test_c2f_adds_an_iou_that_it_does_not_count_where_spill_and_hidden_part_cancel() -> None:
    cancelled = masks("##..", "##..", "#..#", "#...")  # one pixel hidden, one spilled
    half = masks("###.", "####", "##..", "##..")  # one of two hidden pixels found
    assert figures("c2f", counts_of([cancelled])) == pytest.approx(
        {"mIoU_full": 1, "mIoU_occ": None, "mIoU_visible": 0.5, "num_occluded": 0}, abs=1e-6
    )
    both = figures("c2f", counts_of([cancelled, half]))
    assert both["num_occluded"] == 1
    assert both["mIoU_occ"] == pytest.approx(1.5, abs=1e-5)  # 1 + 1/2 over a count of one


def test_cumulative_pools_pixels() -> None:
    small, large = masks("#...", "#...", "#...", "#..."), masks("....", "####", "##..", "....")
    assert figures("cumulative", counts_of([small, large]))["mIoU_full"] == pytest.approx(1 / 5)
    assert figures("strict", counts_of([small, large]))["mIoU_full"] == pytest.approx(1 / 2)


def test_masks_without_a_predicted_visible_one() -> None:
    one = masks("##..", "####", "##..", "##..")
    row = count_pixels(*(encode_mask(m) for m in (one.P, one.G, one.V)))
    for ratios_of in PROTOCOLS.values():
        assert "mIoU_visible" not in ratios_of(Counts.of_rows([row]))
        mixed = ratios_of(Counts.of_rows([row, *zip(*counts_of([one]), strict=True)]))
        assert mixed["mIoU_visible"].value() == pytest.approx(1)
        assert mixed["mIoU_visible"].counted.tolist() == [False, True]


def test_counts_at_full_size_are_those_of_boolean_masks() -> None:
    """At KINS' size, where a crop or an overflow would show."""
    rng = np.random.default_rng(2)
    size = (375, 1242)
    P, G, V, W = (np.zeros(size, bool) for _ in range(4))
    for m in (P, G, V, W):
        y, x = rng.integers(0, 200), rng.integers(0, 900)
        m[y : y + 170, x : x + 340] = rng.random((170, 340)) < 0.8
    got = count_pixels(*(encode_mask(m) for m in (P, G, V, W)))
    assert Counts(*got) == Counts(
        overlap=(P & G).sum(), union=(P | G).sum(),
        hidden_overlap=(P & G & ~V).sum(), hidden_union=((P | G) & ~V).sum(),
        amodal=G.sum(), visible=V.sum(), hidden=(G & ~V).sum(), spilled=(V & ~G).sum(),
        own_overlap=(W & V).sum(), own_union=(W | V).sum(),
    )  # fmt: skip
