"""`SamStylePredictor`: the interface of the original SAM's predictor, for code that was written for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from amodal.errors import InputError
from amodal.inference.scene import Scene
from amodal.inference.segmenter import AmodalSegmenter
from amodal.io.images import ImageArray, ImageSource, load_image
from amodal.models.names import DEFAULT_SEGMENTER
from amodal.ops.arrays import Mask


class SamStylePredictor:
    """Predicts one object per call, with the method names and arguments of SAM's predictor.

    Differs from SAM: `predict` returns the visible and the amodal mask of one object instead of three alternatives,
    with the occlusion rate instead of logits, and `mask_input` is a visible mask of the image's size instead of
    low-resolution logits.

    Args:
        segmenter: segmenter that makes the masks.
    """

    def __init__(self, segmenter: AmodalSegmenter) -> None:
        self.segmenter = segmenter
        self.scene: Scene | None = None
        self._image: ImageArray | None = None

    @classmethod
    def from_pretrained(
        cls, name: str | Path = DEFAULT_SEGMENTER, *, device: str = "auto", visible_from: str | Path | None = None
    ) -> SamStylePredictor:
        """Load a model; see `AmodalSegmenter.from_pretrained`.

        Raises:
            InputError: unknown model or device.
        """
        return cls(AmodalSegmenter.from_pretrained(name, device=device, visible_from=visible_from))

    def set_image(self, image: ImageSource) -> None:
        """Choose the image that the following prompts are about.

        Args:
            image: path, PIL image, or array of an image, see `load_image`.

        Raises:
            InputError: an unreadable image.
        """
        self._image, self.scene = load_image(image), None

    def predict(
        self,
        point_coords: npt.NDArray[np.floating] | None = None,
        point_labels: npt.NDArray[np.integer] | None = None,
        box: npt.NDArray[np.floating] | None = None,
        mask_input: Mask | None = None,
        multimask_output: bool = False,
        return_logits: bool = False,
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32], float]:
        """Predict the visible and the amodal mask of one object.

        Args:
            point_coords: (K, 2) points (x, y) in image pixels.
            point_labels: (K,) 1 on the object, 0 not on it.
            box: (4,) box of the visible part, x0, y0, x1, y1.
            mask_input: (H, W) bool, visible mask; it is kept exactly.
            multimask_output: ignored, for code that was written for SAM; there are no alternatives.
            return_logits: must be False; masks are bool.

        Returns:
            Masks (2, H, W) bool, first visible, then amodal; their scores (2,) float32, both the model's estimate of
            the amodal mask's IoU; and the occlusion rate in [0, 1].

        Raises:
            InputError: no image was set, no or an impossible prompt, or `return_logits`.
        """
        if return_logits:
            raise InputError("return_logits: expected False, because masks are bool, got True")
        if self._image is None:
            raise InputError("image: expected set_image before predict, got no image")
        self.scene = self.segmenter(
            self._image,
            None if box is None else [np.asarray(box).ravel().tolist()],
            points_xy=None if point_coords is None else [np.asarray(point_coords).tolist()],
            point_labels=None if point_labels is None else [np.asarray(point_labels).tolist()],
            masks=None if mask_input is None else [mask_input],
        )
        obj = self.scene[0]
        scores = np.full(2, obj.score, np.float32)
        return np.stack([obj.visible_mask, obj.amodal_mask]), scores, obj.occlusion_rate
