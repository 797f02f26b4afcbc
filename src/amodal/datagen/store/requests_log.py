"""Every request of a work folder, from before it is sent until its answer is in its pairs.

A request is written down before it is sent. Its answer and the pairs in it are stored in one
transaction, so that an answer that was received is never asked for again. What was on its way when
the process was killed is marked `lost` by the next run and asked for again under the same key, which
a server that knows `Idempotency-Key` answers without working, or charging, twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from amodal.datagen.backends.base import Answer
from amodal.datagen.store.manifest import Manifest, now
from amodal.errors import InputError

Status = Literal["sent", "answered", "malformed", "error", "lost"]


@dataclass(frozen=True)
class Prices:
    """Money for a million tokens, in any currency."""

    prompt: float = 0.0
    completion: float = 0.0

    def __post_init__(self) -> None:
        """Raises `InputError` for a price below 0."""
        if not (self.prompt >= 0 and self.completion >= 0):
            raise InputError(f"price: expected 0 or more, got {self.prompt:g} and {self.completion:g}")

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Of one request."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass(frozen=True)
class Spent:
    """What all requests of a work folder used up so far."""

    requests: int
    tokens: int
    money: float


def begin_request(manifest: Manifest, image_id: int, round_: int) -> int:
    """Write down a request that is about to be sent; returns its number."""
    with manifest.transaction(durable=False) as connection:  # its end is written for good
        cursor = connection.execute(
            "INSERT INTO requests (image_id, round, status, sent_at) VALUES (?, ?, 'sent', ?)",
            (image_id, round_, now()),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid


def end_request(
    manifest: Manifest,
    request: int,
    status: Status,
    *,
    detail: str | None = None,
    answer: Answer | None = None,
    cost: float = 0.0,
) -> None:
    """Write down how a request ended; the answer is kept as it came."""
    got = answer or Answer("", "")
    with manifest.transaction() as connection:
        connection.execute(
            "UPDATE requests SET status = ?, detail = ?, response = ?, prompt_tokens = ?, completion_tokens = ?, "
            "cost = ?, answered_at = ? WHERE id = ?",
            (status, detail, got.raw or None, got.prompt_tokens, got.completion_tokens, cost, now(), request),
        )


def forget_lost(manifest: Manifest) -> None:
    """Mark requests that a killed run left open."""
    with manifest.transaction() as connection:
        connection.execute("UPDATE requests SET status = 'lost' WHERE status = 'sent'")


def spent(manifest: Manifest) -> Spent:
    """Sums over all requests."""
    sql = "SELECT count(*), sum(prompt_tokens + completion_tokens), sum(cost) FROM requests"
    ((count, tokens, money),) = manifest.query(sql)
    return Spent(count, tokens or 0, money or 0.0)


def request_counts(manifest: Manifest) -> dict[str, int]:
    """Number of requests by status."""
    return dict(manifest.query("SELECT status, count(*) FROM requests GROUP BY status"))


def has_answers(manifest: Manifest) -> bool:
    """Whether any request was ever answered."""
    return bool(manifest.query("SELECT 1 FROM requests WHERE status IN ('answered', 'malformed') LIMIT 1"))
