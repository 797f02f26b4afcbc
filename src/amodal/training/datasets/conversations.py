"""Training samples of AURA: a picture and several conversations about it as one sequence of tokens.

Axes: B pictures, T tokens, N mask tokens of the whole batch, S side of the backbone's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from amodal.data.formats.reason_seg import Conversation, ReasonDataset
from amodal.data.samples import ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.models.aura.processing import AuraProcessor, pad_rows
from amodal.training.datasets.crops import Key
from amodal.training.datasets.features import FeatureCache
from amodal.training.datasets.naming import TOKEN, covered_tokens, named_tokens, object_map

IGNORED = -100
HINT_ERROR = 0.06
"""Standard deviation of a hinted box's edges, in sides of the box."""


@dataclass(frozen=True)
class ReasonSource:
    """A dataset of conversations and its share of the batches."""

    dataset: ReasonDataset
    weight: float = 1.0


@dataclass(frozen=True)
class _Picture:
    """A picture with all conversations about it."""

    image: ImageSample
    conversations: tuple[Conversation, ...]


class PictureConversations(Dataset[dict[str, Any]]):
    """All conversations about a picture, in random order, one after the other up to a length.

    The picture is read once for all of them, which is what makes a training step cheap: most
    tokens of a short conversation are the picture's.

    Args:
        sources: datasets with weights.
        processor: of the model; its tokenizer knows the mask token.
        max_turns: turns a sequence; a longer conversation is cut at its end.
        max_tokens: tokens a sequence, the picture's included; turns that do not fit are left out.
        max_masks: mask tokens a sequence whose masks are learned, drawn at random; all if None. The
            same few objects come back in many answers.
        cells: image tokens along each side; for the auxiliary losses.
        classes: number of names, for the naming losses; 0 without them.
        hint_share: share of the objects whose true visible box, a little off, the decoders get in
            training; None where the model knows no boxes.
        features: of the frozen backbone, in the place of its pixels.

    Raises:
        InputError: no conversation, or a processor whose picture alone is longer than `max_tokens`.
    """

    def __init__(
        self,
        sources: Sequence[ReasonSource],
        processor: AuraProcessor,
        *,
        max_turns: int,
        max_tokens: int,
        max_masks: int | None = None,
        cells: int = 0,
        classes: int = 0,
        hint_share: float | None = None,
        features: FeatureCache | None = None,
    ) -> None:
        self.sources = list(sources)
        self.processor = processor
        self.max_turns, self.max_tokens, self.max_masks = max_turns, max_tokens, max_masks
        self.cells, self.classes, self.hint_share = cells, classes, hint_share
        self.features = features
        self._pictures = [_by_picture(source.dataset) for source in self.sources]
        if not any(self._pictures):
            raise InputError("data: expected sources with at least one question, got none")

    @property
    def lengths(self) -> list[int]:
        """Pictures of each source."""
        return [len(pictures) for pictures in self._pictures]

    def images(self) -> list[ImageSample]:
        """All pictures asked about."""
        return [picture.image for pictures in self._pictures for picture in pictures]

    @staticmethod
    def collate(items: list[dict[str, Any]]) -> dict[str, Tensor]:
        """See `collate_conversations`."""
        return collate_conversations(items)

    def describe(self, key: Key) -> dict[str, Any]:
        """What a key names: `source`, `image_id`, the image's `file` and the conversations' ids."""
        picture = self._pictures[key[0]][key[1]]
        ids = [conversation.id for conversation in picture.conversations]
        return {
            "source": key[0], "image_id": picture.image.id, "file": str(picture.image.path), "conversations": ids,
        }  # fmt: skip

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """One sequence: tensors of the LLM's row, and the true masks of its mask tokens."""
        source, position, seed = key
        picture = self._pictures[source][position]
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(picture.conversations))
        pixels = picture.image.load()
        row, objects = self._sequence(pixels, [picture.conversations[i] for i in order])
        chosen = np.zeros(len(objects), bool)
        chosen[rng.permutation(len(objects))[: self.max_masks]] = True
        shown = [thing for thing, wanted in zip(objects, chosen, strict=True) if wanted]
        item: dict[str, Any] = {"row": row, "pad": self.processor.pad_token_id, "chosen": torch.from_numpy(chosen)}
        item |= self._masks(shown)
        if self.hint_share is not None:
            boxes = _boxes(objects, picture.image)
            item["visible_boxes"] = torch.from_numpy(boxes)
            item["box_hints"] = torch.from_numpy(_hints(boxes[chosen], self.hint_share, rng))
            item["pointing"] = self._pointing(picture.image, objects)
        if self.features is None:
            item["sam_pixel_values"] = self.processor.sam_pixels(pixels)
        else:
            item["image_embeddings"] = self.features.read(picture.image)[None]
        if self.classes:
            categories = [thing.category_id for thing in picture.image.objects]
            objects_seen = object_map(picture.image, self.cells * TOKEN)
            named = named_tokens(objects_seen, categories, self.cells, self.classes)
            item["meanings"] = torch.tensor([thing.category_id for thing in objects], dtype=torch.long)
            item["names"], item["name_boxes"] = (torch.from_numpy(values)[None] for values in named)
        return item

    def _sequence(
        self, pixels: npt.NDArray[np.uint8], conversations: Sequence[Conversation]
    ) -> tuple[dict[str, Tensor], list[ObjectSample]]:
        """Tokens with labels, and the objects of the mask tokens in their order."""
        processor, turns = self.processor, [turn for c in conversations for turn in c.turns][: self.max_turns]
        row = processor.first_turn(pixels, turns[0].question)
        prompt_length = row["input_ids"].shape[1]
        more: list[int] = []
        labels: list[int] = []
        objects: list[ObjectSample] = []
        for index, turn in enumerate(turns):
            asked = processor.later_turn(turn.question) if index else []
            answer = processor.answer_tokens(turn.with_token(processor.seg_token))
            if prompt_length + len(more) + len(asked) + len(answer) > self.max_tokens:
                break
            more += asked + answer
            labels += [IGNORED] * len(asked) + answer
            objects += turn.objects
        if not more:
            raise InputError(
                f"data.max_tokens: expected room for a picture, a question and an answer, got {self.max_tokens} "
                f"where image {picture_name(conversations[0].image)} and its question alone take {prompt_length}"
            )
        return _extended(row, more, labels), objects

    def _pointing(self, image: ImageSample, objects: Sequence[ObjectSample]) -> Tensor:
        """(N, c * c) share of each object's seen area under each image token."""
        numbers = {thing.id: number for number, thing in enumerate(image.objects, 1)}
        seen = object_map(image, self.cells * TOKEN)
        known = {key: covered_tokens(seen, numbers[key], self.cells) for key in {thing.id for thing in objects}}
        shares = [known[thing.id] for thing in objects]
        return torch.from_numpy(np.array(shares, np.float32).reshape(-1, self.cells**2))

    def _masks(self, objects: Sequence[ObjectSample]) -> dict[str, Tensor]:
        S = self.processor.image_size
        known = [thing.amodal_mask() for thing in objects]
        visible = [self.processor.sam_mask(thing.visible_mask()) for thing in objects]
        amodal = [v if m is None else self.processor.sam_mask(m) | v for m, v in zip(known, visible, strict=True)]
        return {
            "visible_masks": torch.from_numpy(np.array(visible, bool).reshape(-1, S, S)),
            "amodal_masks": torch.from_numpy(np.array(amodal, bool).reshape(-1, S, S)),
            "has_amodal": torch.tensor([m is not None for m in known], dtype=torch.bool),
        }


