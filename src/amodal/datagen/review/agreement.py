"""How well reviewers agree on verdicts they gave without seeing each other's."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any, get_args

import numpy as np

from amodal.datagen.store.records import Review, Verdict
from amodal.errors import InputError

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


def agreement(reviews: Sequence[Review]) -> dict[str, Any]:
    """Observed agreement, Cohen's kappa of each two people, Fleiss' kappa of all.

    Decisions between others' verdicts are left out: who makes them sees the verdicts. Fleiss' kappa
    needs the same number of verdicts on each pair, so it is over the pairs that have the number
    most pairs with two verdicts or more have.

    Args:
        reviews: of any pairs, in any order.

    Returns:
        `pairs` judged by two people or more, `observed` share of two verdicts on the same pair that
        are the same, `fleiss` = `{kappa, pairs, verdicts}`, `cohen` = a list of `{reviewers, pairs,
        observed, kappa}`. A kappa is None where it is undefined: no pairs, or nothing but one verdict.

    Raises:
        InputError: the libraries of the extra `reasonseg` are not installed.
    """
    by_pair: dict[int, dict[str, Verdict]] = defaultdict(dict)
    for review in reviews:
        if review.stage != "tiebreak":
            by_pair[review.pair_id][review.reviewer] = review.verdict
    shared = [verdicts for verdicts in by_pair.values() if len(verdicts) > 1]
    same = [a == b for verdicts in shared for a, b in combinations(verdicts.values(), 2)]
    return {
        "pairs": len(shared),
        "observed": float(np.mean(same)) if same else None,
        "fleiss": _fleiss([list(verdicts.values()) for verdicts in shared]),
        "cohen": _cohen(shared),
    }


def _cohen(shared: Sequence[dict[str, Verdict]]) -> list[dict[str, Any]]:
    if not shared:
        return []
    try:
        from sklearn.metrics import cohen_kappa_score
    except ImportError as error:
        raise InputError("agreement: expected scikit-learn, got none: pip install 'amodal[reasonseg]'") from error
    rows = []
    for first, second in combinations(sorted({name for verdicts in shared for name in verdicts}), 2):
        both = [(v[first], v[second]) for v in shared if first in v and second in v]
        if not both:
            continue
        one, other = zip(*both, strict=True)
        with warnings.catch_warnings():  # undefined where both only ever gave one and the same verdict
            warnings.simplefilter("ignore")
            kappa = float(cohen_kappa_score(one, other, labels=list(VERDICTS)))
        observed = sum(a == b for a, b in both) / len(both)
        rows.append({"reviewers": [first, second], "pairs": len(both), "observed": observed, "kappa": _finite(kappa)})
    return rows


def _fleiss(shared: Sequence[Sequence[Verdict]]) -> dict[str, Any]:
    if not shared:
        return {"kappa": None, "pairs": 0, "verdicts": 0}
    try:
        from statsmodels.stats.inter_rater import fleiss_kappa
    except ImportError as error:
        raise InputError("agreement: expected statsmodels, got none: pip install 'amodal[reasonseg]'") from error
    lengths = [len(verdicts) for verdicts in shared]
    usual = max(set(lengths), key=lambda n: (lengths.count(n), n))
    table = np.array([[list(v).count(name) for name in VERDICTS] for v in shared if len(v) == usual])
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa = float(fleiss_kappa(table, method="fleiss"))
    return {"kappa": _finite(kappa), "pairs": len(table), "verdicts": usual}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
