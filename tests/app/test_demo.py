from __future__ import annotations

import base64
import io
import json
import re
import shlex
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from amodal.app import images
from amodal.app import store as stores
from amodal.app.demo import EXAMPLES, MAX_UPLOAD, make_app
from amodal.app.images import DemoModels
from amodal.app.job_queue import JobQueue
from amodal.app.server import access_token, is_loopback
from amodal.app.store import DecodedImages, DemoImage, ImageStore
from amodal.errors import InputError
from amodal.inference.exports import FORMATS
from amodal.inference.find import ObjectFinder
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from amodal.inference.segmenter import AmodalSegmenter
from amodal.models.aura.prompts import TextPart
from amodal.ops.rle import decode_mask, encode_mask


class Assistant:
    """Answers every question with a mask of the whole image and counts the turns."""

    def chat(self, pixels: np.ndarray) -> Assistant:
        self.pixels, self.turn = pixels, 0
        self.replies: list[Any] = []
        return self

    def ask(self, question: str) -> SimpleNamespace:
        self.turn += 1
        full = np.ones(self.pixels.shape[:2], bool)
        scene = Scene([SceneObject.from_masks(full, full, phrase="it")], full.shape, self.pixels)
        parts = (TextPart(f"Turn {self.turn}: "), TextPart("it", (0,)), TextPart(" <b>&"))
        return SimpleNamespace(text="".join(part.text for part in parts), scene=scene, parts=parts)


@pytest.fixture(scope="module")
def models() -> DemoModels:
    segmenter = AmodalSegmenter.from_pretrained("plug-small", device="cpu")
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
    return str(post_image(client, "/api/images").json()["key"])


def test_a_box_gives_the_same_scene_as_the_library(client: TestClient, models: DemoModels) -> None:
    content = png()
    answer = post_image(client, "/api/segment", content, prompts='{"boxes": [[5, 5, 30, 30]]}')
    assert answer.status_code == 200
    pixels = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
    assert answer.json() == json.loads(json.dumps(models.segmenter(pixels, [[5, 5, 30, 30]]).to_json()))


def test_points_and_whole_images(client: TestClient) -> None:
    assert len(post_image(client, "/api/segment", prompts='{"points": [[20, 20]]}').json()["objects"]) == 1
    assert "objects" in post_image(client, "/api/segment").json()


def drawn_mask(size: tuple[int, int] = (40, 60)) -> np.ndarray:
    found = np.zeros(size, bool)
    found[8:30, 10:35] = True
    found[15:20, 30:50] = True
    return found


def test_a_given_mask_is_kept_and_prompts_are_combined_as_in_python(client: TestClient, models: DemoModels) -> None:
    content, given = png(), drawn_mask()
    rle = encode_mask(given)
    prompts = {
        "boxes": [None, [5, 5, 30, 30], None],
        "masks": [rle, None, None],
        "points_per_object": [None, None, [[20, 20], [50, 30, 0]]],
        "points": [[12, 12, 1], [30, 30, 0], [40, 18]],
    }
    answer = post_image(client, "/api/segment", content, prompts=json.dumps(prompts))
    assert answer.status_code == 200 and len(answer.json()["objects"]) == 5
    np.testing.assert_array_equal(decode_mask(answer.json()["objects"][0]["visible"]), given)
    scene = models.segmenter(
        np.array(Image.open(io.BytesIO(content)).convert("RGB")),
        [None, [5, 5, 30, 30], None, None, None],
        masks=[given, None, None, None, None],
        points_xy=[None, None, [[20, 20], [50, 30]], [[12, 12], [30, 30]], [[40, 18]]],
        point_labels=[None, None, [1, 0], [1, 0], [1]],
    )
    assert answer.json() == json.loads(json.dumps(scene.to_json()))


def test_names_and_ids_of_annotations_reach_the_scene(client: TestClient) -> None:
    given = drawn_mask()
    annotations = [
        {"id": 7, "category_id": 3, "category_name": "mug", "segmentation": encode_mask(given), "iscrowd": 0},
        {"id": 8, "category_id": 3, "bbox": [5, 5, 25, 25]},
    ]
    prompts = json.dumps({"detections": annotations})
    first, second = post_image(client, "/api/segment", prompts=prompts).json()["objects"]
    assert (first["name"], first["class_id"], first["source_id"]) == ("mug", 3, 7)
    assert (second["name"], second["class_id"], second["source_id"]) == (None, 3, 8)
    np.testing.assert_array_equal(decode_mask(first["visible"]), given)


