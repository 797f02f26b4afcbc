"""How models on a pretrained trunk start: a promptable segmenter from ImageNet or from PLUG, and PLUG from ImageNet."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from amodal.errors import InputError
from amodal.models.bases.conv_prompt import ConvPromptConfig, ConvPromptFamily, ConvPromptModel
from amodal.models.bases.efficientnet_lite import pretrained_weights, weights_file
from amodal.models.plug import PlugModel
from amodal.nn.convolutions import AdaptedConvolution, PairedLora
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
def visible_segmenter(model: PlugModel) -> ConvPromptModel:
    """Make a promptable segmenter of the visible branch of a PLUG model.

    The adapters of the branch are added to the weights of the trunk. A prompt adapter is left out, because the
    encoder of a segmenter does not know the prompts; so the segmenter needs further training.

    Raises:
        InputError: the model has another base, or no visible branch.
    """
    family, decoder = model.config.family, model.visible_decoder
    encoder: Any = model.vision_encoder
    if not isinstance(family, ConvPromptFamily) or decoder is None:
        got = family.title if decoder is not None else "none"
        raise InputError(f"init: expected a visible branch on a convolutional promptable segmenter, got {got}")
    segmenter = ConvPromptModel(model.config.base_config())
    trunk = {name: tensor for name, tensor in encoder.backbone.state_dict().items() if ".lora." not in name}
    for name, module in encoder.backbone.named_modules():
        if isinstance(module, AdaptedConvolution):
            trunk[f"{name}.weight"] = module.lora.folded(module.weight)[0]
    segmenter.vision_encoder.backbone.load_state_dict(trunk)
    segmenter.mask_decoder.load_state_dict(decoder.state_dict())
    return segmenter


@torch.no_grad()
def restore_trunk(model: PlugModel, name: str) -> None:
    """Give the trunk of a PLUG model the weights of ImageNet again, in place; everything else stays.

    What has been added to the trunk, the adapters and the prompt adapter, starts anew as well.

    Args:
        model: PLUG on a convolutional segmenter, with `train_base`.
        name: see `weights_file`.

    Raises:
        InputError: the model has another base, or the weights cannot be found or read.
    """
    if not isinstance(model.config.family, ConvPromptFamily):
        raise InputError(
            f"trunk_weights: expected a convolutional promptable segmenter, got {model.config.family.title}"
        )
    encoder: Any = model.vision_encoder
    trunk = encoder.backbone
    trunk.load_state_dict(pretrained_weights(weights_file(name), trunk.config), strict=False)
    for module in trunk.modules():
        if isinstance(module, PairedLora):
            module.reset()
    if encoder.prompt_adapter is not None:
        nn.init.zeros_(encoder.prompt_adapter.weight)


@torch.no_grad()
def _scale_features(convolutions: nn.ModuleList) -> None:
    for convolution, scale in zip(convolutions, FEATURE_SCALES, strict=True):
        convolution.weight.mul_(scale)  # type: ignore[operator]
