"""Prompts for each object: boxes, points and visible masks in every form that people have them in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from amodal.errors import InputError
from amodal.io.words import counted
from amodal.ops.arrays import Box, Mask, Points
from amodal.ops.boxes import xywh_to_xyxy
from amodal.ops.rle import Rle, decode_window, encode_mask, rle_area, rle_box_xyxy, segmentation_to_rle

BoxesLike = Sequence[Sequence[float] | None] | npt.NDArray[np.floating] | None
PointsLike = Sequence[Sequence[Sequence[float]] | None] | npt.NDArray[np.floating] | None
LabelsLike = Sequence[Sequence[int] | None] | npt.NDArray[np.integer] | None
MasksLike = Sequence[Any] | npt.NDArray[Any] | None

NamesLike = Sequence[str | None] | None
IdsLike = Sequence[int | None] | npt.NDArray[np.integer] | None

PROMPT_NAMES = frozenset({"boxes_xyxy", "points_xy", "point_labels", "masks", "names", "class_ids", "detections"})
"""Keywords of the prompts of one image."""
_IS_XYWH = " (a box is X0,Y0,X1,Y1, not X,Y,width,height)"
MIN_COVERED = 0.5
"""Smallest share of a given mask that a box for the same object must cover."""
MASK_PROBABILITY = 0.5
"""Probability above which a pixel of a torchvision mask belongs to the object, as torchvision's examples use it."""


@dataclass(frozen=True, eq=False)
class ObjectPrompt:
    """What is known about one object before it is segmented.

    Attributes:
        box_xyxy: box of the visible part in image pixels, or None.
        visible: visible mask as COCO RLE of the image's size, or None. It is kept exactly as given.
        points_xy: (K, 2) points in image pixels, or None.
        point_labels: (K,) 1 for a point on the object, 0 for a point that is not on it.
        name: name of the object's class, or None.
        class_id: number of the object's class in its source, or None.
        source_id: number of the object in its source (a COCO annotation id), or None.
        tracker_id: number of the object's track, or None.
    """

    box_xyxy: Box | None = None
    visible: Rle | None = None
    points_xy: Points | None = None
    point_labels: npt.NDArray[np.int64] | None = None
    name: str | None = None
    class_id: int | None = None
    source_id: int | None = None
    tracker_id: int | None = None


def collect_prompts(
    size: tuple[int, int],
    *,
    boxes_xyxy: BoxesLike = None,
    points_xy: PointsLike = None,
    point_labels: LabelsLike = None,
    masks: MasksLike = None,
    names: NamesLike = None,
    class_ids: IdsLike = None,
    detections: Any = None,
) -> list[ObjectPrompt]:
    """Combine what was given into one prompt per object.

    All arguments that are given describe the same N objects; an entry None leaves that kind of prompt out for one
    object. A flat box or a single (H, W) mask means one object. Empty lists mean no object.

    Args:
        size: (H, W) of the image.
        boxes_xyxy: N boxes of the visible parts in image pixels; they are clipped to the image.
        points_xy: N lists of K points (x, y) in image pixels.
        point_labels: N lists of K labels, 1 on the object and 0 not on it; all 1 if None.
        masks: N visible masks: bool arrays (H, W), COCO RLEs, or lists of polygons.
        names: N class names of the objects.
        class_ids: N class numbers of the objects.
        detections: a `supervision.Detections`, an ultralytics `Results`, a dictionary as torchvision's and
            transformers' detectors return it, or a list of COCO annotations. Cannot be combined with the others.

    Returns:
        N prompts.

    Raises:
        InputError: nothing was given, the numbers of objects differ, or a prompt is impossible.
    """
    given = {"boxes": boxes_xyxy, "points": points_xy, "masks": masks}
    described = {"names": names, "class_ids": class_ids}
    present = {name: value for name, value in given.items() if value is not None}
    if detections is not None:
        others = [name for name, value in (given | described).items() if value is not None]
        if others:
            raise InputError(f"detections: expected without other prompts, got {', '.join(others)} too")
        return prompts_from_detections(detections, size)
    if not present:
        raise InputError(
            "prompts: expected boxes, points, masks or detections, got none (`find` finds the objects of an image)"
        )
    if point_labels is not None and points_xy is None:
        raise InputError("point_labels: expected together with points_xy, got labels alone")
    columns = {
        "boxes": None if boxes_xyxy is None else _box_column(boxes_xyxy),
        "points": None if points_xy is None else _column("points", points_xy),
        "labels": None if point_labels is None else _column("point_labels", point_labels),
        "masks": None if masks is None else _mask_column(masks),
        "names": None if names is None else _column("names", names),
        "class_ids": None if class_ids is None else _column("class_ids", class_ids),
    }
    counts = {name: len(column) for name, column in columns.items() if column is not None}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise InputError(f"prompts: expected one entry per object in each list, got {told}")
    number = next(iter(counts.values()))
    rows = zip(*([None] * number if column is None else column for column in columns.values()), strict=True)
    return [_numbered(index if number > 1 else None, size, *row) for index, row in enumerate(rows)]


