"""The losses of a detector: which cells learn which object, and what they learn.

Axes: B images, N cells, M boxes per image, K classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.models.detector import OTHER, STRIDES, Detections
from amodal.nn.detection_head import CellPredictions, cell_centres
from amodal.ops.boxes import box_iou
from amodal.training.datasets.detection import UNKNOWN
from amodal.training.datasets.sampling import Batch

LEVEL_RANGE = (3.5, 9.0)
"""Objects whose side (the root of the box's area), in strides of a map, is in this range are learned on that map."""
CENTRE_RADIUS = 1.5
"""Cells whose centre is nearer than this, in strides, to that of a box along both axes learn its object."""
BOX_WEIGHT = 2.0
CLASS_WEIGHT = 1.0
SCORE_EXPONENT = 2.0
"""Of the quality focal loss."""
MATCH_IOU = 0.5
"""Smallest IoU of a detection with the object that it finds."""


class CellTargets(NamedTuple):
    """What the cells of B images learn.

    Attributes:
        objects: (B, N) index of the box that a cell learns; -1 for none.
        counted: (B, N) bool, cells whose score is learned: those of objects and of background.
    """

    objects: Tensor
    counted: Tensor


class DetectorTask:
    """Losses of `DetectorModel`.

    The score learns the IoU of the predicted box with the object (quality focal loss), the box learns the object by its
    generalised IoU, and the classes learn by cross entropy where the kind is known. Cells inside boxes that are ignored
    learn nothing, and neither do cells outside all boxes of images in which not every object is annotated.
    """

    @staticmethod
    def prepare(model: nn.Module) -> nn.Module:
        """Nothing to prepare."""
        return model

    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Named losses of a batch in the form of `datasets.detection.collate`."""
        cells: CellPredictions = model(batch["pixel_values"])
        targets = assign(batch, batch["pixel_values"].shape[-1])
        image, cell = (targets.objects >= 0).nonzero(as_tuple=True)
        owner = targets.objects[image, cell]
        count = max(len(image), 1)
        iou, giou = paired_ious(cells.boxes[image, cell].float(), batch["boxes"][image, owner])
        logits = cells.score_logits.float()
        quality = torch.zeros_like(logits)
        quality[image, cell] = iou.detach().clamp(0, 1)
        classes = batch["classes"][image, owner]
        known = classes != UNKNOWN
        class_logits = cells.class_logits[image, cell].float()
        return {
            "score": (_quality_focal(logits, quality) * targets.counted).sum() / count,
            "box": BOX_WEIGHT * (1 - giou).sum() / count,
            "class": CLASS_WEIGHT * F.cross_entropy(class_logits[known], classes[known], reduction="sum") / count,
        }

    @staticmethod
    def scores(model: Any, batch: Batch, threshold: float) -> dict[str, tuple[Tensor, Tensor]]:
        """Sums and numbers of `recall` (of the objects), `precision` (of the detections in images with all objects
        annotated) and `named` (of the found objects of known classes, those with the right name).

        Args:
            model: a `DetectorModel`, possibly wrapped for several processes.
            batch: in the form of `datasets.detection.collate`.
            threshold: smallest score of a detection.
        """
        totals = torch.zeros(3, 2, dtype=torch.float64)
        pixel_values = batch["pixel_values"]
        size = (pixel_values.shape[-2], pixel_values.shape[-1])
        detector = getattr(model, "module", model)
        for index, found in enumerate(detector.detections(model(pixel_values), size, threshold)):
            truth, ignored = (batch[name][index].cpu().numpy() for name in ("learned", "ignored"))
            boxes = batch["boxes"][index].cpu().numpy().astype(np.float64)
            classes = batch["classes"][index].cpu().numpy()[truth]
            matches = match(found, boxes[truth])
            right = found.classes[matches >= 0] == classes[matches[matches >= 0]]
            known = classes[matches[matches >= 0]] > OTHER
            totals[0] += torch.tensor([(matches >= 0).sum(), truth.sum()])
            if bool(batch["all_annotated"][index]):
                on_ignored = (box_iou(found.boxes, boxes[ignored]) > MATCH_IOU).any(1) & (matches < 0)
                totals[1] += torch.tensor([(matches >= 0).sum(), (~on_ignored).sum()])
            totals[2] += torch.tensor([(right & known).sum(), known.sum()])
        return {name: (t[0], t[1]) for name, t in zip(("recall", "precision", "named"), totals, strict=True)}


def assign(batch: Batch, image_size: int) -> CellTargets:
    """Choose the object of each cell; of several, the smallest.

    Args:
        batch: in the form of `datasets.detection.collate`.
        image_size: side of the input in pixels.
    """
    boxes, learned = batch["boxes"], batch["learned"]
    sides = boxes[..., 2:] - boxes[..., :2]  # (B, M, 2)
    areas = sides.prod(-1)
    middles = (boxes[..., :2] + boxes[..., 2:]) / 2
    near, inside = [], []
    for stride in STRIDES:
        cells = image_size // stride
        centres = cell_centres((cells, cells), stride).to(boxes)  # (n, 2)
        size = areas.sqrt() / stride
        low = 0 if stride == STRIDES[0] else LEVEL_RANGE[0]
        high = torch.inf if stride == STRIDES[-1] else LEVEL_RANGE[1]
        fits = learned & (size >= low) & (size < high)
        # In a thin box only the cells that contain its centre line, at least one.
        reach = torch.minimum(sides / 2, sides.new_tensor(CENTRE_RADIUS * stride)).clamp_min(stride / 2 + 1e-3)
        distance = (centres[None, :, None] - middles[:, None]).abs()  # (B, n, M, 2)
        near.append((distance < reach[:, None]).all(-1) & fits[:, None])
        inside.append((distance <= sides[:, None] / 2).all(-1))
    is_near, is_inside = torch.cat(near, 1), torch.cat(inside, 1)  # (B, N, M)
    cost = torch.where(is_near, areas[:, None], torch.inf)
    smallest = cost.min(-1)
    objects = torch.where(smallest.values.isfinite(), smallest.indices, -1)
    in_ignored = (is_inside & batch["ignored"][:, None]).any(-1)
    in_learned = (is_inside & learned[:, None]).any(-1)
    background = ~in_ignored & (in_learned | batch["all_annotated"][:, None])
    return CellTargets(objects, background | (objects >= 0))


def match(found: Detections, boxes: Any) -> Any:
    """Index of the object of `boxes` (M, 4) that each detection finds, -1 for none; better detections choose first."""
    matches = np.full(len(found.boxes), -1)
    overlaps = box_iou(found.boxes, boxes)
    for index in range(len(matches) if len(boxes) else 0):
        best = int(overlaps[index].argmax())
        if overlaps[index, best] >= MATCH_IOU:
            matches[index] = best
            overlaps[:, best] = 0
    return matches


def paired_ious(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU (Rezatofighi et al., 2019) of pairs of boxes (n, 4) xyxy, each (n,)."""
    intersection = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp_min(0).prod(-1)
    areas = [(x[:, 2:] - x[:, :2]).prod(-1) for x in (a, b)]
    union = areas[0] + areas[1] - intersection
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(-1)
    iou = intersection / union.clamp_min(1e-6)
    return iou, iou - (hull - union) / hull.clamp_min(1e-6)


def _quality_focal(logits: Tensor, quality: Tensor) -> Tensor:
    """Binary cross entropy with targets in [0, 1], weighted by a power of the error (Li et al., 2020, Eq. 5)."""
    error = (quality - logits.sigmoid()).abs() ** SCORE_EXPONENT
    return error * F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
