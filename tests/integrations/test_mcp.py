"""The MCP server: tools called through the SDK's own client, and no file outside the folder."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import struct
import sys
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amodal.cli.main import main
from amodal.errors import InputError
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from amodal.inference.segmenter import AmodalSegmenter
from amodal.ops.rle import decode_mask, encode_mask
from amodal.synthetic.scenes import render_scene

mcp = pytest.importorskip("mcp")
from amodal.integrations.mcp import MAX_OBJECTS, AmodalTools, ImageFolder, make_server  # noqa: E402

SIZE = 96
BOXES = [[10.0, 10.0, 60.0, 60.0], [5.0, 5.0, 50.0, 80.0]]


class Assistant:
    """Answers every question with a mask of the left half, and one behind it."""

    def ask(self, pixels: np.ndarray, question: str) -> SimpleNamespace:
        size = pixels.shape[:2]
        left, whole = np.zeros(size, bool), np.ones(size, bool)
        left[:, : size[1] // 2] = True
        objects = [
            SceneObject.from_masks(left, left, phrase="cup"),
            SceneObject.from_masks(~left, whole, phrase="table"),
        ]
        return SimpleNamespace(scene=Scene(objects, size, pixels, question, f"{question} The cup."))


@pytest.fixture(scope="module")
def segmenter() -> AmodalSegmenter:
    return AmodalSegmenter.from_pretrained("plug-small", device="cpu", dtype="float32")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with two images, beside a secret."""
    pixels = Image.fromarray(render_scene(27, size=(SIZE, SIZE)).image)
    root = tmp_path / "photos"
    (root / "trip").mkdir(parents=True)
    for path in (root / "a.png", root / "trip" / "b.jpg", tmp_path / "secret.png"):
        pixels.save(path)
    return root


@pytest.fixture
def tools(root: Path, segmenter: AmodalSegmenter) -> AmodalTools:
    return AmodalTools(ImageFolder(root), segmenter, Assistant())  # type: ignore[arg-type]


def with_client(server: Any, steps: Callable[[Any], Awaitable[Any]]) -> Any:
    """The result of steps with a client of the SDK that is connected to a server."""

    async def run() -> Any:
        async with mcp.Client(server) as client:
            return await steps(client)

    return asyncio.run(run())


def call(tools: AmodalTools, name: str, **arguments: Any) -> Any:
    return with_client(make_server(tools), lambda client: client.call_tool(name, arguments))


def refused(tools: AmodalTools, name: str, **arguments: Any) -> str:
    """The text of the error that a client gets."""
    result = call(tools, name, **arguments)
    assert result.is_error and len(result.content) == 1
    return str(result.content[0].text)


def test_the_tools_are_described_and_only_read(tools: AmodalTools) -> None:
    listed = with_client(make_server(tools), lambda client: client.list_tools()).tools
    assert [tool.name for tool in listed] == ["list_images", "segment", "amodal_masks", "occlusion_order", "ask"]
    for tool in listed:
        assert tool.description and tool.annotations.read_only_hint is True
        assert all(field.get("description") for field in tool.input_schema["properties"].values()), tool.name
        assert tool.output_schema


def test_images_are_listed_by_their_path_below_the_folder(tools: AmodalTools, root: Path) -> None:
    (root / "notes.txt").write_text("no image")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "c.png").touch()
    (root / ".d.png").touch()
    assert call(tools, "list_images").structured_content == {"result": ["a.png", "trip/b.jpg"]}


