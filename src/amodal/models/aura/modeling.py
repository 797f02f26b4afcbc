"""AURA: a question about a picture, answered in words with a visible and an amodal mask an object.

Reads as the paper's section 3.2: multi-modal LLM and vision backbone, prompt encoder from a
`[SEG]` state to e_r, visible mask decoder on e_r, Occlusion Condition Encoder to e_oa and rate,
amodal mask decoder on e_oa, Spatial Occlusion Encoder on both masks.

Axes: B conversations (one image each), T tokens, K last positions whose logits are kept, N
`[SEG]`s of the whole batch, D width of the LLM, C channels, S side of the backbone's input, h w
feature cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.sam.modeling_sam import SamVisionEncoder
from transformers.utils import ModelOutput

from amodal.errors import InputError
from amodal.models.aura.adapters import add_adapters, is_adapter
from amodal.models.aura.base import build_mllm
from amodal.models.aura.configuration import AuraConfig
from amodal.models.aura.pointing import BoxReader
from amodal.models.aura.states import seg_states
from amodal.models.bases.sam import SingleMaskDecoder
from amodal.models.plug.modeling import Float32PositionalEmbedding
from amodal.nn.attention import use_folded_attention
from amodal.nn.occlusion_encoders import OcclusionConditionEncoder, SpatialOcclusionEncoder

if TYPE_CHECKING:
    from transformers import SamConfig

    from amodal.models.aura.base import LoadedMllm
    from amodal.models.aura.processing import AuraProcessor

_TOWERS = ("model.vision_tower.", "model.visual.")  # of LLaVA's and Qwen's classes
IGNORED = -100
"""Label of a token that the text loss leaves out."""


@dataclass
class MaskOutput(ModelOutput):
    """What is decoded from `[SEG]` states.

    Attributes:
        visible_logits: (N, S, S) in the backbone's frame; amodal_logits likewise.
        rates: (N,) predicted occlusion rates in [0, 1]; None without condition encoder.
        map_logits: (N, 3, S, S) background, visible, hidden; None without spatial encoder.
        iou_scores: (N,) predicted quality of the amodal mask, about [0, 1].
    """

    visible_logits: Tensor | None = None
    amodal_logits: Tensor | None = None
    rates: Tensor | None = None
    map_logits: Tensor | None = None
    iou_scores: Tensor | None = None


@dataclass
class AuraOutput(ModelOutput):
    """What `AuraModel` predicts.

    Attributes:
        logits: (B, K, vocabulary) next-token logits, from the first labelled token on.
        targets: (B, K) the token each of them predicts, -100 where it does not count.
        masks: of the `[SEG]`s among the targets, row by row; of the chosen ones only.
        boxes: (N, 4) visible boxes xyxy in [0, 1] of the backbone's frame, of all of them; None without
            `box_weight`.
        pointing: (N, n) logits of the image tokens they were read at; None likewise.
        naming_logits: (B, image tokens, classes) what stands under each image token; None without
            naming head.
        naming_boxes: (B, image tokens, 4) its visible box, xyxy in [0, 1] of the LLM's square picture.
        meaning_logits: (N, classes) what each `[SEG]` means, of all of them; None likewise.
    """

    logits: Tensor | None = None
    targets: Tensor | None = None
    masks: MaskOutput | None = None
    boxes: Tensor | None = None
    pointing: Tensor | None = None
    naming_logits: Tensor | None = None
    naming_boxes: Tensor | None = None
    meaning_logits: Tensor | None = None


class SegPromptEncoder(nn.Module):
    """`[SEG]` state to the refined embedding e_r, and what SAM's prompt encoder adds for the decoders.

    Two layers bring the state to the decoders' width, as in LISA; the paper names SAM's prompt
    encoder here, whose dense embedding ("no mask given") and Fourier features are kept.

    Args:
        width: D of the LLM.
        sam: configuration of the backbone.
        with_boxes: read a box too (`BoxReader`), and embed its corners as SAM does. Differs from the
            paper: a small model learns where an object is long before what a box is good for, which
            the backbone's decoder knows already.
    """

    def __init__(self, width: int, sam: SamConfig, with_boxes: bool = False) -> None:
        super().__init__()
        channels = sam.prompt_encoder_config.hidden_size
        self.cells: int = sam.prompt_encoder_config.image_embedding_size
        self.half_pixel: float = 0.5 / sam.prompt_encoder_config.image_size
        self.projection = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, channels))
        self.no_mask_embed = nn.Embedding(1, channels)
        self.positions = Float32PositionalEmbedding(sam.vision_config)
        self.box_reader = BoxReader(width) if with_boxes else None
        if with_boxes:
            self.corner_embed = nn.Embedding(2, channels)

    def forward(self, states: Tensor) -> Tensor:
        """(N, D) states to (N, C) refined embeddings e_r."""
        return self.projection(states)

    def corners(self, boxes: Tensor) -> Tensor:
        """(N, 4) boxes to SAM's embeddings (N, 2, C) of their corners; no gradient reaches the boxes."""
        return self.positions(boxes.detach().unflatten(-1, (2, 2)) + self.half_pixel) + self.corner_embed.weight

    def dense(self) -> Tensor:
        """(1, C, h, w) dense embedding of a prompt without mask."""
        return self.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(-1, -1, self.cells, self.cells)

    def image_positions(self) -> Tensor:
        """(1, C, h, w) Fourier features of the cell centres, float32."""
        place = self.positions.positional_embedding.device
        centres = (torch.arange(self.cells, device=place, dtype=torch.float32) + 0.5) / self.cells
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return self.positions(torch.stack([x, y], dim=-1)).permute(2, 0, 1)[None]