def prompts_of_image(
    size: tuple[int, int], prompts: Sequence[ObjectPrompt] | Mapping[str, Any] | BoxesLike
) -> list[ObjectPrompt]:
    """The prompts of one of several images, in each form that `AmodalSegmenter.segment_batch` takes.

    Args:
        size: (H, W) of the image.
        prompts: boxes (N, 4), a dictionary of keywords of `collect_prompts`, or prompts.

    Raises:
        InputError: as `collect_prompts`, an unknown keyword, or masks instead of boxes.
    """
    if isinstance(prompts, Mapping):
        unknown = sorted(set(prompts) - PROMPT_NAMES)
        if unknown:
            raise InputError(f"prompts: expected some of {', '.join(sorted(PROMPT_NAMES))}, got {', '.join(unknown)}")
        return collect_prompts(size, **prompts)
    if prompts is not None and len(prompts) and all(isinstance(prompt, ObjectPrompt) for prompt in prompts):
        return list(cast("Sequence[ObjectPrompt]", prompts))
    if prompts is not None and any(getattr(entry, "ndim", 1) > 1 for entry in prompts):
        raise InputError(
            "prompts: expected boxes (N, 4) per image, or a dictionary such as {'masks': masks}, got masks"
        )
    return collect_prompts(size, boxes_xyxy=cast("BoxesLike", prompts))


def check_threshold(threshold: float) -> None:
    """Raise `InputError` unless a threshold on probabilities is in (0, 1)."""
    if not 0 < threshold < 1:
        raise InputError(f"threshold: expected a number in (0, 1), got {threshold}")


def check_confidence(confidence: float | None) -> None:
    """Raise `InputError` unless the smallest score of a found object is in [0, 1], or None."""
    if confidence is not None and not 0 <= confidence <= 1:
        raise InputError(f"confidence: expected a number in [0, 1], got {confidence}")


def check_box(box: Any, size: tuple[int, int]) -> Box:
    """Check one box against an image and clip it to the image.

    Args:
        box: four numbers x0, y0, x1, y1.
        size: (H, W).

    Raises:
        InputError: the box is not four finite numbers, is inverted, has no area, lies outside the image, or looks
            as if its coordinates were shares of the image's sides.
    """
    H, W = size
    try:
        values = np.asarray([_array(v) for v in _array(box)], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"box: expected four numbers X0,Y0,X1,Y1, got {box!r:.80}") from error
    if values.shape != (4,):
        raise InputError(f"box: expected four numbers X0,Y0,X1,Y1, got {np.ravel(values).tolist()!s:.80}")
    x0, y0, x1, y1 = shown = [float(v) for v in values]
    if not np.isfinite(values).all():
        raise InputError(f"box: expected finite numbers, got {shown}")
    if x1 < x0 or y1 < y0:
        raise InputError(f"box: expected X0 < X1 and Y0 < Y1, got {shown}, which is inverted{_IS_XYWH}")
    if x1 == x0 or y1 == y0:
        raise InputError(f"box: expected an area, got {shown}, which has none{_IS_XYWH}")
    if min(shown) >= 0 and max(shown) <= 1 and max(H, W) > 1:
        raise InputError(f"box: expected pixels of the {W} x {H} image, got {shown}, which looks normalised to 0-1")
    if x0 >= W or y0 >= H or x1 <= 0 or y1 <= 0:
        raise InputError(f"box: expected a box inside the {W} x {H} image, got {shown}")
    return (max(x0, 0.0), max(y0, 0.0), min(x1, float(W)), min(y1, float(H)))


