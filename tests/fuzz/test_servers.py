"""Every endpoint of the servers answers a changed request, or refuses it with a documented status and one line."""

from __future__ import annotations

import asyncio
import io
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import strategies as st
from PIL import Image

from amodal.app import images, review
from amodal.app.demo import make_app
from amodal.app.images import DemoModels
from amodal.app.store import ImageStore
from amodal.datagen.review.review import ReviewPolicy
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from amodal.inference.segmenter import AmodalSegmenter
from amodal.models.aura.processing import check_question
from amodal.models.aura.prompts import TextPart
from tests.app.live import serving
from tests.data.written import SIZE
from tests.datagen.toy_work import toy_work
from tests.fuzz.campaign import run
from tests.fuzz.mutations import changed_bytes, changed_file, changed_value, json_seeds, seeds

REFUSALS = {400, 403, 404, 405, 408, 409, 413, 415, 421, 422, 503}
MULTIPART = {"content-type": "multipart/form-data; boundary=b"}


class Assistant:
    """Answers every question that may be asked with a mask of the whole image."""

    def chat(self, pixels: np.ndarray) -> Assistant:
        self.pixels, self.replies = pixels, list[Any]()
        return self

    def ask(self, question: str) -> SimpleNamespace:
        check_question(question)
        H, W = self.pixels.shape[:2]
        full = np.ones((H, W), bool)
        scene = Scene([SceneObject.from_masks(full, full, phrase="it")], (H, W), self.pixels)
        return SimpleNamespace(text="it", scene=scene, parts=(TextPart("it", (0,)),))


@pytest.fixture(scope="module")
def models() -> DemoModels:
    segmenter = AmodalSegmenter.from_pretrained("plug-small", device="cpu")
    return DemoModels(segmenter, segmenter.finder, Assistant())


@pytest.fixture(autouse=True)
def one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding all objects is no reading of input and takes seconds, so that it finds the whole image only."""

    def find(segmenter: AmodalSegmenter, _finder: Any, pixels: Any, **options: Any) -> Scene:
        return segmenter(pixels, [[0, 0, pixels.shape[1], pixels.shape[0]]], **options)

    monkeypatch.setattr(images, "segment_everything", find)


@pytest.fixture
def client(models: DemoModels) -> Iterator[TestClient]:
    app = make_app(models, store=ImageStore(max_bytes=4 * 2**20, max_pixels=1_000_000))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


def outcome(answer: Any) -> str:
    """The outcome of a request; a refusal is one line without absolute paths."""
    if answer.status_code in (200, 303, 308):
        return "answered"
    assert answer.status_code in REFUSALS, (answer.status_code, answer.text[:500])
    if answer.content and answer.headers["content-type"] == "application/json":
        line = answer.json()["error"]
        assert line and "\n" not in line and not re.search(r"(?<![\w.:/<])/(?:tmp|home|root|usr|work)/", line), line
    return f"refused with {answer.status_code}"


def stored(client: TestClient) -> str:
    """The key of an image of the size that the seeds have masks for."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(buffer, "PNG")
    return str(client.post("/api/images", files={"image": ("a.png", buffer.getvalue())}).json()["key"])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("segment", "prompts_body"), ("find", "find_body"), ("ask", "question_body"), ("scene", "scene_body"),
        ("export/scene", "scene_body"), ("export/labelme", "scene_body"), ("export/coco", "scene_body"),
    ],
)  # fmt: skip
def test_stored_images(client: TestClient, path: str, body: str) -> None:
    address = f"/api/images/{stored(client)}/{path}"

    def check(content: bytes) -> str:
        return outcome(client.post(address, content=content, headers={"content-type": "application/json"}))

    run(path, changed_file(json_seeds(body)), check)


@pytest.mark.parametrize(
    ("path", "field", "body"),
    [("segment", "prompts", "prompts_body"), ("segment/batch", "prompts", "prompts_batch")],
)
def test_forms(client: TestClient, path: str, field: str, body: str) -> None:
    """JSON in a field of a form."""
    image = seeds("images")[-1].read_bytes()
    name = "images" if path == "segment/batch" else "image"

    def check(content: bytes) -> str:
        files = [(name, ("a.png", image))] * (2 if name == "images" else 1)
        return outcome(client.post(f"/api/{path}", files=files, data={field: content}))

    run(f"{path}, {field}", changed_file(json_seeds(body)), check)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", ["images", "segment", "ask"])
def test_uploads(client: TestClient, path: str) -> None:
    """Image files, which `/view` decodes again."""
    data = {"prompts": '{"boxes": [[1, 1, 8, 7]]}', "question": "What is this?"}

    def check(content: bytes) -> str:
        answer = client.post(f"/api/{path}", files={"image": ("a.png", content)}, data=data)
        if path == "images" and answer.status_code == 200:
            assert client.get(f"/api/images/{answer.json()['key']}/view").status_code == 200
        return outcome(answer)

    run(f"{path}, image", changed_file(seeds("images")), check)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", ["images", "segment", "segment/batch", "ask"])
