"""Weights of a saved model, or of a checkpoint of the run that saved it, as the start of a training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from amodal.errors import InputError


def updated(saved: nn.Module, weights: Path | None) -> nn.Module:
    """Replace the tensors of a saved model that a file contains, in place."""
    if weights is None:
        return saved
    own_state, tensors = saved.state_dict(), load_file(weights)
    different = sorted(k for k, v in tensors.items() if k not in own_state or own_state[k].shape != v.shape)
    if different:
        raise InputError(
            f"fork: expected the checkpoint and the model of one run, got {str(weights)!r}, "
            f"which differs from the model in {different[:2]}"
        )
    saved.load_state_dict(tensors, strict=False)
    return saved


def load_init(
    model: nn.Module, saved: nn.Module, name: str, *, may_lack: Callable[[str], bool] = lambda _: False
) -> None:
    """Load the weights of a saved model of the same sizes; it may lack the tensors whose names `may_lack` accepts.

    Tensors of a frozen base stay those of the model's own base, which may be another one than that of the saved model.

    Raises:
        InputError: the saved model has other sizes, or has trained what is a frozen base in the model.
    """
    is_base, was_base = _is_base_tensor(model), _is_base_tensor(saved)
    trained = sorted(k for k in saved.state_dict() if is_base(k) and not was_base(k))
    if trained:
        raise InputError(
            f"init: expected a model on a frozen base, because the recipe freezes it, got {name!r}, which has trained "
            f"its base ({trained[0]})"
        )
    own_state, saved_state = ({k: v for k, v in m.state_dict().items() if not is_base(k)} for m in (model, saved))
    lacks = {k for k in own_state.keys() - saved_state.keys() if may_lack(k)}
    different = sorted(
        k
        for k in (own_state.keys() | saved_state.keys()) - lacks
        if k not in own_state or k not in saved_state or own_state[k].shape != saved_state[k].shape
    )
    if different:
        raise InputError(
            f"init: expected a model of the recipe's sizes, got {name!r}, which differs in {different[:2]}"
        )
    model.load_state_dict(saved_state, strict=False)


def _is_base_tensor(model: nn.Module) -> Callable[[str], bool]:
    """Whether the tensor of a name comes with a frozen base; False for a model without one."""
    found: Callable[[str], bool] = getattr(model, "is_base_tensor", lambda _: False)
    return found
