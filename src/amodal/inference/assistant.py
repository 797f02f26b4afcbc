"""`AmodalAssistant`: a picture and questions in, answers with whole objects out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from amodal.errors import InputError
from amodal.inference.scene import Scene, SceneObject
from amodal.inference.segmenter import pick_device, pick_dtype
from amodal.io.images import ImageSource, load_image
from amodal.models.aura import AuraModel, AuraProcessor
from amodal.models.aura.adapters import merge_adapters
from amodal.models.aura.generation import Answers, Dialogue, OnPart
from amodal.models.aura.prompts import TextPart, answer_parts, phrases

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        text: the words, without markup.
        scene: the objects that the answer names, in its order; none where nothing answers.
        parts: the words in pieces, each with the numbers of the objects it names.
        occlusion_rates: of each object as the model states them, in [0, 1]; None for a model
            without Occlusion Condition Encoder. `scene.objects` has those of the masks.
    """

    text: str
    scene: Scene
    parts: tuple[TextPart, ...]
    occlusion_rates: tuple[float, ...] | None = None


class AmodalAssistant:
    """Answers questions about pictures, with a visible and an amodal mask an object.

    Greedy; the same question gives the same answer. Masks follow the rules of
    `AmodalSegmenter`: probabilities are resized to the picture and compared with the model's
    threshold, and the amodal mask is united with the visible one.

    Args:
        model: an `AuraModel` with its processor.
        device: where it runs.
        dtype: precision of the network.
    """

    def __init__(
        self, model: AuraModel, device: torch.device | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        if model.processor is None:
            raise InputError("model: expected an AuraModel with its processor, got one without")
        self.device = device or torch.device("cpu")
        self.dtype = dtype
        self.processor: AuraProcessor = model.processor
        self.model = model.to(self.device).eval()
        self.model.mllm.to(dtype)

    @classmethod
    def from_pretrained(
        cls, name: str | Path = "aura-tiny", *, device: str = "auto", dtype: str = "auto"
    ) -> AmodalAssistant:
        """Load a model.

        Args:
            name: bundled name, folder or hub id.
            device: `auto` (a GPU if there is one), `cpu`, `cuda`, ...
            dtype: `auto` (bfloat16 where it is faster), `float32` or `bfloat16`.

        Raises:
            InputError: unknown model, device or dtype, or a model without mask token.
        """
        place = pick_device(device)
        precision = pick_dtype(dtype, place)
        model = AuraModel.from_pretrained(name, mllm_dtype=precision)
        merge_adapters(model.mllm)
        return cls(model, place, precision)

    def chat(self, image: ImageSource) -> Chat:
        """Begin a conversation about a picture.

        Args:
            image: path, PIL image or (H, W, 3) uint8 RGB.

        Raises:
            InputError: an unreadable image.
        """
        return Chat(self, load_image(image))

    def ask(self, image: ImageSource, question: str, **options: Any) -> Reply:
        """One question about one picture; `Chat.ask`'s options.

        Raises:
            InputError: an unreadable image, or a question that is empty or too long.
        """
        return self.chat(image).ask(question, **options)

    def ask_batch(self, pairs: Sequence[tuple[ImageSource, str]], *, max_new_tokens: int | None = None) -> list[Reply]:
        """One question about each of several pictures, answered together.

        Args:
            pairs: pictures and questions.
            max_new_tokens: longest answer; the model's own if None.

        Returns:
            A reply each, the same as if asked one by one.

        Raises:
            InputError: as `ask`.
        """
        conversations = [(image, [question]) for image, question in pairs]
        return [replies[0] for replies in self.converse(conversations, max_new_tokens=max_new_tokens)]

    def converse(
        self,
        conversations: Sequence[tuple[ImageSource, Sequence[str]]],
        *,
        answers: Sequence[Sequence[str]] | None = None,
        max_new_tokens: int | None = None,
    ) -> list[list[Reply]]:
        """Several conversations side by side, each with its own history.

        Args:
            conversations: pictures and questions; they may be of different lengths.
            answers: words to say in each turn, with mask tokens and markup, in the place of the
                model's own (teacher forcing).
            max_new_tokens: longest answer; the model's own if None.

        Returns:
            One reply a question.

        Raises:
            InputError: as `ask`, or not one answer a question.
        """
        if not conversations:
            return []
        images = [load_image(image) for image, _ in conversations]
        asked = [list(questions) for _, questions in conversations]
        _check_turns(asked, answers)
        inputs = self.processor(images, [questions[0] for questions in asked]).to(self.device)
        features = self.encode(inputs.sam_pixel_values)
        dialogue = Dialogue(self.model, self.processor)
        replies: list[list[Reply]] = [[] for _ in images]
        for turn in range(max(map(len, asked))):
            # A conversation that is over repeats its last turn, so that the batch stays whole.
            questions = [row[min(turn, len(row) - 1)] for row in asked]
            given = None if answers is None else [row[min(turn, len(row) - 1)] for row in answers]
            if turn == 0:
                dialogue.begin(inputs.mllm)
            else:
                dialogue.follow(questions)
            made = dialogue.answer(max_new_tokens or self.model.config.max_new_tokens, given=given)
            for row, reply in enumerate(self.replies(made, features, images, questions)):
                if turn < len(asked[row]):
                    replies[row].append(reply)
        return replies

    @torch.inference_mode()
    def encode(self, sam_pixel_values: Tensor) -> Tensor:
        """Features (B, C, h, w) of the vision backbone."""
        with self._precision():
            return self.model.encode_image(sam_pixel_values.to(self.device))

    @torch.inference_mode()
    def replies(
        self, answers: Answers, features: Tensor, images: Sequence[Pixels], questions: Sequence[str]
    ) -> list[Reply]:
        """Decode all masks of one turn in one call, and put answers together.

        Args:
            answers: of B conversations.
            features: (B, C, h, w).
            images: B pictures.
            questions: what was asked.
        """
        with self._precision():
            boxes = None
            if answers.image_tokens is not None:
                boxes, _ = self.model.point(answers.states, answers.image_tokens, answers.rows)
            masks: Any = self.model.decode(answers.states, features, answers.rows, boxes)
        rows = answers.rows.tolist()
        made = []
        for row, (image, question) in enumerate(zip(images, questions, strict=True)):
            own = [index for index, owner in enumerate(rows) if owner == row]
            parts = tuple(answer_parts(self.processor.decode(answers.tokens[row]), self.processor.seg_token))
            text = "".join(part.text for part in parts)
            objects = self._objects(masks, own, image, phrases(list(parts)))
            size = (image.shape[0], image.shape[1])
            rates = None if masks.rates is None else tuple(masks.rates[own].float().tolist())
            made.append(Reply(text, Scene(objects, size, image, question, text), parts, rates))
        return made

    def _objects(self, masks: Any, own: list[int], image: Pixels, names: Sequence[str | None]) -> list[SceneObject]:
        size, threshold = (image.shape[0], image.shape[1]), self.model.config.mask_threshold
        objects = []
        for index, name in zip(own, names, strict=True):
            visible, amodal = (
                self.processor.image_probs(logits[index].float().sigmoid().cpu().numpy(), size) > threshold
                for logits in (masks.visible_logits, masks.amodal_logits)
            )
            score = float(masks.iou_scores[index].float().clamp(0, 1))
            objects.append(SceneObject.from_masks(visible, amodal, score=score, phrase=name))
        return objects

    def _precision(self) -> Any:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)