def test_multipart(client: TestClient, path: str) -> None:
    """The form itself: its boundaries, headers and names."""

    def check(content: bytes) -> str:
        return outcome(client.post(f"/api/{path}", content=content, headers=MULTIPART))

    run(f"{path}, form", changed_file(seeds("multipart")), check)


def test_addresses_and_headers(client: TestClient) -> None:
    """Paths, queries and headers of any text."""
    plain = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30)
    part = st.sampled_from(["api", "images", "..", "%2e%2e", "", "x", "view", "export", "a%00b", "metrics"]) | plain
    header = st.sampled_from(["host", "origin", "cookie", "content-type", "authorization", "content-length"])
    value = st.sampled_from(["http://[::1", "null", "a.example", "[", "-1", "1e9", "9" * 30, "Bearer ", "a=b;"]) | plain
    method = st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS"])

    def check(request: tuple[str, list[str], dict[str, str]]) -> str:
        kind, parts, headers = request
        path = "/" + "/".join(parts).lstrip("/")  # the client refuses two slashes
        try:
            answer = client.request(kind, path, headers=headers, follow_redirects=False)
        except (ValueError, TypeError, UnicodeError) as error:  # the client refuses the address
            return f"not sent ({type(error).__name__})"
        return outcome(answer)

    run("addresses", st.tuples(method, st.lists(part, max_size=5), st.dictionaries(header, value, max_size=3)), check)


def test_raw_requests(models: DemoModels) -> None:
    """Bytes on a connection, after which the server still answers."""
    with serving(make_app(models)) as port:

        def check(content: bytes) -> str:
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                connection.settimeout(0.5)
                answer = b""
                try:
                    connection.sendall(content)
                    connection.shutdown(socket.SHUT_WR)
                    while part := connection.recv(65536):
                        answer += part
                except (TimeoutError, ConnectionError, OSError):
                    pass
            statuses = re.findall(rb"^HTTP/1.1 (\d+)", answer, re.MULTILINE)
            assert all(int(status) in REFUSALS | {200, 303, 308} for status in statuses), answer[:500]
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 200")
            return b",".join(statuses).decode() or "no answer"

        run("raw", changed_file(seeds("http")), check)


@pytest.mark.parametrize("path", ["next", "review", "check", "renew", "release", "undo"])
def test_review(tmp_path: Path, path: str) -> None:
    with toy_work(tmp_path) as work:
        app = review.make_app(work, ReviewPolicy())
        with TestClient(app, base_url="http://localhost") as client:

            def check(content: bytes) -> str:
                headers = {"content-type": "application/json"}
                return outcome(client.post(f"/api/{path}", content=content, headers=headers))

            run(f"review, {path}", changed_file(json_seeds("review_body")), check)


def test_mcp(models: DemoModels, tmp_path: Path) -> None:
    """Calls of the tools of the MCP server."""
    mcp = pytest.importorskip("mcp")
    from amodal.integrations.mcp import AmodalTools, ImageFolder, make_server

    shutil.copy(seeds("images")[-1], tmp_path / "a.tif")
    shutil.copy(next(file for file in seeds("images") if file.name == "rgb.png"), tmp_path / "a.png")
    server = make_server(AmodalTools(ImageFolder(tmp_path), models.segmenter, None))
    calls = {
        "image": "a.png", "boxes": [[1, 1, 8, 7]], "box": [1, 1, 8, 7], "points": [[3, 3]], "question": "What?",
        "with_masks": True, "threshold": 0.5,
    }  # fmt: skip

    async def call(name: str, arguments: Any) -> str:
        async with mcp.Client(server) as client:
            tools = {tool.name: tool.input_schema["properties"] for tool in (await client.list_tools()).tools}
            known = tools.get(name, {})
            given = {key: value for key, value in arguments.items() if key in known}
            return "refused" if (await client.call_tool(name, given)).is_error else "answered"

    def check(example: tuple[str, Any]) -> str:
        name, arguments = example
        return asyncio.run(call(name, arguments)) if isinstance(arguments, dict) else "not sent"

    names = st.sampled_from(["list_images", "segment", "amodal_masks", "occlusion_order", "ask"])
    run("MCP", st.tuples(names, changed_value(calls)), check)


def test_changes_reach_all_seeds() -> None:
    """The mutations make other bytes of a seed, and can leave it as it is."""
    seed = seeds("http")[0].read_bytes()
    found: set[bytes] = set()

    def check(content: bytes) -> str:
        found.add(content)
        return "same" if content == seed else "other"

    run("changes", changed_bytes(seed), check)
    assert len(found - {seed}) >= 3
