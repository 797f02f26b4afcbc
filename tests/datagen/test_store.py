"""The work folder stores pairs and reviews once, and reserves each pair for one person at a time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from amodal.datagen.store.records import TRANSITIONS, Draft
from amodal.datagen.store.work_folder import WorkFolder, create_work, open_work
from amodal.errors import InputError
from tests.datagen.toy_work import execute_sql

DRAFTS = [Draft(f"What is thing {i}?", f"It is <p>thing</p> {{seg:{i}}}.", ((1, 2),)) for i in range(1, 4)]


@pytest.fixture
def work(tmp_path: Path) -> WorkFolder:
    work = create_work(tmp_path / "work")
    work.add_image(5, "a.png", (8, 8), "train", [])
    work.add_image(6, "b.png", (8, 8), "test", [])
    work.pairs.add_drafts(5, DRAFTS, [1, 2, 3], "writer")
    return work


def test_pairs_survive_closing(work: WorkFolder) -> None:
    work.set_settings({"seed": 3, "filters": {"min": 0.1}})
    work.close()
    with open_work(work.folder) as again:
        assert [pair.slot for pair in again.pairs.find()] == [1, 2, 3]
        assert again.pairs.get(1).claims == ((1, 2),)
        assert again.settings() == {"seed": 3, "filters": {"min": 0.1}}
        assert again.pairs.counts()["generated"] == 3
        assert [pair.id for pair in again.pairs.find(["generated"], image_id=5)] == [1, 2, 3]
        assert [pair.id for pair in again.pairs.find(image_id=6)] == []


def test_another_try_fills_the_slot_of_a_failed_pair(work: WorkFolder) -> None:
    work.pairs.set_state(2, "failed", "check", reason="length: too short")
    work.pairs.add_drafts(5, [Draft("Another?", "Yes {seg:9}.")], [2], "writer")
    pair = work.pairs.get(2)
    assert (pair.question, pair.state, pair.tries, pair.reason, pair.claims) == ("Another?", "generated", 2, None, ())
    entries = [(entry.state, entry.who, entry.question) for entry in work.pairs.history(2)]
    assert entries == [
        ("generated", "writer", "What is thing 2?"),
        ("failed", "check", "What is thing 2?"),
        ("generated", "writer", "Another?"),
    ]
    with pytest.raises(InputError, match="expected a state after generated"):
        work.pairs.add_drafts(5, [Draft("q", "a")], [1], "writer")
    assert work.pairs.get(1).question == "What is thing 1?"
    work.pairs.set_state(3, "failed", "check")
    work.pairs.add_drafts(5, [Draft("", "")], [3], "writer")
    assert (work.pairs.get(3).question, work.pairs.get(3).answer) == ("", ""), "an empty text replaces the old one"


def test_states_follow_the_transitions(work: WorkFolder) -> None:
    with pytest.raises(
        InputError, match=r"expected a state after generated \(checked, failed, unclear\), got 'accepted'"
    ):
        work.pairs.set_state(1, "accepted", "ada")
    for state in ("checked", "reviewed", "cross_checked", "accepted"):
        work.pairs.set_state(1, state, "ada")
    with pytest.raises(InputError, match="none, it is final"):
        work.pairs.set_state(1, "reviewed", "ada")
    assert all(after <= TRANSITIONS.keys() for after in TRANSITIONS.values())


def test_a_failed_transaction_changes_nothing(work: WorkFolder) -> None:
    def failing_change() -> None:
        with work.atomic():
            work.pairs.set_state(1, "checked", "check")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing_change()
    assert work.pairs.get(1).state == "generated"
    assert len(work.pairs.history(1)) == 1


def test_reviews_are_validated_and_stored(work: WorkFolder) -> None:
    review = work.reviews.add(1, "ada", "review", "fix", question="Better?", note="clearer")
    assert work.reviews.of_pair(1) == [review]
    assert work.reviews.all() == [review]
    for change, message in (
        ({"stage": "glance"}, "stage: expected one of review, cross-check, tiebreak, got 'glance'"),
        ({"verdict": "maybe"}, "verdict: expected one of accept, fix, reject, got 'maybe'"),
        ({"reviewer": " "}, "reviewer: expected a name"),
        ({}, "expected one review by 'ada', got another"),
        ({"pair_id": 99}, "expected one of the work folder, got id 99"),
    ):
        values = {"pair_id": 1, "reviewer": "ada", "stage": "review", "verdict": "fix", **change}
        with pytest.raises(InputError, match=message):
            work.reviews.add(**values)
    assert len(work.reviews.all()) == 1


def test_leases(work: WorkFolder) -> None:
    for number in (1, 2, 3):
        work.pairs.set_state(number, "checked", "check")
    first = work.reviews.lease_next("ada")
    assert first is not None and first.id == 1
    again = work.reviews.lease_next("ada")
    assert again is not None and again.id == 1, "the pair that a person holds comes again"
    second = work.reviews.lease_next("bob")
    assert second is not None and second.id == 2
    work.reviews.add(1, "ada", "review", "accept")
    work.pairs.set_state(1, "reviewed", "ada")
    third = work.reviews.lease_next("ada", ("reviewed", "checked"))
    assert third is not None and third.id == 3, "neither the pair that ada reviewed nor the one that bob holds"
    fourth = work.reviews.lease_next("cyd", ("reviewed", "checked"), seconds=-1)
    assert fourth is not None and fourth.id == 1
    work.reviews.release(2, "bob")
    fifth = work.reviews.lease_next("bob", ("reviewed",))
    assert fifth is not None and fifth.id == 1, "an expired lease is free"
    assert work.reviews.lease_next("dee", ("accepted",)) is None


def test_two_people_never_get_the_same_pair(work: WorkFolder) -> None:
    for number in (1, 2, 3):
        work.pairs.set_state(number, "checked", "check")
    got: list[int] = []
    start = threading.Barrier(3)

    def person(name: str) -> None:
        with open_work(work.folder) as own:
            start.wait()
            pair = own.reviews.lease_next(name)
            assert pair is not None
            got.append(pair.id)

    threads = [threading.Thread(target=person, args=(name,)) for name in ("ada", "bob", "cyd")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [1, 2, 3]


def test_invalid_work_folders(tmp_path: Path, work: WorkFolder) -> None:
    with pytest.raises(InputError, match="expected a folder made by"):
        open_work(tmp_path / "missing")
    with pytest.raises(InputError, match="which is not empty"):
        create_work(work.folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "state.db").write_text("no database at all" * 100)
    with pytest.raises(InputError, match="expected SQLite, got another file"):
        open_work(tmp_path / "other")
    execute_sql(work, "PRAGMA user_version = 99")
    work.close()
    with pytest.raises(InputError, match="expected version 1, got 99"):
        open_work(work.folder)


def test_images(work: WorkFolder) -> None:
    work.set_image_state(6, "again", "two pairs failed")
    assert [image.id for image in work.images("again")] == [6]
    assert work.image(6).reason == "two pairs failed"
    assert work.image_path(work.image(5)) == work.folder / "images" / "a.png"
    with pytest.raises(InputError, match="got id 7"):
        work.image(7)