class Chat:
    """A conversation about one picture.

    The backbone's features and the LLM's key-value cache are kept: a later question costs neither
    vision encoder anything, and nothing said before is read again.

    Args:
        assistant: that answers.
        image: (H, W, 3) uint8 RGB.

    Attributes:
        replies: so far.
    """

    def __init__(self, assistant: AmodalAssistant, image: Pixels) -> None:
        self.assistant, self.image = assistant, image
        self.replies: list[Reply] = []
        self._features: Tensor | None = None
        self._dialogue: Dialogue | None = None

    def ask(
        self,
        question: str,
        *,
        answer: str | None = None,
        on_part: OnPart | None = None,
        max_new_tokens: int | None = None,
    ) -> Reply:
        """Ask about the picture, or about what was said before.

        Args:
            question: in words.
            answer: words to say, with mask tokens and markup, in the place of the model's own.
            on_part: called with pieces of the answer while it is written.
            max_new_tokens: longest answer; the model's own if None.

        Raises:
            InputError: a question that is empty or too long, or a conversation that has become
                longer than the model can read.
        """
        longest = max_new_tokens or self.assistant.model.config.max_new_tokens
        given = None if answer is None else [answer]
        dialogue = self._dialogue or self._begin(question)
        with dialogue.undone_on_error():
            if self._dialogue is not None:
                dialogue.follow([question])
            made = dialogue.answer(longest, given=given, on_part=on_part)
        assert self._features is not None
        reply = self.assistant.replies(made, self._features, [self.image], [question])[0]
        self.replies.append(reply)
        self._dialogue = dialogue
        return reply

    def _begin(self, question: str) -> Dialogue:
        assistant = self.assistant
        inputs = assistant.processor([self.image], [question]).to(assistant.device)
        if self._features is None:
            self._features = assistant.encode(inputs.sam_pixel_values)
        dialogue = Dialogue(assistant.model, assistant.processor)
        dialogue.begin(inputs.mllm)
        return dialogue


def _check_turns(asked: Sequence[Sequence[str]], answers: Sequence[Sequence[str]] | None) -> None:
    if not all(asked):
        raise InputError("question: expected at least one a conversation, got none")
    if answers is not None and [len(row) for row in answers] != [len(row) for row in asked]:
        raise InputError(
            f"answers: expected one a question, got {[len(row) for row in answers]} for {[len(row) for row in asked]}"
        )
