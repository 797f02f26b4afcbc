"""What our pages share: errors as one line of JSON, and files that are read once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response

from amodal.errors import InputError

KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


def add_errors(app: FastAPI, statuses: Mapping[type[Exception], int] | None = None) -> None:
    """Answer mistakes with one line: 422, or the status that `statuses` gives an error's type."""

    def answer(status: int) -> Callable[[Any, Exception], Any]:
        headers = {"retry-after": "2"} if status == 503 else None
        return lambda _, error: JSONResponse({"error": " ".join(str(error).split())}, status, headers)

    known: dict[type[Exception], int] = {InputError: 422}
    known.update(statuses or {})
    for kind, status in known.items():
        app.add_exception_handler(kind, answer(status))

    @app.exception_handler(RequestValidationError)
    def another_form(_: object, error: Any) -> Any:
        first = error.errors()[0]  # without its input, which may be long
        place = ".".join(str(part) for part in first["loc"][1:]) or "body"
        return JSONResponse({"error": f"{place}: {first['msg']}"[:300]}, 422)


def add_page(app: FastAPI, folder: str, names: tuple[str, ...]) -> None:
    """Serve exactly these files of `amodal.app`, read once: no path of a request ever reaches the disk."""
    place = resources.files("amodal.app") / folder

    def serve(content: bytes, kind: str) -> Callable[[], Any]:
        return lambda: Response(content, media_type=kind)

    for name in names:
        route = "/" if name == "index.html" else f"/{name}"
        answer = serve((place / name).read_bytes(), KINDS[name.rsplit(".", 1)[-1]])
        app.add_api_route(route, answer, methods=["GET", "HEAD"], include_in_schema=False)
