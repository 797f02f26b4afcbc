"""PLUG on its base: building from a SAM, and counting what is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import SamConfig, SamModel

from amodal.models.bases.sam import (
    LoadedSam,
    fit_encoder_weights,
    load_sam,
    new_sam,
    single_mask_decoder_weights,
)
from amodal.models.plug.configuration import PlugConfig
from amodal.models.settings import sam_sizes

if TYPE_CHECKING:
    from amodal.models.plug.modeling import PlugModel


def build_on_base(
    cls: type[PlugModel], sam: str | Path | SamConfig, config: PlugConfig, revision: str | None
) -> PlugModel:
    """See `PlugModel.from_base`."""
    if isinstance(sam, SamConfig):
        return assemble(cls, LoadedSam(new_sam(sam), None, None, ""), config)
    return assemble(cls, load_sam(sam, revision), config)


def assemble(cls: type[PlugModel], base: LoadedSam, config: PlugConfig) -> PlugModel:
    """A new PLUG whose encoder, prompt encoder and both decoders start from the base (Eq. 5)."""
    settings = config.to_dict() | {
        "sam": sam_sizes(base.model.config),
        "base": {
            "name_or_path": base.name_or_path,
            "revision": base.revision,
            "fingerprint": base.fingerprint,
        },
    }
    model = cls(PlugConfig.from_dict(settings))
    load_encoder(model, base.model)
    model.prompt_encoder.load_state_dict(base.model.prompt_encoder.state_dict())
    for decoder in model.decoders():
        decoder.load_state_dict(single_mask_decoder_weights(base.model.mask_decoder))
    return model.eval()


def load_encoder(model: PlugModel, sam: SamModel) -> None:
    """Copy the base's encoder into `model`, fitted to its input size; adapters stay."""
    own = model.vision_encoder.state_dict()
    weights = fit_encoder_weights(sam.vision_encoder.state_dict(), own)
    adapters = {name: tensor for name, tensor in own.items() if ".attn.lora." in name}
    model.vision_encoder.load_state_dict(weights | adapters)


def at_input_size(model: PlugModel, image_size: int) -> PlugModel:
    """The same weights for another input size, positions interpolated; the model itself if it fits.

    Raises:
        InputError: a size that is not a multiple of the patch size.
    """
    if image_size == model.config.image_size:
        return model
    resized = type(model)(PlugConfig.from_dict(model.config.to_dict() | {"image_size": image_size}))
    encoder = fit_encoder_weights(model.vision_encoder.state_dict(), resized.vision_encoder.state_dict())
    state = model.state_dict() | {f"vision_encoder.{name}": tensor for name, tensor in encoder.items()}
    resized.load_state_dict(state)
    return resized.to(device=model.device, dtype=model.dtype).train(model.training)


def parameter_counts(config: PlugConfig) -> dict[str, int]:
    """Parameters by part, counted on the meta device.

    Returns:
        `lora`, `prompt_encoder`, `mask_decoders`, `refine`; `base` (the encoder without adapters);
        `total`, the sum of these; `incremental`, what an incremental checkpoint stores: all but
        the base, or all of it where the base is trained along.
    """
    from amodal.models.plug.modeling import PlugModel

    with torch.device("meta"):
        model = PlugModel(config)
    encoder = dict(model.vision_encoder.named_parameters())
    lora = sum(p.numel() for name, p in encoder.items() if ".attn.lora." in name)
    base = sum(p.numel() for p in encoder.values()) - lora
    features = model.prompt_encoder.shared_embedding.positional_embedding.numel()
    counts = {
        "lora": lora,
        "prompt_encoder": _count(model.prompt_encoder) - features,
        "mask_decoders": sum(_count(decoder) for decoder in model.decoders()),
        "refine": _count(model.refine_module) if model.refine_module is not None else 0,
    }
    trained = sum(counts.values())
    incremental = trained + (base if config.train_base else 0)
    return counts | {"incremental": incremental, "base": base, "total": trained + base}


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
