"""Checkpoint files as people have them: the original layouts of SAM, SAM-HQ and SAM 2, wrapped or prefixed or not.

`load_checkpoint` finds the tensors in a file, renames them as transformers does, derives the sizes of the model from
their shapes, and loads them. A file that does not hold a complete model is refused in one line that says what is
missing. Files are read without running any code in them.

What the conversion is proved against: the tests run the original SAM with random weights beside the converted one. The
same was done once with the original repositories of SAM 2 and SAM-HQ. A SAM 2 and a SAM 2.1 of each published size
convert without a missing or foreign tensor; features and masks of SAM 2.1 with random weights are equal to 1e-6, and so
are the masks of a small SAM-HQ (with the correction that `sam_hq.py` describes). The tests convert small models of both
whose tensors have the original names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    Sam2Config,
    Sam2Model,
    SamConfig,
    SamHQConfig,
    SamHQModel,
    SamModel,
)

from amodal.errors import InputError
from amodal.models.bases.sam2 import Sam2Family

State = dict[str, Tensor]

_PREFERRED = ("model", "state_dict", "model_state_dict")
_PARTS = ("image_encoder", "vision_encoder", "prompt_encoder", "mask_decoder", "sam_prompt_encoder", "sam_mask_decoder")
_IN_A_PART = re.compile(rf"((?:\w+\.)*?)(?:{'|'.join(_PARTS)})\.")
_MLP = re.compile(
    r"(.*(?:output_hypernetworks_mlps\.\d+|iou_prediction_head|hq_mask_mlp|pred_obj_score_head))\.layers\.(\d+)\.(.*)"
)

# Tensors that identify an encoder or a decoder that was saved without its name.
_BARE_PARTS = {
    "image_encoder": ("patch_embed.proj.weight", "neck.0.weight"),
    "mask_decoder": ("iou_token.weight", "mask_tokens.weight"),
    "prompt_encoder": ("pe_layer.positional_encoding_gaussian_matrix", "no_mask_embed.weight"),
}

# Models that share names with SAM and that no family here reads.
_FOREIGN_MODELS = {
    r"(detector|tracker|sam3_model)\.": "a file of the original SAM 3; expected transformers' SAM 3 in a folder",
    r"image_encoder\.trunk\.body\.": "a file of the original EdgeTAM; expected transformers' EdgeTAM in a folder",
    r"image_encoder\.(patch_embed\.seq|layers\.\d+\.blocks)\.": "a MobileSAM, whose TinyViT encoder no family reads",
}

# Original names -> transformers' names, applied in order.
_PROMPTS_AND_DECODER: tuple[tuple[str, str], ...] = (
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (
        r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$",
        "shared_image_embedding.positional_embedding",
    ),
    (r"^(mask_decoder\.transformer\.layers\.\d+)\.norm", r"\1.layer_norm"),
    (r"^mask_decoder\.transformer\.norm_final_attn", "mask_decoder.transformer.layer_norm_final_attn"),
    (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
)
_SAM_RENAMES = (
    (r"^image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"^image_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"^image_encoder\.blocks\.(\d+)\.norm", r"vision_encoder.layers.\1.layer_norm"),
    (r"^image_encoder\.blocks\.", "vision_encoder.layers."),
    (r"^image_encoder\.pos_embed", "vision_encoder.pos_embed"),
    (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"^mask_decoder\.hf_token\.", "mask_decoder.hq_token."),
    (r"^mask_decoder\.hf_mlp\.", "mask_decoder.hq_mask_mlp."),
    (r"^mask_decoder\.compress_vit_feat\.0\.", "mask_decoder.compress_vit_conv1."),
    (r"^mask_decoder\.compress_vit_feat\.1\.", "mask_decoder.compress_vit_norm."),
    (r"^mask_decoder\.compress_vit_feat\.3\.", "mask_decoder.compress_vit_conv2."),
    (r"^mask_decoder\.embedding_encoder\.0\.", "mask_decoder.encoder_conv1."),
    (r"^mask_decoder\.embedding_encoder\.1\.", "mask_decoder.encoder_norm."),
    (r"^mask_decoder\.embedding_encoder\.3\.", "mask_decoder.encoder_conv2."),
    (r"^mask_decoder\.embedding_maskfeature\.0\.", "mask_decoder.mask_conv1."),
    (r"^mask_decoder\.embedding_maskfeature\.1\.", "mask_decoder.mask_norm."),
    (r"^mask_decoder\.embedding_maskfeature\.3\.", "mask_decoder.mask_conv2."),
    *_PROMPTS_AND_DECODER,
)
_SAM2_RENAMES = (
    (r"^sam_(prompt_encoder|mask_decoder)\.", r"\1."),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"^image_encoder\.trunk\.patch_embed\.proj\.", "vision_encoder.backbone.patch_embed.projection."),
    (r"^image_encoder\.trunk\.(blocks\.\d+)\.norm", r"vision_encoder.backbone.\1.layer_norm"),
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"^(.*\.mlp)\.layers\.0\.", r"\1.proj_in."),
    (r"^(.*\.mlp)\.layers\.1\.", r"\1.proj_out."),
    (r"^(mask_decoder\..*)\.out_proj\.", r"\1.o_proj."),
    *_PROMPTS_AND_DECODER,
)
# Buffers of pixel normalisation, and what SAM 2 needs for videos only.
_UNUSED = re.compile(
    r"pixel_(mean|std)$|memory_(attention|encoder)\.|maskmem_tpos_enc$|no_mem_pos_enc$|no_obj_ptr$"
    r"|obj_ptr_(tpos_)?proj\.|no_obj_embed_spatial$|mask_downsample\."
)


_WRAPPERS = re.compile(r"(?<![^.])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_TITLES = {"sam": "SAM", "sam_hq": "SAM-HQ", "sam2": "SAM 2"}
_SHARED = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file under transformers' names.

    Attributes:
        family: transformers' `model_type`: `sam`, `sam_hq` or `sam2`.
        tensors: in float32.
        names: the name in the file per tensor, for messages.
    """

    family: str
    tensors: State
    names: dict[str, str]


