"""`Scene`: the result of segmentation, with a visible and an amodal mask per object."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from amodal.data.formats.canonical import canonical_record
from amodal.errors import InputError
from amodal.inference.conversions import Part, table_rows, to_detections, to_html, to_pandas, to_yolo
from amodal.inference.draw import draw_scene
from amodal.inference.scene_object import SceneObject, num_covered, object_from_json, object_to_json
from amodal.io.files import require_folder
from amodal.io.images import ImageSource, load_image
from amodal.io.json_stream import read_json
from amodal.io.words import counted
from amodal.ops.occlusion import depth_order, is_occluded, is_occluder
from amodal.ops.rle import encode_window

if TYPE_CHECKING:
    import pandas
    import supervision

_OWN_FILES = re.compile(r"object_\d{2,}_(visible|amodal|occluded)\.png|overlay\.png")
SCENE_FILE = "scene.json"


def files_of_scene(folder: Path) -> list[Path]:
    """The files in a folder that `Scene.save` would replace or remove."""
    if not folder.is_dir():
        return []
    return [file for file in folder.iterdir() if file.name == SCENE_FILE or _OWN_FILES.fullmatch(file.name)]


@dataclass(eq=False)
class Scene:
    """The objects of one image; a sequence of `SceneObject`.

    Attributes:
        objects: objects in the order of the prompts.
        size: (H, W) of the image.
        image: (H, W, 3) uint8 RGB, or None if the scene was loaded without it. An array that was passed is kept, not
            copied: copy a video buffer before you fill it again.
        question: question that was asked about the image, or None.
        answer: answer to the question, or None.
        confidence: smallest probability of a token of the answer, in [0, 1], see `Reply`; or None.
        image_path: file of the image, or None if it is not known.
        visible_from: name of the promptable segmenter that made the visible masks that were not given; None if the
            amodal model made them.

    Raises:
        InputError: an object or an image of another size.
    """

    objects: list[SceneObject]
    size: tuple[int, int]
    image: npt.NDArray[np.uint8] | None = None
    question: str | None = None
    answer: str | None = None
    image_path: Path | None = None
    visible_from: str | None = None
    confidence: float | None = None

    def __post_init__(self) -> None:
        for index, obj in enumerate(self.objects):
            if obj.size != self.size:
                raise InputError(f"scene: expected objects of size {self.size}, got {obj.size} for object {index}")
        if self.image is not None and self.image.shape != (*self.size, 3):
            raise InputError(f"scene: expected an image of shape {(*self.size, 3)}, got {self.image.shape}")

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.objects)

    def __getitem__(self, index: int) -> SceneObject:
        """Object by index."""
        return self.objects[index]

    def __iter__(self) -> Iterator[SceneObject]:
        """Iterate over the objects."""
        return iter(self.objects)

    def __repr__(self) -> str:
        """One line: number of objects, image size, and what is occluded."""
        H, W = self.size
        occluded = sum(is_occluded(obj.occlusion_rate) for obj in self.objects)
        names = ", ".join(dict.fromkeys(obj.label for obj in self.objects))
        named = f" ({names[:60]})" if names else ""
        source = f", image {self.image_path.name}" if self.image_path else ""
        return f"Scene({counted(len(self), 'object')}{named}, {occluded} occluded, {W} x {H} pixels{source})"

    def _repr_html_(self) -> str:
        """Drawing and table for notebooks."""
        return to_html(None if self.image is None else self.draw(), self._rows())

    def occlusion_order(self) -> list[tuple[int, int]]:
        """Pairs (front, behind) of object indices, by the rule of `amodal.ops.occlusion`.

        Two objects that occlude each other (a hand around a cup) give a pair each way.
        """
        pairs = []
        for behind, obj in enumerate(self.objects):
            occluded = obj.occluded_in_window
            num_occluded = int(np.count_nonzero(occluded))
            for front, other in enumerate(self.objects):
                if front != behind and is_occluder(num_covered(occluded, obj.window, other), num_occluded):
                    pairs.append((front, behind))
        return pairs

    def front_to_back(self) -> list[int]:
        """Object indices in depth order: each object comes after its occluders.

        Objects that occlude each other are ordered by occlusion rate, least occluded first.
        """
        occluders: list[list[int]] = [[] for _ in self.objects]
        for front, behind in self.occlusion_order():
            occluders[behind].append(front)
        return depth_order(occluders, [obj.occlusion_rate for obj in self.objects])

    def draw(self) -> npt.NDArray[np.uint8]:
        """Overlay (h, w, 3) uint8 RGB: visible parts filled, occluded parts hatched, visible boxes and labels.

        It has the size of the image, except that its longer side has at least 640 and at most 2048 pixels.

        Raises:
            InputError: the scene has no image.
        """
        if self.image is None:
            raise InputError(
                "scene: expected a scene with its image, got a scene loaded without it (Scene.load(folder, image))"
            )
        return draw_scene(self.image, self.objects)

    def show(self) -> None:
        """Open the drawing in the system's image viewer; in a notebook, write the scene as the last line instead.

        Raises:
            InputError: the scene has no image.
        """
        Image.fromarray(self.draw()).show()

    def to_pandas(self) -> pandas.DataFrame:
        """Table with one row per object: names, ids, score, occlusion rate, areas, boxes and occluders.

        The boxes are `visible_box_xyxy` and `amodal_box_xyxy` of the objects; `occluders` are the indices of the
        objects in front, separated by spaces.

        Raises:
            InputError: pandas is not installed.
        """
        return to_pandas(self._rows())

    def to_detections(self, part: Part = "amodal") -> supervision.Detections:
        """One `supervision` detection per object; see `amodal.inference.conversions.to_detections`.

        Args:
            part: which masks and boxes the detections have; `data` always has both masks.

        Raises:
            InputError: another part, or supervision is not installed.
        """
        return to_detections(self.objects, part)

    def to_yolo(self, part: Part = "amodal", classes: Sequence[str] | None = None) -> list[str]:
        """Lines of a YOLO segmentation label file; training on amodal masks needs `overlap_mask: False`.

        Args:
            part: which mask.
            classes: names by class number; the objects' own class ids if None.

        Raises:
            InputError: another part, or an object whose name is not among `classes`.
        """
        return to_yolo(self.objects, self.size, part, classes)

    def _rows(self) -> list[dict[str, Any]]:
        return table_rows(self.objects, self.occlusion_order(), self.image_path.name if self.image_path else "")

    def to_json(self) -> dict[str, Any]:
        """The content of `scene.json`."""
        content: dict[str, Any] = {
            "size": list(self.size),
            "image": None if self.image_path is None else str(self.image_path),
            "objects": [object_to_json(obj) for obj in self.objects],
            "occlusion_order": [list(pair) for pair in self.occlusion_order()],
        }
        if self.question is not None:
            content |= {"question": self.question, "answer": self.answer}
        if self.confidence is not None:
            content["confidence"] = self.confidence
        if self.visible_from is not None:
            content["visible_from"] = self.visible_from
        return content

    def to_coco(self, image_id: int = 1, first_id: int | None = None) -> list[dict[str, Any]]:
        """Annotations in the canonical form (a superset of COCO's); the category is the class id, 1 without one.

        Both boxes are the tight boxes of their masks, also where another box was given as prompt.

        Args:
            image_id: image id of all annotations.
            first_id: annotation id of the first object; the other ids follow. If None, the ids are the `source_id`
                of the objects, or begin at 1 if an object has none or two have the same.
        """
        sources = [obj.source_id for obj in self.objects if obj.source_id is not None]
        keep = first_id is None and len(set(sources)) == len(self.objects)
        start = 1 if first_id is None else first_id
        ids = sources if keep else list(range(start, start + len(self.objects)))
        in_front: dict[int, list[int]] = {}
        for front, behind in self.occlusion_order():
            in_front.setdefault(behind, []).append(ids[front])
        return [
            canonical_record(
                ids[index],
                image_id,
                1 if obj.class_id is None else obj.class_id,
                encode_window(obj.visible_in_window, obj.window, self.size),
                encode_window(obj.amodal_in_window, obj.window, self.size),
                occluders=in_front.get(index, []),
                score=obj.score,
            )
            for index, obj in enumerate(self.objects)
        ]

    def save(self, folder: str | Path) -> Path:
        """Write `scene.json`, one PNG file per mask, and `overlay.png` if the scene has its image.

        All files are written to a temporary folder and then moved. `scene.json` is moved last, so
        that a folder with `scene.json` is always complete.

        Args:
            folder: created if needed. Files of an earlier scene are replaced, other files stay.

        Returns:
            The folder.

        Raises:
            InputError: `folder` is a file or cannot be written to.
        """
        folder = require_folder(Path(folder))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            writing = tempfile.TemporaryDirectory(dir=folder, prefix=".writing_")
        except OSError as error:
            raise InputError(f"out: expected a folder to write to, got {str(folder)!r} ({error.strerror})") from error
        with writing as name:
            self._write(Path(name))
            (folder / SCENE_FILE).unlink(missing_ok=True)
            for file in files_of_scene(folder):
                file.unlink()
            for file in sorted(Path(name).iterdir()):  # scene.json is last in this order
                os.replace(file, folder / file.name)
        return folder

    @classmethod
    def load(cls, folder: str | Path, image: ImageSource | None = None) -> Scene:
        """Read a scene that `save` wrote. The masks are identical; image and uncertainty are not stored.

        Args:
            folder: folder with `scene.json`, or this file.
            image: image of the scene, to draw on, see `load_image`.

        Raises:
            InputError: no readable `scene.json` in the folder, or an image that cannot be read or has another size.
        """
        place = Path(folder)
        file = place if place.is_file() else place / SCENE_FILE
        if not file.is_file():
            raise InputError(f"scene: expected a readable {file}, got none")
        try:
            scene = cls.from_json(read_json(file, "scene"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"one without the key {error}" if isinstance(error, KeyError) else f"another ({error})"
            raise InputError(f"scene: expected a readable {file}, got {what:.200}") from error
        return scene if image is None else replace(scene, image=load_image(image))

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Scene:
        """Build a scene from the content of `scene.json`; its keys are not checked one by one.

        Raises:
            InputError: a mask that does not cover the image exactly, or an impossible object.
            KeyError: a key is missing; `ValueError`, `TypeError` and `AttributeError` where a value has another form.
        """
        H, W = content["size"]
        path = content.get("image")
        return cls(
            [object_from_json(record, (int(H), int(W))) for record in content["objects"]],
            (int(H), int(W)),
            question=content.get("question"),
            answer=content.get("answer"),
            image_path=None if path is None else Path(path),
            visible_from=content.get("visible_from"),
            confidence=content.get("confidence"),
        )

    def _write(self, folder: Path) -> None:
        for index, obj in enumerate(self.objects):
            for kind in ("visible", "amodal", "occluded"):
                mask = getattr(obj, f"{kind}_mask")
                Image.fromarray(mask).save(folder / f"object_{index:02d}_{kind}.png")
        if self.image is not None:
            Image.fromarray(self.draw()).save(folder / "overlay.png")
        (folder / SCENE_FILE).write_text(json.dumps(self.to_json()), encoding="utf-8")
