"""A LLaVA of transformers with random weights, small enough for unit tests, and its processor."""

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

IMAGE_SIZE, PATCH_SIZE = 32, 8
VOCABULARY = 320
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
MARKUP = ["<p>", "</p>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% for c in m['content'] if c['type'] == 'image' %}<image>{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}"
    "{{ ('Q: ' if m['role'] == 'user' else '') + c['text'] + ('\nA:' if m['role'] == 'user' else '</s>') }}"
    "{% endfor %}{% endfor %}"
)


def new_tiny_llava(texts: Iterable[str], seed: int = 0) -> LoadedMllm:
    """CLIP's vision tower, a projector and a Llama, with a tokenizer that is trained on `texts`."""
    processor = tiny_processor(texts)
    tokenizer = processor.tokenizer
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=24, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=2048, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model: Any = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return LoadedMllm(model, processor)


def tiny_processor(texts: Iterable[str]) -> Any:
    """LLaVA's processor with a byte-pair tokenizer that is trained on `texts`.

    The markup of phrases is two tokens of the vocabulary, which are not special, so that decoding keeps them.
    """
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    plain = (text.replace("<p>", " ").replace("</p>", " ") for text in texts)
    core.train_from_iterator(plain, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.add_tokens(MARKUP)
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=side),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLIP's token of the whole image
        chat_template=CHAT_TEMPLATE,
    )
