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
from pydantic import TypeAdapter, ValidationError

from amodal.app.bodies import FindBody, PromptsBody, QuestionBody, SceneBody
from amodal.app.guard import LOOPBACK, Guard, RequestLimits, peer_of
from amodal.app.images import DemoModels, complete_scene
from amodal.app.job_queue import BusyError, JobQueue
from amodal.app.server import add_error_handlers, add_page_files
from amodal.app.store import ImageStore, UnknownImageError, decode_image
from amodal.errors import MAX_QUESTION_LENGTH, InputError
from amodal.inference.exports import FORMATS
from amodal.version import __version__

MAX_UPLOAD = 20 * 1024 * 1024
MAX_BATCH = 16
LIMITS = RequestLimits(
    MAX_UPLOAD, frozenset({"application/json", "multipart/form-data"}), "amodal_demo", body_seconds=60.0
)
CLEAN_SECONDS = 30.0  # between two removals of old images
EXAMPLES = ("coffee", "astronaut", "photographer", "officer", "rocket", "cat")
PAGE = (
    "index.html", "page.css", "icon.svg", "examples.json",
    "api.js", "chat.js", "document.js", "draw.js", "editor.js", "exploded.js", "graph.js", "images.js", "keys.js",
    "layers.js", "masks.js", "messages.js", "object_list.js", "page.js", "session.js", "stage.js", "take_home.js",
    "tools.js",
    *(f"examples/{name}{size}.jpg" for name in EXAMPLES for size in ("", "-small")),
)  # fmt: skip


def make_app(
    models: DemoModels,
    *,
    token: str | None = None,
    hosts: frozenset[str] = frozenset(),
    root_path: str = "",
    queue: JobQueue | None = None,
    store: ImageStore | None = None,
) -> Guard:
    """Build the web demo and the HTTP API, protected by a `Guard`.

    Args:
        models: models of the demo.
        token: token that visitors must send; with None only this machine and proxies on it are served.
        hosts: further names of this machine and of proxies, besides the loopback names.
        root_path: path under which a proxy serves the page, such as `/amodal`.
        queue: queue for calls of the models; a new one if None.
        store: store of uploaded images; a new one if None.
    """
    queue, store = queue or JobQueue(), store or ImageStore()

    async def clean() -> None:
        while True:
            await asyncio.sleep(CLEAN_SECONDS)
            store.remove_old()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        cleaning = asyncio.create_task(clean())
        yield
        cleaning.cancel()
        queue.close()

    app = FastAPI(
        title="amodal", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan, redirect_slashes=False,
        description="Amodal segmentation. Boxes are [x0, y0, x1, y1] in pixels; masks are COCO RLE.",
    )  # fmt: skip
    add_error_handlers(app, {BusyError: 503, UnknownImageError: 404})
    add_page_files(app, "demo_page", PAGE)
    _add_about(app, models)
    _add_api(app, models, queue, store)
    _add_images(app, models, queue, store)
    guard = Guard(
        app, token=token, limits=LIMITS, hosts=LOOPBACK | hosts, root_path=root_path, is_ready=lambda: queue.is_ready
    )
    guard.metrics.gauges |= {
        "amodal_queue_jobs": lambda: queue.num_waiting,
        "amodal_stored_images": lambda: len(store.images),
        "amodal_stored_bytes": lambda: store.num_bytes,
    }
    return guard


def _add_about(app: FastAPI, models: DemoModels) -> None:
    @app.get("/api/about")
    def about() -> dict[str, Any]:
        """Version, examples, options of the command line, export formats and limits of this server."""
        return {
            "version": __version__,
            "asks": models.assistant is not None,
            "options": models.options,
            "examples": list(EXAMPLES),
            "exports": {"scene": "masks, overlay and scene.json"}
            | {name: form.description for name, form in FORMATS.items()},
            "max_upload": MAX_UPLOAD,
            "max_question": MAX_QUESTION_LENGTH,
        }


