"""What a PLUG training will need, computed without running it: parameters, memory, steps.

Activations are counted by running one step on fake tensors, which have shapes but no memory, and
adding up what autograd keeps for the backward pass. Kernels' own workspaces, the allocator's
slack and the data are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from amodal.errors import InputError
from amodal.models.bases.sam import sam_config_for
from amodal.models.plug import PlugConfig, PlugModel
from amodal.nn import kernels
from amodal.training.build import total_steps
from amodal.training.recipe import PlugModelRecipe, Recipe
from amodal.training.tasks.plug import PlugTask

GIB = 2**30
FLOAT = 4  # bytes; weights, gradients and AdamW's two moments stay in float32


def plan(recipe: Recipe, *, processes: int = 1, objects: int | None = None) -> dict[str, Any]:
    """Memory of each process and number of steps of a recipe.

    Args:
        recipe: a PLUG recipe; its base is needed by name alone, not its weights.
        processes: GPUs.
        objects: training objects, for the number of steps; None leaves steps by epochs open.

    Returns:
        `parameters`, `trained`, `crops_per_process`, and in GiB a process: `weights`, `gradients`,
        `optimizer`, `activations_per_crop`, `activations_per_crop_checkpointed`, `total` as the
        recipe sets it; `iterations` and `iterations_per_epoch` where known.

    Raises:
        InputError: not a PLUG recipe, or a batch that the processes cannot share.
    """
    if not isinstance(recipe.model, PlugModelRecipe):
        raise InputError(f"plan: expected a recipe with task 'plug', got {recipe.task!r}")
    settings = recipe.training
    if settings.batch_size % processes:
        raise InputError(
            f"training.batch_size: expected a multiple of the {processes} processes, got {settings.batch_size}"
        )
    config = recipe.model.config(sam=sam_config_for(recipe.model.base))
    kept, parameters, trained = kept_for_backward(config, settings.precision)
    crops = settings.batch_size // processes
    usual = sum(kept.values())
    layers = [size for name, size in kept.items() if name != "rest"]
    again = kept["rest"] + _layer_inputs(config) + max(layers)
    fixed = {"weights": FLOAT * parameters, "gradients": FLOAT * trained, "optimizer": 2 * FLOAT * trained}
    per_crop = again if settings.gradient_checkpointing else usual
    found: dict[str, Any] = {
        "parameters": parameters,
        "trained": trained,
        "processes": processes,
        "crops_per_process": crops,
        **{name: round(size / GIB, 2) for name, size in fixed.items()},
        "activations_per_crop": round(usual / GIB, 2),
        "activations_per_crop_checkpointed": round(again / GIB, 2),
        "total": round((sum(fixed.values()) + crops * per_crop) / GIB, 1),
    }
    if objects is not None or settings.steps is not None:
        found["iterations"] = total_steps(settings, objects or 0)
    if objects is not None:
        found["iterations_per_epoch"] = round(objects / (settings.batch_size * settings.accumulation), 1)
    return found


def kept_for_backward(config: PlugConfig, precision: str) -> tuple[dict[str, int], int, int]:
    """Bytes that a training step on one crop keeps for its backward pass.

    Returns:
        Bytes of each encoder layer and of the refine module, and of all else as `rest`; parameters
        in all; trained ones.
    """
    size = config.image_size
    with FakeTensorMode(), _fused_everywhere():
        model = PlugModel(config).train()
        parameters = list(model.parameters())
        parts: dict[str, nn.Module] = {f"layer{i}": layer for i, layer in enumerate(model.vision_encoder.layers)}
        if model.refine_module is not None:
            parts["refine"] = model.refine_module
        maps = torch.zeros(1, 1, size, size, dtype=torch.bool)
        batch = {
            "pixel_values": torch.zeros(1, 3, size, size),
            "input_boxes": torch.zeros(1, 1, 4),
            "visible_masks": maps,
            "amodal_masks": maps.clone(),
            "has_amodal": torch.ones(1, 1, dtype=torch.bool),
            "valid": torch.ones(1, 1, dtype=torch.bool),
        }
        own = {p.untyped_storage()._cdata for p in parameters}
        with (
            _counting(parts, own) as kept,
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision != "no"),
        ):
            losses = PlugTask(config)(model, batch, torch.Generator())
            total = torch.stack(list(losses.values())).sum()
        del total
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        return kept, sum(p.numel() for p in parameters), trained


@contextmanager
def _counting(parts: dict[str, nn.Module], own: set[int]) -> Iterator[dict[str, int]]:
    """Bytes kept by autograd within, by the part that runs; parameters do not count."""
    kept, place, seen = dict.fromkeys([*parts, "rest"], 0), ["rest"], dict[int, Tensor]()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own and storage._cdata not in seen:
            seen[storage._cdata] = tensor  # held, so that no other storage gets its number
            kept[place[0]] += storage.nbytes()
        return tensor

    def enter(name: str) -> Any:
        return lambda *_: place.__setitem__(0, name)

    hooks = [part.register_forward_pre_hook(enter(name)) for name, part in parts.items()]
    hooks += [part.register_forward_hook(enter("rest")) for part in parts.values()]
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield kept
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _fused_everywhere() -> Iterator[None]:
    """Count the attention of a GPU, which is fused for small windows too."""
    with mock.patch.object(kernels, "choose_kernel", return_value="fused"):
        yield


def _layer_inputs(config: PlugConfig) -> int:
    """Bytes of the encoder layers' inputs, which checkpointing keeps, in bfloat16."""
    vision = config.sam_config().vision_config
    cells = (config.image_size // vision.patch_size) ** 2
    return int(2 * config.num_branches * cells * vision.hidden_size * vision.num_hidden_layers)
