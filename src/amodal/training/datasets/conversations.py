"""Training samples of AURA: an image and several conversations about it as one sequence of tokens.

Axes: B images, T tokens, N mask tokens of the whole batch, S_sam side of the segmentation backbone's input.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from amodal.data.reason_seg import Conversation, ReasonDataset
from amodal.data.samples import ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.io.progress import progress_bar
from amodal.losses import IGNORE_INDEX
from amodal.models.aura.processing import AuraProcessor, pad_rows
from amodal.training.datasets.named_images import HINT_ERROR, noisy_boxes
from amodal.training.datasets.sampling import Batch, Key, ReasonSource

UNNAMED_FAMILY = "other"
"""Family of the questions whose file does not state it."""

OWNERS = "owners"
"""Entry of a row: the conversation of each token, before `collate_conversations` makes a mask of it."""


@dataclass(frozen=True)
class FeatureCache:
    """Features of a frozen backbone on disk, one float16 file per image, named by what they depend on.

    Attributes:
        folder: folder of the files; created if needed.
        fingerprint: identifies backbone, weights and input size; features with another fingerprint are not read.
    """

    folder: Path
    fingerprint: str

    def read(self, image: ImageSample) -> Tensor:
        """(C, h, w) float32 features of an image that `fill` has processed."""
        return torch.from_numpy(np.load(self._file(image)).astype(np.float32))

    def fill(
        self,
        images: Iterable[ImageSample],
        prepare: Callable[[ImageSample], Tensor],
        encode: Callable[[Tensor], Tensor],
    ) -> int:
        """Compute the missing features; an interrupted call resumes where it stopped.

        Args:
            images: all images that will be read.
            prepare: turns an image into (1, 3, S_sam, S_sam) pixels.
            encode: turns pixels into (1, C, h, w) features.

        Returns:
            The number of images whose features were computed.
        """
        missing = [image for image in images if not self._file(image).is_file()]
        for image in progress_bar(missing, "features", bool(missing)):
            file = self._file(image)
            file.parent.mkdir(parents=True, exist_ok=True)
            features = encode(prepare(image))[0].detach().cpu().to(torch.float16).numpy()
            temporary = file.with_suffix(f".writing{os.getpid()}")
            with temporary.open("wb") as stream:
                np.save(stream, features)
            os.replace(temporary, file)
        return len(missing)

    def _file(self, image: ImageSample) -> Path:
        status = image.path.stat()
        key = f"{self.fingerprint} {image.path.resolve()} {status.st_size} {status.st_mtime_ns}"
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest[2:34]}.npy"


@dataclass(frozen=True)
class _ConversationGroup:
    """An image with all conversations about it."""

    image: ImageSample
    conversations: tuple[Conversation, ...]


class ImageConversations(Dataset[dict[str, Any]]):
    """One sequence per image: the conversations about it in random order, up to a maximum length.

    The image is encoded once for all of its conversations, which makes a training step cheap: most tokens
    of a short conversation are image tokens.

    Args:
        sources: datasets with weights.
        processor: processor of the model, whose tokenizer knows the mask token.
        max_turns: maximum number of turns per sequence; a longer conversation is cut at its end.
        max_tokens: maximum number of tokens per sequence, image tokens included; turns that do not fit are
            left out.
        max_conversations: maximum number of conversations per sequence, chosen at random; None takes all. With several,
            earlier answers tell a model what is in the image, which it then need not look at, unless they are
            `separate`.
        separate: the conversations of a sequence do not see each other: each reads the image tokens and itself. The
            image tokens are computed once for all of them.
        max_masks: maximum number of mask tokens per sequence whose masks are learned, chosen at random; None
            learns all. The same few objects appear in many answers.
        hint_share: share of the objects whose visible box, with some noise, the decoders get in training; None for an
            LLM that does not read words, whose decoders get no boxes.
        features: features of the frozen backbone, used instead of its input pixels.
        with_families: also number the family of questions of each labelled token, for validation.
        with_decisions: also mark the labelled tokens that only the image decides (`decisions`).

    Attributes:
        families: names of the families of questions, in alphabetical order; empty without `with_families`.

    Raises:
        InputError: there is no conversation, or the first question about an image does not fit into `max_tokens`.
    """

    def __init__(
        self,
        sources: Sequence[ReasonSource],
        processor: AuraProcessor,
        *,
        max_turns: int,
        max_tokens: int,
        max_conversations: int | None = None,
        separate: bool = False,
        max_masks: int | None = None,
        hint_share: float | None = None,
        features: FeatureCache | None = None,
        with_families: bool = False,
        with_decisions: bool = False,
    ) -> None:
        self.sources = list(sources)
        self.families = _families(self.sources) if with_families else []
        self.processor = processor
        self._decisions = decisions(self._answers()) if with_decisions else None
        self.max_turns, self.max_tokens, self.max_masks = max_turns, max_tokens, max_masks
        self.max_conversations, self.separate = max_conversations, separate
        self.hint_share, self.features = hint_share, features
        self._groups = [_by_image(source.dataset) for source in self.sources]
        if not any(self._groups):
            raise InputError("data: expected sources with at least one question, got none")

    @property
    def lengths(self) -> list[int]:
        """Number of images of each source."""
        return [len(groups) for groups in self._groups]

    def images(self) -> list[ImageSample]:
        """All images that have questions."""
        return [group.image for groups in self._groups for group in groups]

    @staticmethod
    def collate(items: list[dict[str, Any]]) -> Batch:
        """Stack samples; see `collate_conversations`."""
        return collate_conversations(items)

    def describe(self, key: Key) -> dict[str, Any]:
        """The image that a key addresses: `source`, `image_id`, `file` and the ids of its `conversations`."""
        group = self._groups[key[0]][key[1]]
        ids = [conversation.id for conversation in group.conversations]
        return {"source": key[0], "image_id": group.image.id, "file": str(group.image.path), "conversations": ids}

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """One sequence: the language model's tensors, and the true masks of the mask tokens."""
        source, position, seed = key
        group = self._groups[source][position]
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(group.conversations))[: self.max_conversations]
        pixels = group.image.load()
        row, objects = self._sequence(pixels, [group.conversations[i] for i in order])
        chosen = np.zeros(len(objects), bool)
        chosen[rng.permutation(len(objects))[: self.max_masks]] = True
        item: dict[str, Any] = {"row": row, "pad": self.processor.pad_token_id, "chosen": torch.from_numpy(chosen)}
        item |= self._masks([obj for obj, is_chosen in zip(objects, chosen, strict=True) if is_chosen])
        if self.hint_share is not None:
            boxes = _visible_boxes_sam(objects, group.image)
            item["visible_boxes_xyxy_sam"] = torch.from_numpy(boxes)
            item["box_hints_xyxy_sam"] = torch.from_numpy(_hints(boxes[chosen], self.hint_share, rng))
            item["mllm_to_sam"] = self.processor.mllm_to_sam([pixels.shape])
        if self.features is None:
            item["pixel_values_sam"] = self.processor.pixels_sam(pixels)
        else:
            item["image_embeddings"] = self.features.read(group.image)[None]
        return item

    def _sequence(
        self, pixels: npt.NDArray[np.uint8], conversations: Sequence[Conversation]
    ) -> tuple[dict[str, Tensor], list[ObjectSample]]:
        """Tokens with labels, and the objects of the mask tokens in their order."""
        processor = self.processor
        turns = [(number, turn) for number, c in enumerate(conversations) for turn in c.turns][: self.max_turns]
        row = processor.first_turn(pixels, turns[0][1].question)
        prompt_length = row["input_ids"].shape[1]
        appended: list[int] = []
        labels: list[int] = []
        families: list[int] = []
        deciding: list[bool] = []
        owners: list[int] = []
        objects: list[ObjectSample] = []
        for index, (number, turn) in enumerate(turns):
            if index == 0:
                question = []
            elif self.separate and number != turns[index - 1][0]:
                question = processor.after_image(turn.question)
            else:
                question = processor.later_turn(turn.question)
            answer = processor.answer_tokens(turn.with_token(processor.seg_token))
            if prompt_length + len(appended) + len(question) + len(answer) > self.max_tokens:
                break
            appended += question + answer
            labels += [IGNORE_INDEX] * len(question) + answer
            owners += [number] * (len(question) + len(answer))
            family = 1 + self.families.index(turn.kind or UNNAMED_FAMILY) if self.families else 0
            families += [0] * len(question) + [family] * len(answer)
            if self._decisions is not None:
                open_ends = self._decisions.get(turn.question, set())
                deciding += [False] * len(question) + [tuple(answer[:i]) in open_ends for i in range(len(answer))]
            objects += turn.objects
        if not appended:
            image = conversations[0].image
            raise InputError(
                f"data.max_tokens: expected room for an image, a question and an answer, got {self.max_tokens} "
                f"where image {image.id} ({image.path.name}) and its question alone take {prompt_length}"
            )
        row = _extended(row, appended, labels)
        if self.separate:
            shared = prompt_length - len(processor.after_image(turns[0][1].question))
            row |= _separated(shared, [0] * (prompt_length - shared) + owners)
        if self.families:
            row["families"] = torch.tensor([[0] * prompt_length + families])
        if self._decisions is not None:
            row["deciding"] = torch.tensor([[False] * prompt_length + deciding])
        return row, objects

    def _answers(self) -> Iterator[tuple[str, list[int]]]:
        """All questions with the tokens of their answers."""
        for source in self.sources:
            for turn in (turn for conversation in source.dataset.conversations for turn in conversation.turns):
                yield turn.question, self.processor.answer_tokens(turn.with_token(self.processor.seg_token))

    def _masks(self, objects: Sequence[ObjectSample]) -> dict[str, Tensor]:
        S_sam = self.processor.image_size
        amodal_masks = [obj.amodal_mask() for obj in objects]
        visible = [self.processor.mask_sam(obj.visible_mask()) for obj in objects]
        amodal = [
            v if m is None else self.processor.mask_sam(m) | v for m, v in zip(amodal_masks, visible, strict=True)
        ]
        return {
            "visible_masks": torch.from_numpy(np.array(visible, bool).reshape(-1, S_sam, S_sam)),
            "amodal_masks": torch.from_numpy(np.array(amodal, bool).reshape(-1, S_sam, S_sam)),
            "has_amodal": torch.tensor([m is not None for m in amodal_masks], dtype=torch.bool),
        }


