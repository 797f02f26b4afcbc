"""The web demo and the HTTP API: routes, and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

import amodal
from amodal.app.guard import LOOPBACK, Guard, Limits
from amodal.app.pictures import Picture, Pictures
from amodal.app.site import add_errors, add_page
from amodal.app.studio import EXAMPLE_SEEDS, MAX_QUESTION, Prompts, Studio, describe, example, packed, view
from amodal.app.turns import BusyError, Turns
from amodal.errors import InputError
from amodal.inference.exports import FORMATS
from amodal.inference.scene import Scene

MAX_UPLOAD = 20 * 1024 * 1024
MAX_BATCH = 16
LIMITS = Limits(MAX_UPLOAD, frozenset({"application/json", "multipart/form-data"}), "amodal_demo", body_seconds=60.0)
PAGE = ("index.html", "page.css", "page.js", "graph.js", "canvas.js", "icon.svg")


class Question(BaseModel):
    """What to ask about a picture."""

    model_config = ConfigDict(extra="forbid")

    question: str


def make_app(
    studio: Studio,
    *,
    token: str | None = None,
    hosts: frozenset[str] = frozenset(),
    turns: Turns | None = None,
    pictures: Pictures | None = None,
) -> Guard:
    """The demo and its API, behind a `Guard`.

    Args:
        studio: the models.
        token: what visitors must show; None lets in whoever is on this machine.
        hosts: further names of this machine that a request may carry.
        turns: queue in front of the models.
        pictures: store of uploads.
    """
    queue, store = turns or Turns(), pictures or Pictures()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        queue.close()

    app = FastAPI(
        title="amodal", version=amodal.__version__, docs_url=None, redoc_url=None, lifespan=lifespan,
        description="Whole objects behind what hides them. Boxes are [x0, y0, x1, y1] in pixels; masks COCO RLE.",
    )  # fmt: skip
    add_errors(app, {BusyError: 503})
    add_page(app, "demo_page", PAGE)
    _add_about(app, studio)
    _add_api(app, studio, queue, store)
    _add_demo(app, studio, queue, store)
    return Guard(app, token=token, limits=LIMITS, hosts=LOOPBACK | hosts)


def _add_about(app: FastAPI, studio: Studio) -> None:
    @app.get("/api/about")
    def about() -> dict[str, Any]:
        """What this server can do."""
        return {
            "version": amodal.__version__,
            "asks": studio.assistant is not None,
            "examples": list(EXAMPLE_SEEDS),
            "exports": {"scene": "masks, overlay and scene.json"} | {k: v[0] for k, v in FORMATS.items()},
            "max_upload": MAX_UPLOAD,
            "max_question": MAX_QUESTION,
        }


def _add_api(app: FastAPI, studio: Studio, queue: Turns, store: Pictures) -> None:
    """For programs: one request, one answer, nothing kept."""

    def segmented(content: bytes, prompts: Prompts) -> Scene:
        return studio.segment(store.read(content), prompts)

    @app.post("/api/segment")
    async def segment(
        request: Request, image: Annotated[UploadFile, File()], prompts: Annotated[str, Form()] = "{}"
    ) -> dict[str, Any]:
        """Objects of an image. `prompts` is JSON: boxes, points, everything, threshold; {} is everything."""
        wanted, content = _parse(Prompts, prompts, "prompts"), await image.read()
        scene = await queue.run(_visitor(request), partial(segmented, content, wanted))
        return scene.to_json()

    @app.post("/api/segment/batch")
    async def batch(
        request: Request, images: Annotated[list[UploadFile], File()], prompts: Annotated[str, Form()]
    ) -> list[dict[str, Any]]:
        """Objects of several images. `prompts` is a JSON list with an entry an image."""
        wanted = _parse(list[Prompts], prompts, "prompts")
        if len(wanted) != len(images) or len(images) > MAX_BATCH:
            raise InputError(
                f"prompts: expected an entry for each of at most {MAX_BATCH} images, "
                f"got {len(wanted)} for {len(images)} images"
            )
        contents = [await image.read() for image in images]
        jobs = [partial(segmented, content, entry) for content, entry in zip(contents, wanted, strict=True)]
        return [(await queue.run(_visitor(request), job)).to_json() for job in jobs]

    @app.post("/api/ask")
    async def ask(
        request: Request, image: Annotated[UploadFile, File()], question: Annotated[str, Form()]
    ) -> dict[str, Any]:
        """An answer about an image, and the scene of the objects that it mentions."""
        content = await image.read()

        def work() -> dict[str, Any]:
            pixels = store.read(content)
            picture = Picture("image", pixels, Scene([], pixels.shape[:2], pixels))
            return studio.ask(picture, question)

        return await queue.run(_visitor(request), work)


def _add_demo(app: FastAPI, studio: Studio, queue: Turns, store: Pictures) -> None:
    """For the page: pictures are uploaded once and kept for a while."""

    def opened(key: str) -> dict[str, Any]:
        picture = store.get(key)
        return {"key": key, "name": picture.name, **describe(picture.scene)}

    @app.post("/demo/pictures", include_in_schema=False)
    async def upload(image: Annotated[UploadFile, File()]) -> dict[str, Any]:
        pixels = await asyncio.to_thread(store.read, await image.read())
        return opened(store.add(Path(image.filename or "picture").stem[:60] or "picture", pixels))

    @app.post("/demo/examples/{name}", include_in_schema=False)
    async def use_example(name: str) -> dict[str, Any]:
        return opened(store.add(f"example-{name}", await asyncio.to_thread(example, name)))

    @app.post("/demo/pictures/{key}/segment", include_in_schema=False)
    async def segment(request: Request, key: str, prompts: Prompts) -> dict[str, Any]:
        picture = store.get(key)
        picture.scene = await queue.run(_visitor(request), lambda: studio.segment(picture.pixels, prompts))
        return describe(picture.scene)

    @app.post("/demo/pictures/{key}/ask", include_in_schema=False)
    async def ask(request: Request, key: str, body: Question) -> dict[str, Any]:
        picture = store.get(key)
        return await queue.run(_visitor(request), lambda: studio.ask(picture, body.question))

    @app.get("/demo/pictures/{key}/view/{kind}", include_in_schema=False)
    async def look(key: str, kind: str, number: int = 0) -> Any:
        content = await asyncio.to_thread(view, store.get(key), kind, number)
        return Response(content, media_type="image/jpeg")

    @app.get("/demo/pictures/{key}/export/{to}", include_in_schema=False)
    async def download(key: str, to: str) -> Any:
        picture = store.get(key)
        content = await asyncio.to_thread(packed, picture, to)
        name = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in picture.name)
        headers = {"content-disposition": f'attachment; filename="{name}-{to}.zip"'}
        return Response(content, media_type="application/zip", headers=headers)


def _visitor(request: Any) -> str:
    """Whose line a job joins: the page names itself at random, others go by address."""
    named = request.headers.get("x-visitor", "")[:64]
    return named or (request.client.host if request.client else "")


def _parse(kind: Any, text: str, name: str) -> Any:
    try:
        return TypeAdapter(kind).validate_python(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([name, *(str(part) for part in first["loc"])])
        raise InputError(f"{place}: {first['msg']}"[:300]) from error
    except ValueError as error:
        raise InputError(f"{name}: expected JSON, got {text!r:.60}") from error