def test_masks_have_the_size_of_the_upload_even_if_it_is_large(client: TestClient) -> None:
    given = drawn_mask((60, 2100))
    prompts = json.dumps({"masks": [encode_mask(given)]})
    (found,) = post_image(client, "/api/segment", png((2100, 60)), prompts=prompts).json()["objects"]
    np.testing.assert_array_equal(decode_mask(found["visible"]), given)


def test_the_page_takes_masks_and_labelled_points(client: TestClient) -> None:
    key = upload(client)
    prompts = {"masks": [encode_mask(drawn_mask())], "points": [[20, 20, 1]]}
    assert len(client.post(f"/api/images/{key}/segment", json=prompts).json()["objects"]) == 2
    refused = client.post(f"/api/images/{key}/segment", json={"points": [[20, 20, 2]]})
    assert refused.status_code == 422 and "a list of 1 label of 0 or 1" in refused.json()["error"]


def test_a_batch_is_answered_in_order(client: TestClient) -> None:
    files = [("images", (f"{n}.png", png((40 + n, 30)))) for n in range(3)]
    prompts = json.dumps([{"boxes": [[1, 1, 20 + n, 20]]} for n in range(3)])
    answer = client.post("/api/segment/batch", files=files, data={"prompts": prompts})
    assert [scene["size"] for scene in answer.json()] == [[30, 40], [30, 41], [30, 42]]
    refused = client.post("/api/segment/batch", files=files, data={"prompts": "[{}]"})
    assert refused.status_code == 422 and "expected one entry per image" in refused.json()["error"]