def check_points(points_xy: Any, size: tuple[int, int]) -> Points:
    """Check the points (K, 2) of one object against an image (H, W).

    Raises:
        InputError: no point, not two finite numbers, or outside the image.
    """
    H, W = size
    if isinstance(points_xy, str) or not hasattr(points_xy, "__iter__") or any(np.ndim(p) == 0 for p in points_xy):
        raise InputError(f"point: expected a list of points [[X, Y], ...] per object, got {points_xy!r:.80}")
    checked = []
    for point in points_xy:
        try:
            values = np.asarray(point, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"point: expected two numbers X,Y, got {point!r:.80}") from error
        if values.shape != (2,) or not np.isfinite(values).all():
            raise InputError(f"point: expected two finite numbers X,Y, got {point!r:.80}")
        if not (0 <= values[0] < W and 0 <= values[1] < H):
            raise InputError(f"point: expected a point inside the {W} x {H} image, got {values.tolist()}")
        checked.append(values)
    if not checked:
        raise InputError("point: expected at least one point, got none")
    return np.array(checked)


def mask_prompt(mask: Any, size: tuple[int, int]) -> Rle:
    """One visible mask in any form as a COCO RLE of the image's size.

    Args:
        mask: bool array or tensor (H, W), or one that holds only 0 and 1 (or 0 and 255) as integers; a COCO RLE;
            or a list of polygons [x0, y0, x1, y1, ...].
        size: (H, W) of the image.

    Raises:
        InputError: the mask has another size, is empty, holds floats, or cannot be read.
    """
    if isinstance(mask, (str, PathLike)):
        raise InputError(f"mask: expected an array, an RLE or polygons, got a path ({str(mask)!r:.60}); load the file")
    if isinstance(mask, (dict, list, tuple)):
        rle = segmentation_to_rle(list(mask) if isinstance(mask, tuple) else mask, *size)
    else:
        rle = encode_mask(bool_mask(mask, size))
    if not rle_area(rle):
        raise InputError("mask: expected at least one pixel, got an empty mask")
    return rle


def prompts_from_detections(detections: Any, size: tuple[int, int]) -> list[ObjectPrompt]:
    """Prompts from the result of a detector or from annotations; masks where present, otherwise boxes.

    Args:
        detections: `supervision.Detections`; ultralytics `Results`; a dictionary with `boxes` (xyxy) and optionally
            `masks`, `labels`; or COCO annotation dictionaries with `segmentation` or `bbox` (with `visible_mask` or
            `visible_bbox`, those are used, because a visible part is what the model starts from). Regions of many
            objects (`iscrowd`) are left out.
        size: (H, W) of the image.

    Raises:
        InputError: none of these forms, or a box or mask in it is impossible.
    """
    if hasattr(detections, "xyxy") and hasattr(detections, "class_id"):
        found = _supervision(detections, size)
    elif hasattr(detections, "boxes") and hasattr(detections, "names"):
        found = _ultralytics(detections, size)
    elif isinstance(detections, Mapping) and "boxes" in detections:
        found = _torchvision(detections, size)
    elif isinstance(detections, Sequence) and all(isinstance(entry, Mapping) for entry in detections):
        found = (coco_prompt(entry, size) for entry in detections if not entry.get("iscrowd"))
    else:
        kind = type(detections).__name__
        raise InputError(
            "detections: expected a supervision.Detections, an ultralytics Results, a dictionary with boxes, or COCO "
            f"annotations, got {kind}"
        )
    return list(found)


