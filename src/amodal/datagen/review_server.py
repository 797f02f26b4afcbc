"""A small web page on which people review pairs; for this machine alone unless told otherwise."""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from amodal.datagen.manifest import Manifest
from amodal.datagen.records import Verdict
from amodal.datagen.review import (
    MAX_ANSWER_LENGTH,
    MAX_NOTE_LENGTH,
    Policy,
    ReviewConflictError,
    lease,
    remaining,
    renew,
    reviewer_name,
    submit,
    undo,
)
from amodal.datagen.review_guard import Guard
from amodal.datagen.review_items import Items
from amodal.datagen.review_markup import from_editable
from amodal.errors import InputError

if TYPE_CHECKING:
    from fastapi import FastAPI

PAGE = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "masks.js": "text/javascript; charset=utf-8",
    "stage.js": "text/javascript; charset=utf-8",
    "state.js": "text/javascript; charset=utf-8",
    "text.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
MIN_TOKEN_LENGTH = 16
Text = Annotated[str, Field(max_length=2 * MAX_ANSWER_LENGTH)]
Id = Annotated[int, Field(strict=True, ge=0, lt=2**63)]  # what SQLite can hold


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reviewer: Annotated[str, Field(max_length=200)]


class NextBody(_Body):
    """A person asks for a pair; `skip` are those put aside."""

    skip: Annotated[list[Id], Field(max_length=500)] = []


class PairBody(_Body):
    """A person says something about the pair they hold."""

    pair: Id


class CheckBody(PairBody):
    """A person is writing; the answer is in the short form of `review_markup`."""

    question: Text
    answer: Text


class ReviewBody(PairBody):
    """A verdict."""

    tries: Id
    verdict: Verdict
    question: Text | None = None
    answer: Text | None = None
    note: Annotated[str, Field(max_length=MAX_NOTE_LENGTH)] = ""


def make_app(work: Manifest, policy: Policy, *, token: str | None = None, hosts: frozenset[str] = frozenset()) -> Guard:
    """The page and its few requests, behind a `Guard`.

    Args:
        work: work folder, which stays the caller's to close.
        policy: how pairs are reviewed.
        token: what visitors must show; None lets in whoever is on this machine.
        hosts: further names of this machine that a request may carry.

    Raises:
        InputError: the libraries of the extra `reasonseg` are not installed.
    """
    try:
        from fastapi import FastAPI
    except ImportError as error:
        raise InputError("review: expected FastAPI, got none: pip install 'amodal[reasonseg]'") from error
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    _add_errors(app)
    _add_page(app)
    _add_requests(app, Items(work), policy)
    return Guard(app, token=token, hosts=LOOPBACK_NAMES | hosts)


def _add_errors(app: FastAPI) -> None:
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse

    @app.exception_handler(InputError)
    def mistake(_: object, error: InputError) -> Any:
        status = 409 if isinstance(error, ReviewConflictError) else 422
        return JSONResponse({"error": " ".join(str(error).split())}, status)

    @app.exception_handler(RequestValidationError)
    def another_form(_: object, error: Any) -> Any:
        first = error.errors()[0]  # without its input, which may be long
        place = ".".join(str(part) for part in first["loc"][1:]) or "body"
        return JSONResponse({"error": f"{place}: {first['msg']}"[:300]}, 422)


def _add_page(app: FastAPI) -> None:
    """Exactly the files of `PAGE`, read once: no path of a request ever reaches the disk."""
    from fastapi.responses import Response

    folder = resources.files("amodal.datagen") / "page"

    def serve(content: bytes, kind: str) -> Callable[[], Any]:
        return lambda: Response(content, media_type=kind)

    for name, kind in PAGE.items():
        route = "/" if name == "index.html" else f"/{name}"
        app.add_api_route(route, serve((folder / name).read_bytes(), kind), methods=["GET", "HEAD"])


