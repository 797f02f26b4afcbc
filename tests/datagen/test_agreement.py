"""Agreement figures against hand-made ones."""

from __future__ import annotations

import pytest

from amodal.datagen.review.agreement import agreement
from amodal.datagen.store.records import Review, Stage, Verdict

A: Verdict = "accept"
F: Verdict = "fix"
R: Verdict = "reject"


def said(pair: int, reviewer: str, verdict: Verdict, stage: Stage = "review") -> Review:
    return Review(pair, reviewer, stage, verdict, None, None, "", "2030-01-01")


def test_two_people() -> None:
    """po = 3/4; ada gives A A R R, bob A A A R: pe = 1/2 * 3/4 + 1/2 * 1/4 = 1/2; kappa = 1/2."""
    verdicts = [(A, A), (A, A), (R, A), (R, R)]
    reviews = [
        said(i, name, v) for i, pair in enumerate(verdicts) for name, v in zip(("ada", "bob"), pair, strict=True)
    ]
    reviews += [said(9, "ada", A), said(2, "cyd", R, "tiebreak")]
    found = agreement(reviews)
    assert found["pairs"] == 4
    assert found["observed"] == 0.75
    assert found["cohen"] == [{"reviewers": ["ada", "bob"], "pairs": 4, "observed": 0.75, "kappa": pytest.approx(0.5)}]
    # Fleiss: five of eight verdicts accept, three reject: pe = 34/64; (3/4 - 34/64) / (30/64) = 7/15
    assert found["fleiss"] == {"kappa": pytest.approx(7 / 15), "pairs": 4, "verdicts": 2}


def test_three_people_of_whom_two_see_each_pair() -> None:
    reviews = [said(1, "ada", A), said(1, "bob", A), said(2, "bob", F), said(2, "cyd", F), said(3, "ada", R)]
    found = agreement(reviews)
    assert found["observed"] == 1.0
    assert [row["reviewers"] for row in found["cohen"]] == [["ada", "bob"], ["bob", "cyd"]]
    assert [row["kappa"] for row in found["cohen"]] == [None, None], "one verdict alone leaves nothing to chance"
    assert found["fleiss"]["kappa"] == pytest.approx(1.0)


def test_undefined_figures_are_none() -> None:
    assert agreement([]) == {
        "pairs": 0,
        "observed": None,
        "fleiss": {"kappa": None, "pairs": 0, "verdicts": 0},
        "cohen": [],
    }
    assert agreement([said(1, "ada", A), said(1, "bob", A)])["fleiss"]["kappa"] is None


def test_fleiss_is_over_the_usual_number_of_verdicts() -> None:
    reviews = [said(1, n, A) for n in ("ada", "bob", "cyd")] + [said(2, n, R) for n in ("ada", "bob", "cyd")]
    found = agreement([*reviews, said(3, "ada", A), said(3, "bob", R)])
    assert found["fleiss"] == {"kappa": pytest.approx(1.0), "pairs": 2, "verdicts": 3}
    assert found["observed"] == pytest.approx(6 / 7)
