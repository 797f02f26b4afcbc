"""Prompts as transformers' SAM-like prompt encoders embed them: points, boxes, and one mask per object."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamPositionalEmbedding

from amodal.models.bases.protocol import PromptEmbeddings, Prompts

MASK_LOGIT = 10.0
"""Logit of the pixels of a binary mask prompt. SAM takes the logits of an earlier prediction as a prompt; SAM 2
converts binary masks to -10 and 10, and so do we."""


class Float32PositionalEmbedding(SamPositionalEmbedding):
    """SAM's random Fourier features in float32, also in a cast model and under autocast.

    In bfloat16 a coordinate has eight bits, so neighbouring pixels of a 512 input would coincide.

    Args:
        config: transformers' configuration with the fields `num_pos_feats` and `scale`.
    """

    def forward(self, input_coords: Tensor, input_shape: tuple[int, int] | None = None) -> Tensor:
        """Encode points (..., 2), in pixels of `input_shape` or in [0, 1]; see transformers."""
        with torch.autocast(input_coords.device.type, enabled=False):
            return super().forward(input_coords.float(), input_shape)

    def image_positions(self, cells: int) -> Tensor:
        """(1, C, cells, cells) features of the cell centres of a square image, float32."""
        device = self.positional_embedding.device
        centres = (torch.arange(cells, device=device, dtype=torch.float32) + 0.5) / cells
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return self(torch.stack([x, y], dim=-1)).permute(2, 0, 1)[None]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.positional_embedding.data = self.positional_embedding.data.float()
        return self


def embed_prompts(encoder: Any, prompts: Prompts, *, empty_point: bool = False) -> PromptEmbeddings:
    """Embed points, boxes and masks by a prompt encoder with the interface of transformers' `SamPromptEncoder`.

    Args:
        encoder: the prompt encoder; its `shared_embedding` is a `Float32PositionalEmbedding`.
        prompts: of B * P objects.
        empty_point: give objects that are prompted by a mask alone one point with label -1, as transformers' SAM 2
            does; without it they have no sparse embedding, as in SAM.
    """
    points, labels = prompts.points, prompts.labels
    dense: Tensor | None = None
    if prompts.masks is not None:
        dense = embed_masks(encoder, prompts.masks, prompts.mask_given)
        if empty_point and points is None and prompts.boxes is None:
            points = dense.new_zeros(*dense.shape[:2], 1, 2)
            labels = torch.full(points.shape[:3], -1, dtype=torch.long, device=points.device)
    if points is not None or prompts.boxes is not None:
        sparse, no_mask = encoder(
            input_points=None if points is None else points.float(),
            input_labels=labels,
            input_boxes=None if prompts.boxes is None else prompts.boxes.float(),
            input_masks=None,
        )
        dense = no_mask if dense is None else dense
    else:
        assert dense is not None
        sparse = dense.new_zeros(*dense.shape[:2], 0, dense.shape[2])
    positions = encoder.shared_embedding.image_positions(encoder.image_embedding_size[0])
    return PromptEmbeddings(sparse, dense, positions)


def embed_masks(encoder: Any, masks: Tensor, mask_given: Tensor | None = None) -> Tensor:
    """Embed one mask prompt per object; transformers' prompt encoders take one per image.

    Args:
        encoder: transformers' prompt encoder.
        masks: (B, P, H', W') in the frame of the network's input, of any resolution: bool, or logits of an
            earlier prediction. They are resized to four times the embedding grid, bilinear and antialiased as in
            SAM 2.
        mask_given: (B, P) bool; the other prompts get the embedding of no mask. All masks count if None.

    Returns:
        (B, P, C, h, w).
    """
    logits = (masks.float() * 2 - 1) * MASK_LOGIT if masks.dtype == torch.bool else masks.float()
    size = tuple(4 * cells for cells in encoder.image_embedding_size)
    if logits.shape[-2:] != size:
        logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False, antialias=True)
    no_mask = encoder.no_mask_embed.weight[0, :, None, None]
    dense: Tensor = encoder.mask_embed(logits.flatten(0, 1)[:, None].to(no_mask.dtype)).unflatten(0, masks.shape[:2])
    return (
        dense if mask_given is None else torch.where(mask_given[..., None, None, None], dense, no_mask.to(dense.dtype))
    )


def single_mask_weights(decoder: nn.Module) -> dict[str, Tensor]:
    """Select the tensors of a SAM-like mask decoder that make its first mask, the one for prompts without ambiguity."""
    weights = {}
    for name, tensor in decoder.state_dict().items():
        head, _, rest = name.partition(".")
        if head == "output_hypernetworks_mlps" and not rest.startswith("0."):
            continue
        weights[name] = tensor[:1] if name.startswith("iou_prediction_head.proj_out.") else tensor
    return weights


def keep_single_mask(decoder: Any) -> None:
    """Remove from a SAM-like mask decoder, in place, what only its masks for ambiguous clicks use.

    Their tokens stay, because all tokens attend to each other.
    """
    decoder.output_hypernetworks_mlps = decoder.output_hypernetworks_mlps[:1]
    head = decoder.iou_prediction_head
    head.proj_out = nn.Linear(head.proj_out.in_features, 1)
