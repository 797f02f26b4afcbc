"""`AmodalSegmenter`: from an image and boxes of visible parts to a `Scene`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amodal.errors import InputError
from amodal.inference.devices import pick_device, pick_dtype
from amodal.inference.everything import segment_everything
from amodal.inference.features import FeatureCache
from amodal.inference.find import ObjectFinder
from amodal.inference.network_output import MaskOptions, objects_of
from amodal.inference.onnx import OnnxPlug, is_export
from amodal.inference.prompts import (
    BoxesLike,
    IdsLike,
    LabelsLike,
    MasksLike,
    NamesLike,
    ObjectPrompt,
    PointsLike,
    check_threshold,
    collect_prompts,
    prompts_of_image,
    with_box,
)
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from amodal.inference.second_prediction import predict_twice
from amodal.inference.visible_from import VisibleMaskSource
from amodal.io.images import ImageArray, ImageSource, load_image, path_of
from amodal.models.bases.protocol import ImageFeatures
from amodal.models.names import DEFAULT_SEGMENTER
from amodal.models.plug import PlugModel, PlugProcessor
from amodal.models.plug.processing import mask_prompts_of
from amodal.models.plug.sharing import at_input_size, load_beside
from amodal.nn.attention import use_int8
from amodal.nn.packing import can_use_int8
from amodal.ops.arrays import Mask
from amodal.ops.cleaning import CleanSettings
from amodal.ops.rle import decode_mask, rle_area

MODES = ("crop", "image")
FIRST = "first"  # name of the model that a segmenter was built with


class AmodalSegmenter:
    """Segments objects in given boxes, with a visible and an amodal mask per object.

    The probabilities are resized from the crop to the image, those of cleaned visible masks along its edges; a pixel is
    foreground where its probability is above the threshold. The amodal mask is united with the visible mask. A model
    without a visible branch returns the amodal mask for both. An object for which no pixel is
    foreground keeps its place in the scene, with empty masks and score 0. The score is the IoU of
    the amodal mask as predicted by the model.

    With `visible_from`, another segmenter makes the visible masks, and the model adds the amodal ones, as it does for
    visible masks that are given.

    Args:
        model: a `PlugModel`, or one exported to ONNX.
        device: device of the model, or its name.
        dtype: precision of the network, or its name. bfloat16 runs under autocast. With int8 the linear layers of
            the encoder are computed in 8 bits and the rest in bfloat16, on a CPU only.
        mode: `crop` encodes one crop per object, twice its visible box, as in the paper; `image`
            encodes the whole image once for all of its objects, with the same weights, and its mirror image once if
            objects are predicted twice. With a prompted encoder, the coarse stages run per object in both modes.
        image_size: side of the network's square input in mode `image`; the model's own if None.
        visible_from: makes the visible masks of objects that have none in their prompts; the model itself if None.

    Raises:
        InputError: an unknown mode, an image size in mode `crop`, an impossible image size, or int8
            where it cannot run.
    """

    def __init__(
        self,
        model: PlugModel | OnnxPlug,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str = torch.float32,
        *,
        mode: str = "crop",
        image_size: int | None = None,
        visible_from: VisibleMaskSource | None = None,
    ) -> None:
        if mode not in MODES:
            raise InputError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
        if image_size is not None and mode == "crop":
            raise InputError(f"image_size: expected with mode 'image' only, got {image_size} with 'crop'")
        self.device = pick_device(device) if isinstance(device, str) else device or torch.device("cpu")
        dtype = pick_dtype(dtype, self.device, int8=True) if isinstance(dtype, str) else dtype
        self.int8 = dtype == torch.int8
        self.dtype = torch.bfloat16 if self.int8 else dtype
        self.mode = mode
        self.visible_from = visible_from
        model = model.to(self.device).eval()
        self.model = self._ready(model if image_size is None else _at_size(model, image_size))
        self.processor = PlugProcessor.from_config(self.model.config)
        self.features = FeatureCache()
        self._image_size = image_size
        self._finder: ObjectFinder | None = None
        self._models: dict[str, PlugModel | OnnxPlug] = {FIRST: self.model}

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = DEFAULT_SEGMENTER,
        *,
        device: str = "auto",
        dtype: str = "auto",
        mode: str = "crop",
        image_size: int | None = None,
        visible_from: str | Path | None = None,
    ) -> AmodalSegmenter:
        """Load a model.

        Args:
            name: bundled name, folder or hub id; or a folder written by `amodal export onnx`, which
                runs on the CPU in float32 with onnxruntime.
            device: `auto` (a GPU if there is one), `cpu`, `cuda`, ...
            dtype: `auto` (bfloat16 where it is faster, see `pick_dtype`), `float32`, `bfloat16` or
                `int8`, which speeds up a large encoder on a CPU (docs/speed.md).
            mode: `crop` or `image`, see the class.
            image_size: side of the network's input in mode `image`, see the class.
            visible_from: promptable segmenter that makes the visible masks, without training: hub id, folder or
                checkpoint file of a SAM, SAM-HQ, SAM 2, EdgeTAM or SAM 3 tracker. The model makes them if None.

        Raises:
            InputError: unknown model, device, dtype or mode, or an impossible image size.
        """
        place = pick_device(device)
        precision = pick_dtype(dtype, place, int8=True)
        if is_export(name):
            if dtype not in ("auto", "float32"):
                raise InputError(f"dtype: expected auto or float32 for a model exported to ONNX, got {dtype!r}")
            network: PlugModel | OnnxPlug = OnnxPlug(name)
            place, precision = torch.device("cpu"), torch.float32
        else:
            network = PlugModel.from_pretrained(name)
        source = None
        if visible_from is not None:
            own = torch.bfloat16 if precision == torch.int8 else precision
            source = VisibleMaskSource.from_pretrained(visible_from, place, own)
        return cls(network, place, precision, mode=mode, image_size=image_size, visible_from=source)

    def add(self, name: str, source: str | Path) -> None:
        """Load another increment onto the base that is already in memory; `use` switches to it.

        Args:
            name: name to switch to it with.
            source: bundled name, folder or hub id of an increment of the same frozen base.

        Raises:
            InputError: the name is taken, or the increment belongs to another base.
        """
        if name in self._models:
            raise InputError(f"name: expected a name that is not taken ({', '.join(self._models)}), got {name!r}")
        first = self._models[FIRST]
        if not isinstance(first, PlugModel) or self._image_size is not None:
            raise InputError("model: expected a PlugModel at its own input size to add others to, got another")
        self._models[name] = self._ready(load_beside(source, first))

    def use(self, name: str = FIRST) -> AmodalSegmenter:
        """Switch to an added model or back to the first one, without loading anything.

        Args:
            name: name that was given to `add`, or `first`.

        Returns:
            The segmenter itself.

        Raises:
            InputError: no model with this name was added.
        """
        if name not in self._models:
            raise InputError(f"name: expected one of {', '.join(self._models)}, got {name!r}")
        self.model = self._models[name]
        self.processor = PlugProcessor.from_config(self.model.config)
        return self

    @property
    def has_visible_branch(self) -> bool:
        """Whether visible masks are predicted; without them a scene repeats the amodal masks."""
        return self.visible_from is not None or bool(self.model.config.visible_branch)

    @property
    def base_name(self) -> str:
        """Name of the modal base model for `load_base`; `sam-small` if the base has no name."""
        return str(self.model.config.base.get("name_or_path") or "sam-small")

    def __call__(
        self,
        image: ImageSource,
        boxes_xyxy: BoxesLike = None,
        *,
        points_xy: PointsLike = None,
        point_labels: LabelsLike = None,
        masks: MasksLike = None,
        names: NamesLike = None,
        class_ids: IdsLike = None,
        detections: Any = None,
        threshold: float | None = None,
        union_visible: bool = True,
        clean: bool | CleanSettings = True,
        batch_size: int = 16,
    ) -> Scene:
        """Segment the objects that the prompts describe; `find` finds the objects itself.

        All prompts that are given describe the same N objects; None as an entry leaves that kind of prompt out for one
        object, and empty lists give a scene without objects. Boxes, points and masks are in pixels of the image as
        `load_image` returns it, that is, after the orientation of EXIF has been applied. A given mask becomes the
        visible mask of its object without any change, and the amodal mask always covers it. Masks are a prompt for
        models that were trained with them (`config.mask_prompts`); other models get the box of the mask. Points are
        a prompt for the modal base model, which finds the box of the visible part, or, with `visible_from`, for the
        segmenter that makes the visible mask; an object with a given mask needs no points, and they are not used.

        Args:
            image: path, PIL image, or RGB array (H, W, 3): uint8, or floats in [0, 1], see `load_image`. OpenCV reads
                images as BGR; pass `image[..., ::-1]`.
            boxes_xyxy: (N, 4) boxes x0, y0, x1, y1 of the visible parts in image pixels, or one flat box; a box that
                reaches beyond the image is clipped to it.
            points_xy: N lists of K points (x, y) in image pixels.
            point_labels: N lists of K labels, 1 on the object, 0 not on it; all 1 if None.
            masks: (N, H, W) bool, or a list of (H, W) arrays, COCO RLEs or lists of polygons.
            names: N class names, which the objects of the scene then have.
            class_ids: N class numbers, likewise.
            detections: boxes or masks of a detector, instead of the other prompts: a `supervision.Detections`, an
                ultralytics `Results`, a dictionary as from torchvision, or COCO annotations.
            threshold: a pixel is foreground if its probability is above this; the model's own if None.
            union_visible: unite each amodal mask with the visible mask of the same object; False
                returns the masks as the network gives them, for objects without a given mask.
            clean: move the outlines of predicted visible masks to the edges of the image, and remove small pieces,
                small holes and very thin occluded parts. An object that is less than 5 % occluded, or whose hidden part
                a second prediction does not confirm, counts as complete; the masks of two predictions are averaged.
                False returns the masks as the network predicts them; `CleanSettings` has the limits.
            batch_size: maximum number of objects per forward pass.

        Returns:
            Scene with N objects in the order of the prompts.

        Raises:
            InputError: an unreadable image or an impossible prompt, threshold or batch size.
        """
        pixels = load_image(image)
        prompts = collect_prompts(
            (pixels.shape[0], pixels.shape[1]),
            boxes_xyxy=boxes_xyxy,
            points_xy=points_xy,
            point_labels=point_labels,
            masks=masks,
            names=names,
            class_ids=class_ids,
            detections=detections,
        )
        scene = self.segment_batch(
            [pixels],
            [prompts],
            threshold=threshold,
            union_visible=union_visible,
            clean=clean,
            batch_size=batch_size,
        )[0]
        scene.image_path = path_of(image)
        return scene

    @torch.inference_mode()
    def segment_batch(
        self,
        images: Sequence[ImageSource],
        prompts: Sequence[Sequence[ObjectPrompt] | Mapping[str, Any] | BoxesLike],
        *,
        threshold: float | None = None,
        union_visible: bool = True,
        clean: bool | CleanSettings = True,
        batch_size: int = 16,
    ) -> list[Scene]:
        """Segment the objects of several images, which may have different sizes, in joint forward passes.

        Args:
            images: one image source per image, as for one image.
            prompts: per image, its boxes (N, 4); or a dictionary of the keywords for one image (`boxes_xyxy`, `masks`,
                `detections`, ...); or prompts as `collect_prompts` returns them.
            threshold: as for one image.
            union_visible: as for one image.
            clean: as for one image.
            batch_size: maximum number of objects per forward pass.

        Returns:
            One scene per image.

        Raises:
            InputError: as for one image, or not exactly one list of prompts per image.
        """
        limit = self.model.config.mask_threshold if threshold is None else threshold
        check_threshold(limit)
        if batch_size < 1:
            raise InputError(f"batch_size: expected 1 or more, got {batch_size}")
        if len(images) != len(prompts):
            raise InputError(f"prompts: expected one list per image for {len(images)} images, got {len(prompts)}")
        pixels = [load_image(image) for image in images]
        known = [
            self._with_boxes(image, own, batch_size, index if len(pixels) > 1 else None)
            for index, (image, own) in enumerate(zip(pixels, prompts, strict=True))
        ]
        source = None if self.visible_from is None else self.visible_from.name
        scenes = [
            Scene([], (p.shape[0], p.shape[1]), p, image_path=path_of(i), visible_from=source)
            for p, i in zip(pixels, images, strict=True)
        ]
        options = MaskOptions(limit, union_visible, CleanSettings.of(clean), self.model.config.image_size)
        if self.mode == "image":
            for scene, image, own in zip(scenes, pixels, known, strict=True):
                if own:
                    scene.objects.extend(self._segment_whole_image(image, own, options, batch_size))
            return scenes
        jobs = [(i, pixels[i], prompt) for i, own in enumerate(known) for prompt in own]
        for start in range(0, len(jobs), batch_size):
            part = jobs[start : start + batch_size]
            objects = self._segment_crops([job[1:] for job in part], options)
            for (i, *_), obj in zip(part, objects, strict=True):
                scenes[i].objects.append(obj)
        return scenes

    def find(
        self,
        image: ImageSource,
        *,
        confidence: float | None = None,
        threshold: float | None = None,
        clean: bool | CleanSettings = True,
    ) -> Scene:
        """Find the objects of an image and segment them.

        The detector of the base model finds the boxes, or a grid of points if it has none. `segment_everything` takes
        another detector.

        Args:
            image: as for one image.
            confidence: smallest score of a found object in [0, 1]; the detector's own if None.
            threshold: as for one image.
            clean: as for one image.

        Returns:
            Scene of the objects, best first, without duplicates.

        Raises:
            InputError: an unreadable image, or an impossible confidence or threshold.
        """
        return segment_everything(self, self.finder, image, threshold=threshold, clean=clean, confidence=confidence)

    def _with_boxes(
        self,
        image: ImageArray,
        prompts: Sequence[ObjectPrompt] | Mapping[str, Any] | BoxesLike,
        batch_size: int,
        index: int | None,
    ) -> list[ObjectPrompt]:
        """Prompts in which every object has a box: its own, that of its mask, or the one found from its points.

        With `visible_from`, every object has a visible mask as well. Errors name the `index` of the image, if there
        is one.
        """
        try:
            own = prompts_of_image((image.shape[0], image.shape[1]), prompts)
        except InputError as error:
            if index is None:
                raise
            raise InputError(f"image {index}: {error}") from error
        if not own:
            return []
        if self.visible_from is not None:
            own = self.visible_from.complete(image, own, batch_size)
        complete = []
        for prompt in map(with_box, own):
            if prompt.points_xy is not None and prompt.point_labels is not None and prompt.visible is None:
                box = self.finder.box_of(image, prompt.points_xy, prompt.point_labels, prompt.box_xyxy)
                x0, y0, x1, y1 = (float(v) for v in box)
                prompt = replace(prompt, box_xyxy=(x0, y0, x1, y1))
            complete.append(prompt)
        return complete

    @property
    def finder(self) -> ObjectFinder:
        """The modal model that finds the boxes of objects; loaded when it is first needed.

        It is the segmenter that makes the visible masks, or otherwise the modal base model.
        """
        precision = str(self.dtype).removeprefix("torch.")
        if self._finder is None and self.visible_from is not None:
            self._finder = ObjectFinder(self.visible_from.model, self.device, dtype=precision)
        elif self._finder is None:
            self._finder = ObjectFinder.from_pretrained(self.base_name, self.device, precision)
        return self._finder

    def keep_features(self, max_entries: int) -> None:
        """Keep what the encoders return, so that further prompts about the same parts of an image need no encoding.

        This concerns single objects in mode `crop`, the search for objects at points, and `visible_from`.

        Args:
            max_entries: maximum number of encoded parts of images; 0 keeps none. An object that is predicted twice has
                two, its crop and the mirror image of it.
        """
        self.features = self.finder.features = FeatureCache(max_entries)
        if self.visible_from is not None:
            self.visible_from.features = self.features

    @property
    def uses_masks(self) -> bool:
        """Whether the model was trained with mask prompts; other models are prompted by the boxes of the masks."""
        return bool(self.model.config.mask_prompts)

    def _segment_crops(
        self, jobs: list[tuple[ImageArray, ObjectPrompt]], options: MaskOptions
    ) -> Iterator[SceneObject]:
        """One forward pass for objects of any images; the crops are cut only now, which saves memory."""
        inputs = [self.processor(image, np.array([prompt.box_xyxy]), self._masks([prompt])) for image, prompt in jobs]
        pixel_values = torch.cat([i.pixel_values for i in inputs]).to(self.device)
        boxes = torch.cat([i.input_boxes for i in inputs]).to(self.device)
        given = {name: tensor.to(self.device) for name, tensor in mask_prompts_of(inputs).items()}
        prompts = [prompt for _, prompt in jobs]
        pixel_values = pixel_values.to(self.model.dtype)

        def encode(pixels: Tensor, view: str) -> tuple[ImageFeatures, ImageFeatures]:
            if len(jobs) > 1:
                return self.model.encode(pixels)
            part = (id(self.model), inputs[0].windows[0], view)
            return self.features.get(jobs[0][0], part, partial(self.model.encode, pixels))

        with self._precision():
            output, complete = predict_twice(
                self.model, pixel_values, boxes, given, encode, prompts=prompts, options=options
            )
        return objects_of(output, [image for image, _ in jobs], inputs, prompts, options, complete)

    def _segment_whole_image(
        self, image: ImageArray, prompts: list[ObjectPrompt], options: MaskOptions, batch_size: int
    ) -> Iterator[SceneObject]:
        """Encode the whole image once, and its mirror image if needed, and decode `batch_size` objects at a time."""
        inputs = self.processor.whole(image, np.array([prompt.box_xyxy for prompt in prompts]), self._masks(prompts))
        pixel_values = inputs.pixel_values.to(self.device, self.model.dtype)
        prompted = {"input_boxes": inputs.input_boxes, **mask_prompts_of([inputs])}
        given = {name: tensor.to(self.device) for name, tensor in prompted.items()}
        features = FeatureCache(2)

        def encode(pixels: Tensor, view: str) -> tuple[ImageFeatures, ImageFeatures]:
            return features.get(image, view, partial(self.model.encode, pixels))

        for start in range(0, len(prompts), batch_size):
            part = slice(start, start + batch_size)
            masks = {name: tensor[:, part] for name, tensor in given.items()}
            boxes, own = masks.pop("input_boxes"), prompts[part]
            with self._precision():
                output, complete = predict_twice(
                    self.model, pixel_values, boxes, masks, encode, prompts=own, options=options
                )
            yield from objects_of(output, [image] * len(own), [inputs] * len(own), own, options, complete)

    def _masks(self, prompts: Sequence[ObjectPrompt]) -> list[Mask | None] | None:
        """Visible masks (H, W) for the network; None if it takes no masks or there are none."""
        given = [
            prompt.visible if prompt.visible is not None and rle_area(prompt.visible) else None for prompt in prompts
        ]
        if not self.uses_masks or not any(given):
            return None
        return [None if mask is None else decode_mask(mask) for mask in given]

    def _ready(self, model: PlugModel | OnnxPlug) -> PlugModel | OnnxPlug:
        """Switch the model to 8 bits or back; like the device, this changes the model itself."""
        if self.int8 and not (isinstance(model, PlugModel) and self.device.type == "cpu" and can_use_int8()):
            raise InputError(
                "dtype: expected int8 for a PlugModel on a CPU with 8-bit dot products (AVX-VNNI, "
                f"AVX-512-VNNI, AMX), got {type(model).__name__} on {self.device}"
            )
        if isinstance(model, PlugModel):
            use_int8(model.vision_encoder, self.int8)
        return model

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)


def _at_size(model: PlugModel | OnnxPlug, image_size: int) -> PlugModel | OnnxPlug:
    if isinstance(model, OnnxPlug):
        if image_size != model.config.image_size:
            size = model.config.image_size
            raise InputError(
                f"image_size: expected {size}, the size this ONNX model was exported for, got {image_size}"
            )
        return model
    return at_input_size(model, image_size)