def load_checkpoint(path: Path) -> PreTrainedModel:
    """Load a checkpoint file as transformers' model of its family; the shapes of its tensors give the sizes.

    Args:
        path: `.pth`, `.pt`, `.ckpt`, `.bin` or `.safetensors` file with a state dictionary in the original layout or
            transformers' layout, alone or inside other dictionaries, with any prefix before the names of the parts.

    Returns:
        `SamModel`, `SamHQModel` or `Sam2Model`, in float32.

    Raises:
        InputError: there is no such file, it is unreadable, it holds code, or it is not exactly one complete model.
    """
    checkpoint = read_checkpoint(path)
    tensors, title = checkpoint.tensors, _TITLES[checkpoint.family]
    _check_parts(path, tensors, title)
    model_class, config = _model_for(path, checkpoint)
    with torch.device("meta"):
        expected = model_class(config).state_dict()
    missing = [name for name in expected if name not in tensors]
    problems = {
        "missing (in transformers' names)": missing,
        "foreign": [checkpoint.names[name] for name in tensors if name not in expected],
        "of another shape": [
            f"{checkpoint.names[name]} {tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if not missing and tensors[name].shape != tensor.shape  # what is missing may have given the sizes
        ],
    }
    if any(problems.values()):
        details = "; ".join(f"{len(names)} {what}: {_first(names)}" for what, names in problems.items() if names)
        raise InputError(f"base {path}: expected the {len(expected)} tensors of a {title}, got {details}")
    model: PreTrainedModel = model_class(config)
    model.load_state_dict(tensors)
    return model


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the tensors of a checkpoint file, without checking that they are complete.

    Raises:
        InputError: there is no such file, it is unreadable, it holds code, or it holds no SAM, or several.
    """
    if not path.is_file():
        raise InputError(f"base {path}: expected a checkpoint file, got no file at this path")
    found = _find_state(path, _read(path))
    found = {name: tensor for name, tensor in found.items() if isinstance(name, str) and isinstance(tensor, Tensor)}
    for pattern, what in _FOREIGN_MODELS.items():
        if any(re.match(pattern, name) for name in found):
            raise InputError(f"base {path}: got {what}")
    originals = {name: original for name, original in _without_prefix(path, found) if not _UNUSED.match(name)}
    is_sam2 = any(
        re.match(r"image_encoder\.trunk|vision_encoder\.backbone|sam_|.*obj_score", name) for name in originals
    )
    is_hq = any(re.search(r"\bh[fq]_token\.", name) for name in originals)
    names = _renamed(originals, _SAM2_RENAMES if is_sam2 else _SAM_RENAMES)
    tensors = {name: found[original].float() for name, original in names.items()}
    if is_sam2:
        _join_point_embeddings(tensors, names)
    for name, twin in (_SHARED, _SHARED[::-1]):
        if name in tensors:
            tensors.setdefault(twin, tensors[name])
            names.setdefault(twin, names[name])
    return Checkpoint("sam2" if is_sam2 else "sam_hq" if is_hq else "sam", tensors, names)


def _read(path: Path) -> Any:
    """Read a file without running code in it."""
    with path.open("rb") as file:
        if file.read(40).startswith(b"version https://git-lfs"):
            raise InputError(f"base {path}: expected a checkpoint, got a pointer of Git LFS; run `git lfs pull`")
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a broken file
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is not None:
            raise InputError(
                f"base {path}: expected tensors only, got a pickled {code[1]}, which is code and is not run; "
                "save the model's state_dict alone"
            ) from error
        kind = "safetensors" if isinstance(error, SafetensorError) else "torch"
        detail = " ".join(str(error).split())
        raise InputError(
            f"base {path}: expected a {kind} checkpoint, got {type(error).__name__}: {detail:.80}"
        ) from error


def _find_state(path: Path, content: Any) -> Mapping[Any, Any]:
    """Find the state dictionary of a SAM in what a file holds."""
    states = dict(_states(content))
    for key in ("", *_PREFERRED):
        if key in states:
            return states[key]
    if len(states) == 1:
        return next(iter(states.values()))
    if states:
        raise InputError(f"base {path}: expected one model, got {len(states)} under the keys {_first(list(states))}")
    held = _first([str(key) for key in content]) if isinstance(content, Mapping) else type(content).__name__
    raise InputError(f"base {path}: expected the tensors of a SAM, SAM-HQ or SAM 2, got other content: {held}")


def _states(content: Any, where: str = "", depth: int = 3) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield the state dictionaries of SAMs at most `depth` dictionaries deep, with the keys that lead to them."""
    if not isinstance(content, Mapping):
        return
    names = [
        _WRAPPERS.sub("", name) for name, value in content.items() if isinstance(value, Tensor) and name == str(name)
    ]
    if any(_IN_A_PART.match(name) for name in names) or any(
        _bare_prefix(names, keys) is not None for keys in _BARE_PARTS.values()
    ):
        yield where, content
    elif depth > 0:
        for key, value in content.items():
            yield from _states(value, f"{where}/{key}".lstrip("/"), depth - 1)


