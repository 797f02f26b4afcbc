"""`AmodalSegmenter`: an image and boxes of visible parts in, a `Scene` out."""

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
from amodal.io.images import ImageSource, load_image
from amodal.models.plug import PlugModel, PlugOutput, PlugProcessor
from amodal.models.plug.base import at_input_size
from amodal.models.plug.processing import PlugInputs
from amodal.models.plug.sharing import load_beside
from amodal.nn.attention import use_int8
from amodal.nn.kernels import cpu_has
from amodal.nn.packing import can_use_int8
from amodal.ops.boxes import Boxes
from amodal.ops.masks import resize_probs

Pixels = npt.NDArray[np.uint8]
BoxesLike = Sequence[Sequence[float]] | npt.NDArray[np.floating]
MODES = ("crop", "image")
FIRST = "first"  # name of the model a segmenter was made with


class AmodalSegmenter:
    """Segments whole objects, hidden parts included.

    A pixel is foreground where its probability, resized from the crop to the photograph, is
    above the threshold. The amodal mask is united with the visible one: what is seen of an
    object belongs to it. A model without a visible branch answers the amodal mask for both.
    An object of which nothing is found stays in its place, with empty masks and score 0. The
    score is the model's own estimate of the amodal mask's IoU.

    Args:
        model: a `PlugModel`, or one exported to ONNX.
        device: where it runs.
        dtype: precision of the network; bfloat16 runs under autocast. With int8 the encoder's
            linear maps are computed in 8 bits and the rest in bfloat16, on a processor.
        mode: `crop` encodes twice the visible box of each object, as the paper does; `image`
            encodes the whole picture once for all of its objects, with the same weights.
        picture_size: side of the network's square input in mode `image`; the model's own if None.

    Raises:
        InputError: an unknown mode, a picture size in mode `crop`, or an impossible one; int8 where
            it cannot run.
    """

    def __init__(
        self,
        model: PlugModel | OnnxPlug,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        *,
        mode: str = "crop",
        picture_size: int | None = None,
    ) -> None:
        if mode not in MODES:
            raise InputError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
        if picture_size is not None and mode == "crop":
            raise InputError(f"picture_size: expected with mode 'image' only, got {picture_size} with 'crop'")
        self.device = device or torch.device("cpu")
        self.int8 = dtype == torch.int8
        self.dtype = torch.bfloat16 if self.int8 else dtype
        self.mode = mode
        model = model.to(self.device).eval()
        self.model = self._ready(model if picture_size is None else _at_size(model, picture_size))
        self.processor = PlugProcessor.from_config(self.model.config)
        self._picture_size = picture_size
        self._models: dict[str, PlugModel | OnnxPlug] = {FIRST: self.model}

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "plug-tiny",
        *,
        device: str = "auto",
        dtype: str = "auto",
        mode: str = "crop",
        picture_size: int | None = None,
    ) -> AmodalSegmenter:
        """Load a model.

        Args:
            name: bundled name, folder or hub id; or a folder by `amodal export onnx`, which runs on
                the CPU in float32 through onnxruntime.
            device: `auto` (a GPU if there is one), `cpu`, `cuda`, ...
            dtype: `auto` (bfloat16 where it is faster, see `pick_dtype`), `float32`, `bfloat16` or
                `int8`, which a large encoder on a processor gains from (docs/speed.md).
            mode: `crop` or `image`, see the class.
            picture_size: side of the network's input in mode `image`.

        Raises:
            InputError: unknown model, device, dtype or mode, or an impossible picture size.
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
        return cls(network, place, precision, mode=mode, picture_size=picture_size)

    def add(self, name: str, source: str | Path) -> None:
        """Load a further increment onto the base that is in memory; `use` switches to it.

        Args:
            name: to switch by.
            source: bundled name, folder or hub id of an increment on the same frozen base.

        Raises:
            InputError: the name is taken, or the increment cannot stand on this base.
        """
        if name in self._models:
            raise InputError(f"name: expected one that is not taken ({', '.join(self._models)}), got {name!r}")
        first = self._models[FIRST]
        if not isinstance(first, PlugModel) or self._picture_size is not None:
            raise InputError("model: expected a PlugModel at its own input size to add others to, got another")
        self._models[name] = self._ready(load_beside(source, first))

    def use(self, name: str = FIRST) -> AmodalSegmenter:
        """Switch to an added model, or back to the first; nothing is loaded. Returns itself.

        Raises:
            InputError: no model of that name was added.
        """
        if name not in self._models:
            raise InputError(f"name: expected one of {', '.join(self._models)}, got {name!r}")
        self.model = self._models[name]
        self.processor = PlugProcessor.from_config(self.model.config)
        return self

    @property
    def base_name(self) -> str:
        """The modal model this one was made from, as `load_sam` takes it; `sam-tiny` if it had no name."""
        return str(self.model.config.base.get("name_or_path") or "sam-tiny")

    def __call__(
        self,
        image: ImageSource,
        boxes_xyxy: BoxesLike,
        *,
        threshold: float | None = None,
        batch_size: int = 16,
    ) -> Scene:
        """Segment the objects in given boxes.

        Args:
            image: path, PIL image or (H, W, 3) uint8 RGB.
            boxes_xyxy: (N, 4) boxes of the visible parts in image pixels; a box that reaches
                beyond the image is clipped to it.
            threshold: probability above which a pixel is foreground; the model's own if None.
            batch_size: objects a network call.

        Returns:
            Scene with N objects in the order of the boxes.

        Raises:
            InputError: an unreadable image or an impossible box, threshold or batch size.
        """
        return self.segment_batch([image], [boxes_xyxy], threshold=threshold, batch_size=batch_size)[0]

    def predict(self, image: Pixels, boxes_xyxy: BoxesLike) -> list[SceneObject]:
        """Objects alone, as the evaluator asks for them."""
        return self(image, boxes_xyxy).objects

    @torch.inference_mode()
    def segment_batch(
        self,
        images: Sequence[ImageSource],
        boxes_xyxy: Sequence[BoxesLike],
        *,
        threshold: float | None = None,
        batch_size: int = 16,
    ) -> list[Scene]:
        """Segment several images of any sizes; their objects share network calls.

        Args:
            images: as for one image.
            boxes_xyxy: boxes of each image.
            threshold: as for one image.
            batch_size: objects a network call.

        Returns:
            One scene an image.

        Raises:
            InputError: as for one image, a batch size below 1, or not one list of boxes an image.
        """
        limit = self.model.config.mask_threshold if threshold is None else threshold
        if not 0 < limit < 1:
            raise InputError(f"threshold: expected a number in (0, 1), got {limit}")
        if batch_size < 1:
            raise InputError(f"batch_size: expected 1 or more, got {batch_size}")
        if len(images) != len(boxes_xyxy):
            raise InputError(f"boxes: expected a list for each of {len(images)} images, got {len(boxes_xyxy)}")
        pixels = [load_image(image) for image in images]
        checked = [check_boxes(b, p.shape[:2]) for b, p in zip(boxes_xyxy, pixels, strict=True)]
        scenes = [Scene([], (p.shape[0], p.shape[1]), p) for p in pixels]
        if self.mode == "image":
            for scene, picture, boxes in zip(scenes, pixels, checked, strict=True):
                scene.objects.extend(self._segment_picture(picture, boxes, limit, batch_size))
            return scenes
        jobs = [(i, pixels[i], box) for i, boxes in enumerate(checked) for box in boxes]
        for start in range(0, len(jobs), batch_size):
            part = jobs[start : start + batch_size]
            things = self._segment_jobs([job[1:] for job in part], limit)
            for (i, *_), thing in zip(part, things, strict=True):
                scenes[i].objects.append(thing)
        return scenes

    def _segment_jobs(self, jobs: list[tuple[Pixels, Boxes]], threshold: float) -> Iterator[SceneObject]:
        """One network call for objects of any images; crops are made only now, to spare memory."""
        inputs = [self.processor(image, box) for image, box in jobs]
        pixel_values = torch.cat([i.pixel_values for i in inputs]).to(self.device)
        boxes = torch.cat([i.input_boxes for i in inputs]).to(self.device)
        with self._precision():
            output = self.model(pixel_values, boxes)
        return _objects(output, inputs, [box for _, box in jobs], threshold)

    def _segment_picture(self, image: Pixels, boxes: Boxes, threshold: float, batch_size: int) -> Iterator[SceneObject]:
        """One encoding of a whole picture, then all of its boxes, `batch_size` a call."""
        inputs = self.processor.whole(image, boxes)
        pixel_values = inputs.pixel_values.to(self.device, self.model.dtype)
        with self._precision():
            visible, amodal = self.model.encode(pixel_values)
        for start in range(0, len(boxes), batch_size):
            part = slice(start, start + batch_size)
            with self._precision():
                output = self.model.predict(pixel_values, visible, amodal, inputs.input_boxes[:, part].to(self.device))
            yield from _objects(output, [inputs] * len(boxes[part]), boxes[part], threshold)

    def _ready(self, model: PlugModel | OnnxPlug) -> PlugModel | OnnxPlug:
        """The model, set to 8 bits or back; like its device, this is the model's own."""
        if self.int8 and not (isinstance(model, PlugModel) and self.device.type == "cpu" and can_use_int8()):
            raise InputError(
                "dtype: expected int8 for a PlugModel on a processor with 8-bit dot products (AVX-VNNI, "
                f"AVX-512-VNNI, AMX), got {type(model).__name__} on {self.device}"
            )
        if isinstance(model, PlugModel):
            use_int8(model.vision_encoder, self.int8)
        return model

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)


