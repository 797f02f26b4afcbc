"""`Scene` and `SceneObject`: the result of segmentation, with a visible and an amodal mask per object."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from amodal.data.formats.canonical import canonical_record
from amodal.errors import InputError
from amodal.inference.draw import draw_scene
from amodal.io.files import require_folder
from amodal.ops.arrays import Box, FloatMap, Mask, Window
from amodal.ops.boxes import mask_to_box
from amodal.ops.masks import iou_of_counts, resize_probs
from amodal.ops.occlusion import is_occluder, occlusion_rate
from amodal.ops.rle import decode_mask, encode_window

_OWN_FILES = re.compile(r"object_\d{2,}_(visible|amodal|occluded)\.png|overlay\.png")


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One object of a scene, with a visible and an amodal mask.

    The masks are stored inside a window of the image; the properties give them at full size. Build
    an object with `from_masks` (full-size masks) or from window-sized arrays. The amodal mask is
    united with the visible mask, so that visible ⊆ amodal holds, unless `union_visible` is False
    (the evaluator can then score the masks as the network gives them). The window shrinks to the
    tight box of both masks (one pixel if both are empty). The arrays are read-only copies.

    Attributes:
        window: (x0, y0, x1, y1) part of the image that contains both masks, in pixels.
        visible_in_window: (h, w) bool.
        amodal_in_window: (h, w) bool.
        size: (H, W) of the image.
        visible_box_xyxy: tight box of the visible mask, or the box that was given as prompt.
        score: quality in [0, 1] as estimated by the model; 0 for an empty amodal mask.
        uncertainty_crop: (h', w') float32 map in [0, ln 2] of any resolution, and the window of
            the image that it spans; or None.
        phrase: words that name the object, or None.
        union_visible: unite the amodal mask with the visible mask; used at construction only.

    Raises:
        InputError: a window that leaves the image, masks of another shape or type, or a score
            outside [0, 1].
    """

    window: Window
    visible_in_window: Mask
    amodal_in_window: Mask
    size: tuple[int, int]
    visible_box_xyxy: Box
    score: float = 1.0
    uncertainty_crop: tuple[FloatMap, Window] | None = None
    phrase: str | None = None
    union_visible: InitVar[bool] = True

    def __post_init__(self, union_visible: bool) -> None:
        x0, y0, x1, y1 = self.window
        if not (0 <= x0 < x1 <= self.size[1] and 0 <= y0 < y1 <= self.size[0]):
            raise InputError(f"window: expected (x0, y0, x1, y1) inside size {self.size}, got {self.window}")
        for part in (self.visible_in_window, self.amodal_in_window):
            if part.shape != (y1 - y0, x1 - x0) or part.dtype != np.bool_:
                raise InputError(f"masks: expected bool of shape {(y1 - y0, x1 - x0)}, got {part.dtype} {part.shape}")
        if not 0 <= self.score <= 1:
            raise InputError(f"score: expected a number in [0, 1], got {self.score}")
        union = self.amodal_in_window | self.visible_in_window
        left, top, right, bottom = (int(v) for v in mask_to_box(union))
        if right == 0:  # both masks are empty
            object.__setattr__(self, "score", 0.0)
            right = bottom = 1
        object.__setattr__(self, "window", (x0 + left, y0 + top, x0 + right, y0 + bottom))
        amodal = union if union_visible else self.amodal_in_window
        for name, part in (("visible_in_window", self.visible_in_window), ("amodal_in_window", amodal)):
            own = part[top:bottom, left:right].copy()  # a view would keep the large array alive
            own.setflags(write=False)
            object.__setattr__(self, name, own)

    @classmethod
    def from_masks(
        cls,
        visible_mask: Mask,
        amodal_mask: Mask,
        *,
        visible_box_xyxy: Box | None = None,
        score: float = 1.0,
        uncertainty: FloatMap | None = None,
        phrase: str | None = None,
    ) -> SceneObject:
        """Build an object from full-size masks.

        Args:
            visible_mask: (H, W) bool.
            amodal_mask: (H, W) bool.
            visible_box_xyxy: box of the visible part; the tight box of the visible mask if None.
            score: quality in [0, 1].
            uncertainty: (H, W) float32 in [0, ln 2], or None.
            phrase: words that name the object, or None.

        Raises:
            InputError: masks of different shapes or another type, or a score outside [0, 1].
        """
        if visible_mask.ndim != 2 or visible_mask.shape != amodal_mask.shape:
            raise InputError(f"masks: expected one (H, W) shape, got {visible_mask.shape} and {amodal_mask.shape}")
        H, W = visible_mask.shape
        whole = (0, 0, W, H)
        box = _box(mask_to_box(visible_mask)) if visible_box_xyxy is None else visible_box_xyxy
        crop = None if uncertainty is None else (uncertainty, whole)
        return cls(whole, visible_mask, amodal_mask, (H, W), box, score, crop, phrase)

    @property
    def visible_mask(self) -> Mask:
        """(H, W) bool, the visible part."""
        return _full(self.visible_in_window, self.window, self.size)

    @property
    def amodal_mask(self) -> Mask:
        """(H, W) bool, the complete object within the image."""
        return _full(self.amodal_in_window, self.window, self.size)

    @property
    def occluded_mask(self) -> Mask:
        """(H, W) bool, amodal without visible."""
        return _full(self.occluded_in_window, self.window, self.size)

    @property
    def occluded_in_window(self) -> Mask:
        """(h, w) bool, amodal without visible."""
        return self.amodal_in_window & ~self.visible_in_window

    @property
    def uncertainty(self) -> FloatMap:
        """(H, W) float32 in [0, ln 2], uncertainty of the coarse amodal mask; 0 outside the crop that was segmented."""
        if self.uncertainty_crop is None:
            return np.zeros(self.size, np.float32)
        values, window = self.uncertainty_crop
        return _full(resize_probs(values, window), window, self.size)

    @property
    def amodal_box_xyxy(self) -> Box:
        """Tight box of the amodal mask; zeros if it is empty."""
        return _box(_tight_box(self.amodal_in_window, self.window))

    @property
    def occlusion_rate(self) -> float:
        """1 - |visible| / |amodal| in [0, 1]; 0 for an empty amodal mask."""
        return occlusion_rate(self.visible_in_window, self.amodal_in_window)


