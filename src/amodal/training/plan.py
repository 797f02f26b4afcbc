"""What a training of PLUG or AURA will need, computed without running it: parameters, memory, steps.

Activations are measured by running one step on fake tensors, which have shapes but no memory, and
adding up what autograd saves for the backward pass. Workspaces of kernels, memory that the allocator
reserves, and the data are not included.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from amodal.errors import InputError
from amodal.models.aura import AuraConfig, AuraModel
from amodal.models.aura.mllm import is_adapter
from amodal.models.aura.pointing import Pointed
from amodal.models.bases.families import base_config
from amodal.models.plug import PlugModel
from amodal.nn.kernels import forced_kernel
from amodal.training.build_aura import sized_config
from amodal.training.optimizers import total_steps
from amodal.training.recipe import AuraDataRecipe, AuraModelRecipe, DataRecipe, PlugModelRecipe, Recipe
from amodal.training.tasks.aura import AuraTask
from amodal.training.tasks.plug import PlugTask

GIB = 2**30
FLOAT_BYTES = 4  # trained weights, gradients and AdamW's two moments stay in float32
BFLOAT16_BYTES = 2
MASKS_PER_TURN = 2
"""Mask tokens per turn of an AURA sequence that a plan assumes where the recipe sets no `max_masks`."""

Plan = dict[str, Any]


def plan(recipe: Recipe, *, processes: int = 1, objects: int | None = None) -> Plan:
    """Compute the memory per process and the number of steps of a recipe.

    Every process has the whole model, as with DDP.

    Args:
        recipe: a PLUG or AURA recipe; only the configurations of its bases are needed, not the weights.
        processes: number of GPUs.
        objects: number of training objects, or for AURA of training images with questions; without it, the steps of
            a recipe with epochs are unknown.

    Returns:
        `parameters`, all of the model; `trained`, those with a gradient; `stored`, those that the trained model
        writes beside the names of its bases; `processes`. Memory is in GiB per process.

        For PLUG `crops_per_process`, `weights`, `gradients`, `optimizer`, `activations_per_crop`,
        `activations_per_crop_checkpointed` and `total` with the recipe's settings.

        For AURA `sequences_per_process`, `tokens_per_sequence` (the most that the recipe allows), `masks_per_sequence`
        (`max_masks`, or `MASKS_PER_TURN` for each turn); weights by part: `language_model`, `lora` with the rows of new
        tokens, `backbone`, `heads`; `gradients`, `optimizer`; `activations_of_words` and
        `activations_of_words_checkpointed`, `activations_of_masks`, each per sequence; and `total`.

        `iterations` and `iterations_per_epoch` where known.

    Raises:
        InputError: a recipe of another task; an AURA recipe that trains the vision tower or the backbone; the
            configuration of a base cannot be found; or a batch size that is no multiple of the processes.
    """
    settings = recipe.training
    if settings.batch_size % processes:
        raise InputError(
            f"training.batch_size: expected a multiple of the {processes} processes, got {settings.batch_size}"
        )
    if isinstance(recipe.model, PlugModelRecipe):
        result = _plan_plug(recipe, recipe.model, processes)
    elif isinstance(recipe.model, AuraModelRecipe):
        result = _plan_aura(recipe, recipe.model, processes)
    else:
        raise InputError(f"plan: expected a recipe with task 'plug' or 'aura', got {recipe.task!r}")
    if objects is not None or settings.steps is not None:
        result["iterations"] = total_steps(settings, objects or 0)
    if objects is not None:
        result["iterations_per_epoch"] = round(objects / (settings.batch_size * settings.accumulation), 1)
    return result


def _plan_plug(recipe: Recipe, model: PlugModelRecipe, processes: int) -> Plan:
    settings, data = recipe.training, recipe.data
    assert isinstance(data, DataRecipe)
    config = model.config(sam=base_config(model.base))
    task = PlugTask.from_recipe(config, settings)
    saved, layer_inputs, counts = saved_for_backward(task, settings.precision, data.num_prompts)
    crops = settings.batch_size // processes
    activations = sum(saved.values())
    layers = [size for name, size in saved.items() if name != "rest"]
    checkpointed = saved["rest"] + layer_inputs + max(layers, default=0)
    fixed = {"weights": FLOAT_BYTES * counts["parameters"]} | _of_training(counts["trained"])
    per_crop = checkpointed if settings.gradient_checkpointing else activations
    return {
        **counts,
        "processes": processes,
        "crops_per_process": crops,
        **_in_gib(fixed),
        "activations_per_crop": round(activations / GIB, 2),
        "activations_per_crop_checkpointed": round(checkpointed / GIB, 2),
        "total": round((sum(fixed.values()) + crops * per_crop) / GIB, 1),
    }


def _plan_aura(recipe: Recipe, model: AuraModelRecipe, processes: int) -> Plan:
    settings, data = recipe.training, recipe.data
    assert isinstance(data, AuraDataRecipe)
    config = sized_config(model)
    if config.train_vision or (config.train_mllm and config.train_tower):
        raise InputError("plan: expected a recipe that trains neither the vision tower nor the backbone, got one")
    sequences, tokens = settings.batch_size // processes, data.max_tokens
    masks = MASKS_PER_TURN * data.max_turns if data.max_masks is None else data.max_masks
    with FakeTensorMode(), forced_kernel("fused"):
        network = fake_aura(config, settings.precision)
        parameters = list(network.named_parameters())
        counts = _counts(network)
        words, layer_inputs = saved_for_words(network, tokens, settings.precision)
        of_masks = saved_for_masks(network, masks, settings.precision)
        weights = dict.fromkeys(("language_model", "lora", "backbone", "heads"), 0)
        for name, parameter in parameters:
            weights[_part(name, parameter)] += parameter.nbytes
    activations = sum(words.values())
    checkpointed = words["rest"] + layer_inputs + max(size for name, size in words.items() if name != "rest")
    fixed = weights | _of_training(counts["trained"])
    per_sequence = (checkpointed if settings.gradient_checkpointing else activations) + of_masks
    return {
        **counts,
        "processes": processes,
        "sequences_per_process": sequences,
        "tokens_per_sequence": tokens,
        "masks_per_sequence": masks,
        **_in_gib(fixed),
        "activations_of_words": round(activations / GIB, 2),
        "activations_of_words_checkpointed": round(checkpointed / GIB, 2),
        "activations_of_masks": round(of_masks / GIB, 2),
        "total": round((sum(fixed.values()) + sequences * per_sequence) / GIB, 1),
    }


def _of_training(trained: int) -> dict[str, int]:
    return {"gradients": FLOAT_BYTES * trained, "optimizer": 2 * FLOAT_BYTES * trained}


def _in_gib(sizes: dict[str, int]) -> dict[str, float]:
    return {name: round(size / GIB, 2) for name, size in sizes.items()}


def _counts(model: PlugModel | AuraModel) -> dict[str, int]:
    named = list(model.named_parameters())
    return {
        "parameters": sum(p.numel() for _, p in named),
        "trained": sum(p.numel() for _, p in named if p.requires_grad),
        "stored": sum(p.numel() for name, p in named if not model.is_base_tensor(name)),
    }


def _part(name: str, parameter: nn.Parameter) -> str:
    """The part of AURA's weights that a parameter belongs to."""
    if name.startswith("mllm."):
        return "lora" if parameter.requires_grad and is_adapter(name) else "language_model"
    return "backbone" if name.startswith("vision_encoder.") else "heads"


