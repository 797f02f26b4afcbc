"""Who gets which pair, and how verdicts become a decision."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from amodal.datagen.review.review import (
    ReviewConflictError,
    ReviewPolicy,
    lease,
    remaining,
    renew,
    reviewer_name,
    submit,
    undo,
    work_policy,
)
from amodal.datagen.rules import MAX_ANSWER_LENGTH
from amodal.datagen.store.records import Draft
from amodal.datagen.store.work_folder import WorkFolder, open_work
from amodal.errors import InputError
from tests.datagen.toy_work import QUESTION, answer, execute_sql, toy_work

TWO = ReviewPolicy(reviewers=2)
BETTER = "Which one lies below?"


@pytest.fixture
def work(tmp_path: Path) -> WorkFolder:
    return toy_work(tmp_path)


def states(work: WorkFolder, pair: int) -> list[tuple[str, str]]:
    return [(entry.state, entry.who) for entry in work.pairs.history(pair)]


def test_agreement_decides(work: WorkFolder) -> None:
    assert submit(work, 1, "ada", "accept", TWO).state == "reviewed"
    assert submit(work, 1, "bob", "accept", TWO).state == "accepted"
    assert states(work, 1) == [
        ("generated", "template"),
        ("checked", "check"),
        ("reviewed", "ada"),
        ("cross_checked", "bob"),
        ("accepted", "bob"),
    ]
    assert [review.stage for review in work.reviews.of_pair(1)] == ["review", "cross-check"]
    submit(work, 2, "ada", "reject", TWO, note=" wrong object ")
    assert submit(work, 2, "bob", "reject", TWO).state == "rejected"
    assert work.reviews.of_pair(2)[0].note == "wrong object"


def test_a_third_person_decides_between_two(work: WorkFolder) -> None:
    submit(work, 1, "ada", "accept", TWO)
    assert submit(work, 1, "bob", "fix", TWO, question=BETTER).state == "cross_checked"
    assert work.pairs.get(1).question == QUESTION, "a proposal does not change the text yet"
    pair = submit(work, 1, "cyd", "fix", TWO, question=BETTER)
    assert (pair.state, pair.question, pair.answer) == ("rewritten", BETTER, answer(1))
    assert [review.stage for review in work.reviews.of_pair(1)] == ["review", "cross-check", "tiebreak"]
    assert states(work, 1)[-2:] == [("cross_checked", "bob"), ("rewritten", "cyd")]
    for verdict, state in (("accept", "accepted"), ("reject", "rejected")):
        number = 2 if verdict == "accept" else 3
        submit(work, number, "ada", "accept", TWO)
        submit(work, number, "bob", "reject", TWO)
        assert submit(work, number, "cyd", verdict, TWO).state == state


def test_two_fixes_agree_only_on_the_same_text(work: WorkFolder) -> None:
    submit(work, 1, "ada", "fix", TWO, question=BETTER)
    assert submit(work, 1, "bob", "fix", TWO, question=f" {BETTER} ").state == "rewritten"
    assert work.pairs.get(1).question == BETTER
    submit(work, 2, "ada", "fix", TWO, question=BETTER)
    assert submit(work, 2, "bob", "fix", TWO, question="Which one is lower?").state == "cross_checked"


def test_one_reviewer_or_two_of_three_decide(work: WorkFolder) -> None:
    assert submit(work, 1, "ada", "fix", ReviewPolicy(reviewers=1), question=BETTER).state == "rewritten"
    three = ReviewPolicy(reviewers=3)
    submit(work, 2, "ada", "accept", three)
    assert submit(work, 2, "bob", "reject", three).state == "reviewed"
    assert submit(work, 2, "cyd", "accept", three).state == "accepted"
    assert work.pairs.history(2)[-1].reason == "2 of 3 agreed"
    submit(work, 3, "ada", "accept", three)
    submit(work, 3, "bob", "reject", three)
    assert submit(work, 3, "cyd", "fix", three, question=BETTER).state == "cross_checked"
    assert submit(work, 3, "dee", "reject", three).state == "rejected"


def test_pairs_that_wait_for_a_decision_come_first(work: WorkFolder) -> None:
    submit(work, 3, "ada", "accept", TWO)
    submit(work, 2, "ada", "accept", TWO)
    submit(work, 2, "bob", "reject", TWO)
    seen = []
    while pair := lease(work, "cyd", TWO):
        seen.append(pair.id)
        submit(work, pair.id, "cyd", "accept", TWO)
    assert seen == [2, 3, 1]
    assert remaining(work, "cyd", TWO) == 0
    assert remaining(work, "bob", TWO) == 1
    assert lease(work, "ada", TWO).id == 1


def test_a_pair_put_aside_comes_last(work: WorkFolder) -> None:
    assert [lease(work, "ada", TWO, skip=skip).id for skip in ([], [1], [1, 2], [1, 2, 3])] == [1, 2, 3, 3]
    assert lease(work, "bob", TWO).id == 1, "the pair that ada put aside is free"


def test_simultaneous_reviewers_never_hold_the_same_pair(tmp_path: Path) -> None:
    """Six people in separate threads, each with its own connection: each pair gets exactly two verdicts.

    One of them is slow. Others who get nothing while pairs are held by someone else ask again.
    """
    toy_work(tmp_path, pairs=20).close()
    held: dict[int, str] = {}
    clashes: list[int] = []
    errors: list[Exception] = []
    guard = threading.Lock()

    def person(name: str) -> None:
        try:
            reviews_all(name)
        except Exception as error:
            errors.append(error)

    def reviews_all(name: str) -> None:
        with open_work(tmp_path / "work") as work:
            while remaining(work, name, TWO):
                pair = lease(work, name, TWO)
                if pair is None:
                    time.sleep(0.001)
                    continue
                with guard:
                    if pair.id in held:
                        clashes.append(pair.id)
                    held[pair.id] = name
                time.sleep(0.1 if name == "ada" else 0.001)  # time to look at the pair
                with guard:
                    del held[pair.id]
                submit(work, pair.id, name, "accept", TWO)

    threads = [threading.Thread(target=person, args=(name,)) for name in ("ada", "bob", "cyd", "dee", "eva", "fay")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open_work(tmp_path / "work") as work:
        assert (clashes, errors) == ([], [])
        assert work.pairs.counts()["accepted"] == 20
        for number in range(1, 21):
            reviewers = [review.reviewer for review in work.reviews.of_pair(number)]
            assert len(reviewers) == len(set(reviewers)) == 2


def test_a_held_pair_is_not_free_but_remains(work: WorkFolder) -> None:
    assert lease(work, "ada", TWO, skip=[2, 3]).id == 1
    for number in (2, 3):
        submit(work, number, "bob", "accept", TWO)
    assert (lease(work, "bob", TWO), remaining(work, "bob", TWO)) == (None, 1)
    submit(work, 1, "ada", "accept", TWO)
    assert lease(work, "bob", TWO).id == 1


def test_a_verdict_about_a_held_pair_is_refused(work: WorkFolder) -> None:
    pair = lease(work, "ada", TWO)
    assert pair is not None
    with pytest.raises(ReviewConflictError, match="free or in your hands, got it in ada's"):
        submit(work, pair.id, "bob", "accept", TWO)
    with pytest.raises(ReviewConflictError, match="got it in ada's"):
        renew(work, pair.id, "bob", TWO)
    renew(work, pair.id, "ada", TWO)
    submit(work, pair.id, "ada", "accept", TWO)
    with pytest.raises(ReviewConflictError, match="expected one verdict by ada, got another"):
        submit(work, pair.id, "ada", "reject", TWO)
    submit(work, pair.id, "bob", "accept", TWO)
    with pytest.raises(ReviewConflictError, match="open for review, got one that is accepted"):
        submit(work, pair.id, "cyd", "accept", TWO)
    assert len(work.reviews.of_pair(pair.id)) == 2


def test_a_verdict_after_the_lease_counts_while_nobody_else_reviewed_the_pair(work: WorkFolder) -> None:
    short = ReviewPolicy(lease_seconds=1e-6)
    assert lease(work, "ada", short).id == lease(work, "bob", short).id == 1
    assert submit(work, 1, "ada", "accept", short).state == "reviewed"


def test_failed_pairs_are_handed_out_only_on_request(work: WorkFolder) -> None:
    work.pairs.set_state(1, "failed", "check", reason="leak: names the square")
    assert lease(work, "ada", TWO).id == 2
    both = ReviewPolicy(include_failed=True)
    work.reviews.release(2, "ada")
    pair = lease(work, "ada", both, skip=[2, 3])
    assert pair is not None and pair.reason == "leak: names the square"
    work.pairs.add_drafts(1, [Draft("Another?", answer(1))], [1], "template")
    work.pairs.set_state(1, "checked", "check")
    with pytest.raises(ReviewConflictError, match="expected the text you saw"):
        submit(work, 1, "ada", "accept", both, tries=pair.tries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdict": "maybe"}, "verdict: expected one of accept, fix, reject, got 'maybe'"),
        ({}, "fix: expected another question or answer, got the same texts"),
        ({"question": QUESTION + " ", "answer": answer(1)}, "got the same texts"),
        ({"question": ""}, "expected a question, got an empty one"),
        ({"question": "a" * 1001}, "question of at most 1000 characters"),
        ({"answer": "It is {seg:3}."}, r"expected objects of this image, got \{seg:3\}"),
        ({"answer": "It is {seg:x}."}, r"expected \{seg:ANNOTATION_ID\}"),
        ({"answer": "a" * (MAX_ANSWER_LENGTH + 1)}, "answer: expected at most 4000 characters, got 4001"),
        ({"question": BETTER, "note": "a" * 1001}, "note: expected at most 1000"),
        ({"pair_id": 99}, "expected one of the work folder"),
    ],
)
def test_refused_verdicts_change_nothing(work: WorkFolder, change: dict[str, object], message: str) -> None:
    values: dict[str, object] = {"pair_id": 1, "verdict": "fix", **change}
    with pytest.raises(InputError, match=message):
        submit(work, reviewer="ada", policy=TWO, **values)
    assert work.reviews.all() == []
    assert work.pairs.get(1).state == "checked"


def test_an_object_without_a_mask_is_refused(work: WorkFolder) -> None:
    empty = '{"size": [64, 64], "counts": "PPP1"}'
    execute_sql(work, "UPDATE objects SET record = json_set(record, '$.segmentation', json(?)) WHERE id = 2", (empty,))
    with pytest.raises(InputError, match=r"got \{seg:2\}, whose amodal mask is empty"):
        submit(work, 1, "ada", "fix", TWO, answer="It is {seg:2}.")


def test_undo(work: WorkFolder) -> None:
    with pytest.raises(ReviewConflictError, match="expected a verdict of yours"):
        undo(work, "ada", TWO)
    submit(work, 1, "ada", "accept", TWO)
    submit(work, 1, "bob", "fix", TWO, question=BETTER)
    submit(work, 2, "bob", "fix", ReviewPolicy(reviewers=1), question=BETTER)
    pair = undo(work, "bob", TWO)
    assert (pair.id, pair.state, pair.question) == (2, "checked", QUESTION)
    assert work.reviews.holder(2) == "bob"
    assert states(work, 2)[-2:] == [("rewritten", "bob"), ("checked", "bob")]
    pair = undo(work, "bob", TWO)
    assert (pair.id, pair.state) == (1, "reviewed")
    assert submit(work, 1, "bob", "accept", TWO).state == "accepted"
    assert undo(work, "bob", TWO).state == "reviewed", "decided pairs too"
    assert [review.reviewer for review in work.reviews.all()] == ["ada"]


def test_undo_is_refused_once_somebody_else_continued(work: WorkFolder) -> None:
    submit(work, 1, "ada", "accept", TWO)
    assert lease(work, "bob", TWO).id == 1
    with pytest.raises(ReviewConflictError, match="others went on with"):
        undo(work, "ada", TWO)
    submit(work, 1, "bob", "reject", TWO)
    with pytest.raises(ReviewConflictError, match="others went on with"):
        undo(work, "ada", TWO)
    assert len(work.reviews.of_pair(1)) == 2


def test_names(work: WorkFolder) -> None:
    assert reviewer_name(work, "  Ada \n Lovelace ") == "Ada Lovelace"
    submit(work, 1, "Ada", "accept", TWO)
    assert reviewer_name(work, "ada") == "Ada"
    for bad in ("", " ", "a" * 61, "a\x00b", "a\u202eb"):
        with pytest.raises(InputError, match="reviewer: expected a name of 1 to 60"):
            reviewer_name(work, bad)
    with pytest.raises(InputError, match="under which a program wrote pairs"):
        reviewer_name(work, "Template")


def test_the_number_of_reviewers_is_stored(work: WorkFolder) -> None:
    assert work_policy(work).reviewers == 2
    assert work_policy(work, 3).reviewers == 3
    assert work_policy(work).reviewers == 3
    submit(work, 1, "ada", "accept", work_policy(work))
    with pytest.raises(InputError, match="reviewers: expected 3, with which the review of this folder began, got 1"):
        work_policy(work, 1)
    with pytest.raises(InputError, match="reviewers: expected 1 or more, got 0"):
        work_policy(work, 0)
    with pytest.raises(InputError, match="lease: expected a time above 0"):
        ReviewPolicy(lease_seconds=0)
