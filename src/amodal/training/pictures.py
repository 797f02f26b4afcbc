"""Pictures of fixed validation objects: truth beside what the model says now."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from amodal.models.plug.processing import IMAGE_MEAN, IMAGE_STD

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

VISIBLE = (56, 168, 255)
HIDDEN = (255, 112, 40)
SIDE = 192  # of one picture on the sheet
GAP = 4


def draw_sheet(batch: dict[str, Tensor], visible_probs: Tensor, amodal_probs: Tensor, threshold: float) -> Pixels:
    """One row an object: the crop, the truth, the answer, the amodal probability.

    Args:
        batch: collated crops on the CPU; the first prompt of each is drawn.
        visible_probs: (B, P, S, S) in [0, 1]; `amodal_probs` likewise.
        threshold: probability above which a pixel is foreground.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    images = _pixels(batch["pixel_values"])
    truth = [batch[name][:, 0].numpy() for name in ("visible_masks", "amodal_masks")]
    answer = [(p[:, 0].float().cpu() > threshold).numpy() for p in (visible_probs, amodal_probs)]
    probs = amodal_probs[:, 0].float().cpu().numpy()
    rows = []
    for i, image in enumerate(images):
        heat = cv2.applyColorMap((probs[i] * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]
        row = [image, _overlay(image, truth[0][i], truth[1][i]), _overlay(image, answer[0][i], answer[1][i]), heat]
        rows.append(np.concatenate([_framed(part) for part in row], axis=1))
    return np.ascontiguousarray(np.concatenate(rows, axis=0))


def _pixels(values: Tensor) -> Pixels:
    """(B, 3, S, S) normalised to (B, S, S, 3) uint8."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
    shown = (values.float().cpu() * std + mean).clamp(0, 1) * 255
    return np.asarray(shown.round().to(torch.uint8).permute(0, 2, 3, 1).numpy())


def _overlay(image: Pixels, visible: Mask, amodal: Mask) -> Pixels:
    drawn = image.copy()
    for mask, colour in ((visible, VISIBLE), (amodal & ~visible, HIDDEN)):
        drawn[mask] = (0.45 * drawn[mask] + 0.55 * np.array(colour)).astype(np.uint8)
    return drawn


def _framed(part: Pixels) -> Pixels:
    how = cv2.INTER_AREA if part.shape[0] > SIDE else cv2.INTER_NEAREST
    resized = np.asarray(cv2.resize(np.ascontiguousarray(part), (SIDE, SIDE), interpolation=how), np.uint8)
    return np.pad(resized, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)