def test_the_examples_of_the_documentation(client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the Python and send the requests of docs/serve.md, in their order."""
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text()
    monkeypatch.chdir(tmp_path)
    given = drawn_mask((400, 400))
    Image.effect_noise((400, 400), 80).convert("RGB").save("street.jpg")
    Image.fromarray(given).save("mask.png")
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(compile(block, "serve.md", "exec"), {})
    answers = [send_like_curl(client, line) for line in re.findall(r"^curl (.*)$", page, re.M)]
    assert len(answers) == 4 and all(answer.status_code == 200 for answer in answers)
    np.testing.assert_array_equal(decode_mask(answers[-1].json()["objects"][0]["visible"]), given)


def send_like_curl(client: TestClient, arguments: str) -> Any:
    """Send the form that `curl -F NAME=VALUE ... URL` sends; a value is a text, @FILE or <FILE."""
    *fields, url = shlex.split(arguments)
    form, files = {}, {}
    for flag, field in zip(fields[::2], fields[1::2], strict=True):
        name, _, value = field.partition("=")
        assert flag == "-F"
        if value.startswith("@"):
            files[name] = (value[1:], Path(value[1:]).read_bytes())
        else:
            form[name] = Path(value[1:]).read_text() if value.startswith("<") else value
    return client.post(urlsplit(url).path, files=files, data=form)


def test_a_conversation_continues(client: TestClient) -> None:
    key = upload(client)
    for turn in (1, 2):
        reply = client.post(f"/api/images/{key}/ask", json={"question": "what?"}).json()
        assert reply["answer"] == f"Turn {turn}: it <b>&" and reply["objects"][0]["phrase"] == "it"
        assert reply["parts"][1] == {"text": "it", "objects": [0]}
        assert reply["objects"][0]["same_as"] is None
    full = encode_mask(np.ones((40, 60), bool))
    known = [encode_mask(drawn_mask()), full]
    reply = client.post(f"/api/images/{key}/ask", json={"question": "what?", "known": known}).json()
    assert reply["objects"][0]["same_as"] == 1
    assert post_image(client, "/api/ask", question="what?").json()["answer"].startswith("Turn 1")
    refused = client.post(f"/api/images/{key}/ask", json={"question": " "})
    assert refused.status_code == 422 and "question: expected words" in refused.json()["error"]


def test_a_question_without_an_assistant_is_refused(models: DemoModels) -> None:
    with TestClient(make_app(DemoModels(models.segmenter, models.finder)), base_url="http://localhost") as client:
        assert client.get("/api/about").json()["asks"] is False
        refused = post_image(client, "/api/ask", question="what?")
        assert refused.status_code == 422 and "expected a model that answers questions" in refused.json()["error"]


def test_views_and_exports_of_a_scene(client: TestClient) -> None:
    key = upload(client)
    empty = client.post(f"/api/images/{key}/export/scene", json={})
    assert empty.status_code == 422 and "expected a scene with objects" in empty.json()["error"]
    found = client.post(f"/api/images/{key}/segment", json={"boxes": [[5, 5, 30, 30], [20, 10, 50, 38]]}).json()
    assert sorted(found["front_to_back"]) == [0, 1]
    view = client.get(f"/api/images/{key}/view")
    assert view.headers["content-type"] == "image/jpeg" and Image.open(io.BytesIO(view.content)).size == (60, 40)
    scene = {"objects": found["objects"]}
    scene["objects"][0]["name"] = "mug"
    for to in ("scene", *FORMATS):
        answer = client.post(f"/api/images/{key}/export/{to}", json=scene)
        assert 'filename="street-' in answer.headers["content-disposition"]
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None and archive.namelist()
            if to == "scene":
                assert json.loads(archive.read("scene.json"))["objects"][0]["name"] == "mug"
    assert client.post(f"/api/images/{key}/export/psd", json=scene).status_code == 422
    assert client.get(f"/api/images/{key}/view/secret").status_code == 404


def test_a_scene_is_completed_as_the_library_does(client: TestClient, models: DemoModels) -> None:
    content = png()
    key = post_image(client, "/api/images", content).json()["key"]
    pixels = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
    scene = models.segmenter(pixels, [[5, 5, 30, 30], [20, 10, 50, 38]])
    records = scene.to_json()["objects"]
    bare = [{name: record[name] for name in ("visible", "amodal", "visible_box_xyxy", "score")} for record in records]
    completed = client.post(f"/api/images/{key}/scene", json={"objects": bare}).json()
    assert completed == json.loads(json.dumps(scene.to_json() | {"front_to_back": scene.front_to_back()}))


@pytest.mark.parametrize("side", [128, 192])
def test_uncertainty_maps_come_with_the_objects(
    client: TestClient, models: DemoModels, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    """At the size of the model's input, or smaller."""
    monkeypatch.setattr(images, "MAP_SIDE", side)
    content = png()
    key = post_image(client, "/api/images", content).json()["key"]
    (found,) = client.post(f"/api/images/{key}/segment", json={"boxes": [[5, 5, 30, 30]]}).json()["objects"]
    pixels = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
    values, window = models.segmenter(pixels, [[5, 5, 30, 30]])[0].uncertainty_crop or (None, None)
    given = np.frombuffer(base64.b64decode(found["uncertainty"]["values"]), np.uint8)
    assert values is not None and found["uncertainty"]["window"] == list(window or ())
    assert values.shape == (192, 192) and found["uncertainty"]["size"] == [side, side]
    expected = cv2.resize(values, (side, side), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(given.reshape(side, side) / 255 * np.log(2), expected, atol=0.002)


def test_all_objects_are_found_except_the_known_ones(client: TestClient) -> None:
    content = (Path(stores.__file__).parent / "demo_page" / "examples" / "coffee.jpg").read_bytes()
    key = post_image(client, "/api/images", content).json()["key"]
    found = client.post(f"/api/images/{key}/find", json={}).json()["objects"]
    assert len(found) >= 2
    known = [obj["visible"] for obj in found]
    assert client.post(f"/api/images/{key}/find", json={"known": known}).json()["objects"] == []
    others = client.post(f"/api/images/{key}/find", json={"known": known[:1]}).json()["objects"]
    assert [obj["visible"] for obj in others] == known[1:]


@pytest.mark.parametrize(
    ("path", "body", "line"),
    [
        ("find", {"known": [{"size": [4, 4], "counts": "4"}]}, "expected an RLE of size [40, 60]"),
        ("find", {"known": [encode_mask(np.zeros((40, 60), bool))]}, "got an empty mask"),
        ("find", {"known": "all"}, "known"),
        ("ask", {"question": "what?", "known": [{}]}, "expected polygons or an RLE"),
        ("ask", {"question": "what?", "colour": 1}, "colour"),
        ("scene", {"objects": [{"visible": {}, "amodal": {}}]}, "visible_box_xyxy"),
        ("scene", {"objects": [{"visible": {}, "amodal": {}, "visible_box_xyxy": [0, 0, 1, 1]}]}, "or an RLE"),
        ("scene", {"objects": [{}] * 201}, "objects"),
        ("export/coco", {"objects": [[]]}, "objects.0"),
    ],
)
def test_wrong_scenes_get_one_line(client: TestClient, path: str, body: Any, line: str) -> None:
    answer = client.post(f"/api/images/{upload(client)}/{path}", json=body)
    assert answer.status_code == 422 and line in answer.json()["error"] and "\n" not in answer.json()["error"]


def test_masks_that_would_take_too_much_memory_are_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_AREA", 5000)
    full = encode_mask(np.ones((40, 60), bool))
    record = {"visible": full, "amodal": full, "visible_box_xyxy": [0, 0, 60, 40]}
    for path, body in (("scene", {"objects": [record, record]}), ("find", {"known": [full] * 3})):
        answer = client.post(f"/api/images/{upload(client)}/{path}", json=body)
        assert answer.status_code == 422 and "expected boxes of at most 5000 pixels together" in answer.json()["error"]


def test_an_image_is_decoded_once_and_no_part_of_it_is_encoded_twice(
    models: DemoModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = DemoModels(models.segmenter, models.segmenter.finder)  # with an empty cache
    decoded: list[int] = []
    decode = stores.decode_image
    monkeypatch.setattr(stores, "decode_image", lambda *given: decoded.append(1) or decode(*given))
    encoded: list[str] = []

    def counting(model: Any, name: str) -> None:
        encode = model.encode
        monkeypatch.setattr(model, "encode", lambda pixels: encoded.append(name) or encode(pixels))

    counting(models.segmenter.model, "crop")
    counting(models.finder.model, "window")
    with TestClient(make_app(models), base_url="http://127.0.0.1") as client:
        key = upload(client)

        def click(*points: list[float], **prompts: Any) -> None:
            answer = client.post(f"/api/images/{key}/segment", json={"points_per_object": [list(points)]} | prompts)
            assert answer.status_code == 200

        click([20, 20])
        assert encoded.count("window") == 3  # the whole image and two close-ups
        assert encoded.count("crop") <= 2  # the crop, and its mirror image if the object gets an occluded part
        before = len(encoded)
        click([20, 20])
        assert len(encoded) == before
        click([40, 20])
        assert encoded.count("window") == 5 and encoded.count("crop") <= 4  # the whole image is not encoded again
        before = len(encoded)
        for _ in range(3):
            click([20, 20], [50, 30, 0], boxes=[[5, 5, 40, 30]])
        assert len(encoded) <= before + 3
        client.get(f"/api/images/{key}/view")
    assert len(decoded) == 1


def test_decoded_images_make_room_for_others_and_stay_the_same_array() -> None:
    kept = DecodedImages(max_bytes=20_000)
    first, second = (kept.open(name, png()) for name in ("first", "second"))
    array = kept.pixels(first)
    assert array is kept.pixels(first) and array.nbytes == 40 * 60 * 3
    third = kept.open("third", png())  # three arrays have 21,600 bytes; the least recently used one goes
    assert kept.pixels(third) is kept.pixels(third) and kept.pixels(first) is array
    again = kept.pixels(second)
    assert again.shape == (40, 60, 3) and kept.pixels(second) is again


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_photographs_with_boxes_and_a_source(client: TestClient, name: str) -> None:
    (example,) = [one for one in client.get("/examples.json").json() if one["name"] == name]
    photograph = Image.open(io.BytesIO(client.get(f"/examples/{name}.jpg").content))
    assert Image.open(io.BytesIO(client.get(f"/examples/{name}-small.jpg").content)).size == (112, 88)
    for obj in example["objects"]:
        x0, y0, x1, y1 = obj["box"]
        assert 0 <= x0 < x1 <= photograph.width and 0 <= y0 < y1 <= photograph.height and obj["name"]
    sources = (Path(stores.__file__).parent / "demo_page" / "examples" / "SOURCES.md").read_text()
    assert example["source"] and f"`{name}.jpg`" in sources


@pytest.mark.parametrize(
    ("content", "form", "status", "line"),
    [
        (b"this is a text file", {}, 422, "got a file of another kind"),
        (b"", {}, 422, "image: expected an image"),
        (png()[:200], {}, 422, "image: expected a whole image"),
        (None, {"prompts": "{"}, 422, "prompts: expected JSON"),
        (None, {"prompts": '{"boxes": [[1, 2, 3]]}'}, 422, "prompts.boxes.0"),
        (None, {"prompts": '{"boxes": [[9, 9, 1, 1]]}'}, 422, "which is inverted"),
        (None, {"prompts": '{"boxes": [[900, 9, 1000, 11]]}'}, 422, "expected a box inside the 60 x 40 image"),
        (None, {"prompts": '{"boxes": [[NaN, 1, 2, 3]]}'}, 422, "expected finite numbers"),
        (None, {"prompts": '{"points": [[-1, 4]]}'}, 422, "point: expected a point inside"),
        (None, {"prompts": '{"points": [[1]]}'}, 422, "prompts.points.0"),
        (None, {"prompts": '{"points": [[1, 4, 0]]}'}, 422, "expected at least one point with label 1"),
        (None, {"prompts": '{"points_per_object": [[]]}'}, 422, "expected at least one point"),
        (None, {"prompts": '{"points_per_object": [null]}'}, 422, "expected a box, points or a mask, got none"),
        (None, {"prompts": '{"masks": ["x"]}'}, 422, "prompts.masks.0"),
        (None, {"prompts": '{"masks": [{}]}'}, 422, "segmentation: expected polygons or an RLE"),
        (None, {"prompts": '{"masks": [{"size": [4, 4], "counts": "4"}]}'}, 422, "expected an RLE of size [40, 60]"),
        (None, {"prompts": '{"masks": [{"size": [40, 60], "counts": "#"}]}'}, 422, "expected an RLE's counts"),
        (None, {"prompts": json.dumps({"masks": [encode_mask(np.zeros((40, 60), bool))]})}, 422, "got an empty mask"),
        (
            None,
            {"prompts": json.dumps({"masks": [encode_mask(drawn_mask())], "boxes": [[1, 1, 9, 9]] * 2})},
            422,
            "expected one entry per object in each list, got 2 boxes, 1 masks",
        ),
        (None, {"prompts": '{"detections": [{"id": 5}]}'}, 422, "annotation 5: expected a segmentation or a bbox"),
        (None, {"prompts": '{"detections": [{"id": "x"}]}'}, 422, "prompts.detections.0.id"),
        (
            None,
            {"prompts": '{"detections": [{"bbox": [1, 1, 9, 9]}], "boxes": [[1, 1, 9, 9]]}'},
            422,
            "detections: expected without other prompts",
        ),
        (None, {"prompts": json.dumps({"masks": [{"counts": "0" * 2_000_000}]})}, 400, "Part exceeded maximum size"),
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


@pytest.mark.parametrize(
    "path", ["/../pyproject.toml", "/page/../server.py", "/etc/passwd", "/docs", "/api/images/x/view"]
)
def test_no_other_files_are_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code in (404, 422)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://["}, 403),
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
    store = ImageStore(max_bytes=20_000)  # an image costs about 4 kB besides its content
    keys = [store.add(DemoImage(str(n), b"x" * 4000, (2, 2))) for n in range(3)]
    assert len(store.images) == 2
    with pytest.raises(InputError, match="image: expected the key of a stored image"):
        store.get(keys[0])
    store.get(keys[1])
    store.add(DemoImage("new", b"x" * 4000, (2, 2)))
    assert keys[1] in store.images and keys[2] not in store.images
    stale = ImageStore(max_seconds=-1)
    with pytest.raises(InputError, match="upload the image again"):
        stale.get(stale.add(DemoImage("x", b"", (2, 2))))


def test_a_full_queue_returns_status_503(models: DemoModels) -> None:
    with TestClient(make_app(models, queue=JobQueue(max_waiting=0)), base_url="http://localhost") as client:
        answer = post_image(client, "/api/segment", prompts='{"boxes": [[5, 5, 30, 30]]}')
        assert answer.status_code == 503 and answer.headers["retry-after"] == "2"
