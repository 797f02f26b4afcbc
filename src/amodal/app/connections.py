"""Limits of connections: how many there may be, how long the head of a request may take, and a response."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

from amodal.app.guard import peer_of

MAX_CONNECTIONS = 256
MAX_PER_PEER = 64
HEADER_SECONDS = 10.0
SEND_SECONDS = 60.0

_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 2\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class LimitedProtocol(H11Protocol):
    """Uvicorn's HTTP protocol with limits.

    A connection that has not sent the whole head of a request after `HEADER_SECONDS` is closed, and so is one
    whose peer takes nothing of a response for `SEND_SECONDS` to twice that time. When there are too many connections,
    or too many of one peer, the oldest one without a request is closed. If all of them have requests, the new
    connection gets status 503.
    """

    proxies: ClassVar[frozenset[str]] = frozenset()
    """Peers that may have any number of connections, because they stand for many visitors."""

    _timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room for the connection, or refuse it."""
        super().connection_made(transport)
        self.began, self.peer = self.loop.time(), peer_of(self.client[0] if self.client else "")
        others = [other for other in self.connections if isinstance(other, LimitedProtocol) and other is not self]
        others = [other for other in others if not other.transport.is_closing() or other.unsent]
        self._check_sent(0)
        own = [] if self.peer in self.proxies else [other for other in others if other.peer == self.peer]
        for group, limit in ((own, MAX_PER_PEER), (others, MAX_CONNECTIONS)):
            if len(group) >= limit and not _close_oldest(group):
                transport.write(_BUSY)
                transport.close()
                return
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Handle a part of a request."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._stop()
        if self._send_timer is not None:
            self._send_timer.cancel()

    @property
    def is_idle(self) -> bool:
        """Whether no request is being handled."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def unsent(self) -> int:
        """Number of bytes of responses that the peer has not taken."""
        return self.transport.get_write_buffer_size()

    def _check_sent(self, before: int) -> None:
        """Close the connection if as many bytes are unsent as before; a transport that closes waits for the peer."""
        if self.unsent and self.unsent == before:
            self.transport.abort()
        else:
            self._send_timer = self.loop.call_later(SEND_SECONDS, self._check_sent, self.unsent)

    def _watch(self) -> None:
        """Start the timer when the head of a request is awaited, and stop it when the head is complete."""
        if not self.is_idle:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEADER_SECONDS, self._close_late)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_late(self) -> None:
        self._timer = None
        if self.is_idle:
            self.transport.close()


def limited_protocol(proxies: frozenset[str] = frozenset()) -> type[Any]:
    """The protocol for a server behind these proxies."""
    return type("LimitedProtocol", (LimitedProtocol,), {"proxies": frozenset(map(peer_of, proxies))})


def _close_oldest(connections: list[LimitedProtocol]) -> bool:
    idle = [connection for connection in connections if connection.is_idle]
    if not idle:
        return False
    min(idle, key=lambda connection: (connection.unsent > 0, connection.began)).transport.abort()
    return True
