"""Agreement of reviewers, compared with values calculated by hand."""

from __future__ import annotations

import pytest

from amodal.datagen.stats import agreement
from amodal.datagen.store.records import Review, Stage, Verdict

A: Verdict = "accept"
F: Verdict = "fix"
R: Verdict = "reject"


def review(pair: int, reviewer: str, verdict: Verdict, stage: Stage = "review") -> Review:
    return Review(pair, reviewer, stage, verdict, None, None, "", "2030-01-01")


def test_two_people() -> None:
    """po = 3/4; ada gives A A R R, bob A A A R: pe = 1/2 * 3/4 + 1/2 * 1/4 = 1/2; kappa = 1/2."""
    verdicts = [(A, A), (A, A), (R, A), (R, R)]
    reviews = [
        review(i, name, v) for i, pair in enumerate(verdicts) for name, v in zip(("ada", "bob"), pair, strict=True)
    ]
    reviews += [review(9, "ada", A), review(2, "cyd", R, "tiebreak")]
    found = agreement(reviews)
    assert found["pairs"] == 4
    assert found["observed"] == 0.75
    assert found["cohen"] == [{"reviewers": ["ada", "bob"], "pairs": 4, "observed": 0.75, "kappa": pytest.approx(0.5)}]
    # Fleiss: five of eight verdicts accept, three reject: pe = 34/64; (3/4 - 34/64) / (30/64) = 7/15
    assert found["fleiss"] == {"kappa": pytest.approx(7 / 15), "pairs": 4, "verdicts": 2}


def test_three_people_two_of_whom_review_each_pair() -> None:
    reviews = [review(1, "ada", A), review(1, "bob", A), review(2, "bob", F), review(2, "cyd", F), review(3, "ada", R)]
    found = agreement(reviews)
    assert found["observed"] == 1.0
    assert [row["reviewers"] for row in found["cohen"]] == [["ada", "bob"], ["bob", "cyd"]]
    assert [row["kappa"] for row in found["cohen"]] == [None, None], "undefined if there is only one kind of verdict"
    assert found["fleiss"]["kappa"] == pytest.approx(1.0)


def test_undefined_values_are_none() -> None:
    assert agreement([]) == {
        "pairs": 0,
        "observed": None,
        "fleiss": {"kappa": None, "pairs": 0, "verdicts": 0},
        "cohen": [],
    }
    assert agreement([review(1, "ada", A), review(1, "bob", A)])["fleiss"]["kappa"] is None


def test_fleiss_uses_pairs_with_the_most_frequent_number_of_verdicts() -> None:
    reviews = [review(1, n, A) for n in ("ada", "bob", "cyd")] + [review(2, n, R) for n in ("ada", "bob", "cyd")]
    found = agreement([*reviews, review(3, "ada", A), review(3, "bob", R)])
    assert found["fleiss"] == {"kappa": pytest.approx(1.0), "pairs": 2, "verdicts": 3}
    assert found["observed"] == pytest.approx(6 / 7)
