"""What a work folder holds, and the states a question-answer pair goes through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PairState = Literal[
    "generated", "checked", "failed", "reviewed", "cross_checked", "accepted", "rewritten", "rejected"
]  # fmt: skip
SplitName = Literal["train", "test"]
Verdict = Literal["accept", "fix", "reject"]
Stage = Literal["review", "cross-check", "tiebreak"]
ImageState = Literal["selected", "answered", "again", "done", "failed"]

# Where each state leads. A failed pair is generated anew, passes a later check, or goes to people,
# who may also decide on it alone.
TRANSITIONS: dict[PairState, frozenset[PairState]] = {
    "generated": frozenset({"checked", "failed"}),
    "failed": frozenset({"generated", "checked", "reviewed", "accepted", "rewritten", "rejected"}),
    "checked": frozenset({"failed", "reviewed", "accepted", "rewritten", "rejected"}),
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
        id: number in the work folder.
        image_id: picture it belongs to.
        slot: which of the picture's pairs it is, from 1; another try fills the same slot.
        question: one line.
        answer: text with `<p>phrase</p> {seg:ANNOTATION_ID}` for each object.
        claims: (front, behind) annotation ids of what the writer said hides what.
        state: where it stands.
        tries: how often it was generated.
        reason: why it is in this state; None if there is nothing to say.
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
    """What one person said about one pair.

    Attributes:
        pair_id: the pair.
        reviewer: name of the person.
        stage: first review, cross-check by another person, or decision of a third.
        verdict: accept as it is, accept with the changes given, or reject.
        question: as edited; None if unchanged. `answer` likewise.
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
class Event:
    """One line of a pair's history: its state and text after someone changed them."""

    pair_id: int
    state: PairState
    who: str
    time: str
    reason: str | None
    question: str
    answer: str


@dataclass(frozen=True)
class WorkImage:
    """A picture of the work folder and how far it is.

    Attributes:
        id: image id.
        file_name: name in the work folder's `images/`.
        height: H in pixels.
        width: W in pixels.
        split: side it is on.
        state: selected (nothing asked yet), answered, again (another try is wanted), done, failed.
        tries: answers received.
        reason: why it failed or is asked again.
    """

    id: int
    file_name: str
    height: int
    width: int
    split: SplitName
    state: ImageState
    tries: int
    reason: str | None
