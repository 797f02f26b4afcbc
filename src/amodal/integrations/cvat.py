"""Functions for CVAT: annotate whole tasks with `cvat-cli task auto-annotate`, or single objects in CVAT's editor.

CVAT's command line loads this module, calls `create` with the parameters that follow `-p`, and then calls `detect` of
the function once per image. The labels of a task are `visible` and `amodal`; the two masks of an object have the same
group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np
from PIL import Image

from amodal.errors import InputError
from amodal.inference.everything import scene_finder
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from amodal.inference.segmenter import AmodalSegmenter
from amodal.io.images import ImageArray, load_image
from amodal.models.names import DEFAULT_SEGMENTER
from amodal.ops.arrays import Mask
from amodal.ops.occlusion import is_occluded
from amodal.ops.polygons import rle_polygons
from amodal.ops.rle import encode_mask

LABELS = ("amodal", "visible")
"""Labels of the masks by their number. Later masks are drawn above earlier ones, so the visible mask comes last."""


def create(
    model: str = DEFAULT_SEGMENTER,
    *,
    kind: str = "detector",
    part: str = "amodal",
    detector: str | None = None,
    text: str | None = None,
    visible_from: str | None = None,
    device: str = "auto",
) -> AmodalDetection | AmodalInteraction:
    """Make the function that CVAT calls.

    Args:
        model: bundled name, folder or hub id.
        kind: `detector` finds and segments all objects of each image; `interactor` segments the object that a person
            points at, in CVAT's editor.
        part: mask that an interactor returns, `amodal` or `visible`. A detector returns both.
        detector: detector of transformers that finds the boxes (hub id or folder); None for the base's own or a grid
            of points.
        text: what an open-vocabulary detector looks for, separated by commas.
        visible_from: promptable segmenter that makes the visible masks; the model itself if None.
        device: `auto`, `cpu`, `cuda`, ...

    Raises:
        InputError: CVAT's SDK is not installed, an unknown kind or part, an option that the kind does not have, a text
            without a detector, or no such model or detector.
    """
    sdk = _sdk()
    if kind not in ("detector", "interactor"):
        raise InputError(f"kind: expected detector or interactor, got {kind!r}")
    if part not in LABELS:
        raise InputError(f"part: expected amodal or visible, got {part!r}")
    if kind == "interactor" and (detector or text):
        raise InputError("detector: expected with the kind detector only, got it with interactor")
    if text and not detector:
        raise InputError("text: expected together with a detector, got no detector")
    if kind == "interactor" and not hasattr(sdk, "InteractionFunctionSpec"):
        raise InputError(
            "kind: expected a CVAT SDK with interaction functions, got an older one (pip install -U cvat-cli)"
        )
    if kind == "detector" and part != "amodal":
        raise InputError("part: expected with the kind interactor only, got it with detector, which returns both masks")
    segmenter = AmodalSegmenter.from_pretrained(model, device=device, visible_from=visible_from)
    if kind == "interactor":
        return AmodalInteraction(segmenter, part)
    texts = None if text is None else [word.strip() for word in text.split(",")]
    return AmodalDetection(scene_finder(segmenter, detector, texts, None))


class AmodalDetection:
    """A detection function of CVAT: two masks, `visible` and `amodal`, per object of an image.

    Args:
        find: finds and segments the objects of an image (H, W, 3).
    """

    def __init__(self, find: Callable[[ImageArray], Scene]) -> None:
        self._find = find
        self._groups = count(1)  # no group occurs in two images of a task

    @cached_property
    def spec(self) -> Any:
        """The labels of the function, a `DetectionFunctionSpec`."""
        sdk = _sdk()
        return sdk.DetectionFunctionSpec(
            labels=[sdk.label_spec(name, number, type="mask") for number, name in enumerate(LABELS)]
        )

    def detect(self, context: Any, image: Image.Image) -> list[Any]:
        """Find and segment the objects of an image.

        Args:
            context: CVAT's `DetectionFunctionContext`: the smallest score, and whether masks become polygons.
            image: one image of the task.

        Returns:
            Shapes of CVAT in the pixels of the image: one mask per label and object, or one polygon per part of it.
            Masks without pixels are left out.
        """
        smallest = context.conf_threshold or 0.0
        scene = self._find(load_image(image))
        return [
            shape for obj in scene if obj.score >= smallest for shape in _shapes(obj, context, group=next(self._groups))
        ]


class AmodalInteraction:
    """An interaction function of CVAT: one mask of the object that points or a box describe.

    Args:
        segmenter: makes the masks.
        part: mask to return, `amodal` or `visible`.
    """

    def __init__(self, segmenter: AmodalSegmenter, part: str) -> None:
        self._segmenter, self._part = segmenter, part

    @cached_property
    def spec(self) -> Any:
        """The prompts of the function, an `InteractionFunctionSpec`: points, a box, or both."""
        return _sdk().InteractionFunctionSpec(min_pos_points=0, min_neg_points=0, min_bounding_boxes=0)

    def preprocess_image(self, context: Any, image: Image.Image) -> ImageArray:
        """Decode an image once for all prompts."""
        return load_image(image)

    def detect(self, context: Any, image: ImageArray, prompts: Any) -> list[Any]:
        """Segment the object that the prompts describe.

        Args:
            context: CVAT's `InteractionFunctionContext`.
            image: what `preprocess_image` returned.
            prompts: CVAT's `InteractionPrompts`, in pixels of the image.

        Returns:
            One shape of CVAT; none if there is no prompt yet, or if the mask has no pixel.

        Raises:
            InputError: a box or point outside the image, or no point on the object among the points.
        """
        points = [*prompts.pos_points, *prompts.neg_points]
        box = None if prompts.bounding_box is None else [*prompts.bounding_box[0], *prompts.bounding_box[1]]
        if box is None and not points:
            return []
        labels = [1] * len(prompts.pos_points) + [0] * len(prompts.neg_points)
        scene = self._segmenter(
            image,
            None if box is None else [box],
            points_xy=[points] if points else None,
            point_labels=[labels] if points else None,
        )
        mask = _mask(scene[0], self._part)
        if not mask.any():
            return []
        return [_sdk().InteractionResultShape(type="mask", points=_mask_points(mask))]


def _shapes(obj: SceneObject, context: Any, group: int) -> Iterator[Any]:
    """The shapes of one object, below each other in the order of `LABELS`."""
    sdk = _sdk()
    for number, part in enumerate(LABELS):
        mask = _mask(obj, part)
        known = {"group": group, "z_order": number, "occluded": is_occluded(obj.occlusion_rate)}
        if not mask.any():
            continue
        if context.conv_mask_to_poly:
            for polygon in rle_polygons(encode_mask(mask)):
                yield sdk.polygon(number, polygon, **known)
        else:
            yield sdk.mask(number, _mask_points(mask), **known)


def _mask(obj: SceneObject, part: str) -> Mask:
    mask: Mask = obj.amodal_mask if part == "amodal" else obj.visible_mask
    return mask


def _mask_points(mask: Mask) -> list[float]:
    """The mask in CVAT's form: run lengths along the rows of its tight box, then the box."""
    from cvat_sdk.masks import encode_mask as encode_for_cvat

    return [float(value) for value in encode_for_cvat(np.ascontiguousarray(mask))]


def _sdk() -> Any:
    """`cvat_sdk.auto_annotation`. Raises `InputError` if it is not installed."""
    try:
        import cvat_sdk.auto_annotation as sdk
    except ImportError as error:
        raise InputError(f"cvat: expected CVAT's SDK, got no {error.name!r} (pip install 'amodal[cvat]')") from error
    return sdk