def saved_for_backward(
    task: PlugTask, precision: str, num_prompts: int = 1
) -> tuple[dict[str, int], int, dict[str, int]]:
    """Bytes that a training step of PLUG on one crop with `num_prompts` objects saves for its backward pass.

    Attention counts as fused, as on a GPU.

    Returns:
        Bytes per encoder layer, of the refine module, and of everything else as `rest`; bytes of the inputs of all
        encoder layers in bfloat16, which gradient checkpointing stores; and `parameters`, `trained` and `stored`.
    """
    config = task.config
    size = config.image_size
    with FakeTensorMode(), forced_kernel("fused"):
        model = PlugModel(config).train()
        layers, sizes = config.family.layers(model.vision_encoder), list[int]()
        for layer in layers:
            layer.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].numel()))
        parts = {f"layer{i}": layer for i, layer in enumerate(layers)}
        if model.refine_module is not None:
            parts["refine"] = model.refine_module
        maps = torch.zeros(1, num_prompts, size, size, dtype=torch.bool)
        batch = {
            "pixel_values": torch.zeros(1, 3, size, size),
            "input_boxes": torch.zeros(1, num_prompts, 4),
            "visible_masks": maps,
            "amodal_masks": maps.clone(),
            "has_amodal": torch.ones(1, num_prompts, dtype=torch.bool),
            "valid": torch.ones(1, num_prompts, dtype=torch.bool),
        }
        if config.mask_prompts:
            batch |= {"input_masks": maps.clone(), "mask_given": batch["valid"].clone()}
        with _counting(parts, _storages(model)) as saved, _autocast(precision):
            losses = task(model, batch, torch.Generator())
            total = torch.stack(list(losses.values())).sum()
        del total
        return saved, BFLOAT16_BYTES * sum(sizes), _counts(model)