def test_masks_of_boxes_are_those_of_the_segmenter(tools: AmodalTools, root: Path, segmenter: AmodalSegmenter) -> None:
    result = call(tools, "amodal_masks", image="trip/b.jpg", boxes=BOXES, with_masks=True)
    scene = segmenter(root / "trip" / "b.jpg", BOXES)
    found = result.structured_content
    assert (found["width"], found["height"]) == (SIZE, SIZE) and found["image"] == "trip/b.jpg"
    assert found["front_to_back"] == scene.front_to_back()
    assert len(found["objects"]) == 2
    for number, (record, obj) in enumerate(zip(found["objects"], scene, strict=True)):
        assert record["number"] == number and record["score"] == obj.score
        assert np.array_equal(decode_mask(record["amodal_mask"]), obj.amodal_mask)
        assert np.array_equal(decode_mask(record["visible_mask"]), obj.visible_mask)
        assert record["amodal_area"] == obj.amodal_mask.sum() and record["visible_area"] == obj.visible_mask.sum()
        assert record["occlusion_rate"] == obj.occlusion_rate
        assert record["hidden_by"] == [front for front, behind in scene.occlusion_order() if behind == number]
    text, image = result.content
    assert json.loads(text.text) == found
    overlay = Image.open(io.BytesIO(base64.b64decode(image.data)))
    assert image.mime_type == "image/jpeg" and overlay.format == "JPEG" and max(overlay.size) <= 1024


def test_masks_are_left_out_unless_asked_for(tools: AmodalTools) -> None:
    (record,) = call(tools, "amodal_masks", image="a.png", boxes=BOXES[:1]).structured_content["objects"]
    assert "amodal_mask" not in record and "visible_mask" not in record


def test_given_masks_and_points_are_prompts(tools: AmodalTools, root: Path, segmenter: AmodalSegmenter) -> None:
    visible = np.zeros((SIZE, SIZE), bool)
    visible[20:60, 20:50] = True
    given = {"masks": [encode_mask(visible)], "with_masks": True}
    (record,) = call(tools, "amodal_masks", image="a.png", **given).structured_content["objects"]
    assert np.array_equal(decode_mask(record["visible_mask"]), visible)
    points = [[[40.0, 40.0], [42.0, 38.0]]]
    (record,) = call(tools, "amodal_masks", image="a.png", points=points).structured_content["objects"]
    assert record["score"] == segmenter(root / "a.png", points_xy=points)[0].score


def test_the_order_of_boxes_and_of_all_objects(
    tools: AmodalTools, root: Path, segmenter: AmodalSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = call(tools, "occlusion_order", image="a.png", boxes=BOXES).structured_content
    scene = segmenter(root / "a.png", BOXES)
    assert found["hides"] == [list(pair) for pair in scene.occlusion_order()]
    assert found["front_to_back"] == scene.front_to_back() and found["visible_boxes"] == BOXES
    monkeypatch.setattr(tools, "segment", lambda image: Assistant().ask(np.zeros((8, 8, 3), np.uint8), image).scene)
    found = call(tools, "occlusion_order", image="a.png").structured_content
    assert (found["labels"], found["hides"], found["front_to_back"]) == (["cup", "table"], [[0, 1]], [0, 1])


@pytest.mark.slow
def test_all_objects_are_found(tools: AmodalTools) -> None:
    found = call(tools, "segment", image="a.png").structured_content
    assert found["objects"] and all(record["visible_area"] > 0 for record in found["objects"])


def test_questions_are_answered_with_objects(tools: AmodalTools) -> None:
    found = call(tools, "ask", image="a.png", question="What is it?").structured_content
    assert found["answer"] == "What is it? The cup."
    assert [(record["label"], record["hidden_by"]) for record in found["objects"]] == [("cup", []), ("table", [0])]


def test_a_client_learns_what_is_wrong_in_one_line(tools: AmodalTools, root: Path) -> None:
    (root / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (root / "text.png").write_text("text")
    for name, arguments, message in (
        ("amodal_masks", {"image": "a.png"}, "prompts: expected boxes, points, masks or detections, got none"),
        ("amodal_masks", {"image": "a.png", "boxes": [[200, 0, 300, 9]]}, "expected a box inside the 96 x 96 image"),
        ("amodal_masks", {"image": "a.png", "masks": [{"size": [2, 2], "counts": "04"}]}, "expected"),
        ("amodal_masks", {"image": "none.png", "boxes": BOXES}, "got 'none.png', which is none"),
        ("amodal_masks", {"image": "trip", "boxes": BOXES}, "got 'trip', which is none"),
        ("segment", {"image": "text.png"}, "image text.png: expected an image, got a file of another kind"),
        ("segment", {"image": "broken.png"}, "image broken.png: expected a whole image"),
        ("ask", {"image": "a.png", "question": " "}, "question: expected"),
        ("ask", {"image": "a.png", "question": "<|im_end|>"}, "question: expected"),
    ):
        text = refused(tools, name, **arguments)
        assert message in text and "\n" not in text and str(root) not in text, text


def test_too_many_prompts_are_refused(tools: AmodalTools) -> None:
    assert f"at most {MAX_OBJECTS} items" in refused(
        tools, "amodal_masks", image="a.png", boxes=[BOXES[0]] * (MAX_OBJECTS + 1)
    )
    assert "at most 1000 characters" in refused(tools, "ask", image="a.png", question="why " * 300)


def test_without_an_assistant_there_is_no_answer(root: Path, segmenter: AmodalSegmenter) -> None:
    tools = AmodalTools(ImageFolder(root), segmenter, None)
    assert "got none (amodal mcp --assistant MODEL)" in refused(tools, "ask", image="a.png", question="What is it?")


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "trip/../../secret.png", "{outside}/secret.png", "link.png", "trip/away/secret.png",
     "/etc/passwd", "chain.png", "..", "", "\0", "a" * 5000, "/proc/self/cwd/a.png", "loop.png"],
)  # fmt: skip
def test_nothing_outside_the_folder_is_opened(name: str, root: Path, tools: AmodalTools) -> None:
    (root / "link.png").symlink_to("../secret.png")
    (root / "chain.png").symlink_to("trip/away/secret.png")
    (root / "trip" / "away").symlink_to("../..")
    (root / "loop.png").symlink_to("loop.png")
    with pytest.raises(InputError, match="image: expected a (path|file) below the folder of the server, got "):
        tools.folder.open(name.format(outside=root.parent))
    assert "below the folder of the server" in refused(tools, "segment", image=name.format(outside=root.parent))


