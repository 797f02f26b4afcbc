"""`AmodalAssistant`: from an image and questions to answers with visible and amodal masks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amodal.errors import InputError
from amodal.inference.devices import pick_device, pick_dtype
from amodal.inference.network_output import probs_of
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from amodal.io.images import ImageArray, ImageSource, load_image, path_of
from amodal.models.aura import AuraModel, AuraProcessor
from amodal.models.aura.generation import Answers, Dialogue, OnPart
from amodal.models.aura.mllm import merge_adapters
from amodal.models.aura.prompts import TextPart, answer_parts, phrases
from amodal.models.bases.protocol import ImageFeatures
from amodal.models.names import DEFAULT_ASSISTANT
from amodal.ops.cleaning import CleanSettings, clean_masks
from amodal.ops.edges import guide_of, resize_along_edges
from amodal.ops.masks import resize_probs

MIN_CONFIDENCE = 0.5
"""Confidence below which a reply counts as unsure: more such answers of `aura-small` are wrong than right."""


@dataclass(frozen=True)
class Reply:
    """The reply to one question.

    Attributes:
        text: the answer, without markup.
        scene: the objects that the answer names, in the order of the answer; may be empty.
        parts: the answer in pieces, each with the indices of the objects that it names.
        occlusion_rates: occlusion rate per object as predicted by the Occlusion Condition Encoder,
            in [0, 1]; None for a model without one. `scene.objects` has them beside the rates of the masks.
        confidence: smallest of the probabilities of the answer's tokens, in [0, 1]. With `aura-small` it is about the
            share of answers with this confidence that name the right objects (`docs/models/aura-small.md`).
    """

    text: str
    scene: Scene
    parts: tuple[TextPart, ...]
    occlusion_rates: tuple[float, ...] | None = None
    confidence: float = 1.0

    @property
    def is_unsure(self) -> bool:
        """Whether the confidence is below `MIN_CONFIDENCE`."""
        return self.confidence < MIN_CONFIDENCE


class AmodalAssistant:
    """Answers questions about images, with a visible and an amodal mask per named object.

    Decoding is greedy, so that the same question always gets the same answer. Masks follow the rules
    of `AmodalSegmenter`: probabilities are resized to the image and compared with the threshold of
    the model, and the amodal mask is united with the visible mask unless `union_visible` is False.

    Args:
        model: an `AuraModel` with its processor.
        device: device of the model.
        dtype: precision of the network.
        clean: remove small pieces, small holes and very thin occluded parts from the masks, see
            `amodal.ops.cleaning`, and move the outlines of visible masks to the edges of the image; False returns the
            masks as the network predicts them.
        union_visible: unite each amodal mask with the visible mask.

    Raises:
        InputError: a model without its processor.
    """

    def __init__(
        self,
        model: AuraModel,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        *,
        clean: bool = True,
        union_visible: bool = True,
    ) -> None:
        if model.processor is None:
            raise InputError("model: expected an AuraModel with its processor, got one without")
        self.device = device or torch.device("cpu")
        self.dtype = dtype
        self.clean, self.union_visible = clean, union_visible
        self._kept: dict[str, ImageFeatures] | None = None
        self._num_kept = 0
        self.processor: AuraProcessor = model.processor
        self.model = model.to(self.device).eval()
        self.model.mllm.to(dtype)

    @classmethod
    def from_pretrained(
        cls, name: str | Path = DEFAULT_ASSISTANT, *, device: str = "auto", dtype: str = "auto", clean: bool = True
    ) -> AmodalAssistant:
        """Load a model.

        Args:
            name: bundled name, folder or hub id.
            device: `auto` (a GPU if there is one), `cpu`, `cuda`, ...
            dtype: `auto` (bfloat16 where it is faster), `float32` or `bfloat16`.
            clean: clean the masks, see the class.

        Raises:
            InputError: unknown model, device or dtype, or a model without mask token.
        """
        place = pick_device(device)
        precision = pick_dtype(dtype, place)
        model = AuraModel.from_pretrained(name, mllm_dtype=precision)
        merge_adapters(model.mllm)
        return cls(model, place, precision, clean=clean)

    def chat(self, image: ImageSource) -> Chat:
        """Start a conversation about an image.

        Args:
            image: path, PIL image or (H, W, 3) uint8 RGB.

        Raises:
            InputError: an unreadable image.
        """
        return Chat(self, load_image(image), path_of(image))

    def ask(
        self,
        image: ImageSource,
        question: str,
        *,
        answer: str | None = None,
        on_part: OnPart | None = None,
        max_new_tokens: int | None = None,
    ) -> Reply:
        """Ask one question about an image.

        Args:
            image: path, PIL image or (H, W, 3) uint8 RGB.
            question: question in words.
            answer: as for `Chat.ask`.
            on_part: as for `Chat.ask`.
            max_new_tokens: as for `Chat.ask`.

        Returns:
            The answer, and the scene of the objects that it names.

        Raises:
            InputError: an unreadable image, or a question that is empty or too long.
        """
        return self.chat(image).ask(question, answer=answer, on_part=on_part, max_new_tokens=max_new_tokens)

    def ask_batch(self, pairs: Sequence[tuple[ImageSource, str]], *, max_new_tokens: int | None = None) -> list[Reply]:
        """Ask one question per image for several images, in joint forward passes.

        Args:
            pairs: pairs of an image and a question.
            max_new_tokens: maximum length of an answer; the model's own if None.

        Returns:
            One reply per pair, the same as from `ask`.

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
        """Hold several conversations in joint forward passes, each with its own history.

        Args:
            conversations: pairs of an image and its questions; the numbers of questions may differ.
            answers: the answer of each turn, with mask tokens and markup, to use instead of the
                model's own answer (teacher forcing).
            max_new_tokens: maximum length of an answer; the model's own if None.

        Returns:
            One list of replies per conversation, with one reply per question.

        Raises:
            InputError: as for `ask`, or not exactly one answer per question.
        """
        if not conversations:
            return []
        images = [load_image(image) for image, _ in conversations]
        asked = [list(questions) for _, questions in conversations]
        _check_turns(asked, answers)
        inputs = self.processor(images, [questions[0] for questions in asked]).to(self.device)
        features = self._encode_distinct(images, inputs.pixel_values_sam)
        dialogue = Dialogue(self.model, self.processor)
        replies: list[list[Reply]] = [[] for _ in images]
        for turn in range(max(map(len, asked))):
            # A finished conversation repeats its last turn, so that the batch keeps its size.
            questions = [row[min(turn, len(row) - 1)] for row in asked]
            given = None if answers is None else [row[min(turn, len(row) - 1)] for row in answers]
            if turn == 0:
                dialogue.begin(inputs.mllm)
            else:
                dialogue.follow(questions)
            made = dialogue.answer(max_new_tokens or self.model.config.max_new_tokens, given=given)
            for row, reply in enumerate(self.replies(made, features, images, questions)):
                if turn < len(asked[row]):
                    reply.scene.image_path = path_of(conversations[row][0])
                    replies[row].append(reply)
        return replies

    @contextmanager
    def keeping_features(self, num_images: int) -> Iterator[None]:
        """Let `converse` keep the backbone's features of the last images within the block.

        Several calls about one image then encode it once. Do not change the weights within the block.

        Args:
            num_images: number of images whose features are kept.
        """
        self._kept, self._num_kept = {}, num_images
        try:
            yield
        finally:
            self._kept = None

    def _encode_distinct(self, images: Sequence[ImageArray], pixel_values_sam: Tensor) -> ImageFeatures:
        """Features of B images (H, W, 3); each distinct image whose features are not kept is encoded once."""
        keys = [_image_key(image) for image in images]
        features = dict(self._kept or {})
        new = [row for row, key in enumerate(keys) if key not in features and key not in keys[:row]]
        if self._kept is None and len(new) == len(keys):
            return self.encode(pixel_values_sam)
        if new:
            features |= zip((keys[row] for row in new), _unstacked(self.encode(pixel_values_sam[new])), strict=True)
        if self._kept is not None:
            self._kept = dict(list(features.items())[-self._num_kept :])
        own = [features[key] for key in keys]
        return ImageFeatures(
            torch.cat([one.embedding for one in own]),
            tuple(torch.cat(maps) for maps in zip(*(one.high_resolution for one in own), strict=True)),
        )

    @torch.inference_mode()
    def encode(self, pixel_values_sam: Tensor) -> ImageFeatures:
        """Encode images with the segmentation backbone.

        Args:
            pixel_values_sam: (B, 3, S_sam, S_sam) normalised images.

        Returns:
            Features of B images.
        """
        with self._precision():
            return self.model.encode_image(pixel_values_sam.to(self.device))

    @torch.inference_mode()
    def replies(
        self, answers: Answers, features: ImageFeatures, images: Sequence[ImageArray], questions: Sequence[str]
    ) -> list[Reply]:
        """Decode all masks of one turn in one forward pass and build the replies.

        Args:
            answers: generated answers of B conversations.
            features: of the B images, from `encode`.
            images: B images, (H, W, 3) uint8 RGB.
            questions: B questions.

        Returns:
            B replies.
        """
        with self._precision():
            pointed = self.model.point(
                answers.states,
                answers.rows,
                self.processor.mllm_to_sam([image.shape for image in images]),
                regions=answers.regions,
                phrases=answers.phrases,
            )
            masks: Any = self.model.decode(answers.states, features, answers.rows, pointed)
        rows = answers.rows.tolist()
        made = []
        for row, (image, question) in enumerate(zip(images, questions, strict=True)):
            own = [index for index, owner in enumerate(rows) if owner == row]
            parts = tuple(answer_parts(self.processor.decode(answers.tokens[row]), self.processor.seg_token))
            text = "".join(part.text for part in parts)
            rates = None if masks.rates is None else tuple(masks.rates[own].float().tolist())
            objects = self._objects(masks, own, image, phrases(list(parts)), rates)
            size, confidence = (image.shape[0], image.shape[1]), answers.confidences[row]
            scene = Scene(objects, size, image, question, text, confidence=confidence)
            made.append(Reply(text, scene, parts, rates, confidence))
        return made

    def _objects(
        self,
        masks: Any,
        own: list[int],
        image: ImageArray,
        names: Sequence[str | None],
        rates: Sequence[float] | None,
    ) -> list[SceneObject]:
        size, threshold = (image.shape[0], image.shape[1]), self.model.config.mask_threshold
        whole, edge_radius = (0, 0, size[1], size[0]), CleanSettings().edge_radius if self.clean else 0
        guide = guide_of(image, whole, self.processor.fitted_size_sam(size)) if own and edge_radius else None
        objects = []
        predicted: Sequence[float | None] = [None] * len(own) if rates is None else rates
        for index, name, rate in zip(own, names, predicted, strict=True):
            visible_probs, amodal_probs = (
                self.processor.unpadded(probs_of(logits[index]), size)
                for logits in (masks.visible_logits, masks.amodal_logits)
            )
            visible = resize_along_edges(visible_probs, image, whole, edge_radius, guide) > threshold
            amodal = resize_probs(amodal_probs, whole) > threshold
            if self.clean:
                pixel = max(size) / self.processor.image_size
                visible, amodal = clean_masks(visible, amodal, settings=CleanSettings(), pixel=pixel)
            score = float(masks.iou_scores[index].float().clamp(0, 1))
            objects.append(
                SceneObject.from_masks(
                    visible,
                    amodal,
                    score=score,
                    phrase=name,
                    predicted_occlusion_rate=rate,
                    union_visible=self.union_visible,
                )
            )
        return objects

    def _precision(self) -> Any:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)