def fake_aura(config: AuraConfig, precision: str) -> AuraModel:
    """AURA on fake tensors, with its weights in the precisions that training has; call it in `FakeTensorMode`."""
    if config.seg_token_id is None:  # a recipe, whose tokenizer has not been seen: the next free row
        vocabulary = config.mllm_config().get_text_config().vocab_size
        config = AuraConfig.from_dict(config.to_dict() | {"seg_token_id": vocabulary - 1})
    with unset_fake_temporarily(), torch.device("meta"):  # PEFT converts its adapters, which fake tensors cannot be
        model = AuraModel(config).train()
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    frozen = {id(p) for name, p in model.mllm.named_parameters() if not (config.train_mllm or is_adapter(name))}
    made = dict[int, Tensor]()  # tied weights stay one tensor
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    if id(tensor) not in made:
                        made[id(tensor)] = _fake(tensor, half if id(tensor) in frozen else tensor.dtype)
                    tensors[name] = made[id(tensor)]
    return model


def _fake(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A fake tensor on the CPU like one on the meta device; a parameter stays one."""
    fake = torch.empty(tensor.shape, dtype=dtype)
    return nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake


def saved_for_words(model: AuraModel, tokens: int, precision: str) -> tuple[dict[str, int], int]:
    """Bytes that reading one sequence saves for the backward pass, with a loss on each of its tokens.

    Returns:
        Bytes per layer of the language model, and of embedding, output layer and loss as `rest`; bytes of the inputs of
        all layers, which gradient checkpointing stores.
    """
    decoder: Any = model.mllm.get_decoder()
    layers, inputs = list(decoder.layers), list[int]()
    for layer in layers:
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: inputs.append((args[0] if args else kwargs["hidden_states"]).nbytes),
            with_kwargs=True,
        )
    ids = torch.zeros(1, tokens, dtype=torch.long)
    parts = {f"layer{i}": layer for i, layer in enumerate(layers)}
    with _counting(parts, _storages(model)) as saved, _autocast(precision):
        states = decoder(inputs_embeds=model.mllm.get_input_embeddings()(ids), use_cache=False)[0]
        logits = model.mllm.get_output_embeddings()(states)
        loss = F.cross_entropy(logits[0].float(), ids[0])
    del loss
    return saved, sum(inputs)


def saved_for_masks(model: AuraModel, masks: int, precision: str) -> int:
    """Bytes that `masks` mask tokens of one sequence save for the backward pass, from their states to their losses."""
    config, size = model.config, model.config.image_size
    width = model.mllm.config.get_text_config().hidden_size
    maps = torch.zeros(masks, size, size, dtype=torch.bool)
    targets = {"visible_masks": maps, "amodal_masks": maps, "has_amodal": torch.ones(masks, dtype=torch.bool)}
    pointed = None
    if config.reads_words:
        pointed = Pointed(torch.zeros(masks, 4), torch.zeros(masks, 1), torch.zeros(masks, 1, 1))
    states = torch.zeros(masks, width, requires_grad=True)
    with _counting({}, _storages(model)) as saved, _autocast(precision):
        features = model.encode_image(torch.zeros(1, 3, size, size))
        output = model.decode(states, features, torch.zeros(masks, dtype=torch.long), pointed)
        losses = AuraTask(config).mask_losses(output, targets)
        total = torch.stack(list(losses.values())).sum()
    del total
    return saved["rest"]


def _storages(model: nn.Module) -> set[int]:
    return {p.untyped_storage()._cdata for p in model.parameters()}


def _autocast(precision: str) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision != "no")


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
