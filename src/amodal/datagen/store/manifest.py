"""The work folder: one dataset in the making, and everything known about it in one SQLite file.

    WORK/state.db           images, objects, pairs, requests, reviews, leases, history
    WORK/annotations.json   the selected annotations in canonical form, for other programs
    WORK/images/            the selected pictures

Every change is one transaction, so that a process may be killed at any moment. Several processes
may have a folder open at once (a generator, review pages); writers wait for each other.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, get_args

from amodal.data.samples import ImageSample, ObjectSample
from amodal.datagen.store.records import (
    TRANSITIONS,
    Draft,
    Event,
    ImageState,
    Pair,
    PairState,
    Review,
    Stage,
    Verdict,
    WorkImage,
)
from amodal.datagen.store.schema import SCHEMA, VERSION
from amodal.errors import InputError
from amodal.io.files import empty_folder
from amodal.ops.rle import rle_box_xyxy

STATE_FILE = "state.db"
WAIT_SECONDS = 60.0  # for another process's write to end
WITHDRAWN = "review taken back"  # reason in the history
_PAIR = "id, image_id, slot, question, answer, claims, state, tries, reason"
_IMAGE = "id, file_name, height, width, split, state, tries, reason"


class Manifest:
    """An open work folder. May be shared by threads; use it as a context manager or `close` it.

    Attributes:
        folder: the work folder.
    """

    def __init__(self, folder: Path, connection: sqlite3.Connection) -> None:
        """Use `open_work` or `create_work`."""
        self.folder = folder
        self._connection = connection
        self._lock = threading.RLock()

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the folder can be opened again."""
        self._connection.close()

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """All or nothing; waits for other writers. Transactions within one are part of it.

        Args:
            durable: also survive a power cut, which takes the disk some milliseconds. All survive
                the death of the process.
        """
        with self._lock:
            if self._connection.in_transaction:
                yield self._connection
                return
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a reading statement."""
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    # settings, categories, images ---------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """What the folder was made with, by name."""
        return {name: json.loads(value) for name, value in self.query("SELECT name, value FROM settings")}

    def set_settings(self, settings: dict[str, Any]) -> None:
        """Add or replace settings; values are kept as JSON."""
        with self.transaction() as connection:
            rows = [(name, json.dumps(value)) for name, value in settings.items()]
            connection.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", rows)

    def categories(self) -> dict[int, str]:
        """Category names by id."""
        return dict(self.query("SELECT id, name FROM categories ORDER BY id"))

    def images(self, *states: ImageState) -> Iterator[WorkImage]:
        """Images by id, read a page at a time; those in one of `states` if any are given."""
        yield from self._pages(WorkImage, _IMAGE, "images", {"state": states or None})

    def image(self, image_id: int) -> WorkImage:
        """One image.

        Raises:
            InputError: there is none of this id.
        """
        rows = self.query(f"SELECT {_IMAGE} FROM images WHERE id = ?", (image_id,))
        if not rows:
            raise InputError(f"image: expected one of the work folder, got id {image_id}")
        return WorkImage(*rows[0])

    def image_path(self, image: WorkImage) -> Path:
        """File of the picture."""
        return self.folder / "images" / image.file_name

    def object_records(self, image_id: int) -> list[dict[str, Any]]:
        """Canonical annotations of an image, by id."""
        rows = self.query("SELECT record FROM objects WHERE image_id = ? ORDER BY id", (image_id,))
        return [json.loads(record) for (record,) in rows]

    def sample(self, image: WorkImage) -> ImageSample:
        """An image with its objects, as the readers give it."""
        objects = tuple(_object(record) for record in self.object_records(image.id))
        return ImageSample(image.id, self.image_path(image), image.height, image.width, objects)

    def set_image_state(self, image_id: int, state: ImageState, reason: str | None = None) -> None:
        """Move an image to a state."""
        with self.transaction() as connection:
            connection.execute("UPDATE images SET state = ?, reason = ? WHERE id = ?", (state, reason, image_id))

    # pairs --------------------------------------------------------------------------------------

    def pairs(
        self, states: Sequence[PairState] | None = None, image_id: int | None = None, split: str | None = None
    ) -> Iterator[Pair]:
        """Pairs by id, read a page at a time.

        Args:
            states: only pairs in one of these.
            image_id: only pairs of this image.
            split: only pairs of images on this side.
        """
        wanted = {"state": states, "image_id": image_id}
        extra = None if split is None else ("image_id IN (SELECT id FROM images WHERE split = ?)", split)
        yield from map(_pair, self._pages(None, _PAIR, "pairs", wanted, extra))

    def pair(self, pair_id: int) -> Pair:
        """One pair.

        Raises:
            InputError: there is none of this id.
        """
        rows = self.query(f"SELECT {_PAIR} FROM pairs WHERE id = ?", (pair_id,))
        if not rows:
            raise InputError(f"pair: expected one of the work folder, got id {pair_id}")
        return _pair(rows[0])

    def pair_counts(self) -> dict[str, int]:
        """Number of pairs in each state, states without any included."""
        found: dict[str, int] = dict(self.query("SELECT state, count(*) FROM pairs GROUP BY state"))
        return {state: found.get(state, 0) for state in get_args(PairState)}

    def add_drafts(self, image_id: int, drafts: Sequence[Draft], slots: Sequence[int], who: str) -> None:
        """Put drafts into slots of an image, one each; slots that hold a failed pair get a new try.

        Raises:
            InputError: a slot holds a pair that has not failed.
        """
        with self.transaction() as connection:
            for draft, slot in zip(drafts, slots, strict=False):
                claims = json.dumps(draft.claims)
                place = (image_id, slot)
                held = connection.execute("SELECT id FROM pairs WHERE image_id = ? AND slot = ?", place).fetchone()
                if held is None:
                    connection.execute(
                        "INSERT INTO pairs (image_id, slot, question, answer, claims, state, tries) "
                        "VALUES (?, ?, ?, ?, ?, 'generated', 1)",
                        (*place, draft.question, draft.answer, claims),
                    )
                    (number,) = connection.execute("SELECT last_insert_rowid()").fetchone()
                    self._note(number, who)
                    continue
                self.set_state(held[0], "generated", who, question=draft.question, answer=draft.answer)
                connection.execute("UPDATE pairs SET claims = ?, tries = tries + 1 WHERE id = ?", (claims, held[0]))

    def set_state(
        self,
        pair_id: int,
        state: PairState,
        who: str,
        *,
        reason: str | None = None,
        question: str | None = None,
        answer: str | None = None,
    ) -> None:
        """Move a pair to a state, with another text if given, and write it into the history.

        Raises:
            InputError: no such pair, or its state does not lead there.
        """
        with self.transaction() as connection:
            pair = self.pair(pair_id)
            if state not in TRANSITIONS[pair.state]:
                expected = ", ".join(sorted(TRANSITIONS[pair.state])) or "none, it is final"
                raise InputError(f"pair {pair_id}: expected a state after {pair.state} ({expected}), got {state!r}")
            texts = (pair.question if question is None else question, pair.answer if answer is None else answer)
            connection.execute(
                "UPDATE pairs SET state = ?, reason = ?, question = ?, answer = ? WHERE id = ?",
                (state, reason, *texts, pair_id),
            )
            self._note(pair_id, who)

    def history(self, pair_id: int) -> list[Event]:
        """What happened to a pair, oldest first."""
        columns = "pair_id, state, who, time, reason, question, answer"
        rows = self.query(f"SELECT {columns} FROM history WHERE pair_id = ? ORDER BY id", (pair_id,))
        return [Event(*row) for row in rows]

    # reviews ------------------------------------------------------------------------------------

    def record_review(
        self,
        pair_id: int,
        reviewer: str,
        stage: Stage,
        verdict: Verdict,
        *,
        question: str | None = None,
        answer: str | None = None,
        note: str = "",
    ) -> Review:
        """Keep what a person said; ends the person's lease. The pair's state is left alone.

        Raises:
            InputError: unknown pair, stage or verdict, no name, or this person's second review of the pair.
        """
        for name, value, allowed in (("stage", stage, get_args(Stage)), ("verdict", verdict, get_args(Verdict))):
            if value not in allowed:
                raise InputError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")
        if not reviewer.strip():
            raise InputError("reviewer: expected a name, got an empty one")
        review = Review(pair_id, reviewer, stage, verdict, question, answer, note, now())
        with self.transaction() as connection:
            self.pair(pair_id)
            try:
                connection.execute(
                    "INSERT INTO reviews (pair_id, reviewer, stage, verdict, question, answer, note, time) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    astuple(review),
                )
            except sqlite3.IntegrityError as error:
                raise InputError(f"pair {pair_id}: expected one review by {reviewer!r}, got another") from error
            self.release(pair_id, reviewer)
        return review

    def reviews(self, pair_id: int | None = None) -> list[Review]:
        """Reviews of one pair, or of all, oldest first."""
        where = "" if pair_id is None else "WHERE pair_id = ?"
        columns = "pair_id, reviewer, stage, verdict, question, answer, note, time"
        rows = self.query(f"SELECT {columns} FROM reviews {where} ORDER BY id", () if pair_id is None else (pair_id,))
        return [Review(*row) for row in rows]

    def lease_next(
        self,
        reviewer: str,
        states: Sequence[PairState] = ("checked",),
        *,
        seconds: float = 900.0,
        skip: Sequence[int] = (),
    ) -> Pair | None:
        """Reserve a pair for a person, so that nobody else gets it until the lease ends.

        The pair the person already holds comes first; then the first one in `states`, in their
        order, that nobody holds and the person has not reviewed.

        Args:
            reviewer: name of the person.
            states: what may be handed out.
            seconds: how long the lease lasts; asking again renews it.
            skip: pairs the person put aside; they come last.

        Returns:
            The pair, or None if nothing is left for this person.
        """
        marks, aside = ", ".join("?" * len(states)), ", ".join("?" * len(skip))
        order = " ".join(f"WHEN ? THEN {position}" for position in range(len(states)))
        with self.transaction() as connection:
            connection.execute("DELETE FROM leases WHERE until <= ?", (time.time(),))
            row = connection.execute(
                f"SELECT pairs.id FROM pairs LEFT JOIN leases ON leases.pair_id = pairs.id "
                f"WHERE state IN ({marks}) AND (leases.reviewer IS NULL OR leases.reviewer = ?) "
                f"AND NOT EXISTS (SELECT 1 FROM reviews WHERE reviews.pair_id = pairs.id AND reviews.reviewer = ?) "
                f"ORDER BY pairs.id IN ({aside}), leases.reviewer IS NULL, CASE state {order} END, pairs.id LIMIT 1",
                (*states, reviewer, reviewer, *skip, *states),
            ).fetchone()
            return None if row is None else self.lease_pair(row[0], reviewer, seconds=seconds)

    def lease_pair(self, pair_id: int, reviewer: str, *, seconds: float = 900.0) -> Pair:
        """Reserve this very pair; the person's other lease ends.

        Raises:
            InputError: no such pair, or somebody else holds it.
        """
        with self.transaction() as connection:
            pair, holder = self.pair(pair_id), self.lease_holder(pair_id)
            if holder not in (None, reviewer):
                raise InputError(f"pair {pair_id}: expected one that is free, got one in the hands of {holder!r}")
            connection.execute("DELETE FROM leases WHERE pair_id = ? OR reviewer = ?", (pair_id, reviewer))
            connection.execute("INSERT INTO leases VALUES (?, ?, ?)", (pair_id, reviewer, time.time() + seconds))
            return pair

    def lease_holder(self, pair_id: int) -> str | None:
        """Who has the pair now, if anybody."""
        rows = self.query("SELECT reviewer FROM leases WHERE pair_id = ? AND until > ?", (pair_id, time.time()))
        return rows[0][0] if rows else None

    def withdraw_review(self, pair_id: int, reviewer: str) -> Pair:
        """Take back a person's review, and the pair's state and text to what they were before it.

        Raises:
            InputError: there is no such review, or somebody else moved the pair since.
        """
        with self.transaction() as connection:
            if not any(review.reviewer == reviewer for review in self.reviews(pair_id)):
                raise InputError(f"pair {pair_id}: expected a review by {reviewer!r}, got none")
            if self.history(pair_id)[-1].who != reviewer:
                raise InputError(f"pair {pair_id}: expected it as {reviewer!r} left it, got one moved on since")
            before = next(event for event in reversed(self.history(pair_id)) if event.who != reviewer)
            connection.execute("DELETE FROM reviews WHERE pair_id = ? AND reviewer = ?", (pair_id, reviewer))
            connection.execute(
                "UPDATE pairs SET state = ?, reason = ?, question = ?, answer = ? WHERE id = ?",
                (before.state, WITHDRAWN, before.question, before.answer, pair_id),
            )
            self._note(pair_id, reviewer)
            connection.execute("UPDATE pairs SET reason = ? WHERE id = ?", (before.reason, pair_id))
            return self.pair(pair_id)

    def release(self, pair_id: int, reviewer: str) -> None:
        """End a person's lease of a pair, if there is one."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM leases WHERE pair_id = ? AND reviewer = ?", (pair_id, reviewer))

    # ---------------------------------------------------------------------------------------------

    def _note(self, pair_id: int, who: str) -> None:
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO history (pair_id, state, who, time, reason, question, answer) "
                "SELECT id, state, ?, ?, reason, question, answer FROM pairs WHERE id = ?",
                (who, now(), pair_id),
            )

    def _pages(
        self, make: Any, columns: str, table: str, wanted: dict[str, Any], extra: tuple[str, Any] | None = None
    ) -> Iterator[Any]:
        """Rows by id, in pages, so that a long loop neither holds the file nor fills the memory."""
        conditions, values = ["id > ?"], list[Any]()
        for name, value in wanted.items():
            if value is not None:
                several = [value] if isinstance(value, (str, int)) else list(value)
                conditions.append(f"{name} IN ({', '.join('?' * len(several))})")
                values += several
        if extra is not None:
            conditions.append(extra[0])
            values.append(extra[1])
        sql = f"SELECT {columns} FROM {table} WHERE {' AND '.join(conditions)} ORDER BY id LIMIT 200"
        last = -1
        while rows := self.query(sql, (last, *values)):
            yield from rows if make is None else (make(*row) for row in rows)
            last = rows[-1][0]


