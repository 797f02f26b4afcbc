"""A promptable segmenter in SAM 2's layout on a trunk that ImageNet has trained, ready to train on masks.

Axes: B crops, P prompts (objects) per crop, S side of the crop, C channels.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import EdgeTamConfig, EdgeTamModel
from transformers.models.edgetam.modeling_edgetam import EdgeTamImageSegmentationOutput

from amodal.errors import InputError
from amodal.models.bases.edgetam import new_edgetam
from amodal.models.bases.efficientnet_lite import EfficientNetLiteConfig, pretrained_weights
from amodal.models.bases.families import load_base
from amodal.models.bases.prompts import embed_masks
from amodal.training.recipe import SamModelRecipe


def edgetam_config(settings: SamModelRecipe) -> EdgeTamConfig:
    """transformers' configuration of a segmenter in SAM 2's layout on an EfficientNet-Lite0."""
    channels, size = settings.output_channels, settings.image_size
    trunk = EfficientNetLiteConfig(mixed_channels=channels)
    return EdgeTamConfig(
        vision_config={
            "backbone_config": trunk.to_diff_dict() | {"model_type": trunk.model_type},
            "backbone_channel_list": [channels, trunk.stages[1][4], trunk.stages[0][4]],
            "backbone_feature_sizes": [[size // stride] * 2 for stride in (2, 4, 8)],
            "fpn_hidden_size": channels,
            "fpn_top_down_levels": [],
        },
        prompt_encoder_config={"hidden_size": channels, "image_size": size, "patch_size": 8},
        mask_decoder_config={
            "hidden_size": channels,
            "mlp_dim": 4 * channels,
            "hidden_act": "relu",
            "dynamic_multimask_via_stability": False,
            "num_attention_heads": settings.decoder_heads,
            "iou_head_hidden_dim": channels,
        },
    )


def new_segmenter(settings: SamModelRecipe, seed: int) -> TrainableEdgeTam:
    """An untrained segmenter on a pretrained trunk, whose first blocks are frozen."""
    model = TrainableEdgeTam(edgetam_config(settings))
    model.load_state_dict(new_edgetam(model.config, seed).state_dict())
    trunk: Any = model.vision_encoder.backbone
    if settings.trunk_weights is not None:
        pretrained = pretrained_weights(_weights_file(settings.trunk_weights), trunk.config)
        trunk.load_state_dict(pretrained, strict=False)
    _scale_pyramid(model)
    if settings.decoder_init is not None:
        _load_decoder(model, settings.decoder_init)
    trunk.stem.requires_grad_(settings.frozen_blocks == 0)
    trunk.blocks[: settings.frozen_blocks].requires_grad_(False)
    return model.to(memory_format=torch.channels_last)


@torch.no_grad()
def _scale_pyramid(model: TrainableEdgeTam) -> None:
    """Bring the maps to the scale of prompts and positions, of which trained trunks have several times as much."""
    for conv, scale in zip(model.vision_encoder.neck.convs, (0.3, 0.1, 0.1), strict=True):
        conv.weight.mul_(scale)
    model.mask_decoder.obj_score_token.weight.zero_()


def _load_decoder(model: TrainableEdgeTam, name: str) -> None:
    """Start the prompt encoder and the mask decoder from those of a SAM of the same width, where SAM has them."""
    base: Any = load_base(name, only="sam").model
    found = {_name_in_edgetam(key): value for key, value in base.state_dict().items() if "vision_encoder" not in key}
    found["prompt_encoder.point_embed.weight"] = torch.cat([e.weight for e in base.prompt_encoder.point_embed])
    own = model.state_dict()
    fitting = {key: value for key, value in found.items() if key in own and own[key].shape == value.shape}
    if not any(key.startswith("mask_decoder.transformer.") for key in fitting):
        channels = model.config.mask_decoder_config.hidden_size
        raise InputError(f"decoder_init: expected a SAM with {channels} output channels, got {name!r}")
    model.load_state_dict(fitting, strict=False)


def _name_in_edgetam(name: str) -> str:
    """Name in `EdgeTamModel` of a tensor of `SamModel`."""
    if not name.startswith("mask_decoder.transformer."):
        return name
    for old, new in ((".out_proj.", ".o_proj."), (".lin1.", ".proj_in."), (".lin2.", ".proj_out.")):
        name = name.replace(old, new)
    return name


def _weights_file(name: str) -> Path:
    """The file of this name, or the one `.pth` file in an installed package of this name, which is not imported."""
    path = Path(name)
    if path.is_file():
        return path
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    files = [] if found is None or found.origin is None else sorted(Path(found.origin).parent.rglob("*.pth"))
    if len(files) != 1:
        raise InputError(
            f"trunk_weights: expected a file, or an installed package with one .pth file, got {name!r}; "
            "docs/models.md says how to install it"
        )
    return files[0]


class TrainableEdgeTam(EdgeTamModel):
    """`EdgeTamModel` whose forward takes one mask prompt per object and skips what training does not need.

    transformers takes one mask per image. It also computes position encodings of the pyramid that single images do
    not use, and 1x1 convolutions after 1x1 convolutions, which are multiplied here: the outputs are the same.
    """

    def forward(
        self,
        pixel_values: Tensor,
        input_boxes: Tensor | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_masks: Tensor | None = None,
        mask_given: Tensor | None = None,
        multimask_output: bool = False,
    ) -> EdgeTamImageSegmentationOutput:
        """`pred_masks` (B, P, 1, h, w) logits and `iou_scores` (B, P, 1) of B images with P prompts each.

        Args:
            pixel_values: (B, 3, S, S) normalised.
            input_boxes: (B, P, 4) xyxy.
            input_points: (B, P, N, 2).
            input_labels: (B, P, N), of the points.
            input_masks: (B, P, S, S) bool.
            mask_given: (B, P) bool, which prompts have a mask.
            multimask_output: must be False.
        """
        maps = self.vision_encoder.backbone(pixel_values).last_hidden_state
        neck, decoder = self.vision_encoder.neck, self.mask_decoder
        embedding = neck.convs[0](maps[2]) + self.no_memory_embedding.reshape(1, -1, 1, 1)
        fine = [_product(maps[0], neck.convs[2], decoder.conv_s0), _product(maps[1], neck.convs[1], decoder.conv_s1)]
        sparse, dense = self.prompt_encoder(input_points, input_labels, input_boxes, None)
        B, P = sparse.shape[:2]
        if input_masks is not None:
            dense = embed_masks(self.prompt_encoder, input_masks, mask_given).flatten(0, 1)
        else:
            dense = dense.repeat_interleave(P, 0)
        positions = self.get_image_wide_positional_embeddings().expand(B * P, -1, -1, -1)
        logits, scores, *_ = decoder(
            image_embeddings=embedding.repeat_interleave(P, 0),
            image_positional_embeddings=positions,
            sparse_prompt_embeddings=sparse.flatten(0, 1)[:, None],
            dense_prompt_embeddings=dense,
            multimask_output=multimask_output,
            high_resolution_features=[x.repeat_interleave(P, 0) for x in fine],
        )
        masks, quality = logits.flatten(0, 1).unflatten(0, (B, P)), scores.flatten(0, 1).unflatten(0, (B, P))
        return EdgeTamImageSegmentationOutput(pred_masks=masks, iou_scores=quality)


def _product(x: Tensor, first: nn.Conv2d, second: nn.Conv2d) -> Tensor:
    """Two 1x1 convolutions with biases as one; (B, C, H, W) to (B, C', H, W)."""
    assert first.bias is not None and second.bias is not None
    a, b = first.weight[..., 0, 0], second.weight[..., 0, 0]
    return F.conv2d(x, (b @ a)[..., None, None], second.bias + b @ first.bias)