def _objects(
    output: PlugOutput, inputs: Sequence[PlugInputs], boxes: Sequence[Boxes] | Boxes, threshold: float
) -> Iterator[SceneObject]:
    """Answers (B, P, S, S) of one call, B * P objects, back in the pixels of their images."""
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
        )


def _at_size(model: PlugModel | OnnxPlug, picture_size: int) -> PlugModel | OnnxPlug:
    if isinstance(model, OnnxPlug):
        if picture_size != model.config.image_size:
            size = model.config.image_size
            raise InputError(
                f"picture_size: expected {size}, the size this ONNX model was made for, got {picture_size}"
            )
        return model
    return at_input_size(model, picture_size)


def pick_device(name: str) -> torch.device:
    """Device by name; `auto` is a GPU if there is one.

    Raises:
        InputError: no such device, or none on this machine.
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
    """Precision by name.

    `auto` is bfloat16 where the hardware computes in it (a GPU that does, a processor with AMX or
    AVX-512-BF16), which takes half of float32's time or less, and float32 elsewhere. `int8` where the
    caller can use it.

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
    """(B, P, S, S) logits to (B * P, S, S) probabilities on the CPU."""
    assert logits is not None
    return np.asarray(logits.flatten(0, 1).float().sigmoid().cpu().numpy(), np.float32)


def check_boxes(boxes_xyxy: BoxesLike, size: tuple[int, int]) -> Boxes:
    """Validate boxes against an image and clip them to it.

    Args:
        boxes_xyxy: N boxes of four numbers.
        size: (H, W).

    Returns:
        (N, 4) float64 inside the image.

    Raises:
        InputError: no box, not four finite numbers, inverted, without area, or outside.
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