def collate_conversations(items: list[dict[str, Any]]) -> Batch:
    """Pad sequences of different lengths into one batch and concatenate the masks of all of them.

    Returns:
        The outputs of the language model's processor, padded at the end, with `labels` (B, T).
        Of separate conversations also `position_ids` (B, T), and `attention_mask` is (B, 1, T, T) bool.
        With families `families` (B, T): 1 + index of the family that a labelled token belongs to, 0 elsewhere.
        With decisions `deciding` (B, T) bool.
        `chosen`, one bool per mask token, row by row.
        `visible_masks` and `amodal_masks` (N, S_sam, S_sam) bool and `has_amodal` (N,) of the chosen mask tokens.
        `pixel_values_sam` (B, 3, S_sam, S_sam) or `image_embeddings` (B, C, h, w).
        With a `hint_share` `visible_boxes_xyxy_sam` of all mask tokens, `box_hints_xyxy_sam` of the chosen ones and
        `mllm_to_sam` (B, 4).
    """
    batch = pad_rows([item["row"] for item in items], items[0]["pad"], front=False)
    if OWNERS in batch:
        batch["attention_mask"] = separate_attention(batch.pop(OWNERS), batch["attention_mask"])
    for name in items[0].keys() - {"row", "pad"}:
        batch[name] = torch.cat([item[name] for item in items])
    return batch


