"""A server of the demo on a port of this machine, as `amodal serve` starts it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from amodal.app.guard import App
from amodal.app.server import server_config


@contextmanager
def serving(app: App, proxies: frozenset[str] = frozenset(), port: int = 0) -> Iterator[int]:
    """Serve an application, at a free port if it is 0; yields the port."""
    config: Any = server_config(app, proxies)
    config.port = port
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(10)