@dataclass(eq=False)
class Scene:
    """The objects of one image.

    Attributes:
        objects: objects in the order of the prompts.
        size: (H, W) of the image.
        image: (H, W, 3) uint8 RGB, or None if the scene was loaded without it.
        question: question that was asked about the image, or None.
        answer: answer to the question, or None.

    Raises:
        InputError: an object or an image of another size.
    """

    objects: list[SceneObject]
    size: tuple[int, int]
    image: npt.NDArray[np.uint8] | None = None
    question: str | None = None
    answer: str | None = None

    def __post_init__(self) -> None:
        for index, obj in enumerate(self.objects):
            if obj.size != self.size:
                raise InputError(f"scene: expected objects of size {self.size}, got {obj.size} for object {index}")
        if self.image is not None and self.image.shape != (*self.size, 3):
            raise InputError(f"scene: expected an image of shape {(*self.size, 3)}, got {self.image.shape}")

    def occlusion_order(self) -> list[tuple[int, int]]:
        """Pairs (front, behind) of object indices, by the rule of `amodal.ops.occlusion`.

        Two objects that occlude each other (a hand around a cup) give a pair each way.
        """
        pairs = []
        for behind, obj in enumerate(self.objects):
            occluded = obj.occluded_in_window
            num_occluded = int(np.count_nonzero(occluded))
            for front, other in enumerate(self.objects):
                if front != behind and is_occluder(_num_covered(occluded, obj.window, other), num_occluded):
                    pairs.append((front, behind))
        return pairs

    def front_to_back(self) -> list[int]:
        """Object indices in depth order: each object comes after its occluders.

        Objects that occlude each other are ordered by occlusion rate, least occluded first.
        """
        occluders: dict[int, set[int]] = {index: set() for index in range(len(self.objects))}
        for front, behind in self.occlusion_order():
            occluders[behind].add(front)
        order: list[int] = []
        while occluders:
            free = [index for index, fronts in occluders.items() if not fronts & occluders.keys()]
            nearest = min(free or occluders, key=lambda index: (self.objects[index].occlusion_rate, index))
            order.append(nearest)
            del occluders[nearest]
        return order

    def draw(self) -> npt.NDArray[np.uint8]:
        """Overlay (h, w, 3) uint8 RGB: visible parts filled, occluded parts hatched, visible boxes and labels.

        Raises:
            InputError: the scene has no image.
        """
        if self.image is None:
            raise InputError("scene: expected a scene with its image, got a scene loaded without it")
        return draw_scene(self.image, self.objects)

    def to_json(self) -> dict[str, Any]:
        """The content of `scene.json`."""
        content: dict[str, Any] = {
            "size": list(self.size),
            "objects": [_to_json(obj) for obj in self.objects],
            "occlusion_order": [list(pair) for pair in self.occlusion_order()],
        }
        if self.question is not None:
            content |= {"question": self.question, "answer": self.answer}
        return content

    def to_coco(self, image_id: int = 1, first_id: int = 1) -> list[dict[str, Any]]:
        """Annotations in the canonical form (a superset of COCO's), all of category 1.

        Both boxes are the tight boxes of their masks, also where another box was given as prompt.

        Args:
            image_id: image id of all annotations.
            first_id: annotation id of the first object; the other ids follow.
        """
        in_front: dict[int, list[int]] = {}
        for front, behind in self.occlusion_order():
            in_front.setdefault(behind, []).append(first_id + front)
        return [
            canonical_record(
                first_id + index,
                image_id,
                1,
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
            (folder / "scene.json").unlink(missing_ok=True)
            for file in list(folder.iterdir()):
                if _OWN_FILES.fullmatch(file.name):
                    file.unlink()
            for file in sorted(Path(name).iterdir()):  # scene.json is last in this order
                os.replace(file, folder / file.name)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Scene:
        """Read a scene that `save` wrote. The masks are identical; image and uncertainty are not stored.

        Args:
            folder: folder with `scene.json`.

        Raises:
            InputError: no readable `scene.json` in the folder.
        """
        file = Path(folder) / "scene.json"
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            H, W = content["size"]
            objects = [_from_json(record) for record in content["objects"]]
            return cls(objects, (int(H), int(W)), None, content.get("question"), content.get("answer"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"scene: expected a readable {file}, got {error!r:.200}") from error

    def _write(self, folder: Path) -> None:
        for index, obj in enumerate(self.objects):
            for kind in ("visible", "amodal", "occluded"):
                mask = getattr(obj, f"{kind}_mask")
                Image.fromarray(mask).save(folder / f"object_{index:02d}_{kind}.png")
        if self.image is not None:
            Image.fromarray(self.draw()).save(folder / "overlay.png")
        (folder / "scene.json").write_text(json.dumps(self.to_json()), encoding="utf-8")


def visible_iou(a: SceneObject, b: SceneObject) -> float:
    """IoU of the visible masks of two objects of one image."""
    shared = _num_covered(a.visible_in_window, a.window, b)
    areas = np.count_nonzero(a.visible_in_window) + np.count_nonzero(b.visible_in_window)
    return float(iou_of_counts(shared, areas - shared))


def _num_covered(part: Mask, window: Window, front: SceneObject) -> int:
    """Number of pixels of a mask (h, w) in a window of the image that the visible mask of `front` covers."""
    x0, y0 = max(window[0], front.window[0]), max(window[1], front.window[1])
    x1, y1 = min(window[2], front.window[2]), min(window[3], front.window[3])
    if x0 >= x1 or y0 >= y1:
        return 0
    shared = (x0, y0, x1, y1)
    return int(np.count_nonzero(_cut(part, window, shared) & _cut(front.visible_in_window, front.window, shared)))


def _cut(part: Mask, window: Window, wanted: Window) -> Mask:
    x, y = window[:2]
    return part[wanted[1] - y : wanted[3] - y, wanted[0] - x : wanted[2] - x]


def _full(part: npt.NDArray[Any], window: Window, size: tuple[int, int]) -> npt.NDArray[Any]:
    full = np.zeros(size, part.dtype)
    x0, y0, x1, y1 = window
    full[y0:y1, x0:x1] = part
    return full


def _box(values: Iterable[float]) -> Box:
    x0, y0, x1, y1 = (float(v) for v in values)
    return (x0, y0, x1, y1)


def _tight_box(part: Mask, window: Window) -> npt.NDArray[np.float64]:
    """Tight box in image pixels of a mask in a window; zeros if it is empty."""
    corner = np.array([*window[:2], *window[:2]])
    return mask_to_box(part) + corner if part.any() else np.zeros(4)


def _to_json(obj: SceneObject) -> dict[str, Any]:
    return {
        "visible": encode_window(obj.visible_in_window, obj.window, obj.size),
        "amodal": encode_window(obj.amodal_in_window, obj.window, obj.size),
        "visible_box_xyxy": list(obj.visible_box_xyxy),
        "amodal_box_xyxy": list(obj.amodal_box_xyxy),
        "occlusion_rate": obj.occlusion_rate,
        "score": obj.score,
        "phrase": obj.phrase,
    }


def _from_json(record: dict[str, Any]) -> SceneObject:
    return SceneObject.from_masks(
        decode_mask(record["visible"]),
        decode_mask(record["amodal"]),
        visible_box_xyxy=_box(record["visible_box_xyxy"]),
        score=float(record["score"]),
        phrase=record.get("phrase"),
    )
