"""A small web page on which people review pairs; for this machine alone unless told otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from amodal.app.guard import LOOPBACK, Guard, Limits
from amodal.app.listen import access_token, run
from amodal.app.site import add_errors, add_page
from amodal.datagen.review.items import Items
from amodal.datagen.review.markup import from_editable
from amodal.datagen.review.review import (
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
from amodal.datagen.rules import MAX_ANSWER_LENGTH
from amodal.datagen.store.manifest import Manifest
from amodal.datagen.store.records import Verdict

PAGE = ("index.html", "page.css", "page.js", "masks.js", "stage.js", "state.js", "text.js", "icon.svg")
# The longest review is a few thousand bytes.
LIMITS = Limits(64 * 1024, frozenset({"application/json"}), "amodal_review")
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
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    add_errors(app, {ReviewConflictError: 409})
    add_page(app, "review_page", PAGE)
    _add_requests(app, Items(work), policy)
    return Guard(app, token=token, limits=LIMITS, hosts=LOOPBACK | hosts)


def _add_requests(app: FastAPI, items: Items, policy: Policy) -> None:
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
    run(app, host, port, token, announce)
