"""A second question about the same picture: kept features and cache against re-running everything.

    python benchmarks/chat.py                    # SAM ViT-B at 1,024 px, LLaVA-form LLM, random weights
    python benchmarks/chat.py --model aura-tiny
    python benchmarks/chat.py --quick

All contenders give the same answer of the same length (the words are given, weights may be random), so
what differs is what is computed. "everything again" is what peers do: both vision encoders, and the
whole history from the first token. Aim: turn 2 at most 0.35 of that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import measure
import numpy as np
import torch

from amodal.inference.assistant import AmodalAssistant
from amodal.models.aura import AuraConfig, AuraModel
from amodal.models.aura.generation import Dialogue
from amodal.models.aura.tiny import TinyMllmSizes, new_tiny_mllm
from amodal.models.sam import sam_config_for

QUESTIONS = ("What could I drink from?", "And what must be moved to reach it?")
ANSWERS = ("You could drink from <p>the mug</p> [SEG].", "You must move <p>the book</p> [SEG] first.")
AIM = 0.35


def random_model(quick: bool) -> AuraModel:
    """LLaVA's form at a size that two cores can wait for: 576 image tokens as LLaVA-1.5 has."""
    sizes = TinyMllmSizes(
        vision_image_size=64 if quick else 336,
        vision_patch_size=8 if quick else 14,
        vision_hidden_size=64 if quick else 768,
        vision_layers=2 if quick else 12,
        vision_heads=2 if quick else 12,
        text_hidden_size=64 if quick else 768,
        text_layers=2 if quick else 12,
        text_heads=2 if quick else 12,
        vocabulary=400,
    )
    config = AuraConfig(image_size=128 if quick else 1024, train_mllm=True, lora_rank=0)
    sam = sam_config_for("sam-tiny" if quick else "vit-b")
    return AuraModel.from_base(new_tiny_mllm(sizes, [*QUESTIONS, *ANSWERS]), sam, config)


class Contest:
    """The same two turns, computed in three ways."""

    def __init__(self, assistant: AmodalAssistant) -> None:
        self.assistant = assistant
        self.image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
        self.chat = assistant.chat(self.image)
        self.chat.ask(QUESTIONS[0], answer=ANSWERS[0])
        dialogue: Any = self.chat._dialogue
        self.dialogue: Dialogue = dialogue
        self.before = dialogue.tokens, dialogue.attention, dialogue.first, dialogue.cache.get_seq_length()

    def first(self) -> str:
        """Turn 1, from nothing."""
        return self.assistant.chat(self.image).ask(QUESTIONS[0], answer=ANSWERS[0]).text

    def kept(self) -> str:
        """Turn 2 of a conversation."""
        reply = self.chat.ask(QUESTIONS[1], answer=ANSWERS[1])
        *state, length = self.before
        self.dialogue.tokens, self.dialogue.attention, self.dialogue.first = state
        self.dialogue.cache.crop(length - self.dialogue.cache.get_seq_length())
        return reply.text

    def again(self) -> str:
        """Turn 2, everything computed anew."""
        assistant = self.assistant
        inputs = assistant.processor([self.image], [QUESTIONS[0]]).to(assistant.device)
        features = assistant.encode(inputs.sam_pixel_values)
        dialogue = Dialogue(assistant.model, assistant.processor)
        dialogue.begin(inputs.mllm | {"input_ids": self.before[0], "attention_mask": self.before[1]})
        later = torch.tensor([assistant.processor.later_turn(QUESTIONS[1])])
        dialogue.tokens = torch.cat([dialogue.tokens, later], dim=1)
        dialogue.attention = torch.ones_like(dialogue.tokens)
        made = dialogue.answer(64, given=[ANSWERS[1]])
        return assistant.replies(made, features, [self.image], [QUESTIONS[1]])[0].text


def main() -> None:
    """Time the three in turns, print a table and JSON."""
    model = {"default": None, "help": "bundled name, folder or hub id; random weights if not given"}
    options = measure.arguments(__doc__, model=model, dtype={"default": "float32"})
    if options.model is None:
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[options.dtype]
        assistant = AmodalAssistant(random_model(options.quick), dtype=dtype)
    else:
        assistant = AmodalAssistant.from_pretrained(options.model, device="cpu", dtype=options.dtype)
    contest = Contest(assistant)
    assert contest.kept() == contest.again()
    contenders: dict[str, Callable[[], object]] = {
        "turn 1": contest.first,
        "turn 2, kept": contest.kept,
        "turn 2, everything again": contest.again,
    }
    times = measure.interleave(contenders, options.rounds)
    again = times["turn 2, everything again"]["seconds"]
    rows = [{"what": name, **row, "share": row["seconds"] / again} for name, row in times.items()]
    share = times["turn 2, kept"]["seconds"] / again
    counts = {"tokens_before_turn_2": int(contest.before[0].shape[1]), "model": options.model or "random weights"}
    measure.finish("chat", options, rows, {"x": "what", "y": "seconds"}, share=share, aim=AIM, **counts)


if __name__ == "__main__":
    main()
