"""Generating AURA's answers token by token, with the state that predicts each `[SEG]` token.

Conversations continue from a key-value cache: for a later question the LLM reads only that question
and generates its answer; it does not read the image or earlier turns again.

Axes: B conversations, T tokens so far, A tokens of an answer, D width of the LLM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

from amodal.errors import InputError
from amodal.models.aura.heads import seg_states
from amodal.models.aura.modeling import AuraModel
from amodal.models.aura.processing import AuraProcessor, pad_rows
from amodal.models.aura.prompts import TextPart, answer_parts
from amodal.models.aura.regions import Regions

OnPart = Callable[[TextPart], None]


@dataclass
class Answers:
    """The answers of one turn.

    Attributes:
        tokens: of each conversation's answer, without its end token.
        states: (N, D) of the `[SEG]` tokens, conversation by conversation.
        rows: (N,) index of each `[SEG]` token's conversation.
        confidences: of each conversation's answer, the smallest of the probabilities of its tokens, in [0, 1].
        phrases: (N, K) of `AuraModel.phrases`.
        regions: of the images, for an LLM that reads words; kept from the first turn.
    """

    tokens: list[list[int]]
    states: Tensor
    rows: Tensor
    confidences: list[float]
    phrases: Tensor | None = None
    regions: Regions | None = None


class Dialogue:
    """B conversations in one batch, each about one image.

    Args:
        model: in evaluation mode.
        processor: of this model.
    """

    def __init__(self, model: AuraModel, processor: AuraProcessor) -> None:
        self.model, self.processor = model, processor
        self.cache: Any = None
        self.tokens = torch.zeros(0, 0, dtype=torch.long)  # (B, T)
        self.attention = torch.zeros(0, 0, dtype=torch.long)  # (B, T), 0 for padding
        self.first: dict[str, Tensor] = {}
        self.regions: Regions | None = None

    @torch.inference_mode()
    def begin(self, inputs: dict[str, Tensor]) -> None:
        """Read images and first questions, padded at the front.

        Args:
            inputs: `AuraInputs.mllm`.
        """
        dtype = self.model.mllm.dtype
        inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        self.tokens, self.attention = inputs.pop("input_ids"), inputs.pop("attention_mask")
        self.first, self.cache = inputs, DynamicCache(config=self.model.mllm.config.get_text_config())

    @contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Restore the history if a turn is refused or interrupted."""
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
        """Read later questions, one per conversation."""
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
        """Generate the answers to the latest questions, greedily.

        Args:
            max_new_tokens: maximum length of an answer.
            given: answers to write instead of the LLM's own, with `[SEG]` tokens and markup.
            on_part: called with each part of the answer during generation (one conversation only).

        Returns:
            Tokens, and the states that predict the `[SEG]` tokens.

        Raises:
            InputError: the conversation is longer than the LLM can read.
        """
        forced = None if given is None else [self.processor.answer_tokens(text) for text in given]
        if forced is not None:
            max_new_tokens = max(map(len, forced))
        self._check_length(max_new_tokens)
        prompt_length = self.tokens.shape[1]
        with self.model.recorded_states() as recorded, self.model.recorded_regions() as seen:
            generated = self.model.mllm.generate(
                input_ids=self.tokens,
                attention_mask=self.attention,
                past_key_values=self.cache,
                generation_config=self._settings(max_new_tokens),
                logits_processor=LogitsProcessorList([] if forced is None else [_ForcedAnswers(forced, prompt_length)]),
                streamer=None if on_part is None else _TokenStreamer(self.processor, on_part),
                **self.first,
            )
        self.regions = seen[0] if seen else self.regions
        answered = generated[:, prompt_length:]  # (B, A)
        states = torch.cat([state[:, -1:] for state in recorded], dim=1)  # (B, A, D)
        answer_mask = self._answer_mask(answered)
        self._remember(answered, answer_mask)
        said_tokens = answered.where(answer_mask > 0, -1)
        selected, rows = seg_states(states, said_tokens, self.processor.seg_token_id)
        ends = set(self.processor.end_token_ids)
        kept = [row[mask > 0].tolist() for row, mask in zip(answered, answer_mask, strict=True)]
        said = [[token for token in row if token not in ends] for row in kept]
        confidences = self._confidences(states, answered, answer_mask)
        phrases = self.model.phrases(said_tokens)
        return Answers(said, selected, rows, confidences, phrases, self.regions)

    def _confidences(self, states: Tensor, answered: Tensor, answer_mask: Tensor) -> list[float]:
        """The smallest of the probabilities of each answer's tokens.

        One token often decides what an answer says, and the others are certain. The mean of all is near 1 for
        wrong answers, too.
        """
        logits = self.model.mllm.get_output_embeddings()(states)
        chances = logits.float().log_softmax(-1).gather(-1, answered[..., None])[..., 0]
        smallest = chances.masked_fill(answer_mask == 0, 0).amin(1)
        return [float(value) for value in smallest.exp()]

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

    def _answer_mask(self, answered: Tensor) -> Tensor:
        """(B, A) 1 up to and including the end token of each answer, 0 for padding."""
        ended = torch.isin(answered, torch.tensor(self.processor.end_token_ids, device=answered.device)).long()
        return ((ended.cumsum(1) - ended) == 0).long()

    def _remember(self, answered: Tensor, answer_mask: Tensor) -> None:
        """Append the answers to the history; an answer that was cut off gets its end token."""
        self._append(answered, answer_mask)
        ends = torch.tensor(self.processor.end_token_ids, device=answered.device)
        cut = ~(torch.isin(answered, ends) & (answer_mask > 0)).any(1)
        if cut.any():
            end = torch.where(cut, self.processor.end_token_id, self.processor.pad_token_id)
            self._append(end[:, None], cut.long()[:, None])

    def _append(self, tokens: Tensor, attention: Tensor) -> None:
        self.tokens = torch.cat([self.tokens, tokens], dim=1)
        self.attention = torch.cat([self.attention, attention], dim=1)
        # Inputs like token types grow with the history; pixels are not needed any more.
        self.first = {
            name: torch.nn.functional.pad(value, (0, tokens.shape[1]))
            for name, value in self.first.items()
            if value.dim() == 2 and value.shape[1] == self.tokens.shape[1] - tokens.shape[1]
        }


