"""`AmodalSegmenter`: an image and boxes of visible parts in, a `Scene` out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from amodal.data.images import ImageSource, load_image
from amodal.errors import InputError
from amodal.inference.scene import Scene, SceneObject
from amodal.models.plug import PlugModel, PlugProcessor
from amodal.models.plug.processing import PlugInputs
from amodal.ops.boxes import Boxes, Window
from amodal.ops.masks import resize_probs

BoxesLike = Sequence[Sequence[float]] | npt.NDArray[np.floating]


class AmodalSegmenter:
    """Segments whole objects, hidden parts included.

    Args:
        model: a `PlugModel`.
        device: where it runs.
        dtype: precision of the network; bfloat16 runs under autocast.
    """

    def __init__(
        self, model: PlugModel, device: torch.device | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        self.device = device or torch.device("cpu")
        self.dtype = dtype
        self.model = model.to(self.device).eval()
        self.processor = PlugProcessor.from_config(model.config)

    @classmethod
    def from_pretrained(
        cls, name: str | Path = "plug-tiny", *, device: str = "auto", dtype: str = "auto"
    ) -> AmodalSegmenter:
        """Load a model.

        Args:
            name: bundled name, folder or hub id.
            device: `auto` (a GPU if there is one), `cpu`, `cuda`, ...
            dtype: `auto` (bfloat16 on a GPU, float32 elsewhere), `float32` or `bfloat16`.

        Raises:
            InputError: unknown model, device or dtype.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            place = torch.device(device)
        except RuntimeError as error:
            raise InputError(f"device: expected auto, cpu, cuda, ..., got {device!r}") from error
        dtypes = {
            "auto": torch.bfloat16 if place.type == "cuda" else torch.float32,
            "float32": torch.float32,
            "bfloat16": torch.bfloat16,
        }
        if dtype not in dtypes:
            raise InputError(f"dtype: expected one of {', '.join(dtypes)}, got {dtype!r}")
        return cls(PlugModel.from_pretrained(name), place, dtypes[dtype])

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
            InputError: an unreadable image or an impossible box or threshold.
        """
        return self.segment_batch([image], [boxes_xyxy], threshold=threshold, batch_size=batch_size)[0]

    def predict(self, image: npt.NDArray[np.uint8], boxes_xyxy: BoxesLike) -> list[SceneObject]:
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
        """
        limit = self.model.config.mask_threshold if threshold is None else threshold
        if not 0 < limit < 1:
            raise InputError(f"threshold: expected a number in (0, 1), got {limit}")
        if len(images) != len(boxes_xyxy):
            raise InputError(f"boxes: expected a list for each of {len(images)} images, got {len(boxes_xyxy)}")
        pixels = [load_image(image) for image in images]
        boxes = [check_boxes(b, p.shape[:2]) for b, p in zip(boxes_xyxy, pixels, strict=True)]
        inputs = [self.processor(p, b) for p, b in zip(pixels, boxes, strict=True)]
        maps = self._run(inputs, batch_size)
        scenes = []
        for image, own, box in zip(pixels, inputs, boxes, strict=True):
            objects = []
            for window, one in zip(own.windows, box, strict=True):
                objects.append(_object(next(maps), window, own.size, one, limit))
            scenes.append(Scene(objects, own.size, image))
        return scenes

    def _run(self, inputs: list[PlugInputs], batch_size: int):  # type: ignore[no-untyped-def]
        """Yield (visible, amodal, uncertainty) maps (3, S, S) and a score for each object."""
        pixel_values = torch.cat([i.pixel_values for i in inputs])
        boxes = torch.cat([i.input_boxes for i in inputs])
        narrow = self.dtype != torch.float32
        for start in range(0, len(boxes), batch_size):
            part = slice(start, start + batch_size)
            with torch.autocast(self.device.type, dtype=self.dtype, enabled=narrow):
                output = self.model(pixel_values[part].to(self.device), boxes[part].to(self.device))
            amodal = output.pred_masks.float().sigmoid()
            visible = amodal if output.visible_logits is None else output.visible_logits.float().sigmoid()
            maps = torch.cat([visible, amodal, output.amodal_uncertainty.float()], dim=1)
            yield from zip(maps.cpu().numpy(), output.iou_scores[:, 0].float().tolist(), strict=True)


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
    if len(boxes_xyxy) == 0:
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


def _object(
    result: tuple[npt.NDArray[np.float32], float],
    window: Window,
    size: tuple[int, int],
    box: Boxes,
    threshold: float,
) -> SceneObject:
    maps, score = result
    visible, amodal, uncertainty = (resize_probs(m, window) for m in maps)
    x0, y0, x1, y1 = (float(v) for v in box)
    return SceneObject(
        window=window,
        visible_in_window=visible > threshold,
        amodal_in_window=amodal > threshold,
        size=size,
        visible_box_xyxy=(x0, y0, x1, y1),
        score=float(np.clip(score, 0, 1)),
        uncertainty_in_window=uncertainty,
    )
