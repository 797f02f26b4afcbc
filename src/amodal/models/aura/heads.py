"""AURA's outputs, and the layers between the LLM and the mask decoders.

Axes: N `[SEG]` tokens of the whole batch, B conversations, R regions per image, D width of the LLM, C channels of the
mask decoders, h w feature cells of the vision backbone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import SamVisionConfig
from transformers.utils import ModelOutput

from amodal.losses import IGNORE_INDEX
from amodal.models.aura.configuration import AuraConfig
from amodal.models.aura.pointing import Pointed, RegionPointer
from amodal.models.aura.regions import LearnedRegions
from amodal.models.bases.conv_prompt import ConvPromptConfig
from amodal.models.bases.prompt_maps import PromptMaps
from amodal.models.bases.prompts import Float32PositionalEmbedding
from amodal.models.bases.protocol import PromptEmbeddings, Prompts


@dataclass
class MaskOutput(ModelOutput):
    """What is decoded from `[SEG]` states, in the backbone's frame.

    Attributes:
        visible_logits: (N, S_sam, S_sam); `amodal_logits` likewise.
        rates: (N,) predicted occlusion rates in [0, 1]; None without condition encoder.
        map_logits: (N, 3, S_sam, S_sam) background, visible, occluded; None without spatial encoder.
        iou_scores: (N,) predicted quality of the amodal mask, about [0, 1].
    """

    visible_logits: Tensor | None = None
    amodal_logits: Tensor | None = None
    rates: Tensor | None = None
    map_logits: Tensor | None = None
    iou_scores: Tensor | None = None


@dataclass
class AuraOutput(ModelOutput):
    """What `AuraModel` predicts. N counts all `[SEG]`s among the targets; masks may be of fewer.

    Attributes:
        logits: (B, K, vocabulary) logits of the tokens in the columns that have a label in any row.
        targets: (B, K) the token that each of them predicts, `IGNORE_INDEX` where it does not count.
        masks: of the `[SEG]`s that were chosen, row by row.
        boxes_xyxy_sam: (N, 4) visible boxes in [0, 1] of the backbone's frame; None for an LLM that reads no words.
        pointing_logits: (N, R) of the choice of a region for each `[SEG]`; None likewise.
        pointing_boxes_xyxy_sam: (N, R, 4) boxes of those regions; None likewise.
        regions: of a stage that learns to name regions; None otherwise.
    """

    logits: Tensor | None = None
    targets: Tensor | None = None
    masks: MaskOutput | None = None
    boxes_xyxy_sam: Tensor | None = None
    pointing_logits: Tensor | None = None
    pointing_boxes_xyxy_sam: Tensor | None = None
    regions: LearnedRegions | None = None

    def point(self, pointed: Pointed) -> None:
        """Take over which regions were chosen."""
        self.boxes_xyxy_sam, self.pointing_logits = pointed.boxes_xyxy_sam, pointed.logits
        self.pointing_boxes_xyxy_sam = pointed.regions_xyxy_sam


def seg_states(states: Tensor, tokens: Tensor, seg_token_id: int) -> tuple[Tensor, Tensor]:
    """Select the states at the positions that predict a `[SEG]`, in reading order.

    Training and generation both call this function, so that the embedding of a `[SEG]` is the same.

    Args:
        states: (B, K, D) last hidden states.
        tokens: (B, K) the token that each of them predicts.
        seg_token_id: id of the `[SEG]` token.

    Returns:
        (N, D) states and (N,) the conversation of each.
    """
    rows, positions = (tokens == seg_token_id).nonzero(as_tuple=True)
    return states[rows, positions], rows


def labelled_columns(labels: Tensor) -> Tensor:
    """Columns (K,) of labels (B, T) with a labelled token in any row; logits are computed for these only.

    Without any labelled token it is the last column, so that a batch always has logits.
    """
    columns = (labels[:, 1:] != IGNORE_INDEX).any(0).nonzero()[:, 0] + 1
    return columns if len(columns) else columns.new_tensor([labels.shape[1] - 1])


class SegPromptEncoder(nn.Module):
    """`[SEG]` state to the refined embedding e_r, and what the base's prompt encoder adds for the decoders.

    Two layers bring the state to the decoders' width, as in LISA. The paper names SAM's prompt
    encoder here, whose dense embedding ("no mask given") and Fourier features are kept.

    Args:
        width: D.
        prompts: `prompt_encoder_config` of the backbone at the input's size.
    """

    box_reader = None

    def __init__(self, width: int, prompts: Any) -> None:
        super().__init__()
        channels: int = prompts.hidden_size
        self.cells: int = prompts.image_size // prompts.patch_size
        self.projection = _projection(width, channels)
        self.no_mask_embed = nn.Embedding(1, channels)
        self.positions = Float32PositionalEmbedding(SamVisionConfig(num_pos_feats=channels // 2, scale=1.0))

    @property
    def channels(self) -> int:
        """Width C of an embedding."""
        return int(self.no_mask_embed.embedding_dim)

    def fixed_parts(self) -> list[nn.Module]:
        """Parts that are never trained."""
        return [self.positions]

    def load_base(self, theirs: Any) -> None:
        """Copy the dense embedding of no mask and the Fourier features of a base's prompt encoder.

        Args:
            theirs: of `BaseFamily.build_prompt_encoder`.
        """
        self.no_mask_embed.load_state_dict(theirs.no_mask_embed.state_dict())
        self.positions.load_state_dict(theirs.shared_embedding.state_dict())

    def forward(self, states: Tensor) -> Tensor:
        """(N, D) states to (N, C) refined embeddings e_r."""
        return self.projection(states)

    def prompts(self, embeddings: Tensor, pointed: Pointed | None, dtype: torch.dtype) -> PromptEmbeddings:
        """Make the prompts of N objects, one per row, for the decoders of the base.

        Args:
            embeddings: (N, C), e_r or e_oa.
            pointed: None; an LLM whose `[SEG]`s have boxes has a base whose prompts are maps (`SegMapEncoder`).
            dtype: of the decoders.
        """
        sparse = embeddings.to(dtype)[:, None, None]  # (N, 1, 1, C)
        return PromptEmbeddings(sparse, self.dense().to(dtype), self.image_positions().to(dtype))

    def dense(self) -> Tensor:
        """(1, C, h, w) dense embedding of a prompt without mask."""
        return self.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(-1, -1, self.cells, self.cells)

    def image_positions(self) -> Tensor:
        """(1, C, h, w) Fourier features of the cell centres, float32."""
        return self.positions.image_positions(self.cells)


class SegMapEncoder(nn.Module):
    """The same for a base whose prompts are maps (`ConvPromptModel`).

    The decoders get the embedding as a token in the width of their stride 8, and the box as maps.

    Args:
        width: D.
        base: configuration of the backbone at the input's size.
        with_boxes: also choose the region of each `[SEG]` (`RegionPointer`), for an LLM that reads words.
    """

    def __init__(self, width: int, base: ConvPromptConfig, with_boxes: bool = False) -> None:
        super().__init__()
        self.channels = base.widths[2]
        self.projection = _projection(width, self.channels)
        self.maps = PromptMaps(base.image_size)
        self.box_reader = RegionPointer(width) if with_boxes else None

    def fixed_parts(self) -> list[nn.Module]:
        """Parts that are never trained: none."""
        return []

    def load_base(self, theirs: Any) -> None:
        """Do nothing: the base draws its prompts without weights."""

    def forward(self, states: Tensor) -> Tensor:
        """(N, D) states to (N, C) refined embeddings e_r."""
        return self.projection(states)

    def prompts(self, embeddings: Tensor, pointed: Pointed | None, dtype: torch.dtype) -> PromptEmbeddings:
        """Make the prompts of N objects; see `SegPromptEncoder.prompts`."""
        if pointed is None:  # a point that counts as padding: maps without any prompt
            nowhere = embeddings.new_zeros(len(embeddings), 1, 1, 2)
            drawn = Prompts(points=nowhere, labels=nowhere.new_full((len(embeddings), 1, 1), -10))
        else:
            boxes = pointed.boxes_xyxy_sam.detach()[:, None] * self.maps.image_size
            drawn = Prompts(boxes=boxes)
        sparse = embeddings.to(dtype)[:, None, None]  # (N, 1, 1, C)
        return PromptEmbeddings(sparse, self.maps(drawn).to(dtype), sparse.new_zeros(1, 0, 1, 1))


def new_prompt_encoder(width: int, base: Any, config: AuraConfig) -> SegPromptEncoder | SegMapEncoder:
    """Make the prompt encoder that suits a backbone.

    Args:
        width: D.
        base: configuration of the backbone at the input's size.
        config: of the model.
    """
    if not isinstance(base, ConvPromptConfig):
        return SegPromptEncoder(width, base.prompt_encoder_config)
    return SegMapEncoder(width, base, config.reads_words)


def _projection(width: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, channels))