class Chat:
    """A conversation about one image.

    The features of the segmentation backbone and the key-value cache of the language model are kept.
    A later question therefore runs neither vision encoder again and does not process earlier turns again.

    Args:
        assistant: assistant that answers.
        image: (H, W, 3) uint8 RGB.
        image_path: file of the image, which the scenes then name; None if it is not known.

    Attributes:
        replies: replies so far.
    """

    def __init__(self, assistant: AmodalAssistant, image: ImageArray, image_path: Path | None = None) -> None:
        self.assistant, self.image, self.image_path = assistant, image, image_path
        self.replies: list[Reply] = []
        self._features: ImageFeatures | None = None
        self._dialogue: Dialogue | None = None

    @property
    def num_bytes(self) -> int:
        """Memory of the image, its features and the key-value cache."""
        maps = [] if self._features is None else [self._features.embedding, *self._features.high_resolution]
        layers = [] if self._dialogue is None else self._dialogue.cache.layers
        maps += [part for layer in layers for part in (layer.keys, layer.values) if part is not None]
        return self.image.nbytes + sum(part.numel() * part.element_size() for part in maps)

    def ask(
        self,
        question: str,
        *,
        answer: str | None = None,
        on_part: OnPart | None = None,
        max_new_tokens: int | None = None,
    ) -> Reply:
        """Ask a question about the image or about earlier turns.

        Args:
            question: question in words.
            answer: answer with mask tokens and markup, to use instead of the model's own.
            on_part: called with each `TextPart` of the answer as soon as it is generated.
            max_new_tokens: maximum length of the answer; the model's own if None.

        Returns:
            The answer, and the scene of the objects that it names.

        Raises:
            InputError: a question that is empty or too long, or a conversation that has become
                longer than the context of the model.
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
        reply.scene.image_path = self.image_path
        self.replies.append(reply)
        self._dialogue = dialogue
        return reply

    def _begin(self, question: str) -> Dialogue:
        assistant = self.assistant
        inputs = assistant.processor([self.image], [question]).to(assistant.device)
        if self._features is None:
            self._features = assistant.encode(inputs.pixel_values_sam)
        dialogue = Dialogue(assistant.model, assistant.processor)
        dialogue.begin(inputs.mllm)
        return dialogue


def _check_turns(asked: Sequence[Sequence[str]], answers: Sequence[Sequence[str]] | None) -> None:
    if not all(asked):
        raise InputError("question: expected at least one per conversation, got none")
    if answers is not None and [len(row) for row in answers] != [len(row) for row in asked]:
        raise InputError(
            f"answers: expected one per question, got {[len(row) for row in answers]} for {[len(row) for row in asked]}"
        )


def _image_key(image: ImageArray) -> str:
    """Fingerprint of the pixels of an image."""
    return hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def _unstacked(features: ImageFeatures) -> list[ImageFeatures]:
    """Features of B images as B features of one image, in memory of their own."""
    parts = zip(*(maps.split(1) for maps in (features.embedding, *features.high_resolution)), strict=True)
    return [ImageFeatures(one.clone(), tuple(maps.clone() for maps in rest)) for one, *rest in parts]
