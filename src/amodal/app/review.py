"""A small web page on which people review pairs; only this machine can reach it unless told otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from amodal.app.guard import LOOPBACK, Guard, RequestLimits
from amodal.app.server import access_token, add_error_handlers, add_page_files, run
from amodal.datagen.review.items import ReviewItems, from_editable
from amodal.datagen.review.review import (
    MAX_NOTE_LENGTH,
    ReviewConflictError,
    ReviewPolicy,
    lease,
    remaining,
    renew,
    reviewer_name,
    submit,
    undo,
)
from amodal.datagen.rules import MAX_ANSWER_LENGTH
from amodal.datagen.store.records import Pair, Verdict
from amodal.datagen.store.work_folder import WorkFolder

PAGE = ("index.html", "page.css", "page.js", "masks.js", "stage.js", "state.js", "text.js", "icon.svg")
# The longest review is a few thousand bytes.
LIMITS = RequestLimits(64 * 1024, frozenset({"application/json"}), "amodal_review")
Text = Annotated[str, Field(max_length=2 * MAX_ANSWER_LENGTH)]
Id = Annotated[int, Field(strict=True, ge=0, lt=2**63)]  # what SQLite can hold


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reviewer: Annotated[str, Field(max_length=200)]


class NextBody(_Body):
    """A person asks for the next pair; `skip` lists the pairs put aside."""

    skip: Annotated[list[Id], Field(max_length=500)] = []


class PairBody(_Body):
    """A message about the pair that the person holds."""

    pair: Id


class CheckBody(PairBody):
    """A text that a person is editing; the answer is in the editable form of `datagen.review.items`."""

    question: Text
    answer: Text


class ReviewBody(PairBody):
    """A person's verdict."""

    tries: Id
    verdict: Verdict
    question: Text | None = None
    answer: Text | None = None
    note: Annotated[str, Field(max_length=MAX_NOTE_LENGTH)] = ""


def make_app(
    work: WorkFolder, policy: ReviewPolicy, *, token: str | None = None, hosts: frozenset[str] = frozenset()
) -> Guard:
    """Build the page and its requests, behind a `Guard`.

    Args:
        work: work folder; the caller closes it.
        policy: how pairs are reviewed.
        token: token that visitors must show; None admits everybody on this machine.
        hosts: further names of this machine that requests may use.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    add_error_handlers(app, {ReviewConflictError: 409})
    add_page_files(app, "review_page", PAGE)
    _add_requests(app, ReviewItems(work), policy)
    return Guard(app, token=token, limits=LIMITS, hosts=LOOPBACK | hosts)


def _add_requests(app: FastAPI, items: ReviewItems, policy: ReviewPolicy) -> None:
    work = items.work

    def item_reply(pair: Pair | None, reviewer: str) -> dict[str, Any]:
        item = None if pair is None else items.item(pair)
        return {"item": item, "reviewer": reviewer, "progress": progress(work, reviewer, policy)}

    @app.post("/api/next")
    def next_pair(body: NextBody) -> dict[str, Any]:
        reviewer = reviewer_name(work, body.reviewer)
        return item_reply(lease(work, reviewer, policy, skip=body.skip), reviewer)

    @app.post("/api/review")
    def review(body: ReviewBody) -> dict[str, Any]:
        reviewer = reviewer_name(work, body.reviewer)
        ids = items.object_ids(work.pairs.get(body.pair).image_id)
        answer = None if body.answer is None else from_editable(body.answer, ids)
        pair = submit(
            work, body.pair, reviewer, body.verdict, policy,
            question=body.question, answer=answer, note=body.note, tries=body.tries,
        )  # fmt: skip
        return {"pair": pair.id, "state": pair.state, "progress": progress(work, reviewer, policy)}

    @app.post("/api/check")
    def check(body: CheckBody) -> dict[str, Any]:
        """What the automatic check would say about a text; people may decide otherwise."""
        return {"faults": items.violations(work.pairs.get(body.pair), body.question, body.answer)}

    @app.post("/api/renew")
    def renew_lease(body: PairBody) -> dict[str, Any]:
        reviewer = reviewer_name(work, body.reviewer)
        renew(work, body.pair, reviewer, policy)
        return {"progress": progress(work, reviewer, policy)}

    @app.post("/api/release")
    def release(body: PairBody) -> dict[str, Any]:
        reviewer = reviewer_name(work, body.reviewer)
        work.reviews.release(body.pair, reviewer)
        return {"progress": progress(work, reviewer, policy)}

    @app.post("/api/undo")
    def undo_review(body: _Body) -> dict[str, Any]:
        reviewer = reviewer_name(work, body.reviewer)
        return item_reply(undo(work, reviewer, policy), reviewer)

    @app.get("/images/{image_id}")
    def image(image_id: Annotated[int, Field(ge=0, lt=2**63)]) -> Any:
        return Response(items.image_file(image_id), media_type="image/jpeg")


def progress(work: WorkFolder, reviewer: str, policy: ReviewPolicy) -> dict[str, Any]:
    """Pairs by state, how many the person has reviewed and can still review, and the policy."""
    return {
        "states": work.pairs.counts(),
        "mine": work.reviews.counts_by_reviewer().get(reviewer, 0),
        "left": remaining(work, reviewer, policy),
        "reviewers": policy.reviewers,
        "lease_seconds": policy.lease_seconds,
    }


def serve(
    work: WorkFolder,
    policy: ReviewPolicy,
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
        port: port to bind to; 0 takes a free one.
        token: see `access_token`.
        announce: is called with the link once the page can be reached.

    Raises:
        InputError: the address is not available, or a library is missing.
    """
    token = access_token(host, token)
    app = make_app(work, policy, token=token, hosts=frozenset({host.lower()}))
    run(app, host, port, token, announce)
