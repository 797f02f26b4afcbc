"""An AURA small enough for unit tests, with random weights and LoRA on a saved LLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from benchmarks.random_llava import llava_processor, random_llava
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from amodal.errors import NotFetchedError
from amodal.losses import IGNORE_INDEX
from amodal.models.aura import AuraConfig, AuraModel
from amodal.models.aura.mllm import LoadedMllm
from amodal.models.aura.packaged import NEEDED_BY, fetched_folder
from amodal.models.aura.trunk_mllm import IMAGE_TOKEN, MARKUP, TrunkMllmRecipe, new_trunk_mllm
from amodal.models.bases.families import load_base
from amodal.models.bases.sam import new_sam
from amodal.models.detector import DetectorConfig, DetectorModel
from tests.models.conftest import small_sam_config
from tests.models.families import ROWS

ANSWER = "You could use <p>the mug</p> [SEG], behind <p>two books</p> [SEG] [SEG]."
IMAGE_SIZE, PATCH_SIZE = 32, 8
"""Of a small LLM's square image and its tokens, in pixels."""
TEXTS = ["What could I drink from?", "What is behind it?", ANSWER.replace("[SEG]", "")] * 3


def has_language_model() -> bool:
    """Whether the language model of `aura-small` has been fetched."""
    try:
        fetched_folder(NEEDED_BY["aura-small"])
    except NotFetchedError:
        return False
    return True


needs_language_model = pytest.mark.skipif(not has_language_model(), reason="first run: amodal models fetch aura-small")
"""Mark of tests of `aura-small`."""


