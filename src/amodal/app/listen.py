"""Where a page can be reached, and by whom."""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
from collections.abc import Callable

from amodal.app.guard import App
from amodal.errors import InputError

MIN_TOKEN_LENGTH = 16


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def access_token(host: str, given: str | None) -> str | None:
    """The token visitors must show: the one given, else a random one where other machines can reach the page.

    Raises:
        InputError: a token that is short or has characters that no link and cookie carry.
    """
    if given is None:
        return None if is_loopback(host) else secrets.token_urlsafe(32)
    if len(given) < MIN_TOKEN_LENGTH or not re.fullmatch(r"[A-Za-z0-9_.~-]+", given):
        raise InputError(
            f"token: expected {MIN_TOKEN_LENGTH} or more letters, digits, '-', '_', '.' or '~', got {len(given)} "
            "characters of which some may be others"
        )
    return given


def run(app: App, host: str, port: int, token: str | None, announce: Callable[[str], None] = print) -> None:
    """Serve until interrupted.

    Args:
        app: what answers.
        host: address to bind to.
        port: its port; 0 takes a free one.
        token: goes into the link.
        announce: gets the link once the page can be reached.

    Raises:
        InputError: the address cannot be had, or uvicorn is missing.
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
    # No access log: the first request of each visitor has the token in it.
    config = uvicorn.Config(app, access_log=False, log_level="warning", server_header=False, limit_concurrency=200)
    with listener:
        uvicorn.Server(config).run(sockets=[listener])
