"""A server of the Model Context Protocol (MCP), through which language models segment images.

`AmodalTools` has the operations, and `make_server` offers them as tools. Images are named by their path below one
folder, and nothing is written.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

import numpy as np
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, ImageContent, TextContent, ToolAnnotations
from PIL import Image
from pydantic import BaseModel, Field

from amodal.errors import MAX_QUESTION_LENGTH, InputError
from amodal.inference.assistant import AmodalAssistant
from amodal.inference.everything import segment_everything
from amodal.inference.scene import Scene
from amodal.inference.segmenter import AmodalSegmenter
from amodal.io.files import is_file
from amodal.io.frames import IMAGE_ENDINGS
from amodal.io.images import ImageArray, load_image
from amodal.models.aura.processing import check_question
from amodal.ops.rle import encode_window
from amodal.version import __version__

MAX_OBJECTS = 32
"""Maximum number of objects that one call may prompt for."""

MAX_LISTED = 500
"""Maximum number of images that one call lists."""

MAX_SIDE = 1024
"""Longest side in pixels of the overlay that a client gets."""

INSTRUCTIONS = """Segments objects in images, with two masks per object: its visible part, and its complete (amodal)
shape including what other objects hide. Name images by their path below the folder of this server; list_images lists
them. Boxes and points are in pixels of the image, with the origin in its upper left corner. Objects are numbered from
0."""

ImageName = Annotated[str, Field(description="Path of the image below the folder of the server.")]
Boxes = Annotated[
    list[Annotated[list[float], Field(min_length=4, max_length=4)]] | None,
    Field(description="Boxes [x0, y0, x1, y1] of the visible parts, one per object.", max_length=MAX_OBJECTS),
]
Points = Annotated[list[Annotated[list[float], Field(min_length=2, max_length=2)]], Field(max_length=MAX_OBJECTS)]
PointLists = Annotated[
    list[Points] | None,
    Field(description="One list of points [x, y] on the object per object.", max_length=MAX_OBJECTS),
]
Masks = Annotated[
    list[dict[str, Any]] | None,
    Field(
        description='Visible masks as COCO RLEs {"size": [height, width], "counts": "..."}, one per object.',
        max_length=MAX_OBJECTS,
    ),
]
Question = Annotated[str, Field(description="Question in words.", max_length=MAX_QUESTION_LENGTH)]
WithMasks = Annotated[bool, Field(description="Also return both masks of each object as COCO RLEs, which are long.")]


class FoundObject(BaseModel):
    """One object of a scene; boxes are [x0, y0, x1, y1] in pixels."""

    number: int
    label: str
    score: float = Field(description="Quality of the amodal mask as the model estimates it, from 0 to 1.")
    occlusion_rate: float = Field(description="Share of the complete shape that is hidden, from 0 to 1.")
    visible_box: list[float]
    amodal_box: list[float]
    visible_area: int = Field(description="In pixels.")
    amodal_area: int = Field(description="In pixels.")
    hidden_by: list[int] = Field(description="Numbers of the objects in front that hide a part of this one.")
    visible_mask: dict[str, Any] | None = None
    amodal_mask: dict[str, Any] | None = None


class FoundScene(BaseModel):
    """The objects of an image."""

    image: str
    width: int
    height: int
    objects: list[FoundObject]
    front_to_back: list[int] = Field(description="Numbers of the objects, each after those that hide it.")
    answer: str | None = None


class OcclusionOrder(BaseModel):
    """Which object of an image hides which."""

    labels: list[str]
    visible_boxes: list[list[float]] = Field(description="[x0, y0, x1, y1] in pixels, by number of the object.")
    hides: list[list[int]] = Field(description="Pairs [front, behind] of numbers of objects.")
    front_to_back: list[int] = Field(description="Numbers of the objects, each after those that hide it.")


class ImageFolder:
    """Images below one folder.

    Args:
        root: the folder.

    Raises:
        InputError: it does not exist.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise InputError(f"root: expected a folder, got {str(root)!r}")
        self.root = root.resolve()

    def open(self, name: str) -> ImageArray:
        """Load an image by its path below the folder, or by its absolute path.

        Raises:
            InputError: the path, with all symbolic links followed, leads out of the folder, or no image is there.
        """
        try:
            path = (self.root / name).resolve()
        except (OSError, ValueError, RuntimeError) as error:  # a null character, a loop of links, a name too long
            raise InputError(f"image: expected a path below the folder of the server, got {name!r:.80}") from error
        if not path.is_relative_to(self.root):
            raise InputError(f"image: expected a path below the folder of the server, got {name!r:.80}")
        if not is_file(path):
            raise InputError(f"image: expected a file below the folder of the server, got {name!r:.80}, which is none")
        try:
            return load_image(path)
        except InputError as error:  # a client need not know where the folder is
            raise InputError(str(error).replace(f"{self.root}{os.sep}", "")) from error

    def names(self) -> Iterator[str]:
        """Paths of the images below the folder, in alphabetical order per folder; hidden files are left out."""
        for place, folders, files in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                path = Path(place, name)
                if path.suffix.lower() in IMAGE_ENDINGS | {".gif"} and not name.startswith("."):
                    yield path.relative_to(self.root).as_posix()


