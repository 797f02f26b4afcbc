"""The SQLite file of a work folder: its tables, transactions and paged reading.

Only the modules of this package write SQL.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from amodal.errors import InputError

VERSION = 1
"""Version of the tables, stored as SQLite's `user_version`."""

LOCK_TIMEOUT = 60.0
"""Seconds to wait until another process has finished writing."""

PAGE_ROWS = 200

SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE categories (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE images (
    id INTEGER PRIMARY KEY,
    file_name TEXT NOT NULL UNIQUE,
    height INTEGER NOT NULL,
    width INTEGER NOT NULL,
    split TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'selected',
    tries INTEGER NOT NULL DEFAULT 0,
    reason TEXT
);
CREATE INDEX images_by_state ON images (state, id);
CREATE TABLE objects (
    id INTEGER PRIMARY KEY,
    image_id INTEGER NOT NULL REFERENCES images (id),
    record TEXT NOT NULL
);
CREATE INDEX objects_by_image ON objects (image_id, id);
CREATE TABLE pairs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    image_id INTEGER NOT NULL REFERENCES images (id),
    slot INTEGER NOT NULL,
    question TEXT NOT NULL,
    answer TEXT NOT NULL,
    claims TEXT NOT NULL,
    state TEXT NOT NULL,
    tries INTEGER NOT NULL,
    reason TEXT,
    UNIQUE (image_id, slot)
);
CREATE INDEX pairs_by_state ON pairs (state, id);
CREATE TABLE history (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    pair_id INTEGER NOT NULL REFERENCES pairs (id),
    state TEXT NOT NULL,
    who TEXT NOT NULL,
    time TEXT NOT NULL,
    reason TEXT,
    question TEXT NOT NULL,
    answer TEXT NOT NULL
);
CREATE INDEX history_by_pair ON history (pair_id, id);
CREATE TABLE requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    image_id INTEGER NOT NULL REFERENCES images (id),
    round INTEGER NOT NULL,
    status TEXT NOT NULL,
    detail TEXT,
    response TEXT,
    prompt_tokens INTEGER NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0,
    cost REAL NOT NULL DEFAULT 0,
    sent_at TEXT NOT NULL,
    answered_at TEXT
);
CREATE INDEX requests_by_image ON requests (image_id, id);
CREATE INDEX requests_by_status ON requests (status);
CREATE TABLE reviews (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    pair_id INTEGER NOT NULL REFERENCES pairs (id),
    reviewer TEXT NOT NULL,
    stage TEXT NOT NULL,
    verdict TEXT NOT NULL,
    question TEXT,
    answer TEXT,
    note TEXT NOT NULL,
    time TEXT NOT NULL,
    UNIQUE (pair_id, reviewer)
);
CREATE TABLE leases (
    pair_id INTEGER PRIMARY KEY REFERENCES pairs (id),
    reviewer TEXT NOT NULL,
    until REAL NOT NULL
);
"""


class Database:
    """An open SQLite file, which threads may share."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make an empty one.

        Raises:
            InputError: the file is not an SQLite file.
        """
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT, isolation_level=None, check_same_thread=False)
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA foreign_keys = ON")
        except sqlite3.DatabaseError as error:
            self.close()
            raise InputError(f"work {path}: expected SQLite, got another file ({error})") from error

    def close(self) -> None:
        """Close the file, which can be opened again."""
        self._connection.close()

    def create_tables(self) -> None:
        """Create all tables in an empty file."""
        self._connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")

    def version(self) -> int:
        """Version of the tables in the file."""
        ((version,),) = self.query("PRAGMA user_version")
        return int(version)

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """Make all changes inside or none; waits for other writers. A transaction inside another joins it.

        Args:
            durable: also survive a power failure, which costs the disk some milliseconds. Every
                transaction survives the death of the process.
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
        """All rows of a SELECT statement."""
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def counts(self, table: str, column: str) -> dict[str, int]:
        """Number of rows by value of a column."""
        return dict(self.query(f"SELECT {column}, count(*) FROM {table} GROUP BY {column}"))

    def pages(self, table: str, columns: str, where: Mapping[str, Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
        """Rows by id, one page at a time, so that a long loop neither locks the file nor fills the memory.

        Args:
            table: a table with an `id`.
            columns: comma-separated, `id` first.
            where: accepted values by column; a row must meet all conditions.
        """
        conditions = ["id > ?"] + [f"{name} IN ({marks(values)})" for name, values in where.items()]
        accepted = [value for values in where.values() for value in values]
        sql = f"SELECT {columns} FROM {table} WHERE {' AND '.join(conditions)} ORDER BY id LIMIT {PAGE_ROWS}"
        last = -1
        while rows := self.query(sql, (last, *accepted)):
            yield from rows
            last = rows[-1][0]


def marks(values: Sequence[Any]) -> str:
    """One SQL placeholder per value."""
    return ", ".join("?" * len(values))


def now() -> str:
    """The current time, ISO 8601 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
