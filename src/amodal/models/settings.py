"""What the configurations of PLUG and AURA have in common."""

from __future__ import annotations

from typing import Any

from transformers import SamConfig

from amodal.errors import InputError

_PARTS = ("vision_config", "prompt_encoder_config", "mask_decoder_config")


def sam_at_size(sam: dict[str, Any], image_size: int) -> SamConfig:
    """A SAM's configuration for square inputs of `image_size` pixels."""
    parts = {key: dict(sam[key]) for key in _PARTS}
    patch = parts["vision_config"].get("patch_size", 16)
    parts["vision_config"]["image_size"] = image_size
    parts["prompt_encoder_config"] |= {
        "image_size": image_size,
        "patch_size": patch,
        "image_embedding_size": image_size // patch,
    }
    return SamConfig(**parts)


def sam_sizes(config: SamConfig) -> dict[str, dict[str, object]]:
    """The part of a SAM configuration that defines sizes, without transformers' bookkeeping."""
    return {
        name: {k: v for k, v in getattr(config, name).to_diff_dict().items() if k != "transformers_version"}
        for name in _PARTS
    }


def check_settings(config: object, checks: dict[str, bool]) -> None:
    """Raise `InputError` with the first message, `name: what was expected`, that does not hold."""
    for message, holds in checks.items():
        if not holds:
            raise InputError(f"{message}, got {getattr(config, message.split(':')[0])!r}")
