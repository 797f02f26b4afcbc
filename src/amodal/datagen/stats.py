"""Figures of a work folder: those of the paper's section 4.1, and how far the work is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from amodal.datagen.describe import hidden_share, is_hidden
from amodal.datagen.review.agreement import agreement
from amodal.datagen.rules import object_ids
from amodal.datagen.store.manifest import Manifest
from amodal.datagen.store.records import PairState
from amodal.datagen.store.requests_log import request_counts, spent

BINS = 10  # of the occlusion histogram, equal shares of [0, 1]


def statistics(manifest: Manifest, states: Sequence[PairState] | None = None) -> dict[str, Any]:
    """Images, pairs and what their answers mention.

    Args:
        manifest: the work folder.
        states: only pairs in these, and only images that have some; None takes everything.

    Returns:
        `images`, `pairs`, `pairs_per_image`, `splits`, `states`, `objects_per_answer` (mean and
        counts by number), `occlusion` of the objects that answers mention, each object of an
        image once (share of whole ones and a histogram over [0, 1]), `mentions`.
    """
    splits: dict[str, Counter[str]] = {"train": Counter(), "test": Counter()}
    found, lengths, histogram, whole = Counter[str](), Counter[int](), [0] * BINS, 0
    for image in manifest.images():
        pairs = list(manifest.pairs(states, image_id=image.id))
        if states is not None and not pairs:
            continue
        splits[image.split] += Counter(images=1, pairs=len(pairs))
        found.update(pair.state for pair in pairs)
        mentioned = [object_ids(pair.answer) for pair in pairs]
        lengths.update(map(len, mentioned))
        distinct = {number for numbers in mentioned for number in numbers}
        for thing in manifest.sample(image).objects:
            if thing.id in distinct:
                histogram[min(int(hidden_share(thing) * BINS), BINS - 1)] += 1
                whole += not is_hidden(thing)
    images, pairs_ = (sum(side[name] for side in splits.values()) for name in ("images", "pairs"))
    mentions = sum(length * count for length, count in lengths.items())
    return {
        "images": images,
        "pairs": pairs_,
        "pairs_per_image": _mean(pairs_, images),
        "splits": {name: {"images": side["images"], "pairs": side["pairs"]} for name, side in splits.items()},
        "states": {state: found.get(state, 0) for state in manifest.pair_counts()},
        "mentions": mentions,
        "objects_per_answer": {
            "mean": _mean(mentions, pairs_),
            "counts": {str(length): count for length, count in sorted(lengths.items())},
        },
        "occlusion": {"objects": sum(histogram), "whole": whole, "histogram": histogram},
    }


def work_statistics(manifest: Manifest) -> dict[str, Any]:
    """All of `statistics`, and how far the work is: image states, requests, what it cost, reviews, agreement.

    Raises:
        InputError: people judged the same pairs, and the libraries that measure agreement are not installed.
    """
    used = spent(manifest)
    sql = "SELECT {0}, count(*) FROM {1} GROUP BY {0}"
    return {
        **statistics(manifest),
        "image_states": dict(manifest.query(sql.format("state", "images"))),
        "requests": request_counts(manifest),
        "spent": {"requests": used.requests, "tokens": used.tokens, "money": round(used.money, 6)},
        "reviews": dict(manifest.query(sql.format("verdict", "reviews"))),
        "reviewers": dict(manifest.query(sql.format("reviewer", "reviews"))),
        "agreement": agreement(manifest.reviews()),
    }


def _mean(total: int, count: int) -> float:
    return round(total / count, 3) if count else 0.0
