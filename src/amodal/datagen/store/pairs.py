"""The question-answer pairs of a work folder and their history."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from amodal.datagen.store.database import Database, now
from amodal.datagen.store.records import TRANSITIONS, Draft, HistoryEntry, Pair, PairState
from amodal.errors import InputError

REVIEW_WITHDRAWN = "review taken back"
"""Reason in the history after a person has withdrawn a review."""

_COLUMNS = "id, image_id, slot, question, answer, claims, state, tries, reason"


class PairTable:
    """Reads and changes pairs; each change of state is added to the pair's history."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, states: Sequence[PairState] | None = None, image_id: int | None = None) -> Iterator[Pair]:
        """Pairs by id, read one page at a time.

        Args:
            states: only pairs in one of these states.
            image_id: only pairs of this image.
        """
        where: dict[str, Sequence[Any]] = {}
        if states is not None:
            where["state"] = states
        if image_id is not None:
            where["image_id"] = (image_id,)
        yield from map(_pair, self._database.pages("pairs", _COLUMNS, where))

    def get(self, pair_id: int) -> Pair:
        """One pair.

        Raises:
            InputError: no pair has this id.
        """
        rows = self._database.query(f"SELECT {_COLUMNS} FROM pairs WHERE id = ?", (pair_id,))
        if not rows:
            raise InputError(f"pair: expected one of the work folder, got id {pair_id}")
        return _pair(rows[0])

    def counts(self) -> dict[str, int]:
        """Number of pairs in each state, including states without pairs."""
        found = self._database.counts("pairs", "state")
        return {state: found.get(state, 0) for state in get_args(PairState)}

    def exist(self, image_id: int) -> bool:
        """Whether an image has any pair."""
        return bool(self._database.query("SELECT 1 FROM pairs WHERE image_id = ? LIMIT 1", (image_id,)))

    def add_drafts(self, image_id: int, drafts: Sequence[Draft], slots: Sequence[int], who: str) -> None:
        """Put one draft into each slot of an image; a slot that holds a failed pair gets another try.

        Raises:
            InputError: a slot holds a pair that has not failed.
        """
        with self._database.transaction() as connection:
            for draft, slot in zip(drafts, slots, strict=False):
                claims = json.dumps(draft.claims)
                key = (image_id, slot)
                held = connection.execute("SELECT id FROM pairs WHERE image_id = ? AND slot = ?", key).fetchone()
                if held is None:
                    cursor = connection.execute(
                        "INSERT INTO pairs (image_id, slot, question, answer, claims, state, tries) "
                        "VALUES (?, ?, ?, ?, ?, 'generated', 1)",
                        (*key, draft.question, draft.answer, claims),
                    )
                    assert cursor.lastrowid is not None
                    self._add_to_history(cursor.lastrowid, who)
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
        """Move a pair to another state, with new texts if given, and add that to its history.

        Raises:
            InputError: no pair has this id, or its state does not lead to the new one.
        """
        with self._database.transaction():
            pair = self.get(pair_id)
            if state not in TRANSITIONS[pair.state]:
                expected = ", ".join(sorted(TRANSITIONS[pair.state])) or "none, it is final"
                raise InputError(f"pair {pair_id}: expected a state after {pair.state} ({expected}), got {state!r}")
            texts = (pair.question if question is None else question, pair.answer if answer is None else answer)
            self._update(pair_id, state, reason, *texts)
            self._add_to_history(pair_id, who)

    def set_reason(self, pair_id: int, reason: str | None) -> None:
        """Replace the reason of a pair that stays in its state; not part of its history."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE pairs SET reason = ? WHERE id = ?", (reason, pair_id))

    def restore(self, pair_id: int, entry: HistoryEntry, who: str) -> None:
        """Give a pair the state and the texts of an earlier entry of its history, after `who` withdrew a review."""
        with self._database.transaction():
            self._update(pair_id, entry.state, REVIEW_WITHDRAWN, entry.question, entry.answer)
            self._add_to_history(pair_id, who)
            self.set_reason(pair_id, entry.reason)

    def history(self, pair_id: int) -> list[HistoryEntry]:
        """What happened to a pair, oldest entry first."""
        columns = "pair_id, state, who, time, reason, question, answer"
        rows = self._database.query(f"SELECT {columns} FROM history WHERE pair_id = ? ORDER BY id", (pair_id,))
        return [HistoryEntry(*row) for row in rows]

    def writers(self) -> list[str]:
        """Names of the backends that wrote pairs."""
        rows = self._database.query("SELECT DISTINCT who FROM history WHERE state = 'generated' ORDER BY who")
        return [who for (who,) in rows]

    def program_names(self) -> list[str]:
        """Names under which programs, not people, changed pairs."""
        rows = self._database.query(
            "SELECT DISTINCT who FROM history WHERE state IN ('generated', 'checked', 'unclear', 'failed') "
            "AND reason IS NOT ?",
            (REVIEW_WITHDRAWN,),
        )
        return [who for (who,) in rows]

    def _update(self, pair_id: int, state: PairState, reason: str | None, question: str, answer: str) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE pairs SET state = ?, reason = ?, question = ?, answer = ? WHERE id = ?",
                (state, reason, question, answer, pair_id),
            )

    def _add_to_history(self, pair_id: int, who: str) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO history (pair_id, state, who, time, reason, question, answer) "
                "SELECT id, state, ?, ?, reason, question, answer FROM pairs WHERE id = ?",
                (who, now(), pair_id),
            )


def _pair(row: tuple[Any, ...]) -> Pair:
    pair_id, image_id, slot, question, answer, claims, state, tries, reason = row
    parsed = tuple((int(front), int(behind)) for front, behind in json.loads(claims))
    return Pair(pair_id, image_id, slot, question, answer, parsed, state, tries, reason)
