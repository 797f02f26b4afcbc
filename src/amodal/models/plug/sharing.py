"""Several increments on one base in memory: the frozen encoder exists once (PLUG section 4.3)."""

from __future__ import annotations

from pathlib import Path

import torch

from amodal.errors import InputError
from amodal.models.increments import INCREMENT, load_exactly, read_config, read_tensors, resolve_folder
from amodal.models.plug.checkpoint import increment_state
from amodal.models.plug.configuration import PlugConfig
from amodal.models.plug.modeling import PlugModel


def load_beside(name: str | Path, other: PlugModel, revision: str | None = None) -> PlugModel:
    """Load an increment onto the base of a model that is in memory; only the increment takes memory.

    Args:
        name: bundled name, folder or hub id of an increment.
        other: model whose frozen base is shared; it stays as it is.
        revision: commit of the hub repository.

    Returns:
        A model of its own whose base's tensors are those of `other`, on the same device.

    Raises:
        InputError: not an increment, on another base or at another input size, or one of the two
            has a base that was trained along.
    """
    folder = resolve_folder(name, revision)
    config = read_config(folder, PlugConfig)
    if not (folder / INCREMENT).is_file():
        raise InputError(f"model {name}: expected an increment, which has {INCREMENT}, got none in {folder}")
    if config.train_base or other.config.train_base:
        raise InputError(f"model {name}: expected two models on a frozen base, got one whose base was trained along")
    for what, ours, theirs in (
        ("base", other.config.base.get("fingerprint"), config.base.get("fingerprint")),
        ("image_size", other.config.image_size, config.image_size),
    ):
        if ours != theirs:
            raise InputError(f"model {name}: expected {what} {ours} as the model it is to stand beside, got {theirs}")
    with torch.device("meta"):
        model = PlugModel(config)
    own = increment_state(model)
    tensors = read_tensors(folder / INCREMENT)
    shared = {k: v for k, v in other.state_dict().items() if k in model.state_dict() and k not in own}
    load_exactly(model, tensors, own, folder, shared=shared)
    for layer, theirs in zip(model.vision_encoder.layers, other.vision_encoder.layers, strict=True):
        layer.mlp = theirs.mlp  # with the form of its weights that was prepared for inference
    model.set_trainable()
    return model.to(other.device).eval()
