"""Web server of the pages: access token, error responses and static files."""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from amodal.app.guard import App
from amodal.errors import InputError

MIN_TOKEN_LENGTH = 16
CONTENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "jpg": "image/jpeg",
    "svg": "image/svg+xml",
}


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
    if len(given) < MIN_TOKEN_LENGTH:
        raise InputError(f"token: expected at least {MIN_TOKEN_LENGTH} characters, got {len(given)}")
    other = re.search(r"[^A-Za-z0-9_.~-]", given)
    if other is not None:
        raise InputError(f"token: expected letters, digits, '-', '_', '.' and '~' only, got {other.group()!r}")
    return given


def proxy_options(
    root_path: str, hosts: Iterable[str], proxies: Iterable[str]
) -> tuple[str, frozenset[str], frozenset[str]]:
    """Check the options of a server behind a proxy.

    Args:
        root_path: path under which the proxy serves the page; empty or `/` for the root of its host.
        hosts: names by which the proxy is reached.
        proxies: addresses whose forwarded headers are believed.

    Returns:
        The path without a slash at its end, the names in lower case, and the addresses.

    Raises:
        InputError: a path that does not begin with a slash or has other characters than those of a plain path, a name
            with a port or scheme, or an address that is not an IP address.
    """
    path = root_path.rstrip("/")
    if path and not re.fullmatch(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9_.~-]*)+", path):
        raise InputError(f"root_path: expected a path such as /amodal, got {root_path!r:.100}")
    names, addresses = frozenset(name.lower() for name in hosts), frozenset(proxies)
    for name in names:
        if not re.fullmatch(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*", name):
            raise InputError(f"allow_host: expected a name such as demo.example.org, got {name!r:.100}")
    for address in addresses:
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            raise InputError(f"forwarded_from: expected an IP address, got {address!r:.100}") from error
    return path, names, addresses


def run(
    app: App,
    host: str,
    port: int,
    token: str | None,
    announce: Callable[[str], None] = print,
    proxies: Iterable[str] = (),
) -> None:
    """Serve a page until the process is interrupted.

    Args:
        app: application to serve.
        host: address to bind to.
        port: port to bind to; 0 chooses a free one.
        token: token to put into the link, or None.
        announce: called with the link as soon as the page can be reached.
        proxies: addresses of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.

    Raises:
        InputError: the address is not available, or uvicorn is not installed.
    """
    config = server_config(app, frozenset(proxies))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise InputError(f"host, port: expected an address that is free, got {host} {port} ({error})") from error
    shown = f"[{host}]" if ":" in host else host
    announce(f"http://{shown}:{listener.getsockname()[1]}/" + (f"?token={token}" if token else ""))
    import uvicorn

    with listener:
        uvicorn.Server(config).run(sockets=[listener])


def server_config(app: App, proxies: frozenset[str] = frozenset()) -> Any:
    """The settings of uvicorn for a page.

    Args:
        app: application to serve.
        proxies: as for `run`.

    Raises:
        InputError: uvicorn is not installed.
    """
    try:
        import uvicorn

        from amodal.app.connections import limited_protocol
    except ImportError as error:
        raise InputError("serve: expected uvicorn, got none (pip install 'amodal[serve]')") from error
    # No access log, because the first request of each visitor contains the token.
    return uvicorn.Config(
        app, access_log=False, log_level="warning", server_header=False, http=limited_protocol(proxies), ws="none",
        proxy_headers=bool(proxies), forwarded_allow_ips=sorted(proxies),
    )  # fmt: skip


def add_error_handlers(app: FastAPI, statuses: Mapping[type[Exception], int] | None = None) -> None:
    """Send errors as one line of JSON.

    Args:
        app: application to add the handlers to.
        statuses: HTTP status per error type, in addition to 422 for `InputError` and invalid requests.
    """

    def respond(status: int) -> Callable[[Any, Exception], Any]:
        headers = {"retry-after": "2"} if status == 503 else None
        return lambda _, error: JSONResponse({"error": without_folders(str(error))}, status, headers)

    known: dict[type[Exception], int] = {InputError: 422}
    known.update(statuses or {})
    for kind, status in known.items():
        app.add_exception_handler(kind, respond(status))

    @app.exception_handler(Exception)
    def failed(_: object, error: Exception) -> Any:
        return JSONResponse({"error": "the server failed; its log says where"}, 500)

    @app.exception_handler(HTTPException)
    def refused(_: object, error: Any) -> Any:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    def invalid_request(_: object, error: Any) -> Any:
        first = error.errors()[0]  # without the input, which may be long
        place = ".".join(str(part) for part in first["loc"][1:]) or "body"
        return JSONResponse({"error": f"{place}: {first['msg']}"[:300]}, 422)


def without_folders(line: str) -> str:
    """An error message as one line, with only the names of the files whose absolute paths it has."""
    return re.sub(r"(?<![\w.:/<])(?:[A-Za-z]:)?[/\\](?:[^\s'\"/\\]+[/\\])+(?=[^\s'\"/\\])", "", " ".join(line.split()))


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
