"""Conversations as text: the text around questions and answers, and the parts of an answer.

The text around a question is derived from the chat template of the LLM's own processor, so that no
LLM needs its own code here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from amodal.errors import InputError

# Vicuna's form, which LLaVA-1.5 was trained with, for processors without a chat template.
_FALLBACK = (
    "{% for m in messages %}{{ m['role'].upper() }}: "
    "{% for c in m['content'] if c['type'] == 'image' %}{{ image_token }}\n{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}"
    "{{ ' ' if m['role'] == 'user' else eos_token }}{% endfor %}"
)
_QUESTIONS = ("QQ-first-QQ", "QQ-second-QQ")
_ANSWERS = ("AA-first-AA", "AA-second-AA")
_MARKED = re.compile(r"<p>(.*?)</p>\s*$", re.DOTALL)
_MARKUP = re.compile(r"</?p>")


@dataclass(frozen=True)
class TurnTemplate:
    """Text around the questions of a conversation.

    Attributes:
        first: text before the first question, with the image token.
        later: text before each later question, after the previous answer and its end token.
        answer: text between a question and its answer.
        end: text of the token that ends an answer.
    """

    first: str
    later: str
    answer: str
    end: str

    def prompt(self, question: str, *, first: bool) -> str:
        """Return the text from the end of the previous answer to the start of the next."""
        return f"{self.first if first else self.later}{question}{self.answer}"


def turn_template(processor: Any, chat_template: str | None = None) -> TurnTemplate:
    """Derive the text around questions from a chat template, by rendering a conversation of two turns.

    Args:
        processor: a processor of transformers with a tokenizer.
        chat_template: used instead of the processor's own.

    Raises:
        InputError: there is no end token, or the template drops or reorders questions and answers.
    """
    tokenizer = processor.tokenizer
    if tokenizer.eos_token is None:
        raise InputError("processor: expected a tokenizer with an end token, got one without")
    image = {"type": "image"}
    messages = []
    for index, (question, answer) in enumerate(zip(_QUESTIONS, _ANSWERS, strict=True)):
        content = ([image] if index == 0 else []) + [{"type": "text", "text": question}]
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    template = chat_template or processor.chat_template or tokenizer.chat_template
    text = tokenizer.apply_chat_template(
        messages,
        chat_template=template or _FALLBACK,
        tokenize=False,
        image_token=getattr(processor, "image_token", "<image>"),
    )
    pieces = re.split("|".join((_QUESTIONS[0], _ANSWERS[0], _QUESTIONS[1], _ANSWERS[1])), text)
    if len(pieces) != 5 or pieces[1] != pieces[3]:
        raise InputError("processor: expected a chat template that keeps questions and answers in order, got another")
    first, answer, between, _, after = pieces
    # The token with which the template ends an answer; otherwise the tokenizer's own.
    end = _end_token(between, after, tokenizer)
    later = between.removeprefix(end) if between.startswith(end) else between
    return TurnTemplate(first, later, answer.rstrip(" "), end)


def _end_token(between: str, after: str, tokenizer: Any) -> str:
    shared = between if after.startswith(between) else after
    for token in sorted(special_tokens(tokenizer), key=len, reverse=True):
        if token and shared.startswith(token):
            return token
    return str(tokenizer.eos_token)


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """Return the ids of all special tokens by name, including added ones without a role."""
    found = {str(token): number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return found | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


def seg_token_id(tokenizer: Any, token: str) -> int:
    """Return the id of the `[SEG]` token.

    Raises:
        InputError: the tokenizer does not know it as one token.
    """
    numbers = tokenizer(token, add_special_tokens=False)["input_ids"]
    if len(numbers) != 1 or numbers[0] == tokenizer.unk_token_id:
        pieces = tokenizer.convert_ids_to_tokens(numbers)
        raise InputError(f"tokenizer: expected {token!r} to be one token, got {len(numbers)}: {pieces}")
    return int(numbers[0])


@dataclass(frozen=True)
class TextPart:
    """A part of an answer without markup.

    Attributes:
        text: the words.
        objects: numbers of the objects that the words name; empty for the words in between.
    """

    text: str
    objects: tuple[int, ...] = ()


def answer_parts(text: str, seg_token: str) -> list[TextPart]:
    """Split an answer of the LLM into words and the objects that they name.

    All markup is removed: `<p>the mug</p> [SEG]` becomes the words "the mug", which name one object.
    Several `[SEG]` tokens in a row belong to the same words. A `[SEG]` token without marked words makes a
    part with an object and without words.

    Args:
        text: decoded answer with `seg_token`s and phrase markup.
        seg_token: text of the `[SEG]` token.

    Returns:
        Parts whose joined text is the answer; objects are numbered from 0 in their order.
    """
    parts: list[TextPart] = []
    pieces = text.split(seg_token)
    for index, piece in enumerate(pieces):
        named = index < len(pieces) - 1
        if named and index > 0 and not piece.strip() and parts and parts[-1].objects:
            parts[-1] = TextPart(parts[-1].text, (*parts[-1].objects, index))
            continue
        marked = _MARKED.search(piece) if named else None
        before = _MARKUP.sub("", piece[: marked.start()] if marked else piece)
        if before:
            parts.append(TextPart(before if marked or not named else before.rstrip()))
        if named:
            phrase = _MARKUP.sub("", marked[1]).strip() if marked else ""
            parts.append(TextPart(phrase, (index,)))
    return _tidied(parts)


def _tidied(parts: list[TextPart]) -> list[TextPart]:
    """Remove spaces at both ends, double spaces, and spaces before punctuation."""
    tidy: list[TextPart] = []
    for part in parts:
        text = re.sub(r"\s+", " ", part.text)
        ended = not tidy or tidy[-1].text.endswith(" ")
        if not part.objects:
            text = re.sub(r"\s+([,.;:!?])", r"\1", text)
        if ended and not part.objects:
            text = text.lstrip()
        if text or part.objects:
            tidy.append(TextPart(text, part.objects))
    if tidy and not tidy[-1].objects:
        tidy[-1] = TextPart(tidy[-1].text.rstrip())
    return tidy


def phrases(parts: list[TextPart]) -> list[str | None]:
    """Return the words that name each object, in order; None for an object without marked words."""
    named = [(number, part.text or None) for part in parts for number in part.objects]
    return [phrase for _, phrase in sorted(named, key=lambda pair: pair[0])]
