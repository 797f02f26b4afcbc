"""What a PLUG training will need, computed without running it: parameters, memory, steps.

Activations are measured by running one step on fake tensors, which have shapes but no memory, and
adding up what autograd saves for the backward pass. Workspaces of kernels, memory that the allocator
reserves, and the data are not included.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from amodal.errors import InputError
from amodal.models.bases.families import base_config
from amodal.models.plug import PlugModel
from amodal.nn.kernels import forced_kernel
from amodal.training.optimizers import total_steps
from amodal.training.recipe import PlugModelRecipe, Recipe
from amodal.training.tasks.plug import PlugTask

GIB = 2**30
FLOAT_BYTES = 4  # weights, gradients and AdamW's two moments stay in float32
BFLOAT16_BYTES = 2


def plan(recipe: Recipe, *, processes: int = 1, objects: int | None = None) -> dict[str, Any]:
    """Compute the memory per process and the number of steps of a recipe.

    Args:
        recipe: a PLUG recipe; only the configuration of its base is needed, not the weights.
        processes: number of GPUs.
        objects: number of training objects; without it, the steps of a recipe with epochs are unknown.

    Returns:
        `parameters`, `trained`, `processes`, `crops_per_process`; in GiB per process: `weights`, `gradients`,
        `optimizer`, `activations_per_crop`, `activations_per_crop_checkpointed`, and `total` with the
        recipe's settings; `iterations` and `iterations_per_epoch` where known.

    Raises:
        InputError: the recipe is not a PLUG recipe, or its batch size is not a multiple of the processes.
    """
    if not isinstance(recipe.model, PlugModelRecipe):
        raise InputError(f"plan: expected a recipe with task 'plug', got {recipe.task!r}")
    settings = recipe.training
    if settings.batch_size % processes:
        raise InputError(
            f"training.batch_size: expected a multiple of the {processes} processes, got {settings.batch_size}"
        )
    config = recipe.model.config(sam=base_config(recipe.model.base))
    task = PlugTask.from_recipe(config, settings)
    saved, layer_inputs, parameters, trained = saved_for_backward(task, settings.precision)
    crops = settings.batch_size // processes
    activations = sum(saved.values())
    layers = [size for name, size in saved.items() if name != "rest"]
    checkpointed = saved["rest"] + layer_inputs + max(layers, default=0)
    fixed = {
        "weights": FLOAT_BYTES * parameters,
        "gradients": FLOAT_BYTES * trained,
        "optimizer": 2 * FLOAT_BYTES * trained,
    }
    per_crop = checkpointed if settings.gradient_checkpointing else activations
    result: dict[str, Any] = {
        "parameters": parameters,
        "trained": trained,
        "processes": processes,
        "crops_per_process": crops,
        **{name: round(size / GIB, 2) for name, size in fixed.items()},
        "activations_per_crop": round(activations / GIB, 2),
        "activations_per_crop_checkpointed": round(checkpointed / GIB, 2),
        "total": round((sum(fixed.values()) + crops * per_crop) / GIB, 1),
    }
    if objects is not None or settings.steps is not None:
        result["iterations"] = total_steps(settings, objects or 0)
    if objects is not None:
        result["iterations_per_epoch"] = round(objects / (settings.batch_size * settings.accumulation), 1)
    return result


def saved_for_backward(task: PlugTask, precision: str) -> tuple[dict[str, int], int, int, int]:
    """Bytes that a training step on one crop saves for its backward pass.

    Attention counts as fused, as on a GPU.

    Returns:
        Bytes per encoder layer, of the refine module, and of everything else as `rest`; bytes of the inputs of all
        encoder layers in bfloat16, which gradient checkpointing stores; the number of all parameters; the number of
        trained parameters.
    """
    config = task.config
    size = config.image_size
    with FakeTensorMode(), forced_kernel("fused"):
        model = PlugModel(config).train()
        parameters = list(model.parameters())
        layers, sizes = config.family.layers(model.vision_encoder), list[int]()
        for layer in layers:
            layer.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].numel()))
        parts = {f"layer{i}": layer for i, layer in enumerate(layers)}
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
        parameter_storages = {p.untyped_storage()._cdata for p in parameters}
        if config.mask_prompts:
            batch |= {"input_masks": maps.clone(), "mask_given": batch["valid"].clone()}
        with (
            _counting(parts, parameter_storages) as saved,
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision != "no"),
        ):
            losses = task(model, batch, torch.Generator())
            total = torch.stack(list(losses.values())).sum()
        del total
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        return saved, BFLOAT16_BYTES * sum(sizes), sum(p.numel() for p in parameters), trained


@contextmanager
def _counting(parts: dict[str, nn.Module], excluded_storages: set[int]) -> Iterator[dict[str, int]]:
    """Count the bytes that autograd saves within the context, by the part that runs."""
    saved, current, seen = dict.fromkeys([*parts, "rest"], 0), ["rest"], dict[int, Tensor]()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in excluded_storages and storage._cdata not in seen:
            seen[storage._cdata] = tensor  # kept alive, so that no other storage gets the same address
            saved[current[0]] += storage.nbytes()
        return tensor

    def enter(name: str) -> Any:
        return lambda *_: current.__setitem__(0, name)

    hooks = [part.register_forward_pre_hook(enter(name)) for name, part in parts.items()]
    hooks += [part.register_forward_hook(enter("rest")) for part in parts.values()]
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield saved
    finally:
        for hook in hooks:
            hook.remove()