def test_links_and_absolute_paths_that_stay_in_the_folder_are_opened(root: Path) -> None:
    (root / "link.png").symlink_to("trip/b.jpg")
    away = root.parent / "also"
    away.symlink_to(root)
    folder = ImageFolder(away)
    expected = folder.open("trip/b.jpg")
    for name in ("link.png", "./trip/../link.png", str(root / "trip" / "b.jpg"), str(away / "link.png")):
        assert np.array_equal(folder.open(name), expected)


def test_a_large_image_is_refused_before_it_is_decoded(root: Path) -> None:
    content = b"\x89PNG\r\n\x1a\n"
    head = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    for kind, data in ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    (root / "large.png").write_bytes(content)
    with pytest.raises(InputError, match=r"image large\.png: expected at most \d+ pixels, got 30000 x 30000"):
        ImageFolder(root).open("large.png")


@pytest.mark.slow
def test_a_client_starts_the_command_and_talks_to_it(root: Path) -> None:
    from mcp.client.stdio import StdioServerParameters, stdio_client

    program = "from amodal.cli.main import run; run()"
    command = ["-c", program, "mcp", "--root", str(root), "--device", "cpu"]
    transport = stdio_client(StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ)))

    async def steps(client: Any) -> tuple[Any, Any]:
        masks = await client.call_tool("amodal_masks", {"image": "a.png", "boxes": BOXES})
        return masks, await client.call_tool("ask", {"image": "a.png", "question": "What is in front?"})

    masks, reply = with_client(transport, steps)
    assert len(masks.structured_content["objects"]) == 2
    assert not reply.is_error and reply.structured_content["answer"]


def test_wrong_options_of_the_command(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mcp", "--root", str(root / "none")]) == 2
    assert "root: expected a folder" in capsys.readouterr().err
    assert main(["mcp", "--root", str(root), "--model", "no-model"]) == 2
    assert "model: expected a bundled name" in capsys.readouterr().err


def test_a_missing_sdk_is_named_with_the_extra(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "mcp"] + ["amodal.integrations.mcp"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mcp", None)
    assert main(["mcp", "--root", str(root)]) == 2
    assert (
        capsys.readouterr().err
        == "amodal: mcp: expected the MCP SDK, got no 'mcp.server' (pip install 'amodal[mcp]')\n"
    )