class _ForcedAnswers(LogitsProcessor):
    """Allows only the next token of given answers."""

    def __init__(self, answers: Sequence[Sequence[int]], start: int) -> None:
        self.answers, self.start = answers, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self.start
        forced = torch.full_like(scores, -torch.inf)
        for row, answer in enumerate(self.answers):
            forced[row, answer[min(step, len(answer) - 1)]] = 0
        return forced


class AnswerStream:
    """Splits a growing answer into parts that later tokens do not change.

    Words are passed on at once; words that name an object are passed on with its number, after its
    `[SEG]` token. Incomplete markup is held back.

    Args:
        seg_token: text of the `[SEG]` token.
        on_part: called with each part.
    """

    def __init__(self, seg_token: str, on_part: OnPart) -> None:
        self.seg_token, self.on_part = seg_token, on_part
        self._num_letters = self._num_objects = 0

    def push(self, text: str, *, complete: bool = False) -> None:
        """Take the whole answer so far, with `[SEG]` tokens and markup, and pass on what is new."""
        parts = answer_parts(text if complete else self._definite(text), self.seg_token)
        place = 0
        for part in parts:
            words = part.text[max(self._num_letters - place, 0) :]
            objects = tuple(number for number in part.objects if number >= self._num_objects)
            place += len(part.text)
            if words or objects:
                self.on_part(TextPart(words, objects))
        self._num_letters = max(self._num_letters, place)
        self._num_objects = max(self._num_objects, sum(len(part.objects) for part in parts))

    def _definite(self, text: str) -> str:
        opened = text.rfind("<p>")
        if opened >= 0 and self.seg_token not in text[opened:]:
            return text[:opened]
        for mark in ("<p>", "</p>", self.seg_token):
            for length in range(len(mark) - 1, 0, -1):
                if text.endswith(mark[:length]):
                    return text[: len(text) - length]
        return text


class _TokenStreamer(BaseStreamer):
    """Passes generated tokens to an `AnswerStream`."""

    def __init__(self, processor: AuraProcessor, on_part: OnPart) -> None:
        self.processor = processor
        self.stream = AnswerStream(processor.seg_token, on_part)
        self.tokens: list[int] = []
        self.has_prompt = False

    def put(self, value: Tensor) -> None:
        """Take the prompt first, then each token."""
        if not self.has_prompt:
            self.has_prompt = True
            return
        self.tokens += [t for t in value.reshape(-1).tolist() if t not in self.processor.end_token_ids]
        text = self.processor.decode(self.tokens)
        if not text.endswith("\ufffd"):  # an incomplete character
            self.stream.push(text)

    def end(self) -> None:
        """Pass on the rest of the complete answer."""
        self.stream.push(self.processor.decode(self.tokens), complete=True)
