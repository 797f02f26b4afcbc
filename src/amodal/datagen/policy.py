"""What the paper asks of the pairs about an image as a whole: several objects, implicit questions, reasons.

Section 4.2 of the paper: implicit questions, answers with different objects, and occlusion that tells them apart.
Differs from the paper: it states no shares; these are this project's reading of that.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from amodal.datagen.rules import RuleContext, object_ids
from amodal.datagen.store.records import Draft
from amodal.questions.knowledge import category_key
from amodal.questions.wording import named_in, words_in

MIN_SEVERAL = 0.6
"""Smallest share of answers that mention two objects or more, for images with several objects."""
MIN_IMPLICIT = 0.9
"""Smallest share of questions that do not name an object of their answer."""
MIN_REASONS = 0.6
"""Smallest share of answers that give a reason."""
MAX_SHARED = 2
"""Largest number of pairs about an image whose answers mention the same objects."""

Policy = Literal["none", "paper"]

_REASON = re.compile(r"\b(?:because|since|so that|which is why|that is why|due to|as (?:it|they|there|nothing)\b)")


@dataclass
class PairShares:
    """Counts of one or several images.

    Attributes:
        pairs: number of pairs.
        several: answers that mention two objects or more.
        implicit: questions that do not name an object of the answer, nor list its parts.
        reasons: answers that give a reason.
        repeated: pairs beyond the second one whose answers mention the same objects.
    """

    pairs: int = 0
    several: int = 0
    implicit: int = 0
    reasons: int = 0
    repeated: int = 0

    def __add__(self, other: PairShares) -> PairShares:
        return PairShares(
            *(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True))
        )

    def shares(self) -> dict[str, float]:
        """Share of the pairs by name of the count."""
        names = ("several", "implicit", "reasons", "repeated")
        return {name: round(getattr(self, name) / self.pairs, 3) if self.pairs else 0.0 for name in names}


def pair_shares(drafts: Sequence[Draft], context: RuleContext) -> PairShares:
    """Count the pairs about one image."""
    mentioned = [frozenset(object_ids(draft.answer)) for draft in drafts]
    repeats = Counter(mentioned)
    return PairShares(
        pairs=len(drafts),
        several=sum(_has_several(draft, context) for draft in drafts),
        implicit=sum(is_implicit(draft, context) for draft in drafts),
        reasons=sum(_has_reason(draft, context) for draft in drafts),
        repeated=sum(max(count - MAX_SHARED, 0) for count in repeats.values()),
    )


def is_implicit(draft: Draft, context: RuleContext) -> bool:
    """Whether a question names no object of its answer: by category, by a synonym, or by listing two of its parts."""
    objects = context.objects()
    for number in object_ids(draft.answer):
        if number not in objects:
            continue
        if named_in(draft.question, context.names(objects[number])):
            return False
        facts = context.settings.knowledge.get(category_key(context.category(objects[number])))
        parts = [frozenset([tuple(words_in(part))[-1:]]) for part in facts.parts] if facts else []
        if sum(bool(named_in(draft.question, part)) for part in parts) > 1:
            return False
    return True


def max_pairs(num_objects: int, wanted: int) -> int:
    """The most pairs that an image can have under the policy: each set of objects may be the answer twice.

    Sets of several objects make up the share `MIN_SEVERAL` where there are several objects.
    """
    if num_objects <= 1:
        return min(wanted, MAX_SHARED * num_objects)
    most_several = MAX_SHARED * (2 ** min(num_objects, 8) - num_objects - 1)
    return min(wanted, int(most_several / MIN_SEVERAL), MAX_SHARED * (2 ** min(num_objects, 8) - 1))


def to_replace(fixed: Sequence[Draft], drafts: Sequence[Draft], context: RuleContext) -> dict[int, str]:
    """The fewest pairs whose replacement would let an image satisfy the policy, the last ones first.

    Args:
        fixed: pairs that stay whatever they are.
        drafts: pairs that may be replaced.
        context: what they are checked against.

    Returns:
        Position in `drafts` and what is expected instead.
    """
    everything, found = [*fixed, *drafts], dict[int, str]()
    seen = Counter(frozenset(object_ids(draft.answer)) for draft in fixed)
    for position, draft in enumerate(drafts):
        objects = frozenset(object_ids(draft.answer))
        seen[objects] += 1
        if seen[objects] > MAX_SHARED:
            found[position] = f"expected at most {MAX_SHARED} answers about the same objects, got more"
    several = MIN_SEVERAL if len(context.facts) > 1 else 0.0
    for least, what, satisfies in (
        (several, "answers that mention two objects or more", _has_several),
        (MIN_IMPLICIT, "questions that do not name an object of their answer", is_implicit),
        (MIN_REASONS, "answers that give a reason ('because ...')", _has_reason),
    ):
        lacking = [position for position, draft in enumerate(drafts) if not satisfies(draft, context)]
        num_lacking = sum(not satisfies(draft, context) for draft in everything)
        surplus = num_lacking - math.floor((1 - least) * len(everything) + 1e-9)
        surplus -= sum(position in found for position in lacking)
        for position in [p for p in reversed(lacking) if p not in found][: max(surplus, 0)]:
            found[position] = f"expected at least {least:.0%} {what}, got {len(everything) - num_lacking} of " + str(
                len(everything)
            )
    return found


def _has_several(draft: Draft, context: RuleContext) -> bool:
    return len(set(object_ids(draft.answer))) > 1


def _has_reason(draft: Draft, context: RuleContext) -> bool:
    return bool(_REASON.search(draft.answer))