def _without_prefix(path: Path, state: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Pairs of each tensor's name without wrappers and prefix (`module.`, `model.`, `sam.`, ...), and its full name."""
    names = {_WRAPPERS.sub("", name): name for name in state}
    prefixes = Counter(match[1] for match in map(_IN_A_PART.match, names) if match)
    if len(prefixes) > 1:
        counts = _first([f"{prefix!r} ({number} tensors)" for prefix, number in prefixes.most_common()])
        raise InputError(f"base {path}: expected one model, got {len(prefixes)} with the prefixes {counts}")
    if prefixes:
        prefix = next(iter(prefixes))
        return [(name.removeprefix(prefix), original) for name, original in names.items()]
    part, prefix = next((p, b) for p, keys in _BARE_PARTS.items() if (b := _bare_prefix(names, keys)) is not None)
    return [(f"{part}.{name.removeprefix(prefix)}", original) for name, original in names.items()]


def _bare_prefix(names: Collection[str], keys: tuple[str, ...]) -> str | None:
    """The prefix of a part that was saved without its name; None if it is not there."""
    for name in names:
        prefix = name.removesuffix(keys[0])
        if prefix != name and all(prefix + key in names for key in keys):
            return prefix
    return None


def _renamed(originals: Mapping[str, str], renames: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Map transformers' names to the names in the file."""
    names = {}
    for name, original in originals.items():
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        names[name] = original
    return {_rename_mlp_layers(name, names): original for name, original in names.items()}


def _rename_mlp_layers(name: str, names: Mapping[str, str]) -> str:
    """The original code numbers the layers of its MLPs; transformers names the first and the last."""
    match = _MLP.match(name)
    if match is None or f"{match[1]}.proj_in.weight" in names:
        return name
    head, number, tail = match[1], int(match[2]), match[3]
    last = max(_layer_numbers(names, re.escape(head) + r"\.layers\.(\d+)\."))
    if number == 0:
        return f"{head}.proj_in.{tail}"
    return f"{head}.proj_out.{tail}" if number == last else f"{head}.layers.{number - 1}.{tail}"


def _join_point_embeddings(tensors: State, names: dict[str, str]) -> None:
    """SAM 2's code has one table per kind of point; transformers has one table with a row per kind."""
    tables = sorted(name for name in tensors if name.startswith("prompt_encoder.point_embeddings."))
    if tables:
        names["prompt_encoder.point_embed.weight"] = names[tables[0]]
        tensors["prompt_encoder.point_embed.weight"] = torch.cat([tensors.pop(name) for name in tables])


def _check_parts(path: Path, tensors: State, title: str) -> None:
    """Raise `InputError` if an image encoder, a prompt encoder or a mask decoder is missing altogether."""
    found = {
        "image encoder": any(name.startswith("vision_encoder.") for name in tensors),
        "prompt encoder": any(name.startswith(("prompt_encoder.", "shared_image_embedding.")) for name in tensors),
        "mask decoder": any(name.startswith("mask_decoder.") for name in tensors),
    }
    if not all(found.values()):
        held = " and ".join(part for part, is_there in found.items() if is_there) or "none of its parts"
        lacking = " and ".join(part for part, is_there in found.items() if not is_there)
        raise InputError(
            f"base {path}: expected a complete {title}, got its {held} alone ({len(tensors)} tensors), without the "
            f"{lacking}; save it together with the rest of the base that it was trained from"
        )


def _model_for(path: Path, checkpoint: Checkpoint) -> tuple[type[PreTrainedModel], PreTrainedConfig]:
    """The class and the configuration of a checkpoint."""
    if checkpoint.family == "sam2":
        return Sam2Model, _sam2_config(path, checkpoint.tensors)
    if checkpoint.family == "sam_hq":
        return SamHQModel, _sam_config(checkpoint.tensors, SamHQConfig)
    return SamModel, _sam_config(checkpoint.tensors, SamConfig)


def _sam_config(state: State, config_class: type[SamConfig] | type[SamHQConfig]) -> SamConfig | SamHQConfig:
    """Derive the sizes of a SAM or SAM-HQ; a tensor that is missing leaves the size of the published models."""
    hidden, _, patch, _ = _shape(state, "vision_encoder.patch_embed.projection.weight", (768, 3, 16, 16))
    grid = _shape(state, "vision_encoder.pos_embed", (1, 1024 // patch))[1]
    depth = 1 + max(_layer_numbers(state, r"vision_encoder\.layers\.(\d+)\."), default=11)
    table = "vision_encoder.layers.{}.attn.rel_pos_h"
    lengths = [_shape(state, table.format(i), (2 * grid - 1,))[0] for i in range(depth)]
    windows = [(length + 1) // 2 for length in lengths if length != 2 * grid - 1]
    channels = _shape(state, "vision_encoder.neck.conv1.weight", (256,))[0]
    vision = {
        "hidden_size": hidden,
        "output_channels": channels,
        "num_hidden_layers": depth,
        "num_attention_heads": max(1, hidden // _shape(state, table.format(0), (1, 64))[1]),
        "image_size": grid * patch,
        "patch_size": patch,
        "mlp_dim": _shape(state, "vision_encoder.layers.0.mlp.lin1.weight", (4 * hidden,))[0],
        "window_size": windows[0] if windows else 0,
        "global_attn_indexes": [i for i, length in enumerate(lengths) if length == 2 * grid - 1],
        "num_pos_feats": channels // 2,
    }
    prompts = _prompt_sizes(state, channels) | {"image_size": grid * patch, "patch_size": patch}
    decoder = _decoder_sizes(state, channels, "mlp.lin1")
    decoder["layer_norm_eps"] = 1e-5  # torch's default, which Meta's decoder keeps
    if config_class is SamHQConfig:
        decoder["vit_dim"] = hidden
    return config_class(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)


def _sam2_config(path: Path, state: State) -> Sam2Config:
    """Find the published SAM 2 of a trunk; the sizes of neck, prompt encoder and decoder are those of the tensors.

    Heads, window sizes and layers with global attention leave no trace in the shapes of a trunk.
    """
    depth = 1 + max(_layer_numbers(state, r"vision_encoder\.backbone\.blocks\.(\d+)\."), default=-1)
    block = "vision_encoder.backbone.blocks.{}.attn.proj.weight"
    widths = [_shape(state, block.format(i), (0,))[0] for i in range(depth)]
    blocks = Counter(widths)  # keeps the order in which the widths appear
    trunk = {"hidden_size": next(iter(blocks), 0), "blocks_per_stage": list(blocks.values())}
    published = [preset["vision_config"] for preset in Sam2Family.presets.values()]
    vision = next((vision for vision in published if vision["backbone_config"].items() >= trunk.items()), None)
    if vision is None:
        known = "; ".join(str([vision["backbone_config"][key] for key in trunk]) for vision in published)
        raise InputError(
            f"base {path}: expected a SAM 2 of a published width and blocks per stage ({known}), "
            f"got {list(trunk.values())}"
        )
    channels = _shape(state, "vision_encoder.neck.convs.0.weight", (256,))[0]
    return Sam2Config(
        vision_config={**vision, "fpn_hidden_size": channels},
        prompt_encoder_config=_prompt_sizes(state, channels),
        mask_decoder_config=_decoder_sizes(state, channels, "mlp.proj_in"),
    )


def _prompt_sizes(state: State, channels: int) -> dict[str, Any]:
    return {
        "hidden_size": channels,
        "mask_input_channels": _shape(state, "prompt_encoder.mask_embed.conv2.weight", (16,))[0],
    }


def _decoder_sizes(state: State, channels: int, mlp: str) -> dict[str, Any]:
    attention = _shape(state, "mask_decoder.transformer.final_attn_token_to_image.q_proj.weight", (channels // 2,))
    return {
        "hidden_size": channels,
        "mlp_dim": _shape(state, f"mask_decoder.transformer.layers.0.{mlp}.weight", (2048,))[0],
        "num_hidden_layers": 1 + max(_layer_numbers(state, r"mask_decoder\.transformer\.layers\.(\d+)\."), default=1),
        "attention_downsample_rate": max(1, channels // attention[0]),
        "num_multimask_outputs": _shape(state, "mask_decoder.mask_tokens.weight", (4,))[0] - 1,
        "iou_head_hidden_dim": _shape(state, "mask_decoder.iou_prediction_head.proj_in.weight", (256,))[0],
    }


def _shape(state: State, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(state[name].shape) if name in state else default


def _layer_numbers(names: Iterable[str], pattern: str) -> list[int]:
    return [int(m[1]) for m in (re.match(pattern, name) for name in names) if m]


def _first(names: list[str]) -> str:
    """The first three names."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
