"""People decide about pairs: who sees what, what their verdicts add up to, how well they agree.

The paper's three annotators check every pair, write anew what needs it, and cross-check each other
(AURA, section 4.2). Here each pair is judged by a number of people who do not see each other's
verdicts (two unless set otherwise). If more than half of them say the same, that is the outcome;
otherwise one more person sees all verdicts and proposed texts and decides alone.

    checked -> reviewed (first verdict) -> cross_checked (all verdicts) -> accepted | rewritten | rejected
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from amodal.data.formats.reason_seg import check_question, parse_answer
from amodal.datagen.rules import MAX_ANSWER_LENGTH
from amodal.datagen.store.manifest import WITHDRAWN, Manifest
from amodal.datagen.store.records import Pair, PairState, Review, Stage, Verdict
from amodal.errors import InputError
from amodal.ops.rle import rle_area

MAX_NAME_LENGTH = 60  # an e-mail address is a name too
MAX_NOTE_LENGTH = 1000
FINAL: dict[Verdict, PairState] = {"accept": "accepted", "fix": "rewritten", "reject": "rejected"}


class ReviewConflictError(InputError):
    """The pair moved on since this person got it: another one has it, or it changed."""


@dataclass(frozen=True)
class Policy:
    """How pairs are reviewed.

    Attributes:
        reviewers: people who judge each pair before a disagreement goes to one more.
        lease_seconds: how long a pair is kept for the person who got it, unless renewed.
        include_failed: also hand out pairs that failed the automatic check, after all others.
    """

    reviewers: int = 2
    lease_seconds: float = 900.0
    include_failed: bool = False

    def __post_init__(self) -> None:
        """Raises `InputError` for numbers out of range."""
        if self.reviewers < 1:
            raise InputError(f"reviewers: expected 1 or more, got {self.reviewers}")
        if not self.lease_seconds > 0:
            raise InputError(f"lease: expected a time above 0, got {self.lease_seconds:g} seconds")

    @property
    def states(self) -> tuple[PairState, ...]:
        """What is handed out, the most urgent first."""
        return ("cross_checked", "reviewed", "checked", *(("failed",) if self.include_failed else ()))


def work_policy(work: Manifest, reviewers: int | None = None, include_failed: bool = False) -> Policy:
    """The policy of a work folder; a given number of reviewers is kept in it for later.

    Raises:
        InputError: the number is below 1, or differs from the one under which reviewing began.
    """
    kept = work.settings().get("reviewers")
    if reviewers is None:
        return Policy(reviewers=kept or Policy.reviewers, include_failed=include_failed)
    policy = Policy(reviewers=reviewers, include_failed=include_failed)
    if kept not in (None, reviewers) and work.query("SELECT 1 FROM reviews LIMIT 1"):
        raise InputError(f"reviewers: expected {kept}, with which the review of this folder began, got {reviewers}")
    work.set_settings({"reviewers": reviewers})
    return policy


def reviewer_name(work: Manifest, text: str) -> str:
    """A person's name in one spelling: spaces in order, and as it was first written here.

    Raises:
        InputError: empty, too long, or with characters that do not print.
    """
    name = " ".join(unicodedata.normalize("NFKC", text).split())
    if not name or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise InputError(f"reviewer: expected a name of 1 to {MAX_NAME_LENGTH} printable characters, got {text[:60]!r}")
    writers = "SELECT who FROM history WHERE state IN ('generated', 'checked', 'failed') AND reason IS NOT ?"
    if any(who.casefold() == name.casefold() for (who,) in work.query(f"{writers} GROUP BY who", (WITHDRAWN,))):
        raise InputError(f"reviewer: expected a person's name, got {name!r}, under which a program wrote pairs")
    known = work.query("SELECT reviewer FROM reviews UNION SELECT reviewer FROM leases")
    return next((other for (other,) in known if other.casefold() == name.casefold()), name)


def lease(work: Manifest, reviewer: str, policy: Policy, *, skip: Sequence[int] = ()) -> Pair | None:
    """The next pair for a person, kept for them alone until the lease ends; None if nothing is left.

    Pairs that wait for a decision come first, then those somebody else has judged.

    Args:
        work: work folder.
        reviewer: name as `reviewer_name` gives it.
        policy: how pairs are reviewed.
        skip: pairs the person put aside; handed out last.
    """
    return work.lease_next(reviewer, policy.states, seconds=policy.lease_seconds, skip=skip)


def submit(
    work: Manifest,
    pair_id: int,
    reviewer: str,
    verdict: Verdict,
    policy: Policy,
    *,
    question: str | None = None,
    answer: str | None = None,
    note: str = "",
    tries: int | None = None,
) -> Pair:
    """Keep a person's verdict and move the pair on.

    Args:
        work: work folder.
        pair_id: the pair.
        reviewer: name as `reviewer_name` gives it.
        verdict: accept, fix (with another question or answer) or reject.
        policy: how pairs are reviewed.
        question: as edited; only for fix.
        answer: as edited, with `{seg:ID}` placeholders; only for fix.
        note: free text.
        tries: `Pair.tries` as the person saw it, to notice that the pair was generated anew since.

    Returns:
        The pair in its new state.

    Raises:
        ReviewConflictError: the pair is decided, was judged by this person before, is in somebody else's
            hands, or has changed since.
        InputError: an unknown verdict, a fix that changes nothing, or a text that no answer can have.
    """
    if verdict not in get_args(Verdict):
        raise InputError(f"verdict: expected one of {', '.join(get_args(Verdict))}, got {verdict!r}")
    if len(note) > MAX_NOTE_LENGTH:
        raise InputError(f"note: expected at most {MAX_NOTE_LENGTH} characters, got {len(note)}")
    for name, text in (("question", question), ("answer", answer), ("note", note)):
        _check_characters(name, text or "")
    with work.transaction():
        pair = work.pair(pair_id)
        earlier = work.reviews(pair_id)
        _check_open(work, pair, reviewer, earlier, tries)
        question, answer = _changes(work, pair, verdict, question, answer)
        stage = _stage(pair, earlier)
        review = work.record_review(
            pair_id, reviewer, stage, verdict, question=question, answer=answer, note=note.strip()
        )
        _move(work, pair, [*earlier, review], policy)
        return work.pair(pair_id)


def outcome(reviews: Sequence[Review]) -> Review | None:
    """The review that more than half of the given ones agree with (a fix: on the same text); None if none."""
    votes = Counter((review.verdict, review.question, review.answer) for review in reviews)
    choice, count = votes.most_common(1)[0]
    if 2 * count <= len(reviews):
        return None
    return next(r for r in reviews if (r.verdict, r.question, r.answer) == choice)


def undo(work: Manifest, reviewer: str, policy: Policy) -> Pair:
    """Take back a person's latest verdict and hand the pair to them again.

    Raises:
        ReviewConflictError: there is none, or somebody else went on from it.
    """
    with work.transaction():
        rows = work.query("SELECT pair_id FROM reviews WHERE reviewer = ? ORDER BY id DESC LIMIT 1", (reviewer,))
        if not rows:
            raise ReviewConflictError("undo: expected a verdict of yours, got none yet")
        number = rows[0][0]
        if work.lease_holder(number) or work.reviews(number)[-1].reviewer != reviewer:
            raise ReviewConflictError(f"undo: expected pair {number} as you left it, got one others went on with")
        work.withdraw_review(number, reviewer)
        return work.lease_pair(number, reviewer, seconds=policy.lease_seconds)


def renew(work: Manifest, pair_id: int, reviewer: str, policy: Policy) -> None:
    """Prolong a person's lease.

    Raises:
        ReviewConflictError: it ended and somebody else has the pair, or the pair is decided.
    """
    with work.transaction():
        _check_open(work, work.pair(pair_id), reviewer, work.reviews(pair_id), None)
        work.lease_pair(pair_id, reviewer, seconds=policy.lease_seconds)


def remaining(work: Manifest, reviewer: str, policy: Policy) -> int:
    """Number of pairs this person could still judge."""
    marks = ", ".join("?" * len(policy.states))
    sql = (
        f"SELECT count(*) FROM pairs WHERE state IN ({marks}) AND NOT EXISTS "
        "(SELECT 1 FROM reviews WHERE reviews.pair_id = pairs.id AND reviews.reviewer = ?)"
    )
    return int(work.query(sql, (*policy.states, reviewer))[0][0])


def _check_open(work: Manifest, pair: Pair, reviewer: str, earlier: Iterable[Review], tries: int | None) -> None:
    if pair.state not in Policy(include_failed=True).states:
        raise ReviewConflictError(f"pair {pair.id}: expected one that is open for review, got one that is {pair.state}")
    if any(review.reviewer == reviewer for review in earlier):
        raise ReviewConflictError(f"pair {pair.id}: expected one verdict by {reviewer}, got another")
    holder = work.lease_holder(pair.id)
    if holder not in (None, reviewer):
        raise ReviewConflictError(f"pair {pair.id}: expected it free or in your hands, got it in {holder}'s")
    if tries not in (None, pair.tries):
        raise ReviewConflictError(f"pair {pair.id}: expected the text you saw, got one generated anew since")


def _check_characters(name: str, text: str) -> None:
    """Control characters and halves of characters neither print nor can all files hold them."""
    bad = next((c for c in text if unicodedata.category(c) in ("Cc", "Cs") and not c.isspace()), None)
    if bad is not None:
        raise InputError(f"{name}: expected characters that print, got U+{ord(bad):04X}")


def _changes(
    work: Manifest, pair: Pair, verdict: Verdict, question: str | None, answer: str | None
) -> tuple[str | None, str | None]:
    """What a fix changes, None where nothing; two None for other verdicts."""
    if verdict != "fix":
        return None, None
    new_question = pair.question if question is None else check_question(question)
    new_answer = pair.answer if answer is None else " ".join(answer.split())
    if len(new_answer) > MAX_ANSWER_LENGTH:
        raise InputError(f"answer: expected at most {MAX_ANSWER_LENGTH} characters, got {len(new_answer)}")
    records = {record["id"]: record for record in work.object_records(pair.image_id)}
    for number, _ in parse_answer(new_answer):
        if number not in records:
            raise InputError(f"answer: expected objects of this picture, got {{seg:{number}}}")
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


def _move(work: Manifest, pair: Pair, reviews: Sequence[Review], policy: Policy) -> None:
    """The pair's next state, after the last of its reviews was added."""
    last = reviews[-1]
    if last.stage == "tiebreak":
        return _decide(work, pair, last, last.reviewer, f"{last.reviewer} decided between {len(reviews) - 1}")
    if pair.state != "reviewed" and policy.reviewers > 1:
        work.set_state(pair.id, "reviewed", last.reviewer, reason=pair.reason)
    if len(reviews) < policy.reviewers:
        return None
    if policy.reviewers > 1:
        work.set_state(pair.id, "cross_checked", last.reviewer, reason="waits for a decision")
    chosen = outcome(reviews)
    if chosen is not None:
        agreed = sum(review.verdict == chosen.verdict for review in reviews)
        _decide(work, pair, chosen, last.reviewer, f"{agreed} of {len(reviews)} agreed")
    return None


def _decide(work: Manifest, pair: Pair, chosen: Review, who: str, reason: str) -> None:
    texts = {"question": chosen.question, "answer": chosen.answer}
    work.set_state(pair.id, FINAL[chosen.verdict], who, reason=reason, **texts)
