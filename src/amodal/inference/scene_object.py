"""One object of a scene: its masks, boxes and scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import InitVar, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from amodal.errors import InputError
from amodal.ops.arrays import Box, FloatMap, Mask, Window
from amodal.ops.boxes import mask_to_box
from amodal.ops.masks import iou_of_counts, resize_probs
from amodal.ops.occlusion import occlusion_rate
from amodal.ops.rle import decode_window, encode_window, rle_area, rle_box_xyxy, segmentation_to_rle

UNNAMED = "object"
"""Label of an object that has neither a class name nor a phrase."""


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
        visible_box_xyxy: (x0, y0, x1, y1) in pixels, right and bottom edge exclusive: the box that was given as
            prompt or found from points, otherwise the tight box of the visible mask.
        score: quality in [0, 1] as estimated by the model; 0 for an empty amodal mask.
        uncertainty_crop: (h', w') float32 map in [0, ln 2] of any resolution, and the window of
            the image that it spans; or None.
        phrase: words that name the object in an answer or a caption, or None.
        name: name of the object's class, or None.
        class_id: number of its class in the source of the prompt, or None.
        source_id: its id in the source of the prompt (a COCO annotation id), or None.
        tracker_id: its track in the source of the prompt, or None.
        predicted_occlusion_rate: share in [0, 1] of the object that is occluded as a model with a head for it predicts,
            or None. `occlusion_rate` is that of the masks.
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
    name: str | None = None
    class_id: int | None = None
    source_id: int | None = None
    tracker_id: int | None = None
    predicted_occlusion_rate: float | None = None
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
            right = bottom = 1
        object.__setattr__(self, "window", (x0 + left, y0 + top, x0 + right, y0 + bottom))
        amodal = union if union_visible else self.amodal_in_window
        if not amodal.any():
            object.__setattr__(self, "score", 0.0)
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
        name: str | None = None,
        class_id: int | None = None,
        source_id: int | None = None,
        tracker_id: int | None = None,
        predicted_occlusion_rate: float | None = None,
        union_visible: bool = True,
    ) -> SceneObject:
        """Build an object from full-size masks.

        Args:
            visible_mask: (H, W) bool.
            amodal_mask: (H, W) bool.
            visible_box_xyxy: box of the visible part; the tight box of the visible mask if None.
            score: quality in [0, 1].
            uncertainty: (H, W) float32 in [0, ln 2], or None.
            phrase: words that name the object, or None.
            name: name of the object's class, or None.
            class_id: number of its class, or None.
            source_id: its id in the source of the prompt, or None.
            tracker_id: its track, or None.
            predicted_occlusion_rate: as of the class.
            union_visible: unite the amodal mask with the visible mask.

        Raises:
            InputError: masks of different shapes or another type, or a score outside [0, 1].
        """
        if visible_mask.ndim != 2 or visible_mask.shape != amodal_mask.shape:
            raise InputError(f"masks: expected one (H, W) shape, got {visible_mask.shape} and {amodal_mask.shape}")
        H, W = visible_mask.shape
        whole = (0, 0, W, H)
        box = _box(mask_to_box(visible_mask)) if visible_box_xyxy is None else visible_box_xyxy
        crop = None if uncertainty is None else (uncertainty, whole)
        return cls(
            whole, visible_mask, amodal_mask, (H, W), box, score, crop, phrase, name, class_id, source_id, tracker_id,
            predicted_occlusion_rate, union_visible,
        )  # fmt: skip

    def __repr__(self) -> str:
        """One line: label, occlusion rate, score and box."""
        box = ", ".join(f"{value:g}" for value in self.visible_box_xyxy)
        return f"SceneObject({self.label}, {self.occlusion_rate:.0%} occluded, score {self.score:.2f}, box ({box}))"

    @property
    def label(self) -> str:
        """Words to show for the object: its class name, otherwise its phrase, otherwise `object`."""
        return self.name or self.phrase or UNNAMED

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
        """(H, W) float32 in [0, ln 2], uncertainty of the coarse amodal mask; 0 outside the crop that was segmented.

        All zeros for a scene that was read from a file, which does not store it.
        """
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


def visible_iou(a: SceneObject, b: SceneObject) -> float:
    """IoU of the visible masks of two objects of one image."""
    shared = num_covered(a.visible_in_window, a.window, b)
    areas = np.count_nonzero(a.visible_in_window) + np.count_nonzero(b.visible_in_window)
    return float(iou_of_counts(shared, areas - shared))


def num_covered(part: Mask, window: Window, front: SceneObject) -> int:
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


def object_to_json(obj: SceneObject) -> dict[str, Any]:
    """The record of an object in `scene.json`."""
    predicted = obj.predicted_occlusion_rate
    return {
        "visible": encode_window(obj.visible_in_window, obj.window, obj.size),
        "amodal": encode_window(obj.amodal_in_window, obj.window, obj.size),
        "visible_box_xyxy": list(obj.visible_box_xyxy),
        "amodal_box_xyxy": list(obj.amodal_box_xyxy),
        "occlusion_rate": obj.occlusion_rate,
        "score": obj.score,
        "name": obj.name,
        "class_id": obj.class_id,
        "source_id": obj.source_id,
        "tracker_id": obj.tracker_id,
        "phrase": obj.phrase,
    } | ({} if predicted is None else {"predicted_occlusion_rate": predicted})


def object_from_json(record: dict[str, Any], size: tuple[int, int]) -> SceneObject:
    """Read a record of the `scene.json` of an image (H, W); keys that older files lack are None.

    Raises:
        InputError: a mask that does not cover the image exactly; decoded as it is, it would show random memory.
    """
    rles = [segmentation_to_rle(record[key], *size) for key in ("visible", "amodal")]
    boxes = np.array([rle_box_xyxy(rle) for rle in rles if rle_area(rle)] or [(0, 0, 1, 1)], dtype=int)
    (x0, y0), (x1, y1) = boxes[:, :2].min(0).tolist(), boxes[:, 2:].max(0).tolist()
    window = (x0, y0, x1, y1)
    visible, amodal = (decode_window(rle, window) for rle in rles)
    names: dict[str, Any] = {key: record.get(key) for key in ("phrase", "name", "class_id", "source_id", "tracker_id")}
    names["predicted_occlusion_rate"] = record.get("predicted_occlusion_rate")
    box = _box(record["visible_box_xyxy"])
    return SceneObject(window, visible, amodal, size, box, score=float(record["score"]), **names)
