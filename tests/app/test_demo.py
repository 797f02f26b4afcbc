from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from amodal.app.demo import MAX_UPLOAD, make_app
from amodal.app.images import EXAMPLE_SEEDS, DemoModels, ImageStore
from amodal.app.job_queue import JobQueue
from amodal.app.server import access_token, is_loopback
from amodal.errors import InputError
from amodal.inference.exports import FORMATS
from amodal.inference.find import ObjectFinder
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from amodal.inference.segmenter import AmodalSegmenter
from amodal.models.aura.prompts import TextPart


class Assistant:
    """Answers every question with a mask of the whole image and counts the turns."""

    def chat(self, pixels: np.ndarray) -> Assistant:
        self.pixels, self.turn = pixels, 0
        return self

    def ask(self, question: str) -> SimpleNamespace:
        self.turn += 1
        full = np.ones(self.pixels.shape[:2], bool)
        scene = Scene([SceneObject.from_masks(full, full, phrase="it")], full.shape, self.pixels)
        parts = (TextPart(f"Turn {self.turn}: "), TextPart("it", (0,)), TextPart(" <b>&"))
        return SimpleNamespace(text="".join(part.text for part in parts), scene=scene, parts=parts)


@pytest.fixture(scope="module")
def models() -> DemoModels:
    segmenter = AmodalSegmenter.from_pretrained("plug-tiny", device="cpu")
    return DemoModels(segmenter, ObjectFinder.from_pretrained(segmenter.base_name), Assistant())


@pytest.fixture
def client(models: DemoModels) -> Iterator[TestClient]:
    with TestClient(make_app(models), base_url="http://127.0.0.1") as client:
        yield client


def png(size: tuple[int, int] = (60, 40)) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()


def post_image(client: TestClient, path: str, content: bytes | None = None, **form: str) -> Any:
    return client.post(path, files={"image": ("street.png", png() if content is None else content)}, data=form)


def upload(client: TestClient) -> str:
    return str(post_image(client, "/demo/images").json()["key"])


def test_a_box_gives_the_same_scene_as_the_library(client: TestClient, models: DemoModels) -> None:
    content = png()
    answer = post_image(client, "/api/segment", content, prompts='{"boxes": [[5, 5, 30, 30]]}')
    assert answer.status_code == 200
    pixels = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
    assert answer.json() == json.loads(json.dumps(models.segmenter(pixels, [[5, 5, 30, 30]]).to_json()))


def test_points_and_whole_images(client: TestClient) -> None:
    assert len(post_image(client, "/api/segment", prompts='{"points": [[20, 20]]}').json()["objects"]) == 1
    assert "objects" in post_image(client, "/api/segment").json()


def test_a_batch_is_answered_in_order(client: TestClient) -> None:
    files = [("images", (f"{n}.png", png((40 + n, 30)))) for n in range(3)]
    prompts = json.dumps([{"boxes": [[1, 1, 20 + n, 20]]} for n in range(3)])
    answer = client.post("/api/segment/batch", files=files, data={"prompts": prompts})
    assert [scene["size"] for scene in answer.json()] == [[30, 40], [30, 41], [30, 42]]
    refused = client.post("/api/segment/batch", files=files, data={"prompts": "[{}]"})
    assert refused.status_code == 422 and "expected one entry per image" in refused.json()["error"]


def test_a_conversation_continues(client: TestClient) -> None:
    key = upload(client)
    for turn in (1, 2):
        reply = client.post(f"/demo/images/{key}/ask", json={"question": "what?"}).json()
        assert reply["answer"] == f"Turn {turn}: it <b>&" and reply["objects"][0]["phrase"] == "it"
        assert reply["parts"][1] == {"text": "it", "objects": [0]}
        assert reply["objects"][0]["colour"].startswith("#")
    assert post_image(client, "/api/ask", question="what?").json()["answer"].startswith("Turn 1")
    refused = client.post(f"/demo/images/{key}/ask", json={"question": " "})
    assert refused.status_code == 422 and "question: expected words" in refused.json()["error"]


def test_a_question_without_an_assistant_is_refused(models: DemoModels) -> None:
    with TestClient(make_app(DemoModels(models.segmenter, models.finder)), base_url="http://localhost") as client:
        assert client.get("/api/about").json()["asks"] is False
        refused = post_image(client, "/api/ask", question="what?")
        assert refused.status_code == 422 and "expected a model that answers questions" in refused.json()["error"]


def test_views_and_exports_of_a_scene(client: TestClient) -> None:
    key = upload(client)
    empty = client.get(f"/demo/images/{key}/export/scene")
    assert empty.status_code == 422 and "expected a scene with objects" in empty.json()["error"]
    found = client.post(f"/demo/images/{key}/segment", json={"boxes": [[5, 5, 30, 30], [20, 10, 50, 38]]}).json()
    assert sorted(found["front_to_back"]) == [0, 1]
    for view in ("image", "overlay", "peeled?number=1", "uncertainty?number=1"):
        answer = client.get(f"/demo/images/{key}/view/{view}")
        assert answer.headers["content-type"] == "image/jpeg" and Image.open(io.BytesIO(answer.content)).size
    for to in ("scene", *FORMATS):
        answer = client.get(f"/demo/images/{key}/export/{to}")
        assert 'filename="street-' in answer.headers["content-disposition"]
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None and archive.namelist()
    for wrong in ("view/uncertainty?number=9", "view/secret", "export/../../etc", "export/psd"):
        assert client.get(f"/demo/images/{key}/{wrong}").status_code in (404, 422)