def separate_attention(owners: Tensor, is_token: Tensor) -> Tensor:
    """Which tokens each token sees: those before it that are shared or of its own conversation.

    Args:
        owners: (B, T) 0 for shared tokens, the number of the conversation otherwise.
        is_token: (B, T) 0 for padding.

    Returns:
        (B, 1, T, T) bool, seeing token first. Padding sees itself, so that no row is empty.
    """
    T = owners.shape[1]
    is_seen = (owners[:, None] == 0) | (owners[:, None] == owners[..., None])
    is_seen &= is_token.bool()[:, None] & torch.ones(T, T, dtype=torch.bool, device=owners.device).tril()
    return (is_seen | torch.eye(T, dtype=torch.bool, device=owners.device))[:, None]


def decisions(answers: Iterable[tuple[str, Sequence[int]]]) -> dict[str, set[tuple[int, ...]]]:
    """Find the tokens that only the image decides: after them, answers to the same question differ.

    Args:
        answers: a question and the tokens of its true answer, for many images.

    Returns:
        For each question with different answers, the beginnings of answers that go on in several ways.
    """
    by_question: dict[str, set[tuple[int, ...]]] = {}
    for question, answer in answers:
        by_question.setdefault(question, set()).add(tuple(answer))
    found = {}
    for question, different in by_question.items():
        beginnings = Counter(begin for begin, _ in {(a[:i], a[i]) for a in different for i in range(len(a))})
        open_ends = {begin for begin, ways in beginnings.items() if ways > 1}
        if open_ends:
            found[question] = open_ends
    return found