class AmodalTools:
    """The operations of the server. Calls of the models do not overlap.

    Args:
        folder: where the images are.
        segmenter: segments the objects of prompts.
        assistant: answers questions; None if there is no such model.
    """

    def __init__(self, folder: ImageFolder, segmenter: AmodalSegmenter, assistant: AmodalAssistant | None) -> None:
        self.folder, self.segmenter, self.assistant = folder, segmenter, assistant
        self._lock = Lock()

    def segment(self, image: str) -> Scene:
        """Find and segment all objects of an image.

        Raises:
            InputError: an image outside the folder, or one that cannot be read.
        """
        pixels = self.folder.open(image)
        with self._lock:
            return segment_everything(self.segmenter, self.segmenter.finder, pixels)

    def segment_prompts(
        self,
        image: str,
        boxes: Sequence[Sequence[float]] | None = None,
        points: Sequence[Sequence[Sequence[float]]] | None = None,
        masks: Sequence[dict[str, Any]] | None = None,
    ) -> Scene:
        """Segment the objects of boxes, points or visible masks, which describe the same objects.

        Raises:
            InputError: as `segment`, or an impossible prompt.
        """
        pixels = self.folder.open(image)
        with self._lock:
            return self.segmenter(pixels, boxes or None, points_xy=points or None, masks=masks or None)

    def ask(self, image: str, question: str) -> Scene:
        """Answer a question about an image and segment the objects of the answer.

        Raises:
            InputError: as `segment`, no model that answers, or a question that is empty or too long.
        """
        if self.assistant is None:
            raise InputError("ask: expected a model that answers questions, got none (amodal mcp --assistant MODEL)")
        check_question(question)
        pixels = self.folder.open(image)
        with self._lock:
            return self.assistant.ask(pixels, question).scene


