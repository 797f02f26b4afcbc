"""What the library answers: the objects of an image, visible and hidden parts apart."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from amodal.errors import InputError
from amodal.io.files import no_file
from amodal.ops.boxes import Window, mask_to_box, xyxy_to_xywh
from amodal.ops.masks import occlusion_rate, resize_probs
from amodal.ops.rle import decode_mask, encode_window

Mask = npt.NDArray[np.bool_]
FloatMap = npt.NDArray[np.float32]
Box = tuple[float, float, float, float]

# Share of an object's hidden pixels that another object's visible mask must cover to count as
# standing in front of it. Predicted masks of neighbours overlap by a rim of a pixel or two; a
# tenth of the hidden part is more than a rim, and an object hidden by ten others at once is rare.
MIN_COVER = 0.1

_OWN_FILES = re.compile(r"object_\d{2,}_(visible|amodal|occluded)\.png|overlay\.png")


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One object. Masks are kept inside a window of the image and made full size on demand.

    Build it with `from_masks` (full size) or from window-sized arrays. The amodal mask is
    united with the visible one, so that visible ⊆ amodal always holds, and the window shrinks
    to the tight box of the result (one pixel if nothing is left). The arrays are copies and
    cannot be written to.

    Attributes:
        window: (x0, y0, x1, y1) part of the image that holds both masks.
        visible_in_window: (h, w) bool.
        amodal_in_window: (h, w) bool.
        size: (H, W) of the image.
        visible_box_xyxy: tight box of the visible mask, or the box that was asked about.
        score: quality in [0, 1] as the model estimates it; 0 for an empty amodal mask.
        uncertainty_crop: map (h', w') float32 in [0, ln 2] of any resolution, and the window of
            the image that it spans; or None.
        phrase: words the object answers to, or None.

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

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.window
        if not (0 <= x0 < x1 <= self.size[1] and 0 <= y0 < y1 <= self.size[0]):
            raise InputError(f"window: expected (x0, y0, x1, y1) inside size {self.size}, got {self.window}")
        for part in (self.visible_in_window, self.amodal_in_window):
            if part.shape != (y1 - y0, x1 - x0) or part.dtype != np.bool_:
                raise InputError(f"masks: expected bool of shape {(y1 - y0, x1 - x0)}, got {part.dtype} {part.shape}")
        if not 0 <= self.score <= 1:
            raise InputError(f"score: expected a number in [0, 1], got {self.score}")
        united = self.amodal_in_window | self.visible_in_window
        left, top, right, bottom = (int(v) for v in mask_to_box(united))
        if right == 0:  # nothing found
            object.__setattr__(self, "score", 0.0)
            right = bottom = 1
        object.__setattr__(self, "window", (x0 + left, y0 + top, x0 + right, y0 + bottom))
        for name, part in (("visible_in_window", self.visible_in_window), ("amodal_in_window", united)):
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
        """From (H, W) bool masks and uncertainty; the box is the visible mask's own unless given.

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
        """(H, W) bool, the part that is seen."""
        return _full(self.visible_in_window, self.window, self.size)

    @property
    def amodal_mask(self) -> Mask:
        """(H, W) bool, the whole object within the frame."""
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
        """(H, W) float32 in [0, ln 2] of the coarse amodal mask; 0 where nothing was looked at."""
        if self.uncertainty_crop is None:
            return np.zeros(self.size, np.float32)
        values, window = self.uncertainty_crop
        return _full(resize_probs(values, window), window, self.size)

    @property
    def amodal_box_xyxy(self) -> Box:
        """Tight box of the amodal mask; zeros if it is empty."""
        return _box(self.window) if self.amodal_in_window.any() else (0.0, 0.0, 0.0, 0.0)

    @property
    def occlusion_rate(self) -> float:
        """1 - |visible| / |amodal| in [0, 1]; 0 for an empty amodal mask."""
        return occlusion_rate(self.visible_in_window, self.amodal_in_window)