def now() -> str:
    """The time, ISO 8601 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def open_work(folder: str | Path) -> Manifest:
    """Open an existing work folder.

    Raises:
        InputError: it is none, or one of another version.
    """
    folder = Path(folder)
    path = folder / STATE_FILE
    if not path.is_file():
        raise InputError(f"work: expected a folder made by `amodal reasonseg generate`, got {str(folder)!r}")
    connection = _connect(path)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError as error:
        connection.close()
        raise InputError(f"work {path}: expected SQLite, got another file ({error})") from error
    if version != VERSION:
        connection.close()
        raise InputError(f"work {path}: expected version {VERSION}, got {version}")
    return Manifest(folder, connection)


def create_work(folder: str | Path) -> Manifest:
    """Make an empty work folder.

    Raises:
        InputError: the folder exists and holds something.
    """
    folder = empty_folder(Path(folder), "work")
    folder.mkdir(parents=True, exist_ok=True)
    connection = _connect(folder / STATE_FILE)
    connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
    return Manifest(folder, connection)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.DatabaseError as error:
        connection.close()
        raise InputError(f"work {path}: expected SQLite, got another file ({error})") from error
    return connection


def _pair(row: tuple[Any, ...]) -> Pair:
    number, image_id, slot, question, answer, claims, state, tries, reason = row
    pairs = tuple((int(front), int(behind)) for front, behind in json.loads(claims))
    return Pair(number, image_id, slot, question, answer, pairs, state, tries, reason)


def _object(record: dict[str, Any]) -> ObjectSample:
    return ObjectSample(
        id=record["id"],
        category_id=record["category_id"],
        visible_rle=record["visible_mask"],
        amodal_rle=record["segmentation"],
        visible_box_xyxy=rle_box_xyxy(record["visible_mask"]),
        amodal_box_xyxy=rle_box_xyxy(record["segmentation"]),
        occluders=tuple(record["occluders"]),
        attributes=record["attributes"],
    )
