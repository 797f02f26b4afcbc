"""One frame of coordinates: the API and the page take prompts and give masks in the pixels of the upload."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image, ImageDraw

from amodal.app.demo import make_app
from amodal.app.images import MAX_SIDE, DemoModels
from amodal.cli.main import main
from amodal.inference.segmenter import AmodalSegmenter

SIZE = (2200, 400)  # (W, H), longer than what the page shows
SQUARE = [100, 60, 380, 340]
DISC = [1800, 60, 2140, 380]  # outside of the image if it were shrunk to 2048 pixels


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    segmenter = AmodalSegmenter.from_pretrained("plug-small", device="cpu")
    with TestClient(make_app(DemoModels(segmenter, segmenter.finder)), base_url="http://127.0.0.1") as client:
        yield client


def photograph(orientation: int = 1, kind: str = "PNG") -> bytes:
    """A square and a disc; stored turned if the orientation says so."""
    image = Image.new("RGB", SIZE, (90, 120, 90))
    pen = ImageDraw.Draw(image)
    pen.rectangle(SQUARE, fill=(200, 40, 40))
    pen.ellipse(DISC, fill=(40, 60, 200))
    exif = Image.Exif()
    exif[0x0112] = orientation
    if orientation == 6:
        image = image.transpose(Image.Transpose.ROTATE_90)
    buffer = io.BytesIO()
    image.save(buffer, format=kind, exif=exif)
    return buffer.getvalue()


@pytest.fixture(scope="module", params=[(1, "PNG"), (6, "JPEG")], ids=["png", "turned jpeg"])
def content(request: pytest.FixtureRequest) -> bytes:
    return photograph(*request.param)


@pytest.fixture(scope="module")
def expected(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The objects as the command line finds them."""
    folder = tmp_path_factory.mktemp("cli")
    image = folder / "a.jpg"
    image.write_bytes(content)
    boxes = [part for box in (SQUARE, DISC) for part in ("--box", ",".join(map(str, box)))]
    assert main(["segment", str(image), *boxes, "--model", "plug-small", "--out", str(folder / "out"), "--json"]) == 0
    return json.loads((folder / "out" / "scene.json").read_text())


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    keys = ("visible", "amodal", "visible_box_xyxy", "amodal_box_xyxy", "score")
    parts = [[{key: obj[key] for key in keys} for obj in scene["objects"]] for scene in (found, expected)]
    return found["size"] == expected["size"] == [SIZE[1], SIZE[0]] and len(parts[0]) == 2 and parts[0] == parts[1]


def test_the_api_gives_the_masks_of_the_command_line(client: TestClient, content: bytes, expected: Any) -> None:
    form = {"prompts": json.dumps({"boxes": [SQUARE, DISC]})}
    assert same(client.post("/api/segment", files={"image": ("a.png", content)}, data=form).json(), expected)
    form = {"prompts": json.dumps([{"boxes": [SQUARE, DISC]}])}
    (found,) = client.post("/api/segment/batch", files={"images": ("a.png", content)}, data=form).json()
    assert same(found, expected)


def test_the_page_gives_the_masks_of_the_command_line(
    client: TestClient, content: bytes, expected: Any, tmp_path: Path
) -> None:
    opened = client.post("/api/images", files={"image": ("a.png", content)}).json()
    assert opened["size"] == [SIZE[1], SIZE[0]]
    key = opened["key"]
    assert same(client.post(f"/api/images/{key}/segment", json={"boxes": [SQUARE, DISC]}).json(), expected)
    scene = {"objects": expected["objects"]}
    exported = client.post(f"/api/images/{key}/export/scene", json=scene).content
    with zipfile.ZipFile(io.BytesIO(exported)) as archive:
        assert same(json.loads(archive.read("scene.json")), expected)
        assert Image.open(io.BytesIO(archive.read("object_01_amodal.png"))).size == SIZE
    shown = Image.open(io.BytesIO(client.get(f"/api/images/{key}/view").content))
    assert max(shown.size) == MAX_SIDE and abs(shown.width / shown.height - SIZE[0] / SIZE[1]) < 0.01


def test_points_are_in_the_same_frame(client: TestClient) -> None:
    form = {"prompts": json.dumps({"points": [[2100, 220]]})}
    answer = client.post("/api/segment", files={"image": ("a.png", photograph())}, data=form)
    assert answer.status_code == 200 and answer.json()["size"] == [SIZE[1], SIZE[0]]
