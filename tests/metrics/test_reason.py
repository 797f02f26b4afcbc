"""The `reason` protocol on masks small enough to count, and against a literal implementation."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from amodal.metrics.reason import AnswerScore, ObjectMasks, match, names_f1, score_answer, summarise
from tests.drawing import mask

LEFT = ObjectMasks(mask("##..", "...."), mask("##..", "##.."))  # half of it hidden
RIGHT = ObjectMasks(mask("..##", "..##"), mask("..##", "..##"))
BITE = ObjectMasks(mask("#...", "...."), mask("##..", "...."))  # half of LEFT


def figures(*answers: tuple[list[ObjectMasks], list[ObjectMasks]], free: bool = True) -> dict[str, float]:
    return summarise([score_answer(*answer) for answer in answers], free=free)


def test_pairs_do_not_depend_on_the_order() -> None:
    for predicted in ([LEFT, RIGHT], [RIGHT, LEFT]):
        got = figures((predicted, [LEFT, RIGHT]))
        assert got["gIoU_amodal"] == got["cIoU_amodal"] == got["gIoU_visible"] == got["cIoU_visible"] == 1
        assert got["occlusion_rate_error"] == 0


@pytest.mark.parametrize(
    ("predicted", "true", "giou", "ciou", "union"),
    [
        ([BITE], [LEFT], 2 / 4, 2 / 4, 2 / 4),
        ([BITE, RIGHT], [LEFT], 1 / 4, 2 / 8, 2 / 8),  # one too many: it counts 0
        ([LEFT], [LEFT, RIGHT], 1 / 2, 4 / 8, 4 / 8),  # one too few
        ([RIGHT], [LEFT], 0, 0, 0),
        ([], [LEFT], 0, 0, 0),
        ([LEFT], [], 0, 0, 0),
        ([], [], 1, None, 1),  # no pixel to divide by
        ([LEFT, LEFT], [LEFT, RIGHT], 1 / 2, 4 / 12, 4 / 8),  # the same twice: the second finds another partner
    ],
)
def test_truth_table(
    predicted: list[ObjectMasks], true: list[ObjectMasks], giou: float, ciou: float | None, union: float
) -> None:
    got = figures((predicted, true))
    assert got["gIoU_amodal"] == pytest.approx(giou)
    assert got["gIoU_amodal_union"] == pytest.approx(union)
    assert got.get("cIoU_amodal") == (None if ciou is None else pytest.approx(ciou))
    assert got.get("cIoU_amodal_union") == (None if ciou is None else pytest.approx(union))


def test_giou_is_a_mean_over_answers_and_ciou_over_pixels() -> None:
    got = figures(([BITE], [LEFT]), ([RIGHT], [RIGHT]), ([], []))
    assert got["gIoU_amodal"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert got["gIoU_amodal_with_objects"] == pytest.approx((1 / 2 + 1) / 2)
    assert got["cIoU_amodal"] == pytest.approx((2 + 4) / (4 + 4))
    assert got["gIoU_visible"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert got["cIoU_visible"] == pytest.approx((1 + 4) / (2 + 4))


def test_partners_are_found_by_the_amodal_masks() -> None:
    """Visible masks swapped: they score what the amodal partners have."""
    swapped = [ObjectMasks(RIGHT.visible, LEFT.amodal), ObjectMasks(LEFT.visible, RIGHT.amodal)]
    got = figures((swapped, [LEFT, RIGHT]))
    assert got["gIoU_amodal"] == 1 and got["gIoU_visible"] == 0
    assert got["gIoU_visible_union"] == 1


def test_rates_of_partners_that_overlap() -> None:
    stated = ObjectMasks(LEFT.visible, LEFT.amodal, rate=0.8)
    got = figures(([stated], [LEFT]), ([RIGHT], [RIGHT]), ([LEFT], [RIGHT]), ([], [LEFT]))
    assert got["num_rates"] == 2
    assert got["occlusion_rate_error"] == pytest.approx((0.3 + 0) / 2)
    assert "occlusion_rate_error" not in figures(([], [LEFT]))


def test_no_object() -> None:
    got = figures(([], []), ([LEFT], []), ([], []), ([RIGHT], [LEFT]), ([], [LEFT]))
    assert got["no_object_accuracy"] == pytest.approx(2 / 3)
    assert got["answered_with_object"] == pytest.approx(1 / 2)
    counts = ("num_answers", "num_without_object", "num_objects", "num_predicted")
    assert [got[name] for name in counts] == [5, 3, 2, 2]


@pytest.mark.parametrize(
    ("predicted", "true", "f1"),
    [
        (["mug"], ["mug"], 1),
        (["mug", "mug"], ["mug"], 2 / 3),
        (["book", "mug"], ["mug", "cat"], 1 / 2),
        ([], ["mug"], 0),
        (["mug"], [], 0),
        ([], [], 1),
    ],
)
def test_names(predicted: list[str], true: list[str], f1: float) -> None:
    assert names_f1(predicted, true) == pytest.approx(f1)
    got = summarise([score_answer([], [], (predicted, true)), score_answer([], [], (["a"], ["a"]))])
    assert got["set_F1"] == pytest.approx((f1 + 1) / 2)
    assert got["set_exact"] == ((f1 == 1) + 1) / 2


def test_words_given_to_the_model_are_no_figures_of_it() -> None:
    scores = [score_answer([LEFT], [LEFT], (["a"], ["a"])), score_answer([], [])]
    assert {"set_F1", "set_exact", "no_object_accuracy", "answered_with_object"} <= summarise(scores).keys()
    forced = summarise(scores, free=False)
    assert forced.keys() == summarise(scores).keys() - {
        "set_F1", "set_exact", "no_object_accuracy", "answered_with_object",
    }  # fmt: skip


def test_equal_pairs_are_settled_the_same_way_each_time() -> None:
    shared, areas = np.full((3, 3), 2), np.full(3, 4)
    assert match(shared, areas, areas) == match(shared.copy(), areas, areas) == [(0, 0), (1, 1), (2, 2)]


def test_no_answers_at_all() -> None:
    assert summarise([]) == {
        "num_answers": 0, "num_without_object": 0, "num_objects": 0, "num_predicted": 0, "num_rates": 0,
    }  # fmt: skip


def test_masks_of_another_size_are_refused() -> None:
    other = ObjectMasks(mask("##"), mask("##"))
    with pytest.raises(ValueError, match=r"masks: expected all of size \(2, 4\), got \(1, 2\)"):
        score_answer([LEFT], [other])


def random_objects(rng: np.random.Generator, count: int) -> list[ObjectMasks]:
    """On masks large enough that no two assignments are equally good."""
    made = []
    for _ in range(count):
        amodal = rng.random((8, 9)) < rng.uniform(0.1, 0.8)
        amodal[0, 0] = True
        made.append(ObjectMasks(amodal & (rng.random((8, 9)) < 0.6), amodal, rng.choice([None, rng.random()])))
    return made


def pixels(m: np.ndarray) -> set[tuple[int, int]]:
    return {(y, x) for y in range(m.shape[0]) for x in range(m.shape[1]) if m[y, x]}


def literal_iou(a: set, b: set) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0


def literal(predicted: list[ObjectMasks], true: list[ObjectMasks], kind: str) -> tuple[float, int, int, float]:
    """(gIoU, intersection, union, IoU of the unions) by trying every assignment."""
    P, T = len(predicted), len(true)
    amodal = [[literal_iou(pixels(p.amodal), pixels(t.amodal)) for t in true] for p in predicted]
    if P <= T:
        ways = [list(zip(range(P), order, strict=True)) for order in permutations(range(T), P)]
    else:
        ways = [list(zip(order, range(T), strict=True)) for order in permutations(range(P), T)]
    best = max(ways, key=lambda way: sum(amodal[p][t] for p, t in way))
    own = [pixels(getattr(p, kind)) for p in predicted]
    their = [pixels(getattr(t, kind)) for t in true]
    total = sum(literal_iou(own[p], their[t]) for p, t in best)
    lonely = [own[p] for p in range(P) if p not in dict(best)]
    lonely += [their[t] for t in range(T) if t not in {t for _, t in best}]
    intersection = sum(len(own[p] & their[t]) for p, t in best)
    union = sum(len(own[p] | their[t]) for p, t in best) + sum(map(len, lonely))
    whole = literal_iou(set().union(*own), set().union(*their)) if P and T else float(P == T)
    return total / max(P, T) if P or T else 1.0, intersection, union, whole


def test_equals_a_literal_implementation() -> None:
    rng = np.random.default_rng(0)
    answers, scores = [], list[AnswerScore]()
    for _ in range(150):
        answer = random_objects(rng, int(rng.integers(0, 5))), random_objects(rng, int(rng.integers(0, 5)))
        answers.append(answer)
        scores.append(score_answer(*answer))
    got = summarise(scores)
    for kind in ("amodal", "visible"):
        slow = [literal(*answer, kind) for answer in answers]
        assert [getattr(s, kind).iou for s in scores] == pytest.approx([row[0] for row in slow])
        assert got[f"gIoU_{kind}"] == pytest.approx(np.mean([row[0] for row in slow]))
        assert got[f"cIoU_{kind}"] == pytest.approx(sum(r[1] for r in slow) / sum(r[2] for r in slow))
        assert got[f"gIoU_{kind}_union"] == pytest.approx(np.mean([row[3] for row in slow]))
