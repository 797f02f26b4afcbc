"""Models that use the weights of one in memory: further increments on its base, or another input size."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from amodal.errors import InputError
from amodal.models.bases.protocol import is_adapter
from amodal.models.increments import INCREMENT, SavedModel, increment_state
from amodal.models.plug.configuration import PlugConfig
from amodal.models.plug.modeling import PlugModel


def load_beside(name: str | Path, other: PlugModel, revision: str | None = None) -> PlugModel:
    """Load an increment onto the base of a model in memory; only the increment takes memory (PLUG section 4.3).

    Args:
        name: bundled name, folder or hub id of an increment.
        other: model whose frozen base is shared; it stays as it is.
        revision: commit of the hub repository.

    Returns:
        A second model that uses the base tensors of `other`, on the same device.

    Raises:
        InputError: the model is not an increment, has another base or input size, or one of the two
            has a base that was trained along.
    """
    saved = SavedModel.find(name, PlugConfig, revision)
    config = saved.config
    if saved.is_whole:
        raise InputError(f"model {name}: expected an increment, which has {INCREMENT}, got none in {saved.folder}")
    if config.train_base or other.config.train_base:
        raise InputError(f"model {name}: expected two models on a frozen base, got one whose base was trained along")
    for what, ours, theirs in (
        ("base", other.config.base.get("fingerprint"), config.base.get("fingerprint")),
        ("image_size", other.config.image_size, config.image_size),
    ):
        if ours != theirs:
            raise InputError(f"model {name}: expected {what} {ours} of the model that is in memory, got {theirs}")
    with torch.device("meta"):
        model = PlugModel(config)
    stored, own = increment_state(model), model.state_dict()
    shared = {k: v for k, v in other.state_dict().items() if k in own and k not in stored}
    saved.load_into(model, shared=shared)
    _share_modules(model.vision_encoder, other.vision_encoder)
    model.set_trainable()
    return model.to(other.device).eval()


def _share_modules(ours: nn.Module, theirs: nn.Module) -> None:
    """Use the other encoder's modules without adapters, with the form of their weights prepared for inference."""
    for name, module in theirs.named_children():
        if is_adapter(name):
            continue
        own = getattr(ours, name)
        if any(is_adapter(f"{name}.{inner}") for inner, _ in (*module.named_parameters(), *own.named_parameters())):
            _share_modules(own, module)
        else:
            setattr(ours, name, module)


def at_input_size(model: PlugModel, image_size: int) -> PlugModel:
    """Return the same weights for another input size, with interpolated positions; the model itself if it fits.

    Raises:
        InputError: the size is not a multiple of the base's stride.
    """
    if image_size == model.config.image_size:
        return model
    resized = type(model)(PlugConfig.from_dict(model.config.to_dict() | {"image_size": image_size}))
    fit = model.config.family.fit_encoder_weights
    encoder = fit(model.vision_encoder.state_dict(), resized.vision_encoder.state_dict())
    state = model.state_dict() | {f"vision_encoder.{name}": tensor for name, tensor in encoder.items()}
    resized.load_state_dict(state)
    return resized.to(device=model.device, dtype=model.dtype).train(model.training)