@pytest.mark.parametrize("name", EXAMPLE_SEEDS)
def test_examples(client: TestClient, name: str) -> None:
    assert client.post(f"/demo/examples/{name}", json={}).status_code == 200


@pytest.mark.parametrize(
    ("content", "form", "status", "line"),
    [
        (b"this is a text file", {}, 422, "expected an image file, got a file of another type"),
        (b"", {}, 422, "image: expected an image"),
        (png()[:200], {}, 422, "image: expected a complete image"),
        (None, {"prompts": "{"}, 422, "prompts: expected JSON"),
        (None, {"prompts": '{"boxes": [[1, 2, 3]]}'}, 422, "prompts.boxes.0"),
        (None, {"prompts": '{"boxes": [[9, 9, 1, 1]]}'}, 422, "which is inverted"),
        (None, {"prompts": '{"boxes": [[900, 9, 1000, 11]]}'}, 422, "expected a box inside the 60 x 40 image"),
        (None, {"prompts": '{"boxes": [[NaN, 1, 2, 3]]}'}, 422, "expected finite numbers"),
        (None, {"prompts": '{"points": [[-1, 4]]}'}, 422, "point: expected a point inside"),
        (None, {"prompts": '{"colour": 1}'}, 422, "prompts.colour"),
        (None, {"prompts": json.dumps({"boxes": [[1, 1, 9, 9]] * 33})}, 422, "prompts.boxes"),
    ],
)
def test_invalid_requests_get_one_line(
    client: TestClient, content: bytes | None, form: dict[str, str], status: int, line: str
) -> None:
    answer = post_image(client, "/api/segment", content, **form)
    assert answer.status_code == status and line in answer.json()["error"] and "\n" not in answer.json()["error"]


def test_a_200_mb_upload_is_refused_without_reading_it(client: TestClient) -> None:
    answer = client.post("/api/segment", content=b"", headers={
        "content-type": "multipart/form-data; boundary=x", "content-length": str(200 * 1024 * 1024),
    })  # fmt: skip
    assert answer.status_code == 413 and str(MAX_UPLOAD) in answer.text


def test_images_with_too_many_pixels_are_not_decoded(models: DemoModels) -> None:
    with TestClient(make_app(models, store=ImageStore(max_pixels=100)), base_url="http://localhost") as client:
        answer = post_image(client, "/api/segment")
        assert answer.status_code == 422 and "expected at most 100 pixels, got 60 x 40" in answer.json()["error"]


def test_large_images_are_shrunk() -> None:
    assert ImageStore().read(png((3000, 30))).shape == (20, 2048, 3)


@pytest.mark.parametrize(
    "path", ["/../pyproject.toml", "/page/../server.py", "/etc/passwd", "/docs", "/demo/images/x/view/image"]
)
def test_no_other_files_are_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code in (404, 422)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"origin": "https://evil.example"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"content-type": "text/plain"}, 415),
    ],
)
def test_requests_from_other_sites_are_refused(client: TestClient, headers: dict[str, str], status: int) -> None:
    assert (
        client.post("/api/segment", content=b"{}", headers={"content-type": "application/json"} | headers).status_code
        == status
    )


def test_a_token_is_required_where_other_machines_can_reach_the_page(models: DemoModels) -> None:
    token = access_token("0.0.0.0", None)
    assert token is not None and access_token("127.0.0.1", None) is None and is_loopback("::1")
    with pytest.raises(InputError, match="token: expected at least 16"):
        access_token("0.0.0.0", "short")
    with TestClient(make_app(models, token=token), base_url="http://10.1.2.3") as client:
        assert client.get("/api/about").status_code == 401
        assert client.get("/api/about", headers={"authorization": f"Bearer {token}"}).status_code == 200
        assert client.get(f"/?token={token}").status_code == 200  # sets the cookie
        assert client.get("/api/about").status_code == 200


def test_responses_have_the_security_headers(client: TestClient) -> None:
    headers = client.get("/").headers
    assert "script-src 'self'" in headers["content-security-policy"] and headers["x-frame-options"] == "DENY"


def test_the_oldest_images_are_removed() -> None:
    store = ImageStore(max_images=2)
    keys = [store.add(str(n), np.zeros((2, 2, 3), np.uint8)) for n in range(3)]
    assert len(store.images) == 2
    with pytest.raises(InputError, match="image: expected the key of a stored image"):
        store.get(keys[0])
    store.get(keys[1])
    store.add("new", np.zeros((2, 2, 3), np.uint8))
    assert keys[1] in store.images and keys[2] not in store.images
    stale = ImageStore(max_seconds=-1)
    with pytest.raises(InputError, match="upload the image again"):
        stale.get(stale.add("x", np.zeros((2, 2, 3), np.uint8)))


def test_a_full_queue_returns_status_503(models: DemoModels) -> None:
    with TestClient(make_app(models, queue=JobQueue(max_waiting=0)), base_url="http://localhost") as client:
        answer = post_image(client, "/api/segment", prompts='{"boxes": [[5, 5, 30, 30]]}')
        assert answer.status_code == 503 and answer.headers["retry-after"] == "2"
