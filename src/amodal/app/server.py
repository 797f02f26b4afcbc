"""Web server of the pages: checks of every request, access token, error responses and static files."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from amodal.errors import InputError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
MIN_TOKEN_LENGTH = 16
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


CONTENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True)
class RequestLimits:
    """Limits of the requests that a page accepts.

    Attributes:
        max_body: maximum size of a request body in bytes.
        content_types: accepted content types of a POST request.
        cookie: name of the cookie that contains the token.
        body_seconds: maximum time in seconds until the whole body has arrived.
    """

    max_body: int
    content_types: frozenset[str]
    cookie: str
    body_seconds: float = 20.0


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
    `Authorization: Bearer`. Without a token the page is for this machine only, and the host of a
    request must be one of `hosts`. This stops DNS rebinding, where the name of a foreign site resolves
    to this machine.

    Args:
        app: application that handles accepted requests.
        token: token that visitors must send, or None.
        limits: limits of the requests.
        hosts: names of this machine.
    """

    def __init__(self, app: App, *, token: str | None, limits: RequestLimits, hosts: frozenset[str] = LOOPBACK) -> None:
        self.app, self.token, self.limits, self.hosts = app, token, limits, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the application, or refuse it."""
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
            if self._is_entry_link(scope):
                cookie = f"{self.limits.cookie}={self.token}; HttpOnly; SameSite=Lax; Path=/"
                return await _respond(send_guarded, 303, "", {"location": "/", "set-cookie": cookie})
            self._check(scope)
            if scope["method"] == "POST":
                receive = _replay(await self._body(scope, receive))
        except RefusedError as refusal:
            return await _respond(send_guarded, refusal.status, refusal.line, {"connection": "close"})
        await self.app(scope, receive, send_guarded)

    def _is_entry_link(self, scope: Scope) -> bool:
        """Whether the request is the printed link with the right token."""
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
            raise RefusedError(421, "expected a host name of this machine, got another")
        given = _tokens(headers, self.limits.cookie)
        if self.token is not None and not any(_same(one, self.token) for one in given):
            raise RefusedError(401, "expected the link that the command printed, got no valid token")
        if scope["method"] == "POST":
            self._check_post(headers, host)

    def _check_post(self, headers: dict[str, str], host: str) -> None:
        origin = headers.get("origin")
        try:
            is_same = origin is None or urlsplit(origin).netloc.lower() == host.lower()
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

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """Read the whole body; refuse it if it is too large or too slow."""
        lengths = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
        if any(not value.isdigit() or int(value) > self.limits.max_body for value in lengths):
            raise self._too_large()
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


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def access_token(host: str, given: str | None) -> str | None:
    """Choose the token that visitors must send.

    Args:
        host: address of the server.
        given: token chosen by the user, or None.

    Returns:
        The given token. Without one, a random token, or None if only this machine can reach the page.

    Raises:
        InputError: a token that is too short or has characters that are not allowed in a link or cookie.
    """
    if given is None:
        return None if is_loopback(host) else secrets.token_urlsafe(32)
    if len(given) < MIN_TOKEN_LENGTH or not re.fullmatch(r"[A-Za-z0-9_.~-]+", given):
        raise InputError(
            f"token: expected at least {MIN_TOKEN_LENGTH} letters, digits, '-', '_', '.' or '~', "
            f"got {len(given)} characters, or others"
        )
    return given


def run(app: App, host: str, port: int, token: str | None, announce: Callable[[str], None] = print) -> None:
    """Serve a page until the process is interrupted.

    Args:
        app: application to serve.
        host: address to bind to.
        port: port to bind to; 0 chooses a free one.
        token: token to put into the link, or None.
        announce: called with the link as soon as the page can be reached.

    Raises:
        InputError: the address is not available, or uvicorn is not installed.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise InputError("serve: expected uvicorn, got none (pip install 'amodal[serve]')") from error
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise InputError(f"host, port: expected an address that is free, got {host} {port} ({error})") from error
    shown = f"[{host}]" if ":" in host else host
    announce(f"http://{shown}:{listener.getsockname()[1]}/" + (f"?token={token}" if token else ""))
    # No access log, because the first request of each visitor contains the token.
    config = uvicorn.Config(app, access_log=False, log_level="warning", server_header=False, limit_concurrency=200)
    with listener:
        uvicorn.Server(config).run(sockets=[listener])


def add_error_handlers(app: FastAPI, statuses: Mapping[type[Exception], int] | None = None) -> None:
    """Send errors as one line of JSON.

    Args:
        app: application to add the handlers to.
        statuses: HTTP status per error type, in addition to 422 for `InputError` and invalid requests.
    """

    def respond(status: int) -> Callable[[Any, Exception], Any]:
        headers = {"retry-after": "2"} if status == 503 else None
        return lambda _, error: JSONResponse({"error": " ".join(str(error).split())}, status, headers)

    known: dict[type[Exception], int] = {InputError: 422}
    known.update(statuses or {})
    for kind, status in known.items():
        app.add_exception_handler(kind, respond(status))

    @app.exception_handler(HTTPException)
    def refused(_: object, error: Any) -> Any:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    def invalid_request(_: object, error: Any) -> Any:
        first = error.errors()[0]  # without the input, which may be long
        place = ".".join(str(part) for part in first["loc"][1:]) or "body"
        return JSONResponse({"error": f"{place}: {first['msg']}"[:300]}, 422)


def add_page_files(app: FastAPI, folder: str, names: tuple[str, ...]) -> None:
    """Serve files of the package. They are read once, so that no path of a request is used to open a file.

    Args:
        app: application to add the routes to.
        folder: folder inside `amodal.app`.
        names: files to serve; `index.html` is served as `/`.
    """
    directory = resources.files("amodal.app") / folder

    def serve(content: bytes, kind: str) -> Callable[[], Any]:
        return lambda: Response(content, media_type=kind)

    for name in names:
        route = "/" if name == "index.html" else f"/{name}"
        endpoint = serve((directory / name).read_bytes(), CONTENT_TYPES[name.rsplit(".", 1)[-1]])
        app.add_api_route(route, endpoint, methods=["GET", "HEAD"], include_in_schema=False)
