"""What the library answers: the objects of an image, visible and hidden parts apart."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from amodal.errors import InputError
from amodal.ops.boxes import Window, mask_to_box, xyxy_to_xywh
from amodal.ops.rle import decode_mask, encode_mask

Mask = npt.NDArray[np.bool_]
FloatMap = npt.NDArray[np.float32]
Box = tuple[float, float, float, float]

# Share of an object's hidden pixels that another object's visible mask must cover to count as
# standing in front of it. Predicted masks of neighbours overlap by a rim of a pixel or two; a
# tenth of the hidden part is more than a rim.
MIN_COVER = 0.1


@dataclass(frozen=True)
class SceneObject:
    """One object. Masks are kept inside a window of the image and made full size on demand.

    Build it with `from_masks` (full size) or from window-sized arrays. The amodal mask is
    united with the visible one, so that visible ⊆ amodal always holds.

    Attributes:
        window: (x0, y0, x1, y1) part of the image that holds both masks.
        visible_in_window: (h, w) bool.
        amodal_in_window: (h, w) bool.
        size: (H, W) of the image.
        visible_box_xyxy: tight box of the visible mask, or the box that was asked about.
        score: quality in [0, 1] as the model estimates it; 0 for an empty amodal mask.
        uncertainty_in_window: (h, w) float32 in [0, ln 2], or None.
        phrase: words the object answers to, or None.
    """

    window: Window
    visible_in_window: Mask
    amodal_in_window: Mask
    size: tuple[int, int]
    visible_box_xyxy: Box
    score: float = 1.0
    uncertainty_in_window: FloatMap | None = None
    phrase: str | None = None

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.window
        shape = (y1 - y0, x1 - x0)
        if self.visible_in_window.shape != shape or self.amodal_in_window.shape != shape:
            raise ValueError(
                f"masks: expected {shape} for window {self.window}, got "
                f"{self.visible_in_window.shape} and {self.amodal_in_window.shape}"
            )
        united = self.amodal_in_window | self.visible_in_window
        object.__setattr__(self, "amodal_in_window", united)
        if not united.any():
            object.__setattr__(self, "score", 0.0)

    @classmethod
    def from_masks(
        cls,
        visible_mask: Mask,
        amodal_mask: Mask,
        *,
        visible_box_xyxy: Box | None = None,
        score: float = 1.0,
        phrase: str | None = None,
    ) -> SceneObject:
        """From (H, W) masks; the box is the visible mask's own unless given."""
        H, W = visible_mask.shape
        x0, y0, x1, y1 = (int(v) for v in mask_to_box(visible_mask | amodal_mask))
        window = (x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))
        cut = np.s_[window[1] : window[3], window[0] : window[2]]
        box = visible_box_xyxy or _box(mask_to_box(visible_mask))
        return cls(window, visible_mask[cut], amodal_mask[cut], (H, W), box, score, None, phrase)

    @property
    def visible_mask(self) -> Mask:
        """(H, W) bool, the part that is seen."""
        return self._full(self.visible_in_window)

    @property
    def amodal_mask(self) -> Mask:
        """(H, W) bool, the whole object within the frame."""
        return self._full(self.amodal_in_window)

    @property
    def occluded_mask(self) -> Mask:
        """(H, W) bool, amodal without visible."""
        return self._full(self.amodal_in_window & ~self.visible_in_window)

    @property
    def uncertainty(self) -> FloatMap:
        """(H, W) float32 in [0, ln 2] of the coarse amodal mask; 0 outside the window."""
        if self.uncertainty_in_window is None:
            return np.zeros(self.size, np.float32)
        return self._full(self.uncertainty_in_window)

    @property
    def amodal_box_xyxy(self) -> Box:
        """Tight box of the amodal mask; zeros if it is empty."""
        if not self.amodal_in_window.any():
            return (0.0, 0.0, 0.0, 0.0)
        x, y = self.window[:2]
        return _box(mask_to_box(self.amodal_in_window) + np.array([x, y, x, y]))

    @property
    def occlusion_rate(self) -> float:
        """1 - |visible| / |amodal| in [0, 1]; 0 for an empty amodal mask."""
        area = np.count_nonzero(self.amodal_in_window)
        return 1 - np.count_nonzero(self.visible_in_window) / area if area else 0.0

    def _full(self, part: Any) -> Any:
        full = np.zeros(self.size, part.dtype)
        x0, y0, x1, y1 = self.window
        full[y0:y1, x0:x1] = part
        return full


