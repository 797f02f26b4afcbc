"""A convolutional promptable segmenter on a trunk that ImageNet has trained, ready to train on masks."""

from __future__ import annotations

import torch
from torch import nn

from amodal.models.bases.conv_prompt import ConvPromptConfig, ConvPromptFamily, ConvPromptModel
from amodal.models.bases.efficientnet_lite import pretrained_weights, weights_file
from amodal.training.recipe import SamModelRecipe

FEATURE_SCALES = (0.1, 0.1, 0.1)
"""Factors on the first weights that read the maps of stride 2, 4 and 8: those of a trained trunk are large."""


def new_segmenter(settings: SamModelRecipe, seed: int) -> ConvPromptModel:
    """An untrained segmenter on a pretrained trunk, whose first blocks are frozen.

    Raises:
        InputError: the trunk's weights cannot be found or read.
    """
    config = ConvPromptConfig(trunk={"mixed_channels": settings.output_channels}, image_size=settings.image_size)
    model = ConvPromptFamily().new_model(config, seed)
    trunk = model.vision_encoder.backbone
    if settings.trunk_weights is not None:
        trunk.load_state_dict(pretrained_weights(weights_file(settings.trunk_weights), trunk.config), strict=False)
    _scale_features(model.mask_decoder.lateral)
    for unused in model.mask_decoder.token_parameters():
        unused.requires_grad_(False)
    trunk.stem.requires_grad_(settings.frozen_blocks == 0)
    trunk.blocks[: settings.frozen_blocks].requires_grad_(False)
    return model.to(memory_format=torch.channels_last)


@torch.no_grad()
def _scale_features(convolutions: nn.ModuleList) -> None:
    for convolution, scale in zip(convolutions, FEATURE_SCALES, strict=True):
        convolution.weight.mul_(scale)  # type: ignore[operator]