class NamingHead(nn.Module):
    """What stands under each image token of the LLM, and where; in training only.

    Args:
        width: D of the LLM.
        classes: number of names, background among them.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.name = nn.Linear(width, classes)
        self.box = nn.Linear(width, 4)

    def forward(self, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Image tokens (B, n, D) to logits (B, n, classes) and boxes (B, n, 4)."""
        return self.name(image_tokens), self.box(image_tokens).float().sigmoid()


class AuraModel(PreTrainedModel):
    """Multi-modal LLM, SAM backbone, two mask decoders and two occlusion encoders.

    Build it from bases with `from_base`, or load a trained one with `from_pretrained`.

    Args:
        config: settings.
        mllm: the LLM, if it is in memory already; built by the configuration otherwise.
    """

    config_class = AuraConfig
    base_model_prefix = "aura"
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, config: AuraConfig, mllm: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        sam = config.sam_config()
        sam.vision_config._attn_implementation = "sdpa"
        channels = sam.prompt_encoder_config.hidden_size
        self.mllm: Any = build_mllm(config) if mllm is None else mllm
        add_adapters(self.mllm, config)
        width = self.mllm.config.get_text_config().hidden_size
        self.vision_encoder = use_folded_attention(SamVisionEncoder(sam.vision_config))
        self.prompt_encoder = SegPromptEncoder(width, sam, config.box_weight > 0)
        self.visible_decoder = SingleMaskDecoder(sam.mask_decoder_config)
        self.amodal_decoder = SingleMaskDecoder(sam.mask_decoder_config)
        self.condition_encoder = OcclusionConditionEncoder(channels) if config.condition_encoder else None
        self.spatial_encoder = SpatialOcclusionEncoder(config.spatial_channels) if config.spatial_encoder else None
        classes = config.naming_classes
        self.naming_head = NamingHead(width, classes) if classes else None
        self.meaning_head = nn.Linear(width, classes) if classes and not config.names_only else None
        self.processor: AuraProcessor | None = None
        self.set_trainable()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """All parts initialise themselves; `from_base` then loads the bases."""

    def set_trainable(self) -> None:
        """Freeze both bases; train adapters, token rows, prompt encoder, decoders and occlusion encoders."""
        config = self.config
        self.requires_grad_(True)
        self.vision_encoder.requires_grad_(config.train_vision)
        self.prompt_encoder.positions.requires_grad_(False)
        for name, parameter in self.mllm.named_parameters():
            whole = config.train_mllm and (config.train_tower or not name.startswith(_TOWERS))
            parameter.requires_grad_(whole or is_adapter(name))
        for decoder in self.decoders():  # the visible mask's quality is never read
            scored = config.iou_weight > 0 and decoder is self.amodal_decoder
            decoder.iou_prediction_head.requires_grad_(scored)

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """Let the LLM compute activations a second time instead of keeping them."""
        self.mllm.gradient_checkpointing_enable(**kwargs)

    def decoders(self) -> list[SingleMaskDecoder]:
        """Visible and amodal mask decoder."""
        return [self.visible_decoder, self.amodal_decoder]

    def encode_image(self, sam_pixel_values: Tensor) -> Tensor:
        """Image features F_I.

        Args:
            sam_pixel_values: (B, 3, S, S) normalised by the processor.

        Returns:
            (B, C, h, w).
        """
        weights = self.vision_encoder.patch_embed.projection.weight
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.train_vision):
            features: Tensor = self.vision_encoder(sam_pixel_values.to(weights.dtype)).last_hidden_state
        return features

    def image_tokens(self, pixel_values: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) of the LLM's processor to the tokens (B, n, D) that the LLM reads.

        Raises:
            InputError: an LLM that gives its pictures different numbers of tokens.
        """
        read = self.mllm.get_image_features(pixel_values=pixel_values, return_dict=True)
        return _stacked(read.pooler_output, len(pixel_values))

    def point(self, states: Tensor, image_tokens: Tensor, image_index: Tensor) -> tuple[Tensor, Tensor]:
        """Where mask tokens point, for a model that reads boxes.

        Args:
            states: (N, D) of the `[SEG]`s.
            image_tokens: (B, n, D) as of `image_tokens`.
            image_index: (N,) which of the images each belongs to.

        Returns:
            (N, 4) visible boxes xyxy in [0, 1] and (N, n) logits of the image tokens.
        """
        reader = self.prompt_encoder.box_reader
        assert reader is not None
        dtype = self.prompt_encoder.no_mask_embed.weight.dtype
        boxes, logits = reader(states.to(dtype), image_tokens.to(dtype)[image_index])
        return boxes, logits

    def decode(
        self, states: Tensor, image_embeddings: Tensor, image_index: Tensor, boxes: Tensor | None = None
    ) -> MaskOutput:
        """All masks of a batch, one call of each decoder.

        Args:
            states: (N, D) of the `[SEG]`s.
            image_embeddings: (B, C, h, w).
            image_index: (N,) which of the images each belongs to.
            boxes: (N, 4) as of `point`, for a model that reads them.

        Returns:
            `MaskOutput`; with N = 0, empty tensors.
        """
        dtype = self.prompt_encoder.no_mask_embed.weight.dtype
        refined = self.prompt_encoder(states.to(dtype))  # e_r, (N, C)
        aware, rates = (refined, None) if self.condition_encoder is None else self.condition_encoder(refined)
        if not len(states):
            return self._no_masks(states)
        corners = None if boxes is None else self.prompt_encoder.corners(boxes)
        features = image_embeddings.to(dtype)[image_index]  # (N, C, h, w)
        visible, _ = self._decode_with(self.visible_decoder, refined, corners, features)
        amodal, quality = self._decode_with(self.amodal_decoder, aware, corners, features)
        output = MaskOutput(
            visible_logits=self._upsample(visible[:, None])[:, 0],
            amodal_logits=self._upsample(amodal[:, None])[:, 0],
            rates=rates,
            iou_scores=quality,
        )
        if self.spatial_encoder is not None and self.training:
            output.map_logits = self._upsample(self.spatial_encoder(visible, amodal))
        return output

    def _decode_with(
        self, decoder: SingleMaskDecoder, embedding: Tensor, corners: Tensor | None, features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, 4h, 4w) and predicted quality (N,) of one decoder."""
        prompts = embedding[:, None] if corners is None else torch.cat([embedding[:, None], corners], dim=1)
        positions = self.prompt_encoder.image_positions().to(features.dtype)
        logits, quality = decoder(
            features,
            positions.expand_as(features),
            prompts.to(features.dtype)[:, None],  # (N, 1, prompts, C)
            self.prompt_encoder.dense().to(features.dtype).expand_as(features),
        )
        return logits[:, 0], quality[:, 0]

    def _upsample(self, logits: Tensor) -> Tensor:
        size = (self.config.image_size, self.config.image_size)
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)

    def _no_masks(self, states: Tensor) -> MaskOutput:
        S = self.config.image_size
        empty = states.new_zeros(0, S, S)
        return MaskOutput(
            visible_logits=empty,
            amodal_logits=empty,
            rates=states.new_zeros(0) if self.condition_encoder is not None else None,
            iou_scores=states.new_zeros(0),
        )

    def forward(
        self,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        sam_pixel_values: Tensor | None = None,
        image_embeddings: Tensor | None = None,
        chosen: Tensor | None = None,
        box_hints: Tensor | None = None,
        **mllm_inputs: Any,
    ) -> AuraOutput:
        """Read whole conversations, the answers given (teacher forcing).

        Args:
            input_ids: (B, T) conversations, padded at the end; None reads no words and names the
                image tokens only.
            labels: (B, T) the same tokens where an answer stands, -100 elsewhere.
            sam_pixel_values: (B, 3, S, S) for the vision backbone, or
            image_embeddings: (B, C, h, w), its features, where they are known already.
            chosen: (number of `[SEG]`s) bool, those whose masks are decoded, in reading order; all if None.
            box_hints: (number of the chosen, 4) boxes that the decoders get in the place of the
                predicted ones, NaN where there is none; in training.
            mllm_inputs: what the LLM's processor made of image and text (attention mask, pixels).

        Returns:
            `AuraOutput`.
        """
        if input_ids is None:
            return self._named(AuraOutput(), self.image_tokens(mllm_inputs["pixel_values"]))
        assert labels is not None
        if image_embeddings is None:
            assert sam_pixel_values is not None
            image_embeddings = self.encode_image(sam_pixel_values)
        start = _first_label(labels)
        with self.recorded_states() as recorded:
            read = self.mllm(
                input_ids=input_ids, logits_to_keep=labels.shape[1] - start + 1, use_cache=False, **mllm_inputs
            )
        targets = labels[:, start:]
        predicting = slice(-targets.shape[1] - 1, -1)  # each position predicts the token after it
        states, rows = seg_states(recorded[0][:, predicting], targets, self.config.seg_token_id)
        names = self.naming_head is not None and self.training
        tokens = None
        if names or self.prompt_encoder.box_reader is not None:
            tokens = _stacked(getattr(read, "image_hidden_states", None), len(input_ids))
        output = AuraOutput(logits=read.logits[:, predicting], targets=targets)
        boxes = None
        if self.prompt_encoder.box_reader is not None:
            assert tokens is not None
            boxes, output.pointing = self.point(states, tokens, rows)
            output.boxes = boxes
        if self.meaning_head is not None and self.training:
            output.meaning_logits = self.meaning_head(states)
        if chosen is not None:
            states, rows, boxes = states[chosen], rows[chosen], None if boxes is None else boxes[chosen]
        output.masks = self.decode(states, image_embeddings, rows, None if boxes is None else _hinted(boxes, box_hints))
        return self._named(output, tokens) if names else output

    def _named(self, output: AuraOutput, tokens: Tensor | None) -> AuraOutput:
        assert self.naming_head is not None and tokens is not None
        output.naming_logits, output.naming_boxes = self.naming_head(tokens)
        return output

    @contextmanager
    def recorded_states(self) -> Iterator[list[Tensor]]:
        """Collects the LLM's last hidden states, as its output layer gets them, one tensor a call.

        Training and generation take their `[SEG]` states from here, so both mean the same.
        """
        recorded: list[Tensor] = []
        layer = self.mllm.get_output_embeddings()
        handle = layer.register_forward_pre_hook(lambda _, inputs: recorded.append(inputs[0]))
        try:
            yield recorded
        finally:
            handle.remove()

    @classmethod
    def from_base(
        cls,
        mllm: LoadedMllm | str | Path,
        sam: str | Path | SamConfig,
        config: AuraConfig | None = None,
        **options: Any,
    ) -> AuraModel:
        """A new, untrained AURA on its bases.

        Args:
            mllm: hub id or folder of an image-text model of transformers, or one in memory.
            sam: bundled name, hub id, folder or `.pth` of a SAM, or a `SamConfig` for random weights.
            config: settings; what only the bases know is filled in.
            options: `revision` of the SAM, `mllm_revision` of the LLM, `mllm_dtype` of its frozen weights.

        Returns:
            The model; its `processor` has the new token.

        Raises:
            InputError: a base cannot be found or read, or the new token is not one token.
        """
        from amodal.models.aura.base import build_on_bases

        return build_on_bases(cls, mllm, sam, config or AuraConfig(), **options)

    def save_pretrained(self, save_directory: str | Path, *args: Any, merged: bool = False, **kwargs: Any) -> None:
        """Write the increment (what was trained, and which bases it is for), or the whole.

        The model's `processor` is written along.

        Args:
            save_directory: folder to create or fill.
            merged: write bases and increment together, adapters folded into the LLM.
        """
        from amodal.models.aura.checkpoint import save_model

        save_model(self, Path(save_directory), merged=merged, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any) -> AuraModel:
        """Load an incremental or merged model.

        Args:
            pretrained_model_name_or_path: bundled name, folder or hub id.
            kwargs: `mllm`, another place of the same LLM; `base`, another place of the same SAM
                (their weights must have the fingerprints the increment was trained on); `revision`;
                `dtype` of everything, `mllm_dtype` of the frozen LLM.

        Raises:
            InputError: nothing there, tensors missing or foreign, another base, or no mask token.
        """
        from amodal.models.aura.checkpoint import load_model

        return load_model(cls, pretrained_model_name_or_path, **kwargs)


def _stacked(features: Any, batch: int) -> Tensor:
    """Image features as an LLM hands them out, one tensor or one a picture, to (B, n, D)."""
    if features is None:
        raise InputError("naming_weight, box_weight: expected 0 for an LLM that hands out no image features, got more")
    joined: Tensor = torch.cat([*features]) if isinstance(features, list | tuple) else features
    if len({len(part) for part in features}) > 1:
        raise InputError(
            "naming_weight, box_weight: expected 0 for an LLM that gives pictures different numbers of tokens, got more"
        )
    return joined.reshape(batch, -1, joined.shape[-1])


def _hinted(boxes: Tensor, hints: Tensor | None) -> Tensor:
    return boxes if hints is None else torch.where(hints.isnan(), boxes, hints)


def _first_label(labels: Tensor) -> int:
    """First column with a labelled token; the logits before it are never needed."""
    labelled = (labels != IGNORED).any(0).nonzero()
    return max(int(labelled[0]) if len(labelled) else labels.shape[1] - 1, 1)
