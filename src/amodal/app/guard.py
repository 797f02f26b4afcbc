"""`Guard`: checks of every request before the application sees it, and the security headers of every response."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from amodal.app.metrics import CONTENT_TYPE, Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
HEADERS = {
    # The page loads files from this server only, and text is never interpreted as markup or script.
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
class RequestLimits:
    """Limits of the requests that a page accepts.

    Attributes:
        max_body: maximum size of a request body in bytes.
        content_types: accepted content types of a POST request.
        cookie: name of the cookie that contains the token.
        body_seconds: maximum time in seconds until the whole body has arrived.
        all_bodies: maximum size in bytes of the bodies of all requests that are being handled. The bodies of one peer
            take at most half of what those of the others leave, so that one peer alone cannot keep others out.
    """

    max_body: int
    content_types: frozenset[str]
    cookie: str
    body_seconds: float = 20.0
    all_bodies: int = 256 * 2**20


class RefusedError(Exception):
    """A request that is refused.

    Args:
        status: HTTP status of the response.
        line: one line of text, the body of the response.
    """

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status, self.line = status, line


class Guard:
    """ASGI middleware that checks requests and sets the security headers of responses.

    It checks host, method, token, origin, content type and size of the body. If there is a token, a
    visitor sends it once as `/?token=...`, which sets a cookie, or with every request as
    `Authorization: Bearer`. Without a token the host of a request must be one of `hosts`. This stops DNS
    rebinding, where the name of a foreign site resolves to this machine. Requests of a page must come from
    the same host, or from one of `hosts`, which is where a proxy changes the name.

    `/healthz` and `/readyz` are answered without these checks, because they tell nothing about visitors.

    Args:
        app: application that handles accepted requests.
        token: token that visitors must send, or None.
        limits: limits of the requests.
        hosts: names of this machine, and those by which proxies are reached.
        root_path: path under which a proxy serves the page, such as `/amodal`; empty for the root of its host.
        is_ready: whether the application can take requests; always if None.
    """

    def __init__(
        self,
        app: App,
        *,
        token: str | None,
        limits: RequestLimits,
        hosts: frozenset[str] = LOOPBACK,
        root_path: str = "",
        is_ready: Callable[[], bool] | None = None,
    ) -> None:
        self.app, self.token, self.limits, self.hosts, self.root_path = app, token, limits, hosts, root_path
        self.is_ready = is_ready or (lambda: True)
        self.metrics = Metrics()
        self._held: Counter[str] = Counter()  # bytes of the bodies of the requests that are being handled, by peer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the application, or refuse it."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})

        began, status = time.monotonic(), 500

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                kept = [(name, value) for name, value in message["headers"] if name.decode().lower() not in HEADERS]
                message["headers"] = kept + [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        path = scope["path"].removeprefix(self.root_path)
        scope["root_path"] = self.root_path
        held, peer = 0, peer_of((scope.get("client") or ("",))[0])
        try:
            if path in ("/healthz", "/readyz") and scope["method"] in ("GET", "HEAD"):
                ready = path == "/healthz" or self.is_ready()
                return await _respond(send_guarded, 200 if ready else 503, "ok\n" if ready else "busy\n", {})
            if self._is_entry_link(scope, path):
                home = f"{self.root_path}/"
                cookie = f"{self.limits.cookie}={self.token}; HttpOnly; SameSite=Lax; Path={home}"
                return await _respond(send_guarded, 303, "", {"location": home, "set-cookie": cookie})
            self._check(scope)
            if not path:  # relative addresses in the page need the slash
                return await _respond(send_guarded, 308, "", {"location": f"{self.root_path}/"})
            if path == "/metrics" and scope["method"] == "GET":
                return await _respond(send_guarded, 200, self.metrics.text(), {"content-type": CONTENT_TYPE})
            if scope["method"] == "POST":
                held = self._reserve(scope, peer)
                receive = _replay(await self._body(receive))
            try:
                await self.app(scope, receive, send_guarded)
            finally:
                self.metrics.add(_route(scope), status, time.monotonic() - began)
        except RefusedError as refusal:
            self.metrics.add_refusal(refusal.status)
            headers = {"connection": "close"} | ({"retry-after": "2"} if refusal.status == 503 else {})
            return await _respond(send_guarded, refusal.status, refusal.line, headers)
        finally:
            self._release(held, peer)

    def _is_entry_link(self, scope: Scope, path: str) -> bool:
        """Whether the request is the printed link with the right token."""
        if self.token is None or path not in ("", "/") or scope["method"] != "GET":
            return False
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return _same(given, self.token)

    def _check(self, scope: Scope) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["method"] not in ("GET", "HEAD", "POST"):
            raise RefusedError(405, f"expected GET or POST, got {scope['method'][:20]}")
        host = headers.get("host", "")
        if self.token is None and host_name(host) not in self.hosts:
            raise RefusedError(421, "expected a host name of this machine, got another")
        given = _tokens(headers, self.limits.cookie)
        if self.token is not None and not any(_same(one, self.token) for one in given):
            raise RefusedError(401, "expected the link that the command printed, got no valid token")
        if scope["method"] == "POST":
            self._check_post(headers, host)

    def _check_post(self, headers: dict[str, str], host: str) -> None:
        origin = headers.get("origin")
        try:
            origin_parts = urlsplit(origin or "")
            is_same = origin is None or origin_parts.netloc.lower() == host.lower()
            # A proxy may set its own name as host; only names that are not this machine's are given for proxies.
            is_same = is_same or (origin_parts.hostname or "").lower() in self.hosts - LOOPBACK
        except ValueError:  # not an address, such as "http://["
            is_same = False
        if not is_same:
            raise RefusedError(403, "expected a request from this page, got one from another site")
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise RefusedError(403, "expected a request from this page, got one from another site")
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if kind not in self.limits.content_types:
            expected = " or ".join(sorted(self.limits.content_types))
            raise RefusedError(415, f"expected {expected}, got {kind[:60] or 'no type'}")

    def _reserve(self, scope: Scope, peer: str) -> int:
        """Reserve memory for the body of a peer and return its size; refuse the body if it is too large."""
        lengths = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
        if any(not value.isdigit() or len(value) > 15 or int(value) > self.limits.max_body for value in lengths):
            raise self._too_large()
        size = max(map(int, lengths)) if lengths else self.limits.max_body
        left = self.limits.all_bodies - (self._held.total() - self._held[peer])
        if 2 * (self._held[peer] + size) > left:
            raise RefusedError(503, "expected less content of a visitor at a time, got more; try again in a moment")
        self._held[peer] += size
        return size

    def _release(self, size: int, peer: str) -> None:
        """Free the memory of the body of a peer."""
        self._held[peer] -= size
        if self._held[peer] <= 0:
            del self._held[peer]

    async def _body(self, receive: Receive) -> bytes:
        """Read the whole body; refuse it if it is too large or too slow."""
        try:
            return await asyncio.wait_for(self._read(receive), self.limits.body_seconds)
        except asyncio.TimeoutError:
            raise RefusedError(
                408, f"expected a request within {self.limits.body_seconds:g} seconds, got a part of it"
            ) from None

    async def _read(self, receive: Receive) -> bytes:
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RefusedError(400, "expected a complete request, got a part of it")
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.limits.max_body:
                raise self._too_large()
        return bytes(body)

    def _too_large(self) -> RefusedError:
        return RefusedError(413, f"expected at most {self.limits.max_body} bytes, got more")


def host_name(host: str) -> str:
    """The host name without the port; `[::1]:80` becomes `::1`."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def peer_of(address: str) -> str:
    """The peer that an address belongs to: for IPv6 its network of 64 bits, which one machine has for itself."""
    try:
        known = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(known, ipaddress.IPv6Address):
        if known.ipv4_mapped is not None:
            return str(known.ipv4_mapped)
        return str(known) if known.is_loopback else str(ipaddress.ip_network((known, 64), strict=False))
    return str(known)


def _route(scope: Scope) -> str:
    """The path of the route that answered, with its parameters as names; `other` if there was none."""
    return str(getattr(scope.get("route"), "path", "other"))


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


async def _respond(send: Send, status: int, line: str, headers: dict[str, str]) -> None:
    all_headers = {"content-type": "text/plain; charset=utf-8", **headers}
    encoded = [(name.encode(), value.encode()) for name, value in all_headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": line.encode()})
