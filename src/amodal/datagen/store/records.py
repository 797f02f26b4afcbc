"""What a work folder stores, and the states that a question-answer pair goes through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PairState = Literal[
    "generated", "checked", "unclear", "failed", "reviewed", "cross_checked", "accepted", "rewritten", "rejected"
]  # fmt: skip
SplitName = Literal["train", "test"]
Verdict = Literal["accept", "fix", "reject"]
Stage = Literal["review", "cross-check", "tiebreak"]
ImageState = Literal["selected", "answered", "again", "done", "failed"]

EXHAUSTED = "exhausted: the writer knows no more pairs about this image"
"""Reason of an image that has fewer pairs than wanted and is not asked about again."""
REFUSED = "refused"
"""Start of the reason of an image that the endpoint refused."""

# The states that may follow each state. A failed pair is generated again, passes a later check, or
# goes to people, who may also decide about it alone. An unclear pair has a sentence that no rule can
# read: only people can pass it.
TRANSITIONS: dict[PairState, frozenset[PairState]] = {
    "generated": frozenset({"checked", "unclear", "failed"}),
    "failed": frozenset({"generated", "checked", "unclear", "reviewed", "accepted", "rewritten", "rejected"}),
    "unclear": frozenset({"checked", "failed", "reviewed", "accepted", "rewritten", "rejected"}),
    "checked": frozenset({"unclear", "failed", "reviewed", "accepted", "rewritten", "rejected"}),
    "reviewed": frozenset({"cross_checked", "accepted", "rewritten", "rejected"}),
    "cross_checked": frozenset({"accepted", "rewritten", "rejected"}),
    "accepted": frozenset(),
    "rewritten": frozenset(),
    "rejected": frozenset(),
}


@dataclass(frozen=True)
class Pair:
    """A question and its answer.

    Attributes:
        id: id in the work folder.
        image_id: image that the question is about.
        slot: position among the pairs of the image, from 1; another try fills the same slot.
        question: one line.
        answer: text with `<p>phrase</p> {seg:ANNOTATION_ID}` for each object.
        claims: (front, behind) annotation ids of each occlusion that the writer stated.
        state: current state.
        tries: how often it was generated.
        reason: why it is in this state, or None.
    """

    id: int
    image_id: int
    slot: int
    question: str
    answer: str
    claims: tuple[tuple[int, int], ...]
    state: PairState
    tries: int
    reason: str | None


@dataclass(frozen=True)
class Draft:
    """A pair as a backend wrote it, not yet in a slot."""

    question: str
    answer: str
    claims: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Review:
    """One person's judgement of one pair.

    Attributes:
        pair_id: the pair.
        reviewer: name of the person.
        stage: first review, cross-check by another person, or decision by a third person.
        verdict: accept unchanged, accept with the given changes, or reject.
        question: the edited question; None if unchanged.
        answer: the edited answer; None if unchanged.
        note: free text.
        time: ISO 8601, UTC.
    """

    pair_id: int
    reviewer: str
    stage: Stage
    verdict: Verdict
    question: str | None
    answer: str | None
    note: str
    time: str


@dataclass(frozen=True)
class HistoryEntry:
    """The state and the texts of a pair after somebody changed them."""

    pair_id: int
    state: PairState
    who: str
    time: str
    reason: str | None
    question: str
    answer: str


@dataclass(frozen=True)
class WorkImage:
    """An image of the work folder and its progress.

    Attributes:
        id: image id.
        file_name: name in the work folder's `images/`.
        height: H in pixels.
        width: W in pixels.
        split: side of the split.
        state: selected (no reply yet), answered, again (another try is wanted), done or failed.
        tries: number of replies received.
        reason: why it failed or is tried again, or None.
    """

    id: int
    file_name: str
    height: int
    width: int
    split: SplitName
    state: ImageState
    tries: int
    reason: str | None