def _add_api(app: FastAPI, models: DemoModels, queue: JobQueue, store: ImageStore) -> None:
    """Add the routes for programs. Nothing is stored between requests."""

    def segment_upload(content: bytes, prompts: PromptsBody) -> dict[str, Any]:
        return models.segment(decode_image(content, store.max_pixels), prompts).to_json()

    @app.post("/api/segment")
    async def segment(
        request: Request, image: Annotated[UploadFile, File()], prompts: Annotated[str, Form()] = "{}"
    ) -> dict[str, Any]:
        """Segment the objects of an image. `prompts` is JSON in the form of `PromptsBody`; {} finds all objects."""
        wanted, content = _parse(PromptsBody, prompts, "prompts"), await image.read()
        return await queue.run(_visitor(request), partial(segment_upload, content, wanted))

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
        return [await queue.run(_visitor(request), job) for job in jobs]

    @app.post("/api/ask")
    async def ask(
        request: Request, image: Annotated[UploadFile, File()], question: Annotated[str, Form()]
    ) -> dict[str, Any]:
        """Answer a question about an image; the scene holds the objects that the answer names."""
        content = await image.read()

        def work() -> dict[str, Any]:
            image = models.decoded.open("image", content, store.max_pixels)
            return models.ask(image, QuestionBody(question=question))

        return await queue.run(_visitor(request), work)


def _add_images(app: FastAPI, models: DemoModels, queue: JobQueue, store: ImageStore) -> None:
    """Add the routes for several requests about one image, which is uploaded once and then named by its key.

    The page uses them too. The objects of an image are with the client. All that decodes, draws or compresses an image
    goes through the queue, so that the models and the decoded images are used by one request at a time.
    """

    @app.post("/api/images")
    async def upload(request: Request, image: Annotated[UploadFile, File()]) -> dict[str, Any]:
        """Store an image for a while; returns its `key`, and its `size` [H, W] in pixels."""
        name, content = Path(image.filename or "image").stem[:60] or "image", await image.read()
        opened = await queue.run(_visitor(request), partial(models.decoded.open, name, content, store.max_pixels))
        return {"key": store.add(opened), "name": opened.name, "size": list(opened.size)}

    @app.post("/api/images/{key}/segment")
    async def segment(request: Request, key: str, prompts: PromptsBody) -> dict[str, Any]:
        """Segment objects of a stored image, also with their uncertainty and depth order."""
        return await queue.run(_visitor(request), partial(models.segment_stored, store.get(key), prompts))

    @app.post("/api/images/{key}/find")
    async def find(request: Request, key: str, body: FindBody) -> dict[str, Any]:
        """Find all objects of a stored image except those whose visible masks are given as `known`."""
        return await queue.run(_visitor(request), partial(models.find, store.get(key), body))

    @app.post("/api/images/{key}/ask")
    async def ask(request: Request, key: str, body: QuestionBody) -> dict[str, Any]:
        """Answer a question about a stored image, as the next turn of a conversation.

        `same_as` of an object is the number of the mask in `known` that shows the same object, or null.
        """
        return await queue.run(_visitor(request), partial(models.ask, store.get(key), body))

    @app.post("/api/images/{key}/scene")
    async def complete(request: Request, key: str, body: SceneBody) -> dict[str, Any]:
        """Complete a scene of a stored image from the masks: rates, boxes, who occludes whom, depth order."""
        return await queue.run(_visitor(request), partial(complete_scene, store.get(key), body))

    @app.post("/api/images/{key}/export/{to}", response_class=Response)
    async def download(request: Request, key: str, to: str, body: SceneBody) -> Any:
        """Export a scene of a stored image as a ZIP file; `to` is one of the `exports` of `/api/about`."""
        stored = store.get(key)
        content = await queue.run(_visitor(request), partial(models.zip_scene, stored, to, body))
        name = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in stored.name)
        headers = {"content-disposition": f'attachment; filename="{name}-{to}.zip"'}
        return Response(content, media_type="application/zip", headers=headers)

    @app.get("/api/images/{key}/view", response_class=Response)
    async def view(request: Request, key: str) -> Any:
        """The stored image as a JPEG file of at most 2048 pixels per side."""
        content = await queue.run(_visitor(request), partial(models.render_image, store.get(key)))
        return Response(content, media_type="image/jpeg")


def _visitor(request: Any) -> str:
    """Identify the visitor for the job queue: by address, because visitors could choose anything that they send."""
    return peer_of(request.client.host) if request.client else ""


def _parse(kind: Any, text: str, name: str) -> Any:
    try:
        return TypeAdapter(kind).validate_python(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([name, *(str(part) for part in first["loc"])])
        raise InputError(f"{place}: {first['msg']}"[:300]) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: expected JSON, got {text!r:.60}") from error
