"""What stands between the network and our pages: host, token, origin, kind and size of a request."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
HEADERS = {
    # Nothing but this server's own files, and no text that becomes markup or a script.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Limits:
    """What a page takes.

    Attributes:
        max_body: bytes of a request.
        body_seconds: within which it must arrive.
        content_types: of a POST.
        cookie: name of the cookie that holds the token.
    """

    max_body: int
    content_types: frozenset[str]
    cookie: str
    body_seconds: float = 20.0


class RefusedError(Exception):
    """A request that is not passed on: status and one line."""

    def __init__(self, status: int, line: str) -> None:
        """Args are what is sent."""
        super().__init__(line)
        self.status, self.line = status, line


class Guard:
    """ASGI middleware: host, method, token, origin, kind and size of the body, headers of the answer.

    A token is asked for if there is one: once as `/?token=...`, which sets a cookie, or with each
    request as `Authorization: Bearer`. Without a token the page is for this machine alone, and a
    request must name it by one of `hosts`: a foreign site whose name was made to lead here does not.
    """

    def __init__(self, app: App, *, token: str | None, limits: Limits, hosts: frozenset[str] = LOOPBACK) -> None:
        """Args: the application, the token if one is needed, limits, and names of this machine."""
        self.app, self.token, self.limits, self.hosts = app, token, limits, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message["headers"] if name.decode().lower() not in HEADERS]
                message["headers"] = kept + [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        try:
            if self._enters(scope):
                cookie = f"{self.limits.cookie}={self.token}; HttpOnly; SameSite=Lax; Path=/"
                return await _answer(send_guarded, 303, "", {"location": "/", "set-cookie": cookie})
            self._check(scope)
            if scope["method"] == "POST":
                receive = _replay(await self._body(scope, receive))
        except RefusedError as refusal:
            return await _answer(send_guarded, refusal.status, refusal.line, {"connection": "close"})
        await self.app(scope, receive, send_guarded)

    def _enters(self, scope: Scope) -> bool:
        """Whether this is the link with the right token."""
        if self.token is None or scope["path"] != "/" or scope["method"] != "GET":
            return False
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return _same(given, self.token)

    def _check(self, scope: Scope) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["method"] not in ("GET", "HEAD", "POST"):
            raise RefusedError(405, f"expected GET or POST, got {scope['method'][:20]}")
        host = headers.get("host", "")
        if self.token is None and host_name(host) not in self.hosts:
            raise RefusedError(421, "expected this machine's name as host, got another")
        given = _tokens(headers, self.limits.cookie)
        if self.token is not None and not any(_same(one, self.token) for one in given):
            raise RefusedError(401, "expected the link that the command printed, got no valid token")
        if scope["method"] == "POST":
            self._check_post(headers, host)

    def _check_post(self, headers: dict[str, str], host: str) -> None:
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise RefusedError(403, "expected a request from this page, got one from another site")
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise RefusedError(403, "expected a request from this page, got one from another site")
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if kind not in self.limits.content_types:
            expected = " or ".join(sorted(self.limits.content_types))
            raise RefusedError(415, f"expected {expected}, got {kind[:60] or 'no type'}")

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body, if it is small and arrives in time."""
        lengths = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
        if any(not value.isdigit() or int(value) > self.limits.max_body for value in lengths):
            raise self._too_large()
        try:
            return await asyncio.wait_for(self._read(receive), self.limits.body_seconds)
        except asyncio.TimeoutError:
            raise RefusedError(
                408, f"expected a request within {self.limits.body_seconds:g} seconds, got a part"
            ) from None

    async def _read(self, receive: Receive) -> bytes:
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RefusedError(400, "expected a whole request, got a part")
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.limits.max_body:
                raise self._too_large()
        return bytes(body)

    def _too_large(self) -> RefusedError:
        return RefusedError(413, f"expected at most {self.limits.max_body} bytes, got more")


def host_name(host: str) -> str:
    """Host name without its port; `[::1]:80` is `::1`."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _replay(body: bytes) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        return {"type": "http.disconnect"}

    return receive


def _tokens(headers: dict[str, str], cookie_name: str) -> list[str]:
    given = []
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(cookie_name)
        given += [cookie.value] if cookie else []
    except CookieError:
        pass
    kind, _, value = headers.get("authorization", "").partition(" ")
    return given + ([value] if kind.lower() == "bearer" else [])


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


async def _answer(send: Send, status: int, line: str, headers: dict[str, str]) -> None:
    all_headers = {"content-type": "text/plain; charset=utf-8", **headers}
    encoded = [(name.encode(), value.encode()) for name, value in all_headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": line.encode()})
