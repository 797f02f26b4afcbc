"""Prompts as maps: boxes, points and masks drawn on a grid of half the input's resolution.

Axes: B images, P prompts (objects) per image, K points per prompt, h w cells of the grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.errors import InputError
from amodal.models.bases.protocol import Prompts

NUM_MAPS = 9
STRIDE = 2
POINT_RADIUS = 0.03
"""Standard deviation of the spot of a point, as a share of the input's side."""


class PromptMaps(nn.Module):
    """Draw the prompts of an object as nine maps; there is nothing to train.

    The maps are: the share of each cell inside the box; the position relative to the box, horizontally and
    vertically, -1 and 1 at its edges; whether a box is given; spots at the points on the object, and at those not on
    it; whether points are given; the mask, -1 outside and 1 inside; whether a mask is given. Without a box the
    position is relative to the input, and without a mask its map is 0.

    Args:
        image_size: side of the square input in pixels.
    """

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.shared_embedding, self.mask_embed = nn.Identity(), nn.Identity()  # named by every family

    def forward(self, prompts: Prompts) -> Tensor:
        """Draw the prompts: (B, P, 9, h, w), float32."""
        first = next((x for x in (prompts.boxes, prompts.points, prompts.masks) if x is not None), None)
        if first is None:
            raise InputError("prompts: expected boxes, points or masks, got none")
        B, P = first.shape[:2]
        cells = self.image_size // STRIDE
        edges = torch.arange(cells + 1, device=first.device, dtype=torch.float32) * STRIDE
        centres = (edges[:-1] + edges[1:]) / 2
        whole = edges.new_tensor([0.0, 0.0, self.image_size, self.image_size]).expand(B, P, 4)
        boxes = whole if prompts.boxes is None else prompts.boxes.float()
        x0, y0, x1, y1 = boxes.unbind(-1)
        inside = _covered(edges, y0, y1)[..., :, None] * _covered(edges, x0, x1)[..., None, :]
        grid = (B, P, cells, cells)
        across = _relative(centres, x0, x1)[..., None, :].expand(grid)
        down = _relative(centres, y0, y1)[..., :, None].expand(grid)
        box_given = inside.new_full(grid, float(prompts.boxes is not None))
        maps = [inside, across, down, box_given, *self._points(prompts, centres, grid), *self._mask(prompts, inside)]
        return torch.stack(maps, dim=2)

    def _points(self, prompts: Prompts, centres: Tensor, grid: tuple[int, ...]) -> list[Tensor]:
        """The spots of both kinds of points, and whether an object has points."""
        if prompts.points is None:
            return [centres.new_zeros(grid)] * 3
        labels = prompts.labels
        if labels is None:
            labels = torch.ones(prompts.points.shape[:3], dtype=torch.long, device=centres.device)
        scale = 1 / (POINT_RADIUS * self.image_size)
        distance = (prompts.points.float()[..., None] - centres) * scale  # (B, P, K, 2, cells)
        falloff = torch.exp(-0.5 * distance**2)
        spots = falloff[..., 1, :, None] * falloff[..., 0, None, :]  # (B, P, K, h, w)
        drawn = [(spots * (labels == label)[..., None, None]).amax(2) for label in (1, 0)]
        given = ((labels == 1) | (labels == 0)).any(2).float()
        return [*drawn, given[..., None, None].expand(grid)]

    def _mask(self, prompts: Prompts, like: Tensor) -> list[Tensor]:
        """The mask between -1 and 1, and whether an object has one."""
        if prompts.masks is None:
            return [torch.zeros_like(like)] * 2
        masks = prompts.masks
        inside = masks.float() if masks.dtype == torch.bool else masks.float().sigmoid()
        size = like.shape[-2:]
        if inside.shape[-2:] == (STRIDE * size[0], STRIDE * size[1]):
            inside = F.avg_pool2d(inside, STRIDE)
        elif inside.shape[-2:] != size:
            inside = F.interpolate(inside, size=size, mode="bilinear", align_corners=False, antialias=True)
        given = like.new_ones(masks.shape[:2]) if prompts.mask_given is None else prompts.mask_given.to(like.dtype)
        given = given[..., None, None]
        return [(inside * 2 - 1) * given, given.expand_as(like)]


def _covered(edges: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """Share of each cell between `edges` (n + 1,) that lies within [start, stop]: (B, P) to (B, P, n)."""
    low, high = edges[:-1], edges[1:]
    overlap = torch.minimum(high, stop[..., None]) - torch.maximum(low, start[..., None])
    return overlap.clamp(min=0) / (high - low)


def _relative(centres: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """Position (n,) relative to [start, stop]: -1 and 1 at its ends, at most 3 away; (B, P, n)."""
    middle, half = (start + stop) / 2, (stop - start) / 2
    return ((centres - middle[..., None]) / half.clamp(min=1.0)[..., None]).clamp(-3, 3)
