"""Measure later questions of a conversation: with cached features, and with everything computed again.

    python benchmarks/chat.py                    # SAM ViT-B at 1,024 px, LLaVA-form LLM, random weights
    python benchmarks/chat.py --model aura-small
    python benchmarks/chat.py --quick

The conversation asks five questions about one image. All contenders produce the same answer of the same length (the
words are given, weights may be random), so they differ only in what they compute. "Everything again" runs both vision
encoders and the whole history from the first token, as other implementations do. Goal: turn 2 takes at most 0.35 of
that. Two further contenders answer turn 2 with one word and with twenty, which gives the tokens per second; no masks
are made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import measure
import numpy as np
import numpy.typing as npt
import torch
from random_llava import random_llava
from random_sam import SMALL, named_base

from amodal.inference.assistant import AmodalAssistant
from amodal.models.aura import AuraConfig, AuraModel
from amodal.models.aura.generation import Dialogue

TURNS = (
    ("What could I drink from?", "You could drink from <p>the mug</p> [SEG]."),
    ("And what must be moved to reach it?", "You must move <p>the book</p> [SEG] first."),
    ("Is anything behind it?", "Yes, <p>the lamp</p> [SEG] is."),
    ("How much of it is hidden?", "About a third of <p>the lamp</p> [SEG] is hidden."),
    ("Is there anything to sit on?", "No, there is nothing to sit on."),
)
GOAL = 0.35
ONE_WORD = "No"
TWENTY_WORDS = "From left to right, the image shows the mug, the book, the lamp, the chair, the table and another mug."


def random_model(quick: bool) -> AuraModel:
    """Build a LLaVA-form model small enough for two cores, with 576 image tokens as LLaVA-1.5 has."""
    mllm = random_llava(
        image_size=64 if quick else 336,
        patch_size=8 if quick else 14,
        width=64 if quick else 768,
        layers=2 if quick else 12,
        heads=2 if quick else 12,
        texts=[text for turn in TURNS for text in turn],
    )
    config = AuraConfig(image_size=128 if quick else 1024, train_mllm=True, lora_rank=0)
    sam = named_base(SMALL if quick else "vit-b")
    return AuraModel.from_base(mllm, sam, config)


class LaterTurn:
    """A later turn of the conversation, which can be computed in two ways.

    Args:
        assistant: the assistant that answers.
        image: the image that the questions are about.
        number: number of the turn, from 2.
    """

    def __init__(self, assistant: AmodalAssistant, image: npt.NDArray[np.uint8], number: int) -> None:
        self.assistant, self.image = assistant, image
        self.question, self.answer = TURNS[number - 1]
        self.chat = assistant.chat(image)
        for question, answer in TURNS[: number - 1]:
            self.chat.ask(question, answer=answer)
        dialogue: Any = self.chat._dialogue
        self.dialogue: Dialogue = dialogue
        self.before = dialogue.tokens, dialogue.attention, dialogue.first, dialogue.cache.get_seq_length()

    def cached(self, answer: str | None = None) -> str:
        """Answer with the cached features and tokens of the earlier turns, in other words if there are some."""
        reply = self.chat.ask(self.question, answer=answer or self.answer)
        *state, length = self.before
        self.dialogue.tokens, self.dialogue.attention, self.dialogue.first = state
        self.dialogue.cache.crop(length - self.dialogue.cache.get_seq_length())
        return reply.text

    def recomputed(self) -> str:
        """Answer after computing everything again."""
        assistant = self.assistant
        inputs = assistant.processor([self.image], [TURNS[0][0]]).to(assistant.device)
        features = assistant.encode(inputs.pixel_values_sam)
        dialogue = Dialogue(assistant.model, assistant.processor)
        dialogue.begin(inputs.mllm | {"input_ids": self.before[0], "attention_mask": self.before[1]})
        later = torch.tensor([assistant.processor.later_turn(self.question)])
        dialogue.tokens = torch.cat([dialogue.tokens, later], dim=1)
        dialogue.attention = torch.ones_like(dialogue.tokens)
        made = dialogue.answer(64, given=[self.answer])
        return assistant.replies(made, features, [self.image], [self.question])[0].text


def main() -> None:
    """Time all turns alternately and print a table and JSON."""
    model = {"default": None, "help": "bundled name, folder or hub id; default: random weights"}
    options = measure.arguments(__doc__, model=model, dtype={"default": "float32"})
    if options.model is None:
        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[options.dtype]
        assistant = AmodalAssistant(random_model(options.quick), dtype=dtype)
    else:
        assistant = AmodalAssistant.from_pretrained(options.model, device="cpu", dtype=options.dtype)
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    question, answer = TURNS[0]
    contenders: dict[str, Callable[[], object]] = {"turn 1": lambda: assistant.chat(image).ask(question, answer=answer)}
    later = {number: LaterTurn(assistant, image, number) for number in range(2, len(TURNS) + 1)}
    for number, turn in later.items():
        assert turn.cached() == turn.recomputed()
        contenders |= {f"turn {number}, cached": turn.cached, f"turn {number}, everything again": turn.recomputed}
    contenders |= {
        f"turn 2, {name}": lambda words=words: later[2].cached(words)
        for name, words in (("one word", ONE_WORD), ("20 words", TWENTY_WORDS))
    }
    times = measure.interleave(contenders, options.rounds)
    rows = [{"what": name, **row} for name, row in times.items()]
    shares = {
        number: times[f"turn {number}, cached"]["seconds"] / times[f"turn {number}, everything again"]["seconds"]
        for number in later
    }
    tokens = {number: int(turn.before[0].shape[1]) for number, turn in later.items()}
    one, twenty = (len(assistant.processor.answer_tokens(words)) for words in (ONE_WORD, TWENTY_WORDS))
    seconds = times["turn 2, 20 words"]["seconds"] - times["turn 2, one word"]["seconds"]
    facts = {
        "shares": shares,
        "tokens_before": tokens,
        "tokens_per_second": (twenty - one) / seconds,
        "model": options.model or "random weights",
    }
    measure.finish("chat", options, rows, {"x": "what", "y": "seconds"}, share=shares[2], goal=GOAL, **facts)


if __name__ == "__main__":
    main()
