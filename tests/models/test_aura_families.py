"""The same classes with another LLM: Qwen2-VL, whose positions have three axes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from benchmarks.random_llava import llava_processor
from transformers import AutoModelForImageTextToText, Qwen2VLConfig, Qwen2VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from amodal.inference.assistant import AmodalAssistant
from amodal.models.aura import AuraModel
from amodal.models.aura.heads import seg_states
from amodal.models.aura.mllm import LoadedMllm
from tests.models.aura import (
    ANSWER,
    IMAGE_SIZE,
    PATCH_SIZE,
    TEXTS,
    random_image,
    scatter,
    small_config,
    with_changed_weights,
)
from tests.models.conftest import small_sam_config

QUESTION = "What could I drink from?"
TOKENS = ("<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' if c['type'] == 'image' else c['text'] }}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
)


@pytest.fixture
def assistant(monkeypatch: pytest.MonkeyPatch) -> AmodalAssistant:
    """Random weights; without the processor for videos, which needs another package."""
    monkeypatch.setattr(Qwen2VLProcessor, "check_argument_for_proper_class", lambda *_: None)
    tokenizer = llava_processor(IMAGE_SIZE, PATCH_SIZE, TEXTS).tokenizer
    tokenizer.add_tokens(list(TOKENS), special_tokens=True)
    pixels = Qwen2VLImageProcessorPil(min_pixels=28 * 28 * 4, max_pixels=28 * 28 * 16)
    processor = Qwen2VLProcessor(pixels, tokenizer, video_processor=None, chat_template=TEMPLATE)
    numbers = dict(zip(TOKENS, tokenizer.convert_tokens_to_ids(list(TOKENS)), strict=True))
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "rope_parameters": rope,
    }  # fmt: skip
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 14, "mlp_ratio": 2}
    config = Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=numbers["<|image_pad|>"],
        video_token_id=numbers["<|video_pad|>"],
        vision_start_token_id=numbers["<|vision_start|>"],
        vision_end_token_id=numbers["<|vision_end|>"],
    )
    mllm: Any = AutoModelForImageTextToText.from_config(config)
    scatter(mllm, 0.1)
    base = LoadedMllm(mllm.eval(), processor)
    return AmodalAssistant(with_changed_weights(AuraModel.from_base(base, small_sam_config(), small_config())))


def test_states_of_two_cached_turns_equal_a_full_forward(assistant: AmodalAssistant) -> None:
    model, processor = assistant.model, assistant.processor
    calls: list[int] = []
    model.mllm.model.visual.register_forward_hook(lambda *_: calls.append(1))
    chat = assistant.chat(random_image(0, 60, 90))
    dialogue = chat._begin(QUESTION)
    cached = [dialogue.answer(40, given=[ANSWER]).states]
    dialogue.follow(["What is behind it?"])
    cached.append(dialogue.answer(40, given=[ANSWER]).states)
    assert len(calls) == 1
    inputs = processor([random_image(0, 60, 90)], [QUESTION]).mllm
    length, more = inputs["input_ids"].shape[1], dialogue.tokens.shape[1] - inputs["input_ids"].shape[1]
    types = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, more))
    assert types.shape[1] == length + more
    with model.recorded_states() as recorded, torch.no_grad():
        model.mllm(
            input_ids=dialogue.tokens,
            attention_mask=dialogue.attention,
            mm_token_type_ids=types,
            pixel_values=inputs["pixel_values"],
            image_grid_thw=inputs["image_grid_thw"],
        )
    full, _ = seg_states(recorded[0][:, :-1], dialogue.tokens[:, 1:], processor.seg_token_id)
    torch.testing.assert_close(torch.cat(cached), full, atol=1e-5, rtol=1e-5)


def test_images_of_different_sizes_in_one_batch(assistant: AmodalAssistant) -> None:
    pairs: list[Any] = [(random_image(0, 60, 90), QUESTION), (random_image(1, 90, 60), "Is there anything to sit on?")]
    together = assistant.ask_batch(pairs, max_new_tokens=8)
    alone = [assistant.ask(*pair, max_new_tokens=8) for pair in pairs]
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    assert len(alone[0].text) > 2