def coco_prompt(annotation: Mapping[str, Any], size: tuple[int, int], name: str | None = None) -> ObjectPrompt:
    """The prompt of one COCO annotation; see `prompts_from_detections`.

    Raises:
        InputError: the annotation has neither mask nor box, or one that is impossible.
    """
    segmentation = annotation.get("visible_mask") or annotation.get("segmentation")
    visible_box, box = (annotation.get(key) for key in ("visible_bbox", "bbox"))
    box = box if visible_box is None or not len(visible_box) else visible_box
    label = f"annotation {annotation.get('id', '?')}"
    try:
        visible = mask_prompt(segmentation, size) if segmentation else None
        if visible is None and (box is None or not len(box)):
            raise InputError("expected a segmentation or a bbox, got neither")
        return ObjectPrompt(
            box_xyxy=check_box(xywh_to_xyxy(_array(box)), size) if visible is None else None,
            visible=visible,
            name=name or annotation.get("category_name"),
            class_id=annotation.get("category_id"),
            source_id=annotation.get("id"),
        )
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{label}: {error}") from error


def with_box(prompt: ObjectPrompt) -> ObjectPrompt:
    """The prompt with a box: its own, or else the tight box of its mask (None where it has only points)."""
    if prompt.box_xyxy is not None or prompt.visible is None:
        return prompt
    return replace(prompt, box_xyxy=rle_box_xyxy(prompt.visible))


def _numbered(index: int | None, size: tuple[int, int], *given: Any) -> ObjectPrompt:
    """The prompt of one object; errors name its number if there are several."""
    try:
        return _prompt(size, *given)
    except InputError as error:
        if index is None:
            raise
        raise InputError(f"object {index}: {error}") from error


def _prompt(
    size: tuple[int, int], box: Any, points: Any, labels: Any, mask: Any, name: Any, class_id: Any
) -> ObjectPrompt:
    if box is None and points is None and mask is None:
        raise InputError("prompts: expected a box, points or a mask, got none")
    if name is not None and not isinstance(name, str):
        raise InputError(f"names: expected a text per object, got {name!r:.80}")
    if class_id is not None and not isinstance(class_id, (int, np.integer)):
        raise InputError(f"class_ids: expected an integer per object, got {class_id!r:.80}")
    checked = None if points is None else check_points(points, size)
    prompt = ObjectPrompt(
        box_xyxy=None if box is None else check_box(box, size),
        visible=None if mask is None else mask_prompt(mask, size),
        points_xy=checked,
        point_labels=None if checked is None else _labels(labels, len(checked)),
        name=name,
        class_id=None if class_id is None else int(class_id),
    )
    check_box_of_mask(prompt)
    return prompt


def check_box_of_mask(prompt: ObjectPrompt) -> None:
    """Check that a box and a mask for the same object belong together.

    Raises:
        InputError: the box covers less than `MIN_COVERED` of the mask, as boxes in another form do.
    """
    if prompt.box_xyxy is None or prompt.visible is None:
        return
    x0, y0, x1, y1 = prompt.box_xyxy
    inside = decode_window(prompt.visible, (math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)))
    covered = np.count_nonzero(inside) / rle_area(prompt.visible)
    if covered < MIN_COVERED:
        raise InputError(
            f"box: expected a box around the mask, got {list(prompt.box_xyxy)}, "
            f"which covers {covered:.0%} of it{_IS_XYWH}"
        )


def _labels(labels: Any, count: int) -> npt.NDArray[np.int64]:
    if labels is None:
        return np.ones(count, np.int64)
    values = np.asarray(labels)
    if values.shape != (count,) or not np.isin(values, (0, 1)).all():
        raise InputError(f"point_labels: expected a list of {counted(count, 'label')} of 0 or 1, got {labels!s:.80}")
    if not (values == 1).any():
        raise InputError("point_labels: expected at least one point with label 1, got only 0")
    return values.astype(np.int64)


def _box_column(boxes_xyxy: Any) -> list[Any]:
    boxes = _column("boxes", boxes_xyxy)
    flat = len(boxes) == 4 and all(np.ndim(value) == 0 and value is not None for value in boxes)
    return [boxes] if flat else boxes


def _mask_column(masks: Any) -> list[Any]:
    array = _array(masks)
    if isinstance(array, np.ndarray) and array.ndim == 4 and array.shape[1] == 1:
        array = array[:, 0]
    if isinstance(array, np.ndarray) and array.ndim == 2:
        return [array]
    if isinstance(array, Mapping) or hasattr(array, "getbands"):  # one RLE, or one PIL image
        return [array]
    if isinstance(array, (str, PathLike)):
        raise InputError(f"masks: expected a list of masks, got a path ({str(array)!r:.60}); load the file")
    if isinstance(array, Sequence) and len(array) and all(isinstance(value, (int, float)) for value in array):
        raise InputError(
            "masks: expected a list of masks, got numbers; write one polygon of one object as [[[x, y, ...]]]"
        )
    return _column("masks", array)


