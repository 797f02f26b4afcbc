"""The `reason` protocol on masks small enough to count, and against a literal implementation."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from amodal.metrics.reason import (
    AnswerScore,
    MaskPair,
    match_objects,
    names_f1,
    score_answer,
    summarize,
    summary_intervals,
)
from tests.drawing import mask

LEFT = MaskPair(mask("##..", "...."), mask("##..", "##.."))  # half of it occluded
RIGHT = MaskPair(mask("..##", "..##"), mask("..##", "..##"))
BITE = MaskPair(mask("#...", "...."), mask("##..", "...."))  # half of LEFT


def compute(*answers: tuple[list[MaskPair], list[MaskPair]], free: bool = True) -> dict[str, float]:
    return summed([score_answer(*answer) for answer in answers], free=free)


def summed(scores: list[AnswerScore], *, free: bool = True) -> dict[str, float]:
    """Metrics of answers about one image each."""
    return summarize(scores, list(range(len(scores))), free=free)


def test_matches_do_not_depend_on_the_order() -> None:
    for predicted in ([LEFT, RIGHT], [RIGHT, LEFT]):
        got = compute((predicted, [LEFT, RIGHT]))
        assert got["gIoU_amodal"] == got["cIoU_amodal"] == got["gIoU_visible"] == got["cIoU_visible"] == 1
        assert got["occlusion_rate_error"] == 0


@pytest.mark.parametrize(
    ("predicted", "true", "giou", "ciou", "union"),
    [
        ([BITE], [LEFT], 2 / 4, 2 / 4, 2 / 4),
        ([BITE, RIGHT], [LEFT], 1 / 4, 2 / 8, 2 / 8),  # one too many: it counts as 0
        ([LEFT], [LEFT, RIGHT], 1 / 2, 4 / 8, 4 / 8),  # one too few
        ([RIGHT], [LEFT], 0, 0, 0),
        ([], [LEFT], 0, 0, 0),
        ([LEFT], [], 0, 0, 0),
        ([], [], 1, None, 1),  # no pixel to divide by
        (
            [LEFT, LEFT],
            [LEFT, RIGHT],
            1 / 2,
            4 / 12,
            4 / 8,
        ),  # the same object twice
    ],
)
def test_truth_table(
    predicted: list[MaskPair], true: list[MaskPair], giou: float, ciou: float | None, union: float
) -> None:
    got = compute((predicted, true))
    assert got["gIoU_amodal"] == pytest.approx(giou)
    assert got["gIoU_amodal_union"] == pytest.approx(union)
    assert got.get("cIoU_amodal") == (None if ciou is None else pytest.approx(ciou))
    assert got.get("cIoU_amodal_union") == (None if ciou is None else pytest.approx(union))


def test_giou_is_a_mean_over_answers_and_ciou_over_pixels() -> None:
    got = compute(([BITE], [LEFT]), ([RIGHT], [RIGHT]), ([], []))
    assert got["gIoU_amodal"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert got["gIoU_amodal_with_objects"] == pytest.approx((1 / 2 + 1) / 2)
    assert got["cIoU_amodal"] == pytest.approx((2 + 4) / (4 + 4))
    assert got["gIoU_visible"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert got["cIoU_visible"] == pytest.approx((1 + 4) / (2 + 4))


def test_means_over_answers_over_images_and_over_objects() -> None:
    answers = [([BITE], [LEFT]), ([RIGHT], [RIGHT]), ([LEFT], [LEFT, RIGHT]), ([], [])]  # 1/2, 1, 1/2, 1
    got = summarize([score_answer(*answer) for answer in answers], [7, 7, 7, 3])
    assert got["gIoU_amodal"] == pytest.approx(3 / 4)
    assert got["gIoU_amodal_per_image"] == pytest.approx((2 / 3 + 1) / 2)
    assert got["mIoU_amodal"] == pytest.approx((1 / 2 + 1 + 1 + 0) / 4)
    assert got["mIoU_visible"] == pytest.approx((1 / 2 + 1 + 1 + 0) / 4)


@pytest.mark.parametrize(("kind", "other"), [("amodal", "visible"), ("visible", "amodal")])
def test_predictions_with_one_kind_of_mask(kind: str, other: str) -> None:
    """The missing kind is not scored, and objects are matched by the kind that they have."""
    both = [MaskPair(RIGHT.visible, LEFT.amodal), MaskPair(LEFT.visible, RIGHT.amodal)]
    given = [MaskPair(**{kind: getattr(pair, kind), other: None}) for pair in both]
    score = score_answer(given, [LEFT, RIGHT], kinds=(kind,))
    assert getattr(score, other) is None
    got = summed([score])
    assert got[f"gIoU_{kind}"] == got[f"cIoU_{kind}"] == got[f"mIoU_{kind}"] == 1
    assert not any(other in name for name in got)
    assert "occlusion_rate_error" not in got  # a rate needs both masks
    rated = [MaskPair(**{kind: getattr(LEFT, kind), other: None}, rate=0.75)]
    assert summed([score_answer(rated, [LEFT], kinds=(kind,))])["occlusion_rate_error"] == pytest.approx(0.25)


def test_intervals_resample_whole_images() -> None:
    """Against a literal bootstrap: all answers of a drawn image count as often as it is drawn."""
    from amodal.metrics.intervals import image_weights

    rng = np.random.default_rng(3)
    scores = [score_answer(random_objects(rng, n), random_objects(rng, n + i % 2)) for i, n in enumerate([0, 1, 2] * 8)]
    image_ids = [10 + i // 4 for i in range(len(scores))]
    names = ("gIoU_amodal", "gIoU_visible_per_image", "mIoU_amodal", "cIoU_visible", "answered_with_object")
    found: dict[str, list[float]] = {name: [] for name in names}
    for weights in np.concatenate(list(image_weights(6, 80, 5))):
        drawn = [(s, i) for image, n in enumerate(weights) for _ in range(int(n)) for s, i in _of_image(scores, image)]
        for name, value in summarize([s for s, _ in drawn], _renumbered(weights)).items():
            if name in found:
                found[name].append(value)
    got = summary_intervals(scores, image_ids, num_resamples=80, seed=5)
    assert {name for name in summed(scores) if not name.startswith("num_")} <= got.keys()
    for name, values in found.items():
        assert got[name] == pytest.approx(list(np.percentile(values, [2.5, 97.5]))), name


def test_intervals_of_a_single_image_are_unknown() -> None:
    score = score_answer([BITE], [LEFT])
    assert set(summary_intervals([score, score], [1, 1], num_resamples=20).values()) == {None}


def _of_image(scores: list[AnswerScore], image: int) -> list[tuple[AnswerScore, int]]:
    return [(score, image) for score in scores[4 * image : 4 * image + 4]]


def _renumbered(weights: np.ndarray) -> list[int]:
    """Ids of drawn images, of which each draw is an image of its own, with four answers each."""
    return [draw for draw in range(int(weights.sum())) for _ in range(4)]


def test_objects_are_matched_by_their_amodal_masks() -> None:
    """Swapped visible masks score as the matched amodal masks determine."""
    swapped = [MaskPair(RIGHT.visible, LEFT.amodal), MaskPair(LEFT.visible, RIGHT.amodal)]
    got = compute((swapped, [LEFT, RIGHT]))
    assert got["gIoU_amodal"] == 1 and got["gIoU_visible"] == 0
    assert got["gIoU_visible_union"] == 1


def test_rate_errors_of_matched_objects_that_overlap() -> None:
    predicted = MaskPair(LEFT.visible, LEFT.amodal, rate=0.8)
    got = compute(([predicted], [LEFT]), ([RIGHT], [RIGHT]), ([LEFT], [RIGHT]), ([], [LEFT]))
    assert got["num_rates"] == 2
    assert got["occlusion_rate_error"] == pytest.approx((0.3 + 0) / 2)
    assert "occlusion_rate_error" not in compute(([], [LEFT]))


def test_answers_without_objects() -> None:
    got = compute(([], []), ([LEFT], []), ([], []), ([RIGHT], [LEFT]), ([], [LEFT]))
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
    got = summed([score_answer([], [], (predicted, true)), score_answer([], [], (["a"], ["a"]))])
    assert got["set_F1"] == pytest.approx((f1 + 1) / 2)
    assert got["set_exact"] == ((f1 == 1) + 1) / 2


def test_given_words_are_left_out_of_the_metrics() -> None:
    scores = [score_answer([LEFT], [LEFT], (["a"], ["a"])), score_answer([], [])]
    assert {"set_F1", "set_exact", "no_object_accuracy", "answered_with_object"} <= summed(scores).keys()
    forced = summed(scores, free=False)
    assert forced.keys() == summed(scores).keys() - {
        "set_F1", "set_exact", "no_object_accuracy", "answered_with_object",
    }  # fmt: skip


def test_matching_of_equal_ious_is_deterministic() -> None:
    shared, areas = np.full((3, 3), 2), np.full(3, 4)
    assert match_objects(shared, areas, areas) == match_objects(shared.copy(), areas, areas) == [(0, 0), (1, 1), (2, 2)]


def test_an_empty_set_of_answers() -> None:
    assert summed([]) == {
        "num_answers": 0, "num_without_object": 0, "num_objects": 0, "num_predicted": 0, "num_rates": 0,
    }  # fmt: skip


def test_masks_of_different_sizes_raise() -> None:
    other = MaskPair(mask("##"), mask("##"))
    with pytest.raises(ValueError, match=r"masks: expected all of size \(2, 4\), got \(1, 2\)"):
        score_answer([LEFT], [other])


def random_objects(rng: np.random.Generator, count: int) -> list[MaskPair]:
    """On masks large enough that no two assignments are equally good."""
    made = []
    for _ in range(count):
        amodal = rng.random((8, 9)) < rng.uniform(0.1, 0.8)
        amodal[0, 0] = True
        made.append(MaskPair(amodal & (rng.random((8, 9)) < 0.6), amodal, rng.choice([None, rng.random()])))
    return made


def pixels(m: np.ndarray) -> set[tuple[int, int]]:
    return {(y, x) for y in range(m.shape[0]) for x in range(m.shape[1]) if m[y, x]}


def literal_iou(a: set, b: set) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0


def literal(predicted: list[MaskPair], true: list[MaskPair], kind: str) -> tuple[float, int, int, float]:
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
    got = summed(scores)
    for kind in ("amodal", "visible"):
        slow = [literal(*answer, kind) for answer in answers]
        assert [getattr(s, kind).iou for s in scores] == pytest.approx([row[0] for row in slow])
        assert got[f"gIoU_{kind}"] == pytest.approx(np.mean([row[0] for row in slow]))
        assert got[f"cIoU_{kind}"] == pytest.approx(sum(r[1] for r in slow) / sum(r[2] for r in slow))
        assert got[f"gIoU_{kind}_union"] == pytest.approx(np.mean([row[3] for row in slow]))
