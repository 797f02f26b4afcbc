"""`AmodalSegmenter`: from an image and boxes of visible parts to a `Scene`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from amodal.errors import InputError
from amodal.inference.onnx import OnnxPlug, is_export
from amodal.inference.scene import Scene, SceneObject
from amodal.io.images import ImageArray, ImageSource, load_image
from amodal.models.plug import PlugModel, PlugOutput, PlugProcessor
from amodal.models.plug.processing import PlugInputs
from amodal.models.plug.sharing import at_input_size, load_beside
from amodal.nn.attention import use_int8
from amodal.nn.kernels import cpu_has
from amodal.nn.packing import can_use_int8
from amodal.ops.arrays import Boxes
from amodal.ops.masks import resize_probs

BoxesLike = Sequence[Sequence[float]] | npt.NDArray[np.floating]
MODES = ("crop", "image")
FIRST = "first"  # name of the model that a segmenter was built with


class AmodalSegmenter:
    """Segments objects in given boxes, with a visible and an amodal mask per object.

    The probabilities are resized from the crop to the image; a pixel is foreground where its
    probability is above the threshold. The amodal mask is united with the visible mask. A model
    without a visible branch returns the amodal mask for both. An object for which no pixel is
    foreground keeps its place in the scene, with empty masks and score 0. The score is the IoU of
    the amodal mask as predicted by the model.

    Args:
        model: a `PlugModel`, or one exported to ONNX.
        device: device of the model.
        dtype: precision of the network. bfloat16 runs under autocast. With int8 the linear layers of
            the encoder are computed in 8 bits and the rest in bfloat16, on a CPU only.
        mode: `crop` encodes one crop per object, twice its visible box, as in the paper; `image`
            encodes the whole image once for all of its objects, with the same weights.
        image_size: side of the network's square input in mode `image`; the model's own if None.

    Raises:
        InputError: an unknown mode, an image size in mode `crop`, an impossible image size, or int8
            where it cannot run.
    """

    def __init__(
        self,
        model: PlugModel | OnnxPlug,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        *,
        mode: str = "crop",
        image_size: int | None = None,
    ) -> None:
        if mode not in MODES:
            raise InputError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
        if image_size is not None and mode == "crop":
            raise InputError(f"image_size: expected with mode 'image' only, got {image_size} with 'crop'")
        self.device = device or torch.device("cpu")
        self.int8 = dtype == torch.int8
        self.dtype = torch.bfloat16 if self.int8 else dtype
        self.mode = mode
        model = model.to(self.device).eval()
        self.model = self._ready(model if image_size is None else _at_size(model, image_size))
        self.processor = PlugProcessor.from_config(self.model.config)
        self._image_size = image_size
        self._models: dict[str, PlugModel | OnnxPlug] = {FIRST: self.model}

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "plug-tiny",
        *,
        device: str = "auto",
        dtype: str = "auto",
        mode: str = "crop",
        image_size: int | None = None,
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
        return cls(network, place, precision, mode=mode, image_size=image_size)

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
        """Whether the model predicts visible masks; without them a scene repeats the amodal masks."""
        return bool(self.model.config.visible_branch)

    @property
    def base_name(self) -> str:
        """Name of the modal base model for `load_sam`; `sam-tiny` if the base has no name."""
        return str(self.model.config.base.get("name_or_path") or "sam-tiny")

    def __call__(
        self,
        image: ImageSource,
        boxes_xyxy: BoxesLike,
        *,
        threshold: float | None = None,
        union_visible: bool = True,
        batch_size: int = 16,
    ) -> Scene:
        """Segment the objects in given boxes.

        Args:
            image: path, PIL image or (H, W, 3) uint8 RGB.
            boxes_xyxy: (N, 4) boxes of the visible parts in image pixels; a box that reaches
                beyond the image is clipped to it.
            threshold: a pixel is foreground if its probability is above this; the model's own if None.
            union_visible: unite each amodal mask with the visible mask of the same object; False
                returns the masks as the network gives them.
            batch_size: maximum number of objects per forward pass.

        Returns:
            Scene with N objects in the order of the boxes.

        Raises:
            InputError: an unreadable image or an impossible box, threshold or batch size.
        """
        return self.segment_batch(
            [image], [boxes_xyxy], threshold=threshold, union_visible=union_visible, batch_size=batch_size
        )[0]

    @torch.inference_mode()
    def segment_batch(
        self,
        images: Sequence[ImageSource],
        boxes_xyxy: Sequence[BoxesLike],
        *,
        threshold: float | None = None,
        union_visible: bool = True,
        batch_size: int = 16,
    ) -> list[Scene]:
        """Segment the objects of several images, which may have different sizes, in joint forward passes.

        Args:
            images: one image source per image, as for one image.
            boxes_xyxy: one array or list of boxes per image.
            threshold: as for one image.
            union_visible: as for one image.
            batch_size: maximum number of objects per forward pass.

        Returns:
            One scene per image.

        Raises:
            InputError: as for one image, or not exactly one list of boxes per image.
        """
        limit = self.model.config.mask_threshold if threshold is None else threshold
        if not 0 < limit < 1:
            raise InputError(f"threshold: expected a number in (0, 1), got {limit}")
        if batch_size < 1:
            raise InputError(f"batch_size: expected 1 or more, got {batch_size}")
        if len(images) != len(boxes_xyxy):
            raise InputError(f"boxes: expected one list per image for {len(images)} images, got {len(boxes_xyxy)}")
        pixels = [load_image(image) for image in images]
        checked = [check_boxes(b, p.shape[:2]) for b, p in zip(boxes_xyxy, pixels, strict=True)]
        scenes = [Scene([], (p.shape[0], p.shape[1]), p) for p in pixels]
        if self.mode == "image":
            for scene, image, boxes in zip(scenes, pixels, checked, strict=True):
                scene.objects.extend(self._segment_whole_image(image, boxes, limit, union_visible, batch_size))
            return scenes
        jobs = [(i, pixels[i], box) for i, boxes in enumerate(checked) for box in boxes]
        for start in range(0, len(jobs), batch_size):
            part = jobs[start : start + batch_size]
            objects = self._segment_crops([job[1:] for job in part], limit, union_visible)
            for (i, *_), obj in zip(part, objects, strict=True):
                scenes[i].objects.append(obj)
        return scenes

    def _segment_crops(
        self, jobs: list[tuple[ImageArray, Boxes]], threshold: float, union_visible: bool
    ) -> Iterator[SceneObject]:
        """One forward pass for objects of any images; the crops are cut only now, which saves memory."""
        inputs = [self.processor(image, box) for image, box in jobs]
        pixel_values = torch.cat([i.pixel_values for i in inputs]).to(self.device)
        boxes = torch.cat([i.input_boxes for i in inputs]).to(self.device)
        with self._precision():
            output = self.model(pixel_values, boxes)
        return _objects(output, inputs, [box for _, box in jobs], threshold, union_visible)

    def _segment_whole_image(
        self, image: ImageArray, boxes: Boxes, threshold: float, union_visible: bool, batch_size: int
    ) -> Iterator[SceneObject]:
        """Encode the whole image once, then decode its boxes, `batch_size` per forward pass."""
        inputs = self.processor.whole(image, boxes)
        pixel_values = inputs.pixel_values.to(self.device, self.model.dtype)
        with self._precision():
            visible, amodal = self.model.encode(pixel_values)
        for start in range(0, len(boxes), batch_size):
            part = slice(start, start + batch_size)
            with self._precision():
                output = self.model.predict(pixel_values, visible, amodal, inputs.input_boxes[:, part].to(self.device))
            yield from _objects(output, [inputs] * len(boxes[part]), boxes[part], threshold, union_visible)

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


def _objects(
    output: PlugOutput,
    inputs: Sequence[PlugInputs],
    boxes: Sequence[Boxes] | Boxes,
    threshold: float,
    union_visible: bool,
) -> Iterator[SceneObject]:
    """Convert the predictions (B, P, S, S) of one forward pass to B * P objects in the pixels of their images."""
    assert output.amodal_uncertainty is not None and output.iou_scores is not None
    amodal = _probs(output.pred_masks)
    visible = amodal if output.visible_logits is None else _probs(output.visible_logits)
    uncertainty = output.amodal_uncertainty.flatten(0, 1).float().cpu().numpy()
    scores = output.iou_scores.flatten().float().clamp(0, 1).tolist()
    for index, (own, box) in enumerate(zip(inputs, boxes, strict=True)):
        window = own.windows[0]
        x0, y0, x1, y1 = (float(v) for v in box)
        yield SceneObject(
            window=window,
            visible_in_window=resize_probs(visible[index], window) > threshold,
            amodal_in_window=resize_probs(amodal[index], window) > threshold,
            size=own.size,
            visible_box_xyxy=(x0, y0, x1, y1),
            score=scores[index],
            uncertainty_crop=(uncertainty[index].copy(), window),
            union_visible=union_visible,
        )


def _at_size(model: PlugModel | OnnxPlug, image_size: int) -> PlugModel | OnnxPlug:
    if isinstance(model, OnnxPlug):
        if image_size != model.config.image_size:
            size = model.config.image_size
            raise InputError(
                f"image_size: expected {size}, the size this ONNX model was exported for, got {image_size}"
            )
        return model
    return at_input_size(model, image_size)


def pick_device(name: str) -> torch.device:
    """Choose a device by name.

    Args:
        name: `auto` (a GPU if there is one), `cpu`, `cuda`, ...

    Raises:
        InputError: unknown device, or a device that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device: expected auto, cpu, cuda, ... of this machine, got {name!r} ({reason})") from error
    return device