def collate_conversations(items: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Rows of different lengths as one batch, the masks of all of them one after the other.

    Returns:
        What the LLM's processor makes, padded at the end, with `labels` (B, T); `visible_masks` and
        `amodal_masks` (N, S, S) bool and `has_amodal` (N,) in the order of the mask tokens, row by
        row, of those that are `chosen`; `sam_pixel_values` (B, 3, S, S) or `image_embeddings` (B, C, h, w); `names`
        (B, image tokens, K) and `name_boxes` (B, image tokens, 4) if asked for.
    """
    batch = pad_rows([item["row"] for item in items], items[0]["pad"], front=False)
    for name in items[0].keys() - {"row", "pad"}:
        batch[name] = torch.cat([item[name] for item in items])
    return batch


def picture_name(image: ImageSample) -> str:
    """How messages name a picture."""
    return f"{image.id} ({image.path.name})"


def _by_picture(dataset: ReasonDataset) -> list[_Picture]:
    groups: dict[int, list[Conversation]] = {}
    for conversation in dataset.conversations:
        groups.setdefault(conversation.image.id, []).append(conversation)
    return [_Picture(group[0].image, tuple(group)) for group in groups.values()]


def _extended(row: dict[str, Tensor], more: list[int], labels: list[int]) -> dict[str, Tensor]:
    """The prompt's row with further tokens: all that is one value a token grows along."""
    length = row["input_ids"].shape[1]
    grown = {}
    for name, value in row.items():
        if value.dim() == 2 and value.shape == (1, length):
            tail = {"input_ids": more, "attention_mask": [1] * len(more)}.get(name, [0] * len(more))
            value = torch.cat([value, torch.tensor([tail], dtype=value.dtype)], dim=1)
        grown[name] = value
    grown["labels"] = torch.tensor([[IGNORED] * length + labels])
    return grown


def _boxes(objects: Sequence[ObjectSample], image: ImageSample) -> npt.NDArray[np.float32]:
    """(N, 4) visible boxes xyxy in [0, 1] of the backbone's frame."""
    boxes = np.array([thing.visible_box_xyxy for thing in objects], np.float32).reshape(-1, 4)
    return np.asarray(boxes / max(image.size), np.float32)


def _hints(boxes: npt.NDArray[np.float32], share: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Boxes (N, 4) off by some hundredths of their sides for a share of the objects, NaN for the others."""
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    hints = np.clip(boxes + HINT_ERROR * sides * rng.standard_normal(boxes.shape), 0, 1)
    hints[(rng.random(len(boxes)) >= share) | (sides[:, :2].min(1) <= 0)] = np.nan
    return np.asarray(hints, np.float32)