@dataclass(eq=False)
class Scene:
    """The objects of one image.

    Attributes:
        objects: in the order they were asked about.
        size: (H, W) in pixels.
        image: (H, W, 3) uint8 RGB, or None if loaded without it.
        question: what was asked, if anything; `answer` likewise.

    Raises:
        InputError: an object or an image of another size.
    """

    objects: list[SceneObject]
    size: tuple[int, int]
    image: npt.NDArray[np.uint8] | None = None
    question: str | None = None
    answer: str | None = None

    def __post_init__(self) -> None:
        for index, thing in enumerate(self.objects):
            if thing.size != self.size:
                raise InputError(f"scene: expected objects of size {self.size}, got {thing.size} for object {index}")
        if self.image is not None and self.image.shape != (*self.size, 3):
            raise InputError(f"scene: expected an image of shape {(*self.size, 3)}, got {self.image.shape}")

    def occlusion_order(self) -> list[tuple[int, int]]:
        """Pairs (front, behind) of object indices.

        A stands in front of B where A's visible mask covers at least `MIN_COVER` of B's hidden
        part. Two objects that interlock (a hand around a cup) give a pair each way.
        """
        pairs = []
        for behind, thing in enumerate(self.objects):
            hidden = thing.occluded_in_window
            total = np.count_nonzero(hidden)
            for front, other in enumerate(self.objects):
                if total and front != behind and shared_pixels(hidden, thing.window, other) >= MIN_COVER * total:
                    pairs.append((front, behind))
        return pairs

    def draw(self) -> npt.NDArray[np.uint8]:
        """Overlay (h, w, 3) uint8: visible parts solid, hidden parts hatched, boxes.

        Raises:
            InputError: the scene has no image.
        """
        from amodal.inference.draw import draw_scene

        if self.image is None:
            raise InputError("scene: expected an image to draw on, got a scene loaded without one")
        return draw_scene(self.image, self.objects)

    def to_json(self) -> dict[str, Any]:
        """Content of `scene.json`."""
        content: dict[str, Any] = {
            "size": list(self.size),
            "objects": [_to_json(thing) for thing in self.objects],
            "occlusion_order": [list(pair) for pair in self.occlusion_order()],
        }
        if self.question is not None:
            content |= {"question": self.question, "answer": self.answer}
        return content

    def to_coco(self, image_id: int = 1, first_id: int = 1) -> list[dict[str, Any]]:
        """Annotations in the canonical form (a superset of COCO's), category 1.

        Both boxes are the tight boxes of their masks, whatever box was asked about.

        Args:
            image_id: of all annotations.
            first_id: of the first object's annotation; the others follow.
        """
        in_front: dict[int, list[int]] = {}
        for front, behind in self.occlusion_order():
            in_front.setdefault(behind, []).append(first_id + front)
        return [
            {
                "id": first_id + index,
                "image_id": image_id,
                "category_id": 1,
                "segmentation": encode_window(thing.amodal_in_window, thing.window, self.size),
                "visible_mask": encode_window(thing.visible_in_window, thing.window, self.size),
                "bbox": xyxy_to_xywh(np.array(thing.amodal_box_xyxy)).tolist(),
                "visible_bbox": xyxy_to_xywh(_tight_box(thing.visible_in_window, thing.window)).tolist(),
                "area": int(np.count_nonzero(thing.amodal_in_window)),
                "occlude_rate": thing.occlusion_rate,
                "occluders": in_front.get(index, []),
                "iscrowd": 0,
                "score": thing.score,
            }
            for index, thing in enumerate(self.objects)
        ]

    def save(self, folder: str | Path) -> Path:
        """Write `scene.json`, one PNG a mask, and `overlay.png` if the image is known.

        Everything is written to a temporary folder first, then moved; `scene.json` comes last,
        so that where it is, the rest is.

        Args:
            folder: created if needed; what an earlier scene left there is replaced, other files
                stay.

        Returns:
            The folder.

        Raises:
            InputError: `folder` is a file, or cannot be written to.
        """
        folder = no_file(Path(folder))
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
            for file in sorted(Path(name).iterdir()):  # scene.json is the last in this order
                os.replace(file, folder / file.name)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Scene:
        """Read what `save` wrote; masks are the same to the bit, uncertainty is not stored.

        Raises:
            InputError: no readable `scene.json`.
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
        for index, thing in enumerate(self.objects):
            for kind in ("visible", "amodal", "occluded"):
                mask = getattr(thing, f"{kind}_mask")
                Image.fromarray(mask).save(folder / f"object_{index:02d}_{kind}.png")
        if self.image is not None:
            Image.fromarray(self.draw()).save(folder / "overlay.png")
        (folder / "scene.json").write_text(json.dumps(self.to_json()), encoding="utf-8")


def shared_pixels(part: Mask, window: Window, other: SceneObject) -> int:
    """Pixels of a mask (h, w), in a window of the image, that belong to the visible mask of `other`."""
    x0, y0 = max(window[0], other.window[0]), max(window[1], other.window[1])
    x1, y1 = min(window[2], other.window[2]), min(window[3], other.window[3])
    if x0 >= x1 or y0 >= y1:
        return 0
    shared = (x0, y0, x1, y1)
    return int(np.count_nonzero(_cut(part, window, shared) & _cut(other.visible_in_window, other.window, shared)))


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
    """Box in the image of a mask in a window; zeros if it is empty."""
    corner = np.array([*window[:2], *window[:2]])
    return mask_to_box(part) + corner if part.any() else np.zeros(4)


def _to_json(thing: SceneObject) -> dict[str, Any]:
    return {
        "visible": encode_window(thing.visible_in_window, thing.window, thing.size),
        "amodal": encode_window(thing.amodal_in_window, thing.window, thing.size),
        "visible_box_xyxy": list(thing.visible_box_xyxy),
        "amodal_box_xyxy": list(thing.amodal_box_xyxy),
        "occlusion_rate": thing.occlusion_rate,
        "score": thing.score,
        "phrase": thing.phrase,
    }


def _from_json(record: dict[str, Any]) -> SceneObject:
    return SceneObject.from_masks(
        decode_mask(record["visible"]),
        decode_mask(record["amodal"]),
        visible_box_xyxy=_box(record["visible_box_xyxy"]),
        score=float(record["score"]),
        phrase=record.get("phrase"),
    )