def _add_requests(app: FastAPI, items: Items, policy: Policy) -> None:
    from fastapi.responses import Response

    work = items.work

    def handed(pair: Any, reviewer: str) -> dict[str, Any]:
        item = None if pair is None else items.item(pair)
        return {"item": item, "reviewer": reviewer, "progress": progress(work, reviewer, policy)}

    @app.post("/api/next")
    def next_pair(body: NextBody) -> dict[str, Any]:
        reviewer = reviewer_name(work, body.reviewer)
        return handed(lease(work, reviewer, policy, skip=body.skip), reviewer)

    @app.post("/api/review")
    def review(body: ReviewBody) -> dict[str, Any]:
        reviewer = reviewer_name(work, body.reviewer)
        ids = items.object_ids(work.pair(body.pair).image_id)
        answer = None if body.answer is None else from_editable(body.answer, ids)
        pair = submit(
            work, body.pair, reviewer, body.verdict, policy,
            question=body.question, answer=answer, note=body.note, tries=body.tries,
        )  # fmt: skip
        return {"pair": pair.id, "state": pair.state, "progress": progress(work, reviewer, policy)}

    @app.post("/api/check")
    def check(body: CheckBody) -> dict[str, Any]:
        """What the automatic check would say about a text; a person may know better."""
        return {"faults": items.faults(work.pair(body.pair), body.question, body.answer)}

    @app.post("/api/renew")
    def keep(body: PairBody) -> dict[str, Any]:
        reviewer = reviewer_name(work, body.reviewer)
        renew(work, body.pair, reviewer, policy)
        return {"progress": progress(work, reviewer, policy)}

    @app.post("/api/release")
    def give_back(body: PairBody) -> dict[str, Any]:
        reviewer = reviewer_name(work, body.reviewer)
        work.release(body.pair, reviewer)
        return {"progress": progress(work, reviewer, policy)}

    @app.post("/api/undo")
    def take_back(body: _Body) -> dict[str, Any]:
        reviewer = reviewer_name(work, body.reviewer)
        return handed(undo(work, reviewer, policy), reviewer)

    @app.get("/images/{image_id}")
    def picture(image_id: Annotated[int, Field(ge=0, lt=2**63)]) -> Any:
        return Response(items.picture(image_id), media_type="image/jpeg")


def progress(work: Manifest, reviewer: str, policy: Policy) -> dict[str, Any]:
    """Pairs by state, what the person has judged and could still judge, and people a pair."""
    mine = work.query("SELECT count(*) FROM reviews WHERE reviewer = ?", (reviewer,))[0][0]
    return {
        "states": work.pair_counts(),
        "mine": mine,
        "left": remaining(work, reviewer, policy),
        "reviewers": policy.reviewers,
        "lease_seconds": policy.lease_seconds,
    }


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


def serve(
    work: Manifest,
    policy: Policy,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    token: str | None = None,
    announce: Callable[[str], None] = print,
) -> None:
    """Serve the page until interrupted.

    Args:
        work: work folder.
        policy: how pairs are reviewed.
        host: address to bind to.
        port: its port; 0 takes a free one.
        token: see `access_token`.
        announce: gets the link once the page can be reached.

    Raises:
        InputError: the address cannot be had, or a library is missing.
    """
    token = access_token(host, token)
    app = make_app(work, policy, token=token, hosts=frozenset({host.lower()}))
    import uvicorn

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise InputError(f"host, port: expected an address that is free, got {host} {port} ({error})") from error
    shown = f"[{host}]" if ":" in host else host
    announce(f"http://{shown}:{listener.getsockname()[1]}/" + (f"?token={token}" if token else ""))
    # No access log: the first request of each visitor has the token in it.
    config = uvicorn.Config(
        app, access_log=False, log_level="warning", ws="none", server_header=False, limit_concurrency=200
    )
    with listener:
        uvicorn.Server(config).run(sockets=[listener])
