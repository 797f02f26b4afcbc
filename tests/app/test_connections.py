"""The server on a real port: connections that do nothing, slow requests, peers and memory."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from amodal.app import connections
from amodal.app.demo import LIMITS, make_app
from amodal.app.guard import Guard, RequestLimits, peer_of
from amodal.app.images import DemoModels
from tests.app.live import serving


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.5)
    monkeypatch.setattr(connections, "MAX_PER_PEER", 8)
    with serving(make_app(DemoModels(cast("Any", None), cast("Any", None)))) as port:
        yield port


def is_closed(client: socket.socket, seconds: float = 5.0) -> bool:
    """Whether the server closes a connection within some time."""
    client.settimeout(seconds)
    try:
        return client.recv(1000) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def test_idle_connections_lock_nobody_out(port: int) -> None:
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(210)]
    for _ in range(5):
        assert httpx.get(f"http://127.0.0.1:{port}/api/about", timeout=30).status_code == 200
    assert all(is_closed(client) for client in idle)


@pytest.mark.parametrize("head", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: localhost\r\n"])
def test_a_head_that_does_not_end_is_closed(port: int, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        began = time.monotonic()
        client.sendall(head)
        assert is_closed(client) and time.monotonic() - began < 4


def test_a_second_head_that_does_not_end_is_closed(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\nG")
        client.settimeout(5)
        assert client.recv(10_000).startswith(b"HTTP/1.1 200")
        client.sendall(b"ET ")
        while not is_closed(client):  # the rest of the first response may come first
            pass


def test_connections_with_requests_are_kept_and_more_of_one_peer_are_refused(port: int) -> None:
    request = (
        b"POST /api/segment HTTP/1.1\r\nhost: localhost\r\n"
        b"content-type: multipart/form-data\r\ncontent-length: 9\r\n\r\n"
    )
    busy = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
    for client in busy:
        client.sendall(request)  # its body does not come
    time.sleep(0.7)
    refused = httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=30)
    assert refused.status_code == 503 and refused.headers["retry-after"] == "2"
    for client in busy:
        client.close()
    time.sleep(0.3)
    assert httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=30).status_code == 200


def test_a_response_that_is_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it is complete for the application, so that only the transport still has it; a slow reader gets all."""
    monkeypatch.setattr(connections, "SEND_SECONDS", 0.5)
    app, size = FastAPI(), 20_000_000

    @app.get("/")
    def large() -> Response:
        return Response(b"x" * size)

    def taken(port: int, pause: float) -> int:
        """Bytes that a client gets which does not read for some seconds."""
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port))
            client.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            time.sleep(pause)
            client.settimeout(10)
            count = 0
            try:
                while part := client.recv(1 << 20):
                    count += len(part)
            except ConnectionResetError:
                pass
            return count

    with serving(Guard(app, token=None, limits=LIMITS)) as port:
        assert taken(port, 0.1) > size
        assert taken(port, 2.0) < size


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:2", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
    ],
)
def test_peers(address: str, peer: str) -> None:
    assert peer_of(address) == peer


def test_the_bodies_of_all_requests_have_one_limit_and_each_peer_a_share() -> None:
    """A request that would exceed it gets status 503 before its body is read; the room is free again afterwards."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def post(guard: Guard, size: int, peer: str = "10.0.0.1") -> int:
        statuses = []

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        async def receive() -> Any:
            return {"type": "http.request", "body": b"x" * size, "more_body": False}

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", b"%d" % size)]
        scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "client": (peer, 9)}
        await guard(scope, receive, send)
        return int(statuses[0])

    async def check() -> None:
        nonlocal release
        release = asyncio.Event()
        limits = RequestLimits(100, LIMITS.content_types, "x", all_bodies=200)
        guard = Guard(app, token=None, limits=limits)
        held = [asyncio.create_task(post(guard, size)) for size in (60, 40)]
        await asyncio.sleep(0)
        assert await post(guard, 1) == 503  # one peer has half
        assert await post(guard, 101) == 413
        held.append(asyncio.create_task(post(guard, 50, "10.0.0.2")))  # another one half of the rest
        await asyncio.sleep(0)
        assert await post(guard, 1, "10.0.0.2") == 503
        assert await post(guard, 1, "::ffff:10.0.0.2") == 503  # the same peer
        assert await post(guard, 26, "10.0.0.3") == 503
        release.set()
        assert await post(guard, 25, "10.0.0.3") == 200
        assert [await task for task in held] == [200] * 3
        assert await post(guard, 100) == 200 and not guard._held

    release: Any = None
    asyncio.run(check())


def test_uploads_that_stall_do_not_keep_others_out() -> None:
    """13 uploads of 20 MB of one peer, whose bodies do not come: others upload at the same time."""
    app = FastAPI()

    @app.post("/")
    async def size(request: Request) -> int:
        return len(await request.body())

    head = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 20000000\r\n\r\n"
    with serving(Guard(app, token=None, limits=LIMITS)) as port:
        stalled = [socket.create_connection(("127.0.0.1", port)) for _ in range(13)]
        try:
            for client in stalled:
                client.sendall(head + b"{")
            time.sleep(0.5)
            transport = httpx.HTTPTransport(local_address="127.0.0.2")
            with httpx.Client(transport=transport, timeout=30) as other:
                json_type = {"content-type": "application/json"}
                answer = other.post(f"http://127.0.0.1:{port}/", content=b"x" * 20_000_000, headers=json_type)
            assert (answer.status_code, answer.text) == (200, "20000000")
        finally:
            for client in stalled:
                client.close()


def test_the_address_of_a_visitor_is_not_what_the_visitor_sends(port: int) -> None:
    """Without `--forwarded-from` the header is ignored, also from this machine."""
    app = FastAPI()

    @app.get("/")
    def show(request: Request) -> str:
        assert request.client is not None
        return request.client.host

    forwarded = {"x-forwarded-for": "6.6.6.6, 10.0.0.9"}
    with serving(app) as plain, serving(app, frozenset({"127.0.0.1"})) as behind:
        assert httpx.get(f"http://127.0.0.1:{plain}/", headers=forwarded).json() == "127.0.0.1"
        assert httpx.get(f"http://127.0.0.1:{behind}/", headers=forwarded).json() == "10.0.0.9"
