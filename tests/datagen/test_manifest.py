"""The work folder keeps what it is told, once, and hands each pair to one person at a time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from amodal.datagen.store.manifest import Manifest, create_work, open_work
from amodal.datagen.store.records import TRANSITIONS, Draft
from amodal.errors import InputError

DRAFTS = [Draft(f"What is thing {i}?", f"It is <p>thing</p> {{seg:{i}}}.", ((1, 2),)) for i in range(1, 4)]


@pytest.fixture
def work(tmp_path: Path) -> Manifest:
    manifest = create_work(tmp_path / "work")
    with manifest.transaction() as connection:
        connection.executemany(
            "INSERT INTO images (id, file_name, height, width, split) VALUES (?, ?, 8, 8, ?)",
            [(5, "a.png", "train"), (6, "b.png", "test")],
        )
    manifest.add_drafts(5, DRAFTS, [1, 2, 3], "writer")
    return manifest


def test_pairs_survive_closing(work: Manifest) -> None:
    work.set_settings({"seed": 3, "filters": {"min": 0.1}})
    work.close()
    with open_work(work.folder) as again:
        assert [pair.slot for pair in again.pairs()] == [1, 2, 3]
        assert again.pair(1).claims == ((1, 2),)
        assert again.settings() == {"seed": 3, "filters": {"min": 0.1}}
        assert again.pair_counts()["generated"] == 3
        assert [pair.id for pair in again.pairs(image_id=6)] == []
        assert [pair.id for pair in again.pairs(["generated"], split="train")] == [1, 2, 3]
        assert [pair.id for pair in again.pairs(split="test")] == []


def test_another_try_fills_the_slot_of_a_failed_pair(work: Manifest) -> None:
    work.set_state(2, "failed", "check", reason="length: too short")
    work.add_drafts(5, [Draft("Another?", "Yes {seg:9}.")], [2], "writer")
    pair = work.pair(2)
    assert (pair.question, pair.state, pair.tries, pair.reason, pair.claims) == ("Another?", "generated", 2, None, ())
    events = [(event.state, event.who, event.question) for event in work.history(2)]
    assert events == [
        ("generated", "writer", "What is thing 2?"),
        ("failed", "check", "What is thing 2?"),
        ("generated", "writer", "Another?"),
    ]
    with pytest.raises(InputError, match="expected a state after generated"):
        work.add_drafts(5, [Draft("q", "a")], [1], "writer")
    assert work.pair(1).question == "What is thing 1?"
    work.set_state(3, "failed", "check")
    work.add_drafts(5, [Draft("", "")], [3], "writer")
    assert (work.pair(3).question, work.pair(3).answer) == ("", ""), "an empty text is a text too"


def test_states_only_go_where_they_lead(work: Manifest) -> None:
    with pytest.raises(InputError, match=r"expected a state after generated \(checked, failed\), got 'accepted'"):
        work.set_state(1, "accepted", "ada")
    for state in ("checked", "reviewed", "cross_checked", "accepted"):
        work.set_state(1, state, "ada")
    with pytest.raises(InputError, match="none, it is final"):
        work.set_state(1, "reviewed", "ada")
    assert all(after <= TRANSITIONS.keys() for after in TRANSITIONS.values())


def test_a_transaction_that_fails_leaves_nothing(work: Manifest) -> None:
    def half_done() -> None:
        with work.transaction():
            work.set_state(1, "checked", "check")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half_done()
    assert work.pair(1).state == "generated"
    assert len(work.history(1)) == 1


def test_reviews_are_checked_and_kept(work: Manifest) -> None:
    review = work.record_review(1, "ada", "review", "fix", question="Better?", note="clearer")
    assert work.reviews(1) == [review]
    assert work.reviews() == [review]
    for change, message in (
        ({"stage": "glance"}, "stage: expected one of review, cross-check, tiebreak, got 'glance'"),
        ({"verdict": "maybe"}, "verdict: expected one of accept, fix, reject, got 'maybe'"),
        ({"reviewer": " "}, "reviewer: expected a name"),
        ({}, "expected one review by 'ada', got another"),
        ({"pair_id": 99}, "expected one of the work folder, got id 99"),
    ):
        values = {"pair_id": 1, "reviewer": "ada", "stage": "review", "verdict": "fix", **change}
        with pytest.raises(InputError, match=message):
            work.record_review(**values)
    assert len(work.reviews()) == 1


def test_leases(work: Manifest) -> None:
    for number in (1, 2, 3):
        work.set_state(number, "checked", "check")
    first = work.lease_next("ada")
    assert first is not None and first.id == 1
    again = work.lease_next("ada")
    assert again is not None and again.id == 1, "the pair a person holds comes back"
    second = work.lease_next("bob")
    assert second is not None and second.id == 2
    work.record_review(1, "ada", "review", "accept")
    work.set_state(1, "reviewed", "ada")
    third = work.lease_next("ada", ("reviewed", "checked"))
    assert third is not None and third.id == 3, "not the one ada has reviewed, nor the one bob holds"
    fourth = work.lease_next("cyd", ("reviewed", "checked"), seconds=-1)
    assert fourth is not None and fourth.id == 1
    work.release(2, "bob")
    fifth = work.lease_next("bob", ("reviewed",))
    assert fifth is not None and fifth.id == 1, "an expired lease is free"
    assert work.lease_next("dee", ("accepted",)) is None


def test_two_people_never_get_the_same_pair(work: Manifest) -> None:
    for number in (1, 2, 3):
        work.set_state(number, "checked", "check")
    got: list[int] = []
    start = threading.Barrier(3)

    def person(name: str) -> None:
        with open_work(work.folder) as own:
            start.wait()
            pair = own.lease_next(name)
            assert pair is not None
            got.append(pair.id)

    threads = [threading.Thread(target=person, args=(name,)) for name in ("ada", "bob", "cyd")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [1, 2, 3]


def test_folders_that_are_none(tmp_path: Path, work: Manifest) -> None:
    with pytest.raises(InputError, match="expected a folder made by"):
        open_work(tmp_path / "missing")
    with pytest.raises(InputError, match="which holds something"):
        create_work(work.folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "state.db").write_text("no database at all" * 100)
    with pytest.raises(InputError, match="expected SQLite, got another file"):
        open_work(tmp_path / "other")
    work.query("PRAGMA user_version = 99")
    work.close()
    with pytest.raises(InputError, match="expected version 1, got 99"):
        open_work(work.folder)


def test_images(work: Manifest) -> None:
    work.set_image_state(6, "again", "two pairs failed")
    assert [image.id for image in work.images("again")] == [6]
    assert work.image(6).reason == "two pairs failed"
    assert work.image_path(work.image(5)) == work.folder / "images" / "a.png"
    with pytest.raises(InputError, match="got id 7"):
        work.image(7)
