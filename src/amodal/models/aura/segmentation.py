"""The half of AURA that makes masks: from the states of `[SEG]`s and an image to visible and amodal masks and rates.

Reads as the paper's section 3.2 after the LLM: vision backbone, prompt encoder from a `[SEG]` state to e_r, visible
mask decoder on e_r, Occlusion Condition Encoder to e_oa and rate, amodal mask decoder on e_oa, Spatial Occlusion
Encoder on both masks. The backbone and both decoders are those of a base of any family (`models/bases/protocol.py`);
the paper's is SAM.

Axes: as in `modeling.py`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from amodal.models.aura.configuration import AuraConfig
from amodal.models.aura.heads import MaskOutput, new_prompt_encoder
from amodal.models.aura.pointing import Pointed, RegionPointer
from amodal.models.bases.protocol import Adapters, ImageFeatures
from amodal.nn.occlusion_encoders import OcclusionConditionEncoder, SpatialOcclusionEncoder


class AuraSegmenter(PreTrainedModel):
    """Segmentation backbone, prompt encoder, two mask decoders and two occlusion encoders.

    Args:
        config: settings.
        width: D.
    """

    config_class = AuraConfig

    def __init__(self, config: AuraConfig, width: int) -> None:
        super().__init__(config)
        family, base = config.family, config.base_config()
        self.width = width
        self.vision_encoder = family.build_encoder(base, Adapters(rank=0))
        self.prompt_encoder = new_prompt_encoder(width, base, config)
        channels = self.prompt_encoder.channels
        self.visible_decoder: Any = family.build_decoder(base)
        self.amodal_decoder: Any = family.build_decoder(base)
        self.condition_encoder = OcclusionConditionEncoder(channels) if config.condition_encoder else None
        self.spatial_encoder = SpatialOcclusionEncoder(config.spatial_channels) if config.spatial_encoder else None

    def decoders(self) -> list[Any]:
        """Visible and amodal mask decoder."""
        return [self.visible_decoder, self.amodal_decoder]

    @property
    def box_reader(self) -> RegionPointer | None:
        """What says where each `[SEG]` is, of an LLM that reads words."""
        return self.prompt_encoder.box_reader

    def encode_image(self, pixel_values_sam: Tensor) -> ImageFeatures:
        """Compute image features F_I.

        Args:
            pixel_values_sam: (B, 3, S_sam, S_sam) normalised by the processor.

        Returns:
            Features of B images: the embedding (B, C, h, w), and the finer maps that decoders such as SAM 2's read.
        """
        dtype = next(self.vision_encoder.parameters()).dtype
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.train_vision):
            return self.config.family.encode(self.vision_encoder, pixel_values_sam.to(dtype), 1)[0]

    def decode(
        self, states: Tensor, features: ImageFeatures, image_index: Tensor, pointed: Pointed | None = None
    ) -> MaskOutput:
        """Decode all masks of a batch with one call of each decoder.

        Args:
            states: (N, D) of the `[SEG]`s; zeros for an object without one, whose e_r and e_oa are zeros.
            features: of B images, from `encode_image`.
            image_index: (N,) index of each `[SEG]`'s image.
            pointed: of `AuraModel.point`, for an LLM that reads words.

        Returns:
            `MaskOutput`; with N = 0, empty tensors.
        """
        dtype = next(self.prompt_encoder.projection.parameters()).dtype
        known = states.any(-1, keepdim=True)
        refined = self.prompt_encoder(states.to(dtype)) * known  # e_r, (N, C)
        aware, rates = (refined, None) if self.condition_encoder is None else self.condition_encoder(refined)
        aware = aware * known
        if not len(states):
            return self._no_masks(states, features)
        features = ImageFeatures(features.embedding.to(dtype), tuple(x.to(dtype) for x in features.high_resolution))
        visible, _ = self._decode_with(self.visible_decoder, refined, pointed, features, image_index)
        amodal, quality = self._decode_with(self.amodal_decoder, aware, pointed, features, image_index)
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
        self,
        decoder: nn.Module,
        embeddings: Tensor,
        pointed: Pointed | None,
        features: ImageFeatures,
        image_index: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, H', W') at the decoder's resolution and predicted quality (N,) of one decoder."""
        prompts = self.prompt_encoder.prompts(embeddings, pointed, features.embedding.dtype)
        logits, quality = self.config.family.decode(decoder, features, prompts, image_index)
        return logits[:, 0], quality[:, 0]

    def _upsample(self, logits: Tensor) -> Tensor:
        S_sam = self.config.image_size
        return F.interpolate(logits, size=(S_sam, S_sam), mode="bilinear", align_corners=False)

    def _no_masks(self, states: Tensor, features: ImageFeatures) -> MaskOutput:
        """Empty masks that depend on all that masks are made from: each parameter gets a gradient, of zero.

        FSDP2 stops if another process, whose batch has a `[SEG]`, has gradients that this one lacks.
        """
        S_sam = self.config.image_size
        made_from = [features.embedding, *features.high_resolution]
        made_from += [p for name, p in self.named_parameters() if not name.startswith(("mllm.", "vision_encoder."))]
        nothing = sum(x.sum() for x in made_from) if torch.is_grad_enabled() else 0
        empty = states.new_zeros(0, S_sam, S_sam) + nothing
        return MaskOutput(
            visible_logits=empty,
            amodal_logits=empty,
            rates=states.new_zeros(0) if self.condition_encoder is not None else None,
            iou_scores=states.new_zeros(0),
        )

    def decode_chosen(
        self,
        states: Tensor,
        features: ImageFeatures,
        image_index: Tensor,
        pointed: Pointed | None,
        chosen: Tensor | None,
        box_hints_xyxy_sam: Tensor | None,
    ) -> MaskOutput:
        """The masks of the chosen objects, from the hinted boxes where there are any."""
        if chosen is not None:
            states, image_index = states[chosen], image_index[chosen]
            pointed = None if pointed is None else pointed.of(chosen)
        if pointed is not None and box_hints_xyxy_sam is not None:
            pointed = pointed.hinted(box_hints_xyxy_sam)
        return self.decode(states, features, image_index, pointed)

    def decode_boxes(self, pixel_values_sam: Tensor, image_index: Tensor, boxes_xyxy_sam: Tensor) -> MaskOutput:
        """The masks of the objects in boxes (N, 4), without a state."""
        states = pixel_values_sam.new_zeros(len(image_index), self.width)
        pointed = Pointed(boxes_xyxy_sam, states[:, :0])
        return self.decode(states, self.encode_image(pixel_values_sam), image_index, pointed)
