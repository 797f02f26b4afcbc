"""Answers, written by the LLM token by token, with the state behind each mask token.

Conversations go on from a key-value cache: a later question costs its own tokens and those of the
answer, nothing of the picture or of what was said before.

Axes: B conversations, T tokens so far, A tokens of an answer, D width of the LLM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

from amodal.errors import InputError
from amodal.models.aura.heads import seg_states
from amodal.models.aura.processing import AuraProcessor, pad_rows
from amodal.models.aura.prompts import TextPart, answer_parts

if TYPE_CHECKING:
    from amodal.models.aura.modeling import AuraModel

OnPart = Callable[[TextPart], None]


@dataclass
class Answers:
    """What was written in one turn.

    Attributes:
        tokens: of each conversation's answer, without its end token.
        states: (N, D) of the mask tokens, conversation by conversation.
        rows: (N,) which conversation each belongs to.
        image_tokens: (B, n, D) of the pictures, kept from the first turn; None where no box is read.
    """

    tokens: list[list[int]]
    states: Tensor
    rows: Tensor
    image_tokens: Tensor | None = None


class Dialogue:
    """B conversations that take their turns together, one picture each.

    Args:
        model: in evaluation mode.
        processor: that belongs to it.
    """

    def __init__(self, model: AuraModel, processor: AuraProcessor) -> None:
        self.model, self.processor = model, processor
        self.cache: Any = None
        self.tokens = torch.zeros(0, 0, dtype=torch.long)  # (B, T)
        self.attention = torch.zeros(0, 0, dtype=torch.long)  # (B, T), 0 for padding
        self.first: dict[str, Tensor] = {}
        self.image_tokens: Tensor | None = None

    @torch.inference_mode()
    def begin(self, inputs: dict[str, Tensor]) -> None:
        """Take in pictures and first questions, padded at the front.

        Args:
            inputs: `AuraInputs.mllm`.
        """
        dtype = self.model.mllm.dtype
        inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        self.tokens, self.attention = inputs.pop("input_ids"), inputs.pop("attention_mask")
        if self.model.prompt_encoder.box_reader is not None:
            self.image_tokens = self.model.image_tokens(inputs["pixel_values"])
        self.first, self.cache = inputs, DynamicCache(config=self.model.mllm.config.get_text_config())

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Leaves the history as it was where a turn is refused or broken off."""
        before = self.tokens, self.attention, self.first
        length = self.cache.get_seq_length()
        try:
            yield
        except BaseException:
            self.tokens, self.attention, self.first = before
            added = self.cache.get_seq_length() - length
            if length and added:
                self.cache.crop(-added)
            raise

    def follow(self, questions: Sequence[str]) -> None:
        """Take in later questions, one a conversation."""
        later = [torch.tensor([self.processor.later_turn(question)]) for question in questions]
        rows = pad_rows(
            [{"input_ids": t, "attention_mask": torch.ones_like(t)} for t in later],
            self.processor.pad_token_id,
            front=True,
        )
        self._append(rows["input_ids"].to(self.tokens.device), rows["attention_mask"].to(self.tokens.device))

    @torch.inference_mode()
    def answer(
        self, max_new_tokens: int, *, given: Sequence[str] | None = None, on_part: OnPart | None = None
    ) -> Answers:
        """Let the LLM answer what was asked last; greedy.

        Args:
            max_new_tokens: longest answer.
            given: the words to say, with mask tokens and markup, in the place of the LLM's own.
            on_part: called with pieces of the answer as they are written (one conversation).

        Returns:
            Tokens, and the states behind the mask tokens.

        Raises:
            InputError: the conversation has grown longer than the LLM can read.
        """
        forced = None if given is None else [self.processor.answer_tokens(text) for text in given]
        if forced is not None:
            max_new_tokens = max(map(len, forced))
        self._check_length(max_new_tokens)
        asked = self.tokens.shape[1]
        with self.model.recorded_states() as recorded:
            written = self.model.mllm.generate(
                input_ids=self.tokens,
                attention_mask=self.attention,
                past_key_values=self.cache,
                generation_config=self._settings(max_new_tokens),
                logits_processor=LogitsProcessorList([] if forced is None else [_Say(forced, asked)]),
                streamer=None if on_part is None else _Pieces(self.processor, on_part),
                **self.first,
            )
        answered = written[:, asked:]  # (B, A)
        states = torch.cat([state[:, -1:] for state in recorded], dim=1)  # (B, A, D)
        spoken = self._spoken(answered)
        self._remember(answered, spoken)
        picked, rows = seg_states(states, answered.where(spoken > 0, -1), self.processor.seg_token_id)
        ends = set(self.processor.end_token_ids)
        said = [row[mask > 0].tolist() for row, mask in zip(answered, spoken, strict=True)]
        return Answers([[token for token in row if token not in ends] for row in said], picked, rows, self.image_tokens)

    def _settings(self, max_new_tokens: int) -> GenerationConfig:
        return GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=self.processor.end_token_ids,
            pad_token_id=self.processor.pad_token_id,
            use_cache=True,
        )

    def _check_length(self, more: int) -> None:
        limit = getattr(self.model.mllm.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and self.tokens.shape[1] + more > limit:
            raise InputError(
                f"conversation: expected at most {limit} tokens, got {self.tokens.shape[1]} and an answer of up to "
                f"{more}; begin a new one"
            )

    def _spoken(self, answered: Tensor) -> Tensor:
        """(B, A) 1 up to and with the end token of each answer, 0 for what only fills the batch."""
        ended = torch.isin(answered, torch.tensor(self.processor.end_token_ids, device=answered.device)).long()
        return ((ended.cumsum(1) - ended) == 0).long()

    def _remember(self, answered: Tensor, spoken: Tensor) -> None:
        """The history with the answers; one that was cut off gets its end token."""
        self._append(answered, spoken)
        ends = torch.tensor(self.processor.end_token_ids, device=answered.device)
        cut = ~(torch.isin(answered, ends) & (spoken > 0)).any(1)
        if cut.any():
            end = torch.where(cut, self.processor.end_token_id, self.processor.pad_token_id)
            self._append(end[:, None], cut.long()[:, None])

    def _append(self, tokens: Tensor, attention: Tensor) -> None:
        self.tokens = torch.cat([self.tokens, tokens], dim=1)
        self.attention = torch.cat([self.attention, attention], dim=1)
        # Token types and the like are as long as the history; pixels are used up.
        self.first = {
            name: torch.nn.functional.pad(value, (0, tokens.shape[1]))
            for name, value in self.first.items()
            if value.dim() == 2 and value.shape[1] == self.tokens.shape[1] - tokens.shape[1]
        }


class _Say(LogitsProcessor):
    """Leaves only the next token of given answers possible."""

    def __init__(self, answers: Sequence[Sequence[int]], start: int) -> None:
        self.answers, self.start = answers, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self.start
        forced = torch.full_like(scores, -torch.inf)
        for row, answer in enumerate(self.answers):
            forced[row, answer[min(step, len(answer) - 1)]] = 0
        return forced


class AnswerStream:
    """Turns a growing answer into pieces that stay as they are.

    Words are passed on as they come; words that name an object together with its number, when
    its mask token is there. Half-written markup is held back.

    Args:
        seg_token: text of the mask token.
        on_part: called with each piece.
    """

    def __init__(self, seg_token: str, on_part: OnPart) -> None:
        self.seg_token, self.on_part = seg_token, on_part
        self._letters = self._objects = 0

    def push(self, text: str, *, complete: bool = False) -> None:
        """The answer so far, with mask tokens and markup."""
        parts = answer_parts(text if complete else self._definite(text), self.seg_token)
        place = 0
        for part in parts:
            words = part.text[max(self._letters - place, 0) :]
            objects = tuple(number for number in part.objects if number >= self._objects)
            place += len(part.text)
            if words or objects:
                self.on_part(TextPart(words, objects))
        self._letters = max(self._letters, place)
        self._objects = max(self._objects, sum(len(part.objects) for part in parts))

    def _definite(self, text: str) -> str:
        opened = text.rfind("<p>")
        if opened >= 0 and self.seg_token not in text[opened:]:
            return text[:opened]
        for mark in ("<p>", "</p>", self.seg_token):
            for length in range(len(mark) - 1, 0, -1):
                if text.endswith(mark[:length]):
                    return text[: len(text) - length]
        return text


class _Pieces(BaseStreamer):
    """Feeds an `AnswerStream` from generation."""

    def __init__(self, processor: AuraProcessor, on_part: OnPart) -> None:
        self.processor = processor
        self.stream = AnswerStream(processor.seg_token, on_part)
        self.tokens: list[int] = []
        self.asked = False

    def put(self, value: Tensor) -> None:
        """The prompt first, then each token."""
        if not self.asked:
            self.asked = True
            return
        self.tokens += [t for t in value.reshape(-1).tolist() if t not in self.processor.end_token_ids]
        text = self.processor.decode(self.tokens)
        if not text.endswith("\ufffd"):  # half a character
            self.stream.push(text)

    def end(self) -> None:
        """The answer is complete."""
        self.stream.push(self.processor.decode(self.tokens), complete=True)
