"""A LLaVA of transformers with random weights and its own tokenizer, for benchmarks and tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from amodal.models.aura.mllm import LoadedMllm

VOCABULARY = 400
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
MARKUP = ["<p>", "</p>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% for c in m['content'] if c['type'] == 'image' %}<image>{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}"
    "{{ ('Q: ' if m['role'] == 'user' else '') + c['text'] + ('\nA:' if m['role'] == 'user' else '</s>') }}"
    "{% endfor %}{% endfor %}"
)


def llava_processor(image_size: int, patch_size: int, texts: Iterable[str]) -> Any:
    """LLaVA's processor with a byte-pair tokenizer that is trained on `texts` and has the markup of phrases."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator((text.replace("<p>", " ").replace("</p>", " ") for text in texts), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.add_tokens(MARKUP)
    crop = {"height": image_size, "width": image_size}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=crop),
        tokenizer=tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLIP's token of the whole image
        chat_template=CHAT_TEMPLATE,
    )


def llava_config(tokenizer: Any, image_size: int, patch_size: int, width: int, layers: int, heads: int) -> LlavaConfig:
    """A vision tower and a language model of the same width and depth.

    Args:
        tokenizer: of `llava_processor`.
        image_size: side of the square image in pixels.
        patch_size: side of an image token in pixels.
        width: of tower and language model.
        layers: of each of them.
        heads: of each layer.
    """
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    vision = CLIPVisionConfig(intermediate_size=4 * width, image_size=image_size, patch_size=patch_size, **sizes)
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        intermediate_size=-(-width * 8 // 3 // 32) * 32,  # Llama's two thirds of 4 D
        num_key_value_heads=heads,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )


def random_llava(
    image_size: int, patch_size: int, width: int, layers: int, heads: int, texts: Iterable[str], seed: int = 0
) -> LoadedMllm:
    """The model and its processor; arguments as for `llava_config`, and `texts` to train the tokenizer on."""
    processor = llava_processor(image_size, patch_size, texts)
    tokenizer = processor.tokenizer
    torch.manual_seed(seed)
    model: Any = LlavaForConditionalGeneration(llava_config(tokenizer, image_size, patch_size, width, layers, heads))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return LoadedMllm(model, processor)