def _families(sources: Sequence[ReasonSource]) -> list[str]:
    turns = (turn for source in sources for c in source.dataset.conversations for turn in c.turns)
    return sorted({turn.kind or UNNAMED_FAMILY for turn in turns})


def _by_image(dataset: ReasonDataset) -> list[_ConversationGroup]:
    groups: dict[int, list[Conversation]] = {}
    for conversation in dataset.conversations:
        groups.setdefault(conversation.image.id, []).append(conversation)
    return [_ConversationGroup(group[0].image, tuple(group)) for group in groups.values()]


def _extended(row: dict[str, Tensor], appended: list[int], labels: list[int]) -> dict[str, Tensor]:
    """The prompt's row with further tokens; every entry with one value per token grows along."""
    length = row["input_ids"].shape[1]
    extended = {}
    for name, value in row.items():
        if value.dim() == 2 and value.shape == (1, length):
            tail = {"input_ids": appended, "attention_mask": [1] * len(appended)}.get(name, [0] * len(appended))
            value = torch.cat([value, torch.tensor([tail], dtype=value.dtype)], dim=1)
        extended[name] = value
    extended["labels"] = torch.tensor([[IGNORE_INDEX] * length + labels])
    return extended


def _separated(shared: int, owners: Sequence[int]) -> dict[str, Tensor]:
    """What `separate_attention` needs, and the positions: each conversation goes on after the shared tokens.

    Args:
        shared: number of the tokens that all conversations read.
        owners: number of the conversation of each token after them, ascending.
    """
    starts = {owner: owners.index(owner) for owner in set(owners)}
    positions = [*range(shared), *(shared + index - starts[owner] for index, owner in enumerate(owners))]
    numbers = [0] * shared + [1 + owner for owner in owners]
    return {OWNERS: torch.tensor([numbers]), "position_ids": torch.tensor([positions])}


def _visible_boxes_sam(objects: Sequence[ObjectSample], image: ImageSample) -> npt.NDArray[np.float32]:
    """(N, 4) visible boxes xyxy in [0, 1] of the backbone's frame."""
    boxes = np.array([obj.visible_box_xyxy for obj in objects], np.float32).reshape(-1, 4)
    return np.asarray(boxes / max(image.size), np.float32)


def _hints(boxes: npt.NDArray[np.float32], share: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Noisy boxes (N, 4) for a share of the objects, NaN for the others."""
    hints = noisy_boxes(boxes, HINT_ERROR, rng)
    hints[(rng.random(len(boxes)) >= share) | ((boxes[:, 2:] - boxes[:, :2]).min(1) <= 0)] = np.nan
    return hints