def pick_dtype(name: str, device: torch.device, *, int8: bool = False) -> torch.dtype:
    """Choose a precision by name.

    Args:
        name: `auto`, `float32`, `bfloat16` or, with `int8=True`, `int8`. `auto` is bfloat16 where the
            hardware computes in it (such GPUs, and CPUs with AMX or AVX-512-BF16), which takes at most
            half the time of float32, and float32 elsewhere.
        device: device of the model.
        int8: whether the caller supports int8.

    Raises:
        InputError: unknown name.
    """
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16} | ({"int8": torch.int8} if int8 else {})
    if name == "auto":
        return torch.bfloat16 if _fast_in_bfloat16(device) else torch.float32
    if name not in dtypes:
        raise InputError(f"dtype: expected one of auto, {', '.join(dtypes)}, got {name!r}")
    return dtypes[name]


def _fast_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (cpu_has("amx_bf16") or cpu_has("avx512_bf16"))


def _probs(logits: Tensor | None) -> npt.NDArray[np.float32]:
    """Convert (B, P, S, S) logits to (B * P, S, S) probabilities on the CPU."""
    assert logits is not None
    return np.asarray(logits.flatten(0, 1).float().sigmoid().cpu().numpy(), np.float32)


def check_boxes(boxes_xyxy: BoxesLike, size: tuple[int, int]) -> Boxes:
    """Validate boxes against an image and clip them to it.

    Args:
        boxes_xyxy: N boxes of four numbers in image pixels.
        size: (H, W) of the image.

    Returns:
        (N, 4) float64 inside the image.

    Raises:
        InputError: no box, or a box that is not four finite numbers, inverted, without area or outside the image.
    """
    H, W = size
    if boxes_xyxy is None or len(boxes_xyxy) == 0:
        raise InputError("box: expected at least one box, got none")
    checked = []
    for box in boxes_xyxy:
        try:
            values = np.asarray(box, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"box: expected four numbers X0,Y0,X1,Y1, got {box!r}") from error
        if values.shape != (4,):
            raise InputError(f"box: expected four numbers X0,Y0,X1,Y1, got {np.ravel(values).tolist()}")
        shown = [float(v) for v in values]
        if not np.isfinite(values).all():
            raise InputError(f"box: expected finite numbers, got {shown}")
        x0, y0, x1, y1 = shown
        if x1 < x0 or y1 < y0:
            raise InputError(f"box: expected X0 < X1 and Y0 < Y1, got {shown}, which is inverted")
        if x1 == x0 or y1 == y0:
            raise InputError(f"box: expected an area, got {shown}, which has none")
        if x0 >= W or y0 >= H or x1 <= 0 or y1 <= 0:
            raise InputError(f"box: expected a box inside the {W} x {H} image, got {shown}")
        checked.append([max(x0, 0.0), max(y0, 0.0), min(x1, float(W)), min(y1, float(H))])
    return np.array(checked)