def _column(name: str, values: Any) -> list[Any]:
    array = _array(values)
    if isinstance(array, (str, bytes)) or not hasattr(array, "__iter__"):
        raise InputError(f"{name}: expected a list with an entry per object, got {values!r:.80}")
    return list(array)


def bool_mask(mask: Any, size: tuple[int, int]) -> Mask:
    """A mask of an array or tensor of any library: bool, or integers that are only 0 and 1, or 0 and 255.

    Args:
        mask: (H, W) or (1, H, W).
        size: (H, W) of the image.

    Raises:
        InputError: another size or other values.
    """
    array = np.asarray(_array(mask))
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if array.shape != size:
        last = " (masks of several objects have the shape (N, H, W))" if array.ndim == 3 else ""
        raise InputError(f"mask: expected the image's shape {size}, got {array.shape}{last}")
    if array.dtype == np.bool_:
        return array
    if array.dtype.kind in "iu" and set(np.unique(array).tolist()) in ({0}, {1}, {255}, {0, 1}, {0, 255}):
        return array > 0
    if array.dtype.kind in "iu":
        raise InputError(
            f"mask: expected bool, got {array.dtype} with the values {np.unique(array)[:4].tolist()!s:.60}; of an "
            "image with a number per object, pass one mask (image == number) per object"
        )
    raise InputError(f"mask: expected bool, got {array.dtype}; compare with a threshold first")


def _array(value: Any) -> Any:
    """NumPy view of a tensor of any library; other values as they are."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # NumPy has no such type
            value = value.float()
    return value.numpy() if hasattr(value, "numpy") and not isinstance(value, np.ndarray) else value


def _supervision(detections: Any, size: tuple[int, int]) -> Iterator[ObjectPrompt]:
    names = (getattr(detections, "data", None) or {}).get("class_name")
    for index, box in enumerate(detections.xyxy):
        yield ObjectPrompt(
            box_xyxy=None if detections.mask is not None else check_box(box, size),
            visible=None if detections.mask is None else mask_prompt(np.asarray(detections.mask[index]), size),
            name=None if names is None else str(names[index]),
            class_id=_number(detections.class_id, index),
            tracker_id=_number(getattr(detections, "tracker_id", None), index),
        )


def _ultralytics(results: Any, size: tuple[int, int]) -> Iterator[ObjectPrompt]:
    """Masks come from the polygons, which are in pixels of the original image; `masks.data` is letterboxed."""
    boxes, masks, names = results.boxes, results.masks, results.names
    for index, box in enumerate(_array(boxes.xyxy)):
        visible = None
        if masks is not None and len(masks.xy[index]) >= 3:
            visible = mask_prompt([np.asarray(masks.xy[index], np.float64).ravel().tolist()], size)
        class_id = _number(_array(boxes.cls), index)
        yield ObjectPrompt(
            box_xyxy=None if visible is not None else check_box(box, size),
            visible=visible,
            name=None if class_id is None else names[class_id],
            class_id=class_id,
            tracker_id=_number(_array(boxes.id), index),
        )


def _torchvision(found: Mapping[str, Any], size: tuple[int, int]) -> Iterator[ObjectPrompt]:
    masks = _array(found["masks"]) if found.get("masks") is not None else None
    for index, box in enumerate(_array(found["boxes"])):
        visible = None
        if masks is not None:
            mask = np.asarray(masks[index])
            visible = mask_prompt(mask > MASK_PROBABILITY if mask.dtype.kind == "f" else mask, size)
        yield ObjectPrompt(
            box_xyxy=None if visible is not None else check_box(box, size),
            visible=visible,
            class_id=_number(_array(found.get("labels")), index),
        )


def _number(column: Any, index: int) -> int | None:
    return None if column is None or column[index] is None else int(column[index])