@dataclass
class Scene:
    """The objects of one image.

    Attributes:
        objects: in the order they were asked about.
        size: (H, W) in pixels.
        image: (H, W, 3) uint8 RGB, or None if loaded without it.
        question: what was asked, if anything; `answer` likewise.
    """

    objects: list[SceneObject]
    size: tuple[int, int]
    image: npt.NDArray[np.uint8] | None = None
    question: str | None = None
    answer: str | None = None
    _order: list[tuple[int, int]] | None = field(default=None, repr=False)

    def occlusion_order(self) -> list[tuple[int, int]]:
        """Pairs (front, behind) of object indices.

        A stands in front of B where A's visible mask covers at least `MIN_COVER` of B's hidden
        part. Computed once.
        """
        if self._order is None:
            self._order = [
                (front, behind)
                for behind in range(len(self.objects))
                for front in range(len(self.objects))
                if front != behind and self._covers(front, behind)
            ]
        return self._order

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
        """Annotations in the canonical form (a superset of COCO's), category 1."""
        in_front: dict[int, list[int]] = {}
        for front, behind in self.occlusion_order():
            in_front.setdefault(behind, []).append(first_id + front)
        return [
            {
                "id": first_id + index,
                "image_id": image_id,
                "category_id": 1,
                "segmentation": encode_mask(thing.amodal_mask),
                "visible_mask": encode_mask(thing.visible_mask),
                "bbox": xyxy_to_xywh(np.array(thing.amodal_box_xyxy)).tolist(),
                "visible_bbox": xyxy_to_xywh(np.array(thing.visible_box_xyxy)).tolist(),
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

        Everything is written to a temporary folder first, then moved.

        Args:
            folder: created if needed; files of the same names are replaced.

        Returns:
            The folder.

        Raises:
            InputError: `folder` is a file.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"out: expected a folder, got the file {str(folder)!r}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing_") as name:
            temporary = Path(name)
            (temporary / "scene.json").write_text(json.dumps(self.to_json()))
            for index, thing in enumerate(self.objects):
                for kind in ("visible", "amodal", "occluded"):
                    mask = getattr(thing, f"{kind}_mask")
                    Image.fromarray(mask).save(temporary / f"object_{index:02d}_{kind}.png")
            if self.image is not None:
                Image.fromarray(self.draw()).save(temporary / "overlay.png")
            folder.mkdir(exist_ok=True)
            for file in temporary.iterdir():
                shutil.move(file, folder / file.name)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Scene:
        """Read what `save` wrote; masks are the same to the bit, uncertainty is not stored.

        Raises:
            InputError: no readable `scene.json`.
        """
        file = Path(folder) / "scene.json"
        try:
            content = json.loads(file.read_text())
            objects = [_from_json(record) for record in content["objects"]]
            order = [(int(a), int(b)) for a, b in content["occlusion_order"]]
            size = (int(content["size"][0]), int(content["size"][1]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"scene: expected a readable {file}, got {error!r:.100}") from error
        return cls(objects, size, None, content.get("question"), content.get("answer"), order)

    def _covers(self, front: int, behind: int) -> bool:
        a, b = self.objects[front], self.objects[behind]
        hidden = b.amodal_in_window & ~b.visible_in_window
        total = np.count_nonzero(hidden)
        x0, y0 = max(a.window[0], b.window[0]), max(a.window[1], b.window[1])
        x1, y1 = min(a.window[2], b.window[2]), min(a.window[3], b.window[3])
        if total == 0 or x0 >= x1 or y0 >= y1:
            return False
        seen = _cut(a.visible_in_window, a.window, (x0, y0, x1, y1))
        shared = np.count_nonzero(seen & _cut(hidden, b.window, (x0, y0, x1, y1)))
        return bool(shared >= MIN_COVER * total)


def _cut(part: Mask, window: Window, wanted: Window) -> Mask:
    x, y = window[:2]
    return part[wanted[1] - y : wanted[3] - y, wanted[0] - x : wanted[2] - x]


def _box(values: Sequence[float] | npt.NDArray[np.float64]) -> Box:
    x0, y0, x1, y1 = (float(v) for v in values)
    return (x0, y0, x1, y1)


def _to_json(thing: SceneObject) -> dict[str, Any]:
    return {
        "visible": encode_mask(thing.visible_mask),
        "amodal": encode_mask(thing.amodal_mask),
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
        phrase=record["phrase"],
    )
