"""People decide about pairs: who gets which pair, and how verdicts become a decision.

The paper's three annotators check every pair, rewrite pairs where necessary, and cross-check each
other (AURA, section 4.2). Here a number of people review each pair without seeing each other's
verdicts (two unless set otherwise). If more than half of them agree, that is the outcome;
otherwise one more person sees all verdicts and proposed texts and decides alone.

    checked -> reviewed (first verdict) -> cross_checked (all verdicts) -> accepted | rewritten | rejected
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from amodal.data.reason_seg import check_question, parse_answer
from amodal.datagen.rules import MAX_ANSWER_LENGTH
from amodal.datagen.store.records import Pair, PairState, Review, Stage, Verdict
from amodal.datagen.store.work_folder import WorkFolder
from amodal.errors import InputError
from amodal.ops.rle import rle_area

MAX_NAME_LENGTH = 60  # enough for an e-mail address
MAX_NOTE_LENGTH = 1000
FINAL_STATES: dict[Verdict, PairState] = {"accept": "accepted", "fix": "rewritten", "reject": "rejected"}


class ReviewConflictError(InputError):
    """The pair changed since this person got it, or somebody else holds it."""


@dataclass(frozen=True)
class ReviewPolicy:
    """How pairs are reviewed.

    Attributes:
        reviewers: number of people who review each pair before a disagreement goes to one more person.
        lease_seconds: how long a pair is reserved for the person who got it, unless renewed.
        include_failed: also hand out pairs that failed the automatic check, after all others.
    """

    reviewers: int = 2
    lease_seconds: float = 900.0
    include_failed: bool = False

    def __post_init__(self) -> None:
        if self.reviewers < 1:
            raise InputError(f"reviewers: expected 1 or more, got {self.reviewers}")
        if not self.lease_seconds > 0:
            raise InputError(f"lease: expected a time above 0, got {self.lease_seconds:g} seconds")

    @property
    def states(self) -> tuple[PairState, ...]:
        """States of the pairs that are handed out, the most urgent first."""
        return ("cross_checked", "reviewed", "checked", "unclear", *(("failed",) if self.include_failed else ()))


def work_policy(work: WorkFolder, reviewers: int | None = None, include_failed: bool = False) -> ReviewPolicy:
    """The policy of a work folder; a given number of reviewers is stored in it.

    Raises:
        InputError: the number is below 1, or differs from the number with which reviewing began.
    """
    stored = work.settings().get("reviewers")
    if reviewers is None:
        return ReviewPolicy(reviewers=stored or ReviewPolicy.reviewers, include_failed=include_failed)
    policy = ReviewPolicy(reviewers=reviewers, include_failed=include_failed)
    if stored not in (None, reviewers) and work.reviews.exist():
        raise InputError(f"reviewers: expected {stored}, with which the review of this folder began, got {reviewers}")
    work.set_settings({"reviewers": reviewers})
    return policy


def reviewer_name(work: WorkFolder, text: str) -> str:
    """Normalise a person's name: single spaces, and the spelling under which it was first stored here.

    Raises:
        InputError: the name is empty, too long, or has characters that do not print.
    """
    name = " ".join(unicodedata.normalize("NFKC", text).split())
    if not name or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise InputError(f"reviewer: expected a name of 1 to {MAX_NAME_LENGTH} printable characters, got {text[:60]!r}")
    if any(program.casefold() == name.casefold() for program in work.pairs.program_names()):
        raise InputError(f"reviewer: expected a person's name, got {name!r}, under which a program wrote pairs")
    return next((known for known in work.reviews.names() if known.casefold() == name.casefold()), name)


def lease(work: WorkFolder, reviewer: str, policy: ReviewPolicy, *, skip: Sequence[int] = ()) -> Pair | None:
    """Reserve the next pair for a person until the lease ends; None if nothing is left.

    Pairs that wait for a tiebreak decision come first, then those that somebody else has reviewed.

    Args:
        work: work folder.
        reviewer: name as returned by `reviewer_name`.
        policy: how pairs are reviewed.
        skip: pairs that the person has put aside; they come last.
    """
    return work.reviews.lease_next(reviewer, policy.states, seconds=policy.lease_seconds, skip=skip)


def submit(
    work: WorkFolder,
    pair_id: int,
    reviewer: str,
    verdict: Verdict,
    policy: ReviewPolicy,
    *,
    question: str | None = None,
    answer: str | None = None,
    note: str = "",
    tries: int | None = None,
) -> Pair:
    """Store a person's verdict and move the pair to its next state.

    Args:
        work: work folder.
        pair_id: id of the pair.
        reviewer: name as returned by `reviewer_name`.
        verdict: accept, fix (with another question or answer) or reject.
        policy: how pairs are reviewed.
        question: edited question, only for fix.
        answer: edited answer with `{seg:ID}` placeholders, only for fix.
        note: free text.
        tries: `Pair.tries` as the person saw it, to detect a pair that was generated again since.

    Returns:
        The pair in its new state.

    Raises:
        ReviewConflictError: the pair is decided, was reviewed by this person before, is held by
            somebody else, or has changed since.
        InputError: an unknown verdict, a fix that changes nothing, or a text that an answer cannot have.
    """
    if verdict not in get_args(Verdict):
        raise InputError(f"verdict: expected one of {', '.join(get_args(Verdict))}, got {verdict!r}")
    if len(note) > MAX_NOTE_LENGTH:
        raise InputError(f"note: expected at most {MAX_NOTE_LENGTH} characters, got {len(note)}")
    for name, text in (("question", question), ("answer", answer), ("note", note)):
        _check_characters(name, text or "")
    with work.atomic():
        pair = work.pairs.get(pair_id)
        earlier = work.reviews.of_pair(pair_id)
        _check_open(work, pair, reviewer, earlier, tries)
        question, answer = _changes(work, pair, verdict, question, answer)
        stage = _stage(pair, earlier)
        review = work.reviews.add(
            pair_id, reviewer, stage, verdict, question=question, answer=answer, note=note.strip()
        )
        _move(work, pair, [*earlier, review], policy)
        return work.pairs.get(pair_id)


def outcome(reviews: Sequence[Review]) -> Review | None:
    """The review that more than half of the given ones agree with (fixes: on the same text), or None."""
    votes = Counter((review.verdict, review.question, review.answer) for review in reviews)
    choice, count = votes.most_common(1)[0]
    if 2 * count <= len(reviews):
        return None
    return next(r for r in reviews if (r.verdict, r.question, r.answer) == choice)


def undo(work: WorkFolder, reviewer: str, policy: ReviewPolicy) -> Pair:
    """Withdraw a person's latest verdict and hand the pair to them again.

    Raises:
        ReviewConflictError: there is no verdict, or somebody else changed the pair since.
    """
    with work.atomic():
        pair_id = work.reviews.last_pair_of(reviewer)
        if pair_id is None:
            raise ReviewConflictError("undo: expected a verdict of yours, got none yet")
        if work.reviews.holder(pair_id) or work.reviews.of_pair(pair_id)[-1].reviewer != reviewer:
            raise ReviewConflictError(f"undo: expected pair {pair_id} as you left it, got one others went on with")
        work.reviews.withdraw(pair_id, reviewer)
        return work.reviews.lease(pair_id, reviewer, seconds=policy.lease_seconds)


def renew(work: WorkFolder, pair_id: int, reviewer: str, policy: ReviewPolicy) -> None:
    """Prolong a person's lease.

    Raises:
        ReviewConflictError: the lease ended and somebody else has the pair, or the pair is decided.
    """
    with work.atomic():
        _check_open(work, work.pairs.get(pair_id), reviewer, work.reviews.of_pair(pair_id), None)
        work.reviews.lease(pair_id, reviewer, seconds=policy.lease_seconds)


def remaining(work: WorkFolder, reviewer: str, policy: ReviewPolicy) -> int:
    """Number of pairs that this person can still review."""
    return work.reviews.num_open(reviewer, policy.states)


def _check_open(work: WorkFolder, pair: Pair, reviewer: str, earlier: Iterable[Review], tries: int | None) -> None:
    if pair.state not in ReviewPolicy(include_failed=True).states:
        raise ReviewConflictError(f"pair {pair.id}: expected one that is open for review, got one that is {pair.state}")
    if any(review.reviewer == reviewer for review in earlier):
        raise ReviewConflictError(f"pair {pair.id}: expected one verdict by {reviewer}, got another")
    holder = work.reviews.holder(pair.id)
    if holder not in (None, reviewer):
        raise ReviewConflictError(f"pair {pair.id}: expected it free or in your hands, got it in {holder}'s")
    if tries not in (None, pair.tries):
        raise ReviewConflictError(f"pair {pair.id}: expected the text you saw, got one that was generated again since")


def _check_characters(name: str, text: str) -> None:
    """Refuse control characters and unpaired surrogates, which do not print and which some files cannot store."""
    bad = next((c for c in text if unicodedata.category(c) in ("Cc", "Cs") and not c.isspace()), None)
    if bad is not None:
        raise InputError(f"{name}: expected characters that print, got U+{ord(bad):04X}")


def _changes(
    work: WorkFolder, pair: Pair, verdict: Verdict, question: str | None, answer: str | None
) -> tuple[str | None, str | None]:
    """Question and answer of a fix, None where unchanged; (None, None) for other verdicts."""
    if verdict != "fix":
        return None, None
    new_question = pair.question if question is None else check_question(question)
    new_answer = pair.answer if answer is None else " ".join(answer.split())
    if len(new_answer) > MAX_ANSWER_LENGTH:
        raise InputError(f"answer: expected at most {MAX_ANSWER_LENGTH} characters, got {len(new_answer)}")
    records = {record["id"]: record for record in work.object_records(pair.image_id)}
    for number, _ in parse_answer(new_answer):
        if number not in records:
            raise InputError(f"answer: expected objects of this image, got {{seg:{number}}}")
        if rle_area(records[number]["segmentation"]) == 0:
            raise InputError(f"answer: expected objects with a mask, got {{seg:{number}}}, whose amodal mask is empty")
    changed = (
        None if new_question == pair.question else new_question,
        None if new_answer == " ".join(pair.answer.split()) else new_answer,
    )
    if changed == (None, None):
        raise InputError("fix: expected another question or answer, got the same texts")
    return changed


def _stage(pair: Pair, earlier: Sequence[Review]) -> Stage:
    if pair.state == "cross_checked":
        return "tiebreak"
    return "cross-check" if earlier else "review"


def _move(work: WorkFolder, pair: Pair, reviews: Sequence[Review], policy: ReviewPolicy) -> None:
    """Move a pair to its next state after the last of `reviews` was added."""
    last = reviews[-1]
    if last.stage == "tiebreak":
        return _decide(work, pair, last, last.reviewer, f"{last.reviewer} decided between {len(reviews) - 1}")
    if pair.state != "reviewed" and policy.reviewers > 1:
        work.pairs.set_state(pair.id, "reviewed", last.reviewer, reason=pair.reason)
    if len(reviews) < policy.reviewers:
        return None
    if policy.reviewers > 1:
        work.pairs.set_state(pair.id, "cross_checked", last.reviewer, reason="waits for a decision")
    chosen = outcome(reviews)
    if chosen is not None:
        num_agreed = sum(review.verdict == chosen.verdict for review in reviews)
        _decide(work, pair, chosen, last.reviewer, f"{num_agreed} of {len(reviews)} agreed")
    return None


def _decide(work: WorkFolder, pair: Pair, chosen: Review, who: str, reason: str) -> None:
    state = FINAL_STATES[chosen.verdict]
    work.pairs.set_state(pair.id, state, who, reason=reason, question=chosen.question, answer=chosen.answer)
