"""The reviews of a work folder, and the leases that reserve a pair for one person at a time."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import astuple
from typing import get_args

from amodal.datagen.store.database import Database, marks, now
from amodal.datagen.store.pairs import PairTable
from amodal.datagen.store.records import Pair, PairState, Review, Stage, Verdict
from amodal.errors import InputError

_COLUMNS = "pair_id, reviewer, stage, verdict, question, answer, note, time"
_NOT_REVIEWED = "NOT EXISTS (SELECT 1 FROM reviews WHERE reviews.pair_id = pairs.id AND reviews.reviewer = ?)"


class ReviewTable:
    """Reads and changes reviews and leases."""

    def __init__(self, database: Database, pairs: PairTable) -> None:
        self._database, self._pairs = database, pairs

    def of_pair(self, pair_id: int) -> list[Review]:
        """Reviews of one pair, oldest first."""
        rows = self._database.query(f"SELECT {_COLUMNS} FROM reviews WHERE pair_id = ? ORDER BY id", (pair_id,))
        return [Review(*row) for row in rows]

    def all(self) -> list[Review]:
        """All reviews, oldest first."""
        return [Review(*row) for row in self._database.query(f"SELECT {_COLUMNS} FROM reviews ORDER BY id")]

    def exist(self) -> bool:
        """Whether there is any review."""
        return bool(self._database.query("SELECT 1 FROM reviews LIMIT 1"))

    def counts_by_verdict(self) -> dict[str, int]:
        """Number of reviews by verdict."""
        return self._database.counts("reviews", "verdict")

    def counts_by_reviewer(self) -> dict[str, int]:
        """Number of reviews by the name of the person."""
        return self._database.counts("reviews", "reviewer")

    def names(self) -> list[str]:
        """Names of all people who reviewed a pair or hold one."""
        return [
            name for (name,) in self._database.query("SELECT reviewer FROM reviews UNION SELECT reviewer FROM leases")
        ]

    def last_pair_of(self, reviewer: str) -> int | None:
        """Id of the pair that a person reviewed last; None if there is none."""
        sql = "SELECT pair_id FROM reviews WHERE reviewer = ? ORDER BY id DESC LIMIT 1"
        rows = self._database.query(sql, (reviewer,))
        return rows[0][0] if rows else None

    def num_open(self, reviewer: str, states: Sequence[PairState]) -> int:
        """Number of pairs in these states that a person has not reviewed."""
        sql = f"SELECT count(*) FROM pairs WHERE state IN ({marks(states)}) AND {_NOT_REVIEWED}"
        return int(self._database.query(sql, (*states, reviewer))[0][0])

    def add(
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
        """Store one person's review and end the person's lease. The pair's state does not change.

        Raises:
            InputError: unknown pair, stage or verdict, an empty name, or this person's second review of the pair.
        """
        for name, value, allowed in (("stage", stage, get_args(Stage)), ("verdict", verdict, get_args(Verdict))):
            if value not in allowed:
                raise InputError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")
        if not reviewer.strip():
            raise InputError("reviewer: expected a name, got an empty one")
        review = Review(pair_id, reviewer, stage, verdict, question, answer, note, now())
        with self._database.transaction() as connection:
            self._pairs.get(pair_id)
            try:
                sql = f"INSERT INTO reviews ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
                connection.execute(sql, astuple(review))
            except sqlite3.IntegrityError as error:
                raise InputError(f"pair {pair_id}: expected one review by {reviewer!r}, got another") from error
            self.release(pair_id, reviewer)
        return review

    def withdraw(self, pair_id: int, reviewer: str) -> Pair:
        """Delete a person's review and restore the pair's state and texts from before it.

        Raises:
            InputError: there is no such review, or somebody else changed the pair since.
        """
        with self._database.transaction() as connection:
            if not any(review.reviewer == reviewer for review in self.of_pair(pair_id)):
                raise InputError(f"pair {pair_id}: expected a review by {reviewer!r}, got none")
            history = self._pairs.history(pair_id)
            if history[-1].who != reviewer:
                raise InputError(f"pair {pair_id}: expected it as {reviewer!r} left it, got one that changed since")
            before = next(entry for entry in reversed(history) if entry.who != reviewer)
            connection.execute("DELETE FROM reviews WHERE pair_id = ? AND reviewer = ?", (pair_id, reviewer))
            self._pairs.restore(pair_id, before, reviewer)
            return self._pairs.get(pair_id)

    def lease_next(
        self,
        reviewer: str,
        states: Sequence[PairState] = ("checked",),
        *,
        seconds: float = 900.0,
        skip: Sequence[int] = (),
    ) -> Pair | None:
        """Reserve a pair for a person, so that nobody else gets it until the lease ends.

        The pair that the person already holds comes first, then the first pair in `states`, in
        their order, that nobody holds and that the person has not reviewed.

        Args:
            reviewer: name of the person.
            states: states of pairs that may be handed out.
            seconds: duration of the lease; another call renews it.
            skip: pairs that the person has put aside; they come last.

        Returns:
            The pair, or None if nothing is left for this person.
        """
        order = " ".join(f"WHEN ? THEN {position}" for position in range(len(states)))
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM leases WHERE until <= ?", (time.time(),))
            row = connection.execute(
                f"SELECT pairs.id FROM pairs LEFT JOIN leases ON leases.pair_id = pairs.id "
                f"WHERE state IN ({marks(states)}) AND (leases.reviewer IS NULL OR leases.reviewer = ?) "
                f"AND {_NOT_REVIEWED} ORDER BY "
                f"pairs.id IN ({marks(skip)}), leases.reviewer IS NULL, CASE state {order} END, pairs.id LIMIT 1",
                (*states, reviewer, reviewer, *skip, *states),
            ).fetchone()
            return None if row is None else self.lease(row[0], reviewer, seconds=seconds)

    def lease(self, pair_id: int, reviewer: str, *, seconds: float = 900.0) -> Pair:
        """Reserve one pair for a person; the person's lease of another pair ends.

        Raises:
            InputError: no pair has this id, or somebody else holds it.
        """
        with self._database.transaction() as connection:
            pair, holder = self._pairs.get(pair_id), self.holder(pair_id)
            if holder not in (None, reviewer):
                raise InputError(f"pair {pair_id}: expected one that is free, got one in the hands of {holder!r}")
            connection.execute("DELETE FROM leases WHERE pair_id = ? OR reviewer = ?", (pair_id, reviewer))
            connection.execute("INSERT INTO leases VALUES (?, ?, ?)", (pair_id, reviewer, time.time() + seconds))
            return pair

    def holder(self, pair_id: int) -> str | None:
        """Name of the person who holds a pair now; None if nobody does."""
        sql = "SELECT reviewer FROM leases WHERE pair_id = ? AND until > ?"
        rows = self._database.query(sql, (pair_id, time.time()))
        return rows[0][0] if rows else None

    def release(self, pair_id: int, reviewer: str) -> None:
        """End a person's lease of a pair, if there is one."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM leases WHERE pair_id = ? AND reviewer = ?", (pair_id, reviewer))