def make_server(tools: AmodalTools) -> MCPServer[Any]:
    """Offer the operations as tools of an MCP server; `run("stdio")` of the result serves them."""
    server: MCPServer[Any] = MCPServer(
        "amodal", title="Amodal segmentation", instructions=INSTRUCTIONS, version=__version__, log_level="WARNING"
    )
    read_only = ToolAnnotations(read_only_hint=True, open_world_hint=False)

    @server.tool(annotations=read_only)
    def list_images() -> list[str]:
        """List the images of this server by the paths that the other tools take, at most 500."""
        return list(islice(tools.folder.names(), MAX_LISTED))

    @server.tool(annotations=read_only)
    def segment(image: ImageName, with_masks: WithMasks = False) -> Annotated[CallToolResult, FoundScene]:
        """Find all objects of an image and segment the visible part and the complete shape of each."""
        return _result(image, with_masks, lambda: tools.segment(image))

    @server.tool(annotations=read_only)
    def amodal_masks(
        image: ImageName,
        boxes: Boxes = None,
        points: PointLists = None,
        masks: Masks = None,
        with_masks: WithMasks = False,
    ) -> Annotated[CallToolResult, FoundScene]:
        """Segment the visible part and the complete shape of the objects that boxes, points or visible masks describe.

        All prompts that are given describe the same objects, so their lists have the same length.
        """
        return _result(image, with_masks, lambda: tools.segment_prompts(image, boxes, points, masks))

    @server.tool(annotations=read_only)
    def occlusion_order(image: ImageName, boxes: Boxes = None, masks: Masks = None) -> OcclusionOrder:
        """Tell which object hides which.

        The objects are those of boxes or visible masks, or all objects that are found if neither is given.
        """

        def scene() -> Scene:
            return tools.segment_prompts(image, boxes, None, masks) if boxes or masks else tools.segment(image)

        found = _told(scene)
        return OcclusionOrder(
            labels=[obj.label for obj in found],
            visible_boxes=[list(obj.visible_box_xyxy) for obj in found],
            hides=[list(pair) for pair in found.occlusion_order()],
            front_to_back=found.front_to_back(),
        )

    @server.tool(annotations=read_only)
    def ask(
        image: ImageName, question: Question, with_masks: WithMasks = False
    ) -> Annotated[CallToolResult, FoundScene]:
        """Ask a small model about an image, and segment the objects that its answer names."""
        return _result(image, with_masks, lambda: tools.ask(image, question))

    return server


def _told(scene: Callable[[], Scene]) -> Scene:
    """The scene. What is wrong with the input becomes an error that the client reads."""
    try:
        return scene()
    except InputError as error:
        raise ToolError(str(error)) from error


def _result(image: str, with_masks: bool, scene: Callable[[], Scene]) -> CallToolResult:
    """The objects of a scene as data and as text, and the overlay as an image."""
    found = _told(scene)
    record = found_scene(image, found, with_masks).model_dump(exclude_none=True)
    content: list[Any] = [TextContent(type="text", text=json.dumps(record))]
    if len(found):
        data = base64.b64encode(_overlay(found)).decode()
        content.append(ImageContent(type="image", data=data, mime_type="image/jpeg"))
    return CallToolResult(content=content, structured_content=record)


def found_scene(image: str, scene: Scene, with_masks: bool) -> FoundScene:
    """The objects of a scene in the form of the tools.

    Args:
        image: name of the image.
        scene: N objects.
        with_masks: also give the masks.
    """
    pairs = scene.occlusion_order()
    objects = [
        FoundObject(
            number=number,
            label=obj.label,
            score=obj.score,
            occlusion_rate=obj.occlusion_rate,
            visible_box=list(obj.visible_box_xyxy),
            amodal_box=list(obj.amodal_box_xyxy),
            visible_area=int(np.count_nonzero(obj.visible_in_window)),
            amodal_area=int(np.count_nonzero(obj.amodal_in_window)),
            hidden_by=[front for front, behind in pairs if behind == number],
            visible_mask=encode_window(obj.visible_in_window, obj.window, obj.size) if with_masks else None,
            amodal_mask=encode_window(obj.amodal_in_window, obj.window, obj.size) if with_masks else None,
        )
        for number, obj in enumerate(scene)
    ]
    H, W = scene.size
    front_to_back = scene.front_to_back()
    return FoundScene(image=image, width=W, height=H, objects=objects, front_to_back=front_to_back, answer=scene.answer)


def _overlay(scene: Scene) -> bytes:
    """The drawing of a scene as a JPEG file of at most `MAX_SIDE` pixels per side."""
    overlay = Image.fromarray(scene.draw())
    overlay.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    overlay.save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()
