"""Routes of the web demo and of the HTTP API."""

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

from amodal.app.images import (
    EXAMPLE_SEEDS,
    MAX_SIDE,
    DemoImage,
    DemoModels,
    ImageStore,
    PromptsBody,
    example_image,
    render_view,
    scene_for_page,
    zip_scene,
)
from amodal.app.job_queue import BusyError, JobQueue
from amodal.app.server import LOOPBACK, Guard, RequestLimits, add_error_handlers, add_page_files
from amodal.errors import MAX_QUESTION_LENGTH, InputError
from amodal.inference.exports import FORMATS
from amodal.inference.scene import Scene
from amodal.version import __version__

MAX_UPLOAD = 20 * 1024 * 1024
MAX_BATCH = 16
LIMITS = RequestLimits(
    MAX_UPLOAD, frozenset({"application/json", "multipart/form-data"}), "amodal_demo", body_seconds=60.0
)
PAGE = ("index.html", "page.css", "page.js", "graph.js", "canvas.js", "icon.svg")


class QuestionBody(BaseModel):
    """Body of a request with a question about an uploaded image."""

    model_config = ConfigDict(extra="forbid")

    question: str


def make_app(
    models: DemoModels,
    *,
    token: str | None = None,
    hosts: frozenset[str] = frozenset(),
    queue: JobQueue | None = None,
    store: ImageStore | None = None,
) -> Guard:
    """Build the web demo and the HTTP API, protected by a `Guard`.

    Args:
        models: models of the demo.
        token: token that visitors must send; with None only this machine is served.
        hosts: further names of this machine, besides the loopback names.
        queue: queue for calls of the models; a new one if None.
        store: store of uploaded images; a new one if None.
    """
    queue, store = queue or JobQueue(), store or ImageStore()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        queue.close()

    app = FastAPI(
        title="amodal", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan,
        description="Amodal segmentation. Boxes are [x0, y0, x1, y1] in pixels; masks are COCO RLE.",
    )  # fmt: skip
    add_error_handlers(app, {BusyError: 503})
    add_page_files(app, "demo_page", PAGE)
    _add_about(app, models)
    _add_api(app, models, queue, store)
    _add_demo(app, models, queue, store)
    return Guard(app, token=token, limits=LIMITS, hosts=LOOPBACK | hosts)


def _add_about(app: FastAPI, models: DemoModels) -> None:
    @app.get("/api/about")
    def about() -> dict[str, Any]:
        """Version, examples, export formats and limits of this server."""
        return {
            "version": __version__,
            "asks": models.assistant is not None,
            "examples": list(EXAMPLE_SEEDS),
            "exports": {"scene": "masks, overlay and scene.json"}
            | {name: form.description for name, form in FORMATS.items()},
            "max_upload": MAX_UPLOAD,
            "max_question": MAX_QUESTION_LENGTH,
        }


def _add_api(app: FastAPI, models: DemoModels, queue: JobQueue, store: ImageStore) -> None:
    """Add the routes for programs. Nothing is stored between requests."""

    def segment_upload(content: bytes, prompts: PromptsBody) -> Scene:
        return models.segment(store.read(content), prompts)

    @app.post("/api/segment")
    async def segment(
        request: Request, image: Annotated[UploadFile, File()], prompts: Annotated[str, Form()] = "{}"
    ) -> dict[str, Any]:
        """Segment the objects of an image. `prompts` is JSON in the form of `PromptsBody`; {} finds all objects."""
        wanted, content = _parse(PromptsBody, prompts, "prompts"), await image.read()
        scene = await queue.run(_visitor(request), partial(segment_upload, content, wanted))
        return scene.to_json()

    @app.post("/api/segment/batch")
    async def batch(
        request: Request, images: Annotated[list[UploadFile], File()], prompts: Annotated[str, Form()]
    ) -> list[dict[str, Any]]:
        """Segment the objects of several images. `prompts` is a JSON list with one entry per image."""
        wanted = _parse(list[PromptsBody], prompts, "prompts")
        if len(wanted) != len(images) or len(images) > MAX_BATCH:
            raise InputError(
                f"prompts: expected one entry per image for at most {MAX_BATCH} images, "
                f"got {len(wanted)} entries for {len(images)} images"
            )
        contents = [await image.read() for image in images]
        jobs = [partial(segment_upload, content, entry) for content, entry in zip(contents, wanted, strict=True)]
        return [(await queue.run(_visitor(request), job)).to_json() for job in jobs]

    @app.post("/api/ask")
    async def ask(
        request: Request, image: Annotated[UploadFile, File()], question: Annotated[str, Form()]
    ) -> dict[str, Any]:
        """Answer a question about an image; the scene holds the objects that the answer names."""
        content = await image.read()

        def work() -> dict[str, Any]:
            pixels = store.read(content)
            return models.ask(DemoImage("image", pixels, Scene([], pixels.shape[:2], pixels)), question)

        return await queue.run(_visitor(request), work)


def _add_demo(app: FastAPI, models: DemoModels, queue: JobQueue, store: ImageStore) -> None:
    """Add the routes of the page, which uploads an image once and then refers to it by its key."""

    def opened(key: str) -> dict[str, Any]:
        stored = store.get(key)
        return {"key": key, "name": stored.name, **scene_for_page(stored.scene)}

    @app.post("/demo/images", include_in_schema=False)
    async def upload(image: Annotated[UploadFile, File()]) -> dict[str, Any]:
        pixels = await asyncio.to_thread(store.read, await image.read(), MAX_SIDE)
        return opened(store.add(Path(image.filename or "image").stem[:60] or "image", pixels))

    @app.post("/demo/examples/{name}", include_in_schema=False)
    async def use_example(name: str) -> dict[str, Any]:
        return opened(store.add(f"example-{name}", await asyncio.to_thread(example_image, name)))

    @app.post("/demo/images/{key}/segment", include_in_schema=False)
    async def segment(request: Request, key: str, prompts: PromptsBody) -> dict[str, Any]:
        stored = store.get(key)
        stored.scene = await queue.run(_visitor(request), lambda: models.segment(stored.pixels, prompts))
        return scene_for_page(stored.scene)

    @app.post("/demo/images/{key}/ask", include_in_schema=False)
    async def ask(request: Request, key: str, body: QuestionBody) -> dict[str, Any]:
        stored = store.get(key)
        return await queue.run(_visitor(request), lambda: models.ask(stored, body.question))

    @app.get("/demo/images/{key}/view/{kind}", include_in_schema=False)
    async def draw_view(key: str, kind: str, number: int = 0) -> Any:
        content = await asyncio.to_thread(render_view, store.get(key), kind, number)
        return Response(content, media_type="image/jpeg")

    @app.get("/demo/images/{key}/export/{to}", include_in_schema=False)
    async def download(key: str, to: str) -> Any:
        stored = store.get(key)
        content = await asyncio.to_thread(zip_scene, stored, to)
        name = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in stored.name)
        headers = {"content-disposition": f'attachment; filename="{name}-{to}.zip"'}
        return Response(content, media_type="application/zip", headers=headers)


def _visitor(request: Any) -> str:
    """Identify the visitor for the job queue: by the random name that the page sends, otherwise by address."""
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
