"""The requests of a work folder, each recorded before it is sent and again when it ends.

The reply to a request and the pairs in it are stored in one transaction, so that a reply that was
received is never requested again. Requests that were under way when the process was killed are
marked `lost` by the next run and sent again under the same key. A server that knows the header
`Idempotency-Key` then neither works nor charges twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from amodal.datagen.store.database import Database, now

RequestStatus = Literal["sent", "answered", "malformed", "error", "lost"]


@dataclass(frozen=True)
class Usage:
    """What all requests of a work folder have used so far."""

    requests: int
    tokens: int
    money: float


@dataclass(frozen=True)
class MalformedReply:
    """A reply that could not be parsed.

    Attributes:
        image_id: image the request was about.
        reason: what is wrong with the reply.
        response: the reply as received.
    """

    image_id: int
    reason: str
    response: str


class RequestTable:
    """Reads and changes the record of requests."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, image_id: int, round_: int) -> int:
        """Record a request that is about to be sent; returns its id."""
        with self._database.transaction(durable=False) as connection:  # `end` is durable
            cursor = connection.execute(
                "INSERT INTO requests (image_id, round, status, sent_at) VALUES (?, ?, 'sent', ?)",
                (image_id, round_, now()),
            )
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def end(
        self,
        request_id: int,
        status: RequestStatus,
        *,
        detail: str | None = None,
        response: str | None = None,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        cost: float = 0.0,
    ) -> None:
        """Record how a request ended.

        Args:
            request_id: as returned by `begin`.
            status: how it ended.
            detail: what went wrong.
            response: the reply exactly as received.
            prompt_tokens: tokens that the request used.
            completion_tokens: tokens that the reply used.
            cost: price of both.
        """
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE requests SET status = ?, detail = ?, response = ?, prompt_tokens = ?, completion_tokens = ?, "
                "cost = ?, answered_at = ? WHERE id = ?",
                (status, detail, response, prompt_tokens, completion_tokens, cost, now(), request_id),
            )

    def mark_lost(self) -> None:
        """Mark the requests that a killed run left open."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE requests SET status = 'lost' WHERE status = 'sent'")

    def usage(self) -> Usage:
        """Sums over all requests."""
        sql = "SELECT count(*), sum(prompt_tokens + completion_tokens), sum(cost) FROM requests"
        ((count, tokens, money),) = self._database.query(sql)
        return Usage(count, tokens or 0, money or 0.0)

    def counts(self) -> dict[str, int]:
        """Number of requests by status."""
        return self._database.counts("requests", "status")

    def any_replied(self) -> bool:
        """Whether any request ever got a reply."""
        sql = "SELECT 1 FROM requests WHERE status IN ('answered', 'malformed') LIMIT 1"
        return bool(self._database.query(sql))

    def malformed(self, limit: int) -> list[MalformedReply]:
        """The first replies that could not be parsed."""
        sql = "SELECT image_id, detail, response FROM requests WHERE status = 'malformed' ORDER BY id LIMIT ?"
        rows = self._database.query(sql, (limit,))
        return [MalformedReply(image_id, detail, response or "") for image_id, detail, response in rows]