def scatter(module: torch.nn.Module, scale: float = 0.2, seed: int = 1) -> None:
    """Set weights far from zero; otherwise parity would prove little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * scale
            parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)


def small_mllm(seed: int = 1) -> LoadedMllm:
    loaded = random_llava(IMAGE_SIZE, PATCH_SIZE, 24, 2, 2, TEXTS, seed)
    scatter(loaded.model, seed=seed)
    loaded.model.eval()
    return loaded


def write_mllm(folder: Path, seed: int = 1) -> Path:
    """Save an LLM with its processor in a folder, in the form of a published one."""
    loaded = small_mllm(seed)
    loaded.model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    return folder


def write_language_model(folder: Path, seed: int = 1, unused_rows: int = 0) -> Path:
    """Save a small language model with tied embeddings and ChatML's tokens, as `amodal models fetch` would.

    Published embeddings often have unused rows after those of the tokens.
    """
    tokenizer = llava_processor(IMAGE_SIZE, PATCH_SIZE, TEXTS).tokenizer
    settings = tokenizer.backend_tokenizer.to_str()
    for token in (IMAGE_TOKEN, *MARKUP):  # a language model does not know AURA's tokens
        settings = settings.replace(token, f"<unused {token[1:-1]}>")
    core = Tokenizer.from_str(settings)
    chat = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<unk>",
    )
    config = LlamaConfig(
        vocab_size=len(chat) + unused_rows, hidden_size=24, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
        bos_token_id=chat.bos_token_id, eos_token_id=chat.eos_token_id,
    )  # fmt: skip
    model: Any = AutoModelForCausalLM.from_config(config)
    scatter(model, seed=seed)
    model.tie_weights()
    model.save_pretrained(folder)
    chat.save_pretrained(folder)
    return folder


def write_trunk_base(folder: Path) -> Path:
    """Save a small segmenter on an EfficientNet-Lite, with a detector."""
    ROWS["conv_prompt"].model().save_pretrained(folder)
    base = load_base(folder)
    encoder: Any = base.model.vision_encoder
    settings = DetectorConfig(["mug"], image_size=64, channels=8, base_fingerprint=base.origin.fingerprint)
    detector = DetectorModel(settings, encoder.backbone)
    scatter(detector.head, 0.1)
    torch.nn.init.zeros_(detector.head.score.bias)  # so that there are boxes
    detector.save_pretrained(folder)
    return folder


def small_trunk_mllm(folder: Path) -> LoadedMllm:
    """A language model in `folder/lm` that reads a trunk, beside a base in `folder/trunk`."""
    if not (folder / "lm").is_dir():
        write_language_model(folder / "lm")
        write_trunk_base(folder / "trunk")
    mllm = new_trunk_mllm(small_trunk_recipe(folder), folder / "trunk", ["background", "mug", "chair"])
    model: Any = mllm.model
    reader = model.model.vision_tower.reader
    scatter(reader.word, 3.0)  # large enough for the image to matter
    return mllm


@torch.no_grad()
def let_names_differ(model: AuraModel, pixels: torch.Tensor) -> None:
    """Let the regions of random images have different names; otherwise one name prevails in all of them."""
    tower: Any = model.mllm.model.vision_tower
    logits: list[torch.Tensor] = []
    handle = tower.reader.word.register_forward_hook(lambda _, inputs, output: logits.append(output))
    tower(pixels)
    handle.remove()
    tower.reader.word.bias -= logits[0].mean(0)


def small_trunk_recipe(folder: Path) -> TrunkMllmRecipe:
    """Five regions of small images, three of which are listed."""
    sizes = {"image_size": 64, "finder_size": 64, "region_size": 32, "num_regions": 5, "num_listed": 3}
    return TrunkMllmRecipe(language_model=str(folder / "lm"), **sizes)


def small_trunk_aura(folder: Path, **changes: Any) -> AuraModel:
    """LoRA on `small_trunk_mllm`; the trainable parts are changed."""
    mllm = small_trunk_mllm(folder)
    return with_changed_weights(AuraModel.from_base(mllm, folder / "trunk", small_config(**changes)))


def write_sam(folder: Path) -> Path:
    model = new_sam(small_sam_config(), seed=1)
    scatter(model.mask_decoder, 0.1)
    model.save_pretrained(folder)
    return folder


def small_config(**changes: Any) -> AuraConfig:
    settings: dict[str, Any] = {"image_size": 64, "lora_rank": 2, "spatial_channels": 4, "max_new_tokens": 12}
    return AuraConfig(**(settings | changes))


def small_aura(folder: Path, **changes: Any) -> AuraModel:
    """LoRA on an LLM in `folder/mllm`, backbone in `folder/sam`; the trainable parts are changed."""
    mllm, sam = folder / "mllm", folder / "sam"
    if not mllm.is_dir():
        write_mllm(mllm)
        write_sam(sam)
    return with_changed_weights(AuraModel.from_base(mllm, sam, small_config(**changes)))


def with_changed_weights(model: AuraModel, scale: float = 0.05) -> AuraModel:
    """Change every trainable tensor, as training would."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * scale)
    return model.eval()


def random_image(seed: int = 0, height: int = 40, width: int = 56) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def training_batch(model: AuraModel, answers: tuple[str, ...] = (ANSWER, "There is none.")) -> dict[str, Any]:
    """One question and answer per row, padded at the end."""
    from amodal.models.aura.processing import pad_rows

    processor: Any = model.processor
    rows = []
    for index, answer in enumerate(answers):
        row = processor.first_turn(random_image(index), "What could I drink from?")
        length, said = row["input_ids"].shape[1], torch.tensor([processor.answer_tokens(answer)])
        row["labels"] = torch.cat([torch.full((1, length), IGNORE_INDEX), said], dim=1)
        row["input_ids"] = torch.cat([row["input_ids"], said], dim=1)
        row["attention_mask"] = torch.ones_like(row["input_ids"])
        rows.append(row)
    batch = pad_rows(rows, processor.pad_token_id, front=False)
    batch["pixel_values_sam"] = torch.cat([processor.pixels_sam(random_image(i)) for i in range(len(answers))])
    return batch
