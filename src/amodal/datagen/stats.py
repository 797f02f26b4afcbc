"""Statistics of a work folder: those of the paper's section 4.1, the progress, and how well reviewers agree."""

from __future__ import annotations

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any, get_args

import numpy as np

from amodal.datagen.policy import PairShares, pair_shares
from amodal.datagen.rules import RuleContext, object_ids
from amodal.datagen.store.records import Draft, PairState, Review, Verdict
from amodal.datagen.store.work_folder import WorkFolder
from amodal.errors import InputError
from amodal.ops.occlusion import is_occluded

BINS = 10  # of the histogram of occlusion rates, equal parts of [0, 1]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


def statistics(work: WorkFolder, states: Sequence[PairState] | None = None) -> dict[str, Any]:
    """Count images, pairs and the objects that answers mention.

    Args:
        work: work folder.
        states: only pairs in these states, and only images with such pairs; None counts everything.

    Returns:
        `images`, `pairs`, `pairs_per_image`, `splits`, `states`, `mentions`, `objects_per_answer`
        (mean, and number of answers by number of objects), and `occlusion` of the objects that
        answers mention, each object once per image: `objects`, `whole` (not occluded), `unknown`
        (nobody knows the whole) and a `histogram` of the known occlusion rates over [0, 1].
        `shares` are those of the pairs that `policy.py` asks for: answers with `several` objects,
        `implicit` questions, answers with `reasons`, and `repeated` answers about the same objects.
    """
    splits: dict[str, Counter[str]] = {"train": Counter(), "test": Counter()}
    found, lengths, histogram, num_whole, num_unknown = Counter[str](), Counter[int](), [0] * BINS, 0, 0
    shares, categories = PairShares(), work.categories()
    for image in work.images():
        pairs = list(work.pairs.find(states, image_id=image.id))
        if states is not None and not pairs:
            continue
        splits[image.split] += Counter(images=1, pairs=len(pairs))
        found.update(pair.state for pair in pairs)
        mentioned = [object_ids(pair.answer) for pair in pairs]
        lengths.update(map(len, mentioned))
        distinct = {number for numbers in mentioned for number in numbers}
        sample = work.sample(image)
        drafts = [Draft(pair.question, pair.answer) for pair in pairs]
        shares += pair_shares(drafts, RuleContext(sample, categories))
        for obj in sample.objects:
            if obj.id in distinct and obj.attributes.get("amodal_unknown"):
                num_unknown += 1
            elif obj.id in distinct:
                rate = obj.occlusion_rate()
                histogram[min(int(rate * BINS), BINS - 1)] += 1
                num_whole += not is_occluded(rate)
    num_images, num_pairs = (sum(side[name] for side in splits.values()) for name in ("images", "pairs"))
    num_mentions = sum(length * count for length, count in lengths.items())
    return {
        "images": num_images,
        "pairs": num_pairs,
        "pairs_per_image": _mean(num_pairs, num_images),
        "splits": {name: {"images": side["images"], "pairs": side["pairs"]} for name, side in splits.items()},
        "states": {state: found.get(state, 0) for state in get_args(PairState)},
        "mentions": num_mentions,
        "objects_per_answer": {
            "mean": _mean(num_mentions, num_pairs),
            "counts": {str(length): count for length, count in sorted(lengths.items())},
        },
        "shares": shares.shares(),
        "occlusion": {
            "objects": sum(histogram) + num_unknown,
            "whole": num_whole,
            "unknown": num_unknown,
            "histogram": histogram,
        },
    }


def work_statistics(work: WorkFolder) -> dict[str, Any]:
    """All of `statistics`, and the progress: image states, requests and their cost, reviews, agreement.

    Raises:
        InputError: several people reviewed the same pairs, and the libraries that measure agreement are not installed.
    """
    usage = work.requests.usage()
    return {
        **statistics(work),
        "image_states": work.image_state_counts(),
        "requests": work.requests.counts(),
        "spent": {"requests": usage.requests, "tokens": usage.tokens, "money": round(usage.money, 6)},
        "reviews": work.reviews.counts_by_verdict(),
        "reviewers": work.reviews.counts_by_reviewer(),
        "agreement": agreement(work.reviews.all()),
    }


def agreement(reviews: Sequence[Review]) -> dict[str, Any]:
    """Observed agreement, Cohen's kappa per pair of people, and Fleiss' kappa of all people.

    Only verdicts that were given without seeing those of others count, so tiebreak decisions are
    left out. Fleiss' kappa needs the same number of verdicts on each pair: of the pairs with two
    verdicts or more, it uses those with the most frequent number of verdicts.

    Args:
        reviews: reviews of any pairs, in any order.

    Returns:
        `pairs` (number of pairs reviewed by two people or more), `observed` (share of equal
        verdicts among all two verdicts on the same pair), `fleiss` = `{kappa, pairs, verdicts}`,
        and `cohen`, a list of `{reviewers, pairs, observed, kappa}`. A kappa is None where it is
        undefined: without pairs, or if all verdicts are the same.

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
        with warnings.catch_warnings():  # undefined where both people only ever gave one verdict
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


def _mean(total: int, count: int) -> float:
    return round(total / count, 3) if count else 0.0
