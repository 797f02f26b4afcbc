"""A base as it was published, without PLUG's adapters: images and prompts to one mask per prompt.

Axes: B images, P prompts (objects) per image, h w pixels of the mask decoder, a quarter of the input's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from amodal.errors import InputError
from amodal.models.bases.families import FAMILIES, family_of, load_base
from amodal.models.bases.protocol import Adapters, ImageFeatures, LoadedBase, PromptEmbeddings, Prompts
from amodal.models.hub import is_checkpoint_name
from amodal.models.increments import bundled_models, count_parameters
from amodal.nn.lora import ParallelLora


class PromptableModel(nn.Module):
    """Encoder, prompt encoder and mask decoder of a base of any family, at the input size it was trained with.

    The mask of a prompt is that of the decoder's first mask token, which serves prompts without ambiguity.

    Args:
        base: the base in memory, whose weights are copied.

    Attributes:
        family: architecture of the base.
        image_size: side of the square input in pixels.
        origin: where the weights came from.
    """

    def __init__(self, base: LoadedBase) -> None:
        super().__init__()
        self.origin = base.origin
        self.family = family_of(base.model.config)
        sizes = self.family.sizes(base.model.config)
        self.image_size = self.family.native_size(sizes)
        config = self.family.at_size(sizes, self.image_size)
        self.vision_encoder: Any = self.family.build_encoder(config, Adapters(rank=0))
        self.prompt_encoder: Any = self.family.build_prompt_encoder(config)
        self.mask_decoder: Any = self.family.build_decoder(config)
        self.family.load_encoder(self.vision_encoder, base.model)
        self.family.load_prompt_encoder(self.prompt_encoder, base.model)
        self.family.load_decoder(self.mask_decoder, base.model)
        self.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(cls, name: str | Path) -> PromptableModel:
        """Load a base by bundled name, folder, hub id or checkpoint file.

        Raises:
            InputError: there is no such base, or it cannot be read.
        """
        return cls(load_base(name))

    def encode(self, pixel_values: Tensor) -> ImageFeatures:
        """Encode images (B, 3, H, W), H = W = `image_size`, normalised with the family's mean and deviation."""
        return self.family.encode(self.vision_encoder, pixel_values, num_branches=1)[0]

    def forward(self, features: ImageFeatures, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """Decode the masks of all prompts of all images in one call.

        Args:
            features: of B images.
            prompts: of P objects per image.

        Returns:
            Logits (B, P, h, w) and predicted quality (B, P).
        """
        embedded = self.family.embed_prompts(self.prompt_encoder, prompts)
        dtype = features.embedding.dtype
        cast = PromptEmbeddings(*(x.to(dtype) for x in (embedded.sparse, embedded.dense, embedded.positions)))
        return self.family.decode(self.mask_decoder, features, cast)


def base_title(name: str | Path) -> str | None:
    """Say in words which kind of base a name stands for; None if it is none. Never connects to the hub.

    Args:
        name: bundled name, folder, file or hub id. Of hub ids only those of published bases are known.
    """
    path = bundled_models().get(str(name), Path(name).expanduser())
    for family in FAMILIES.values():
        if str(name) in family.hub_ids:
            return family.title
    if path.is_file() and is_checkpoint_name(path):
        return "checkpoint file"
    try:
        settings = json.loads((path / "config.json").read_text())
        return family_of({"model_type": None} | settings).title
    except (OSError, ValueError, TypeError):  # no such folder, unreadable, or of no family
        return None


def refuse_base(name: str | Path) -> None:
    """Raise `InputError` if a base was named where an amodal model is expected; see `base_title`."""
    title = base_title(name)
    if title is not None:
        raise InputError(
            f"model {name}: expected a model with amodal masks, got a {title}; name an amodal model here, and "
            f"the segmenter as visible_from (--visible-from {name})"
        )


def describe_base(config: PreTrainedConfig, adapters: Adapters) -> dict[str, Any]:
    """Count the parameters of a base by part, and those of the adapters that PLUG would add, on the meta device.

    Args:
        config: the base's configuration.
        adapters: size of the adapters.

    Returns:
        `family`, `input_size` in pixels; the parameters of `vision_encoder`, `prompt_encoder` and `mask_decoder`, and
        of all of the base as `total`; and `adapters` with `rank`, `branches`, `parameters`, `layers` (what they are
        added to) and `modules` (the names of those layers in the encoder).
    """
    family = family_of(config)
    sizes = family.sizes(config)
    size = family.native_size(sizes)
    with torch.device("meta"):
        base = family.model_class(config)
        encoder = family.build_encoder(family.at_size(sizes, size), adapters)
    added = {name: module for name, module in encoder.named_modules() if name.endswith(".lora")}
    fused = any(isinstance(module, ParallelLora) for module in added.values())
    return {
        "family": family.title,
        "input_size": size,
        **{
            part: count_parameters(getattr(base, part)) for part in ("vision_encoder", "prompt_encoder", "mask_decoder")
        },
        "total": count_parameters(base),
        "adapters": {
            "rank": adapters.rank,
            "branches": adapters.num_branches,
            "parameters": sum(count_parameters(module) for module in added.values()),
            "layers": "Q and V" if fused else "1x1 convolutions",
            "modules": [name.removesuffix(".lora") for name in added],
        },
    }
