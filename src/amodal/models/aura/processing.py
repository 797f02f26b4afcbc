"""AURA's inputs: tokens of a conversation, and the image in two square frames; and masks back in the image.

The vision backbone (`_sam`) sees the image with its longer side resized to `S_sam` pixels, padded below
and to the right, as SAM was trained. The LLM (`_mllm`) sees a square of `S_mllm` pixels. Its own
processor may cut an image to its centre; such an image is padded to a square in the processor's mean
colour first, so that nothing is cut off.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor
from transformers import AutoProcessor
from transformers.utils import PushToHubMixin

from amodal.errors import MAX_QUESTION_LENGTH, InputError, special_token
from amodal.io.images import ImageArray
from amodal.io.json_stream import read_json
from amodal.losses import IGNORE_INDEX
from amodal.models.aura.configuration import AuraConfig
from amodal.models.aura.prompts import TurnTemplate, seg_token_id, special_tokens, turn_template
from amodal.models.bases.protocol import IMAGE_MEAN, IMAGE_STD
from amodal.models.increments import resolve_folder, upload
from amodal.ops.arrays import Mask

MLLM_FOLDER = "processor"
SETTINGS_FILE = "aura_processor.json"


@dataclass
class AuraInputs:
    """Inputs of B conversations up to their first answer.

    Attributes:
        mllm: inputs of the LLM: `input_ids` and `attention_mask` (B, T), pixels, and whatever else
            its processor returns.
        pixel_values_sam: (B, 3, S_sam, S_sam) for the vision backbone.
        sizes: (H, W) of each image.
    """

    mllm: dict[str, Tensor]
    pixel_values_sam: Tensor
    sizes: list[tuple[int, int]]

    def to(self, device: torch.device) -> AuraInputs:
        """Copy to another device."""
        mllm = {name: tensor.to(device) for name, tensor in self.mllm.items()}
        return AuraInputs(mllm, self.pixel_values_sam.to(device), self.sizes)


class AuraProcessor(PushToHubMixin):
    """Prepares images and questions for both networks, around the LLM's own processor.

    Args:
        mllm: processor of the LLM, whose tokenizer has the `[SEG]` token.
        image_size: S_sam.
        seg_token: text of the `[SEG]` token.
        image_mean: subtracted from RGB in [0, 1] for the vision backbone.
        image_std: divides the result.

    Raises:
        InputError: the `[SEG]` token is not one token, or the processor's chat template is unusable.
    """

    def __init__(
        self,
        mllm: Any,
        image_size: int = 1024,
        seg_token: str = "[SEG]",
        image_mean: Sequence[float] = IMAGE_MEAN,
        image_std: Sequence[float] = IMAGE_STD,
    ) -> None:
        self.mllm = mllm
        self.image_mean, self.image_std = list(image_mean), list(image_std)
        self.tokenizer: Any = mllm.tokenizer
        self.image_size = image_size
        self.seg_token = seg_token
        self.seg_token_id = seg_token_id(self.tokenizer, seg_token)
        self.template: TurnTemplate = turn_template(mllm)
        self.end_token_id = int(self.tokenizer.convert_tokens_to_ids(self.template.end))
        reserved = special_tokens(self.tokenizer)
        # A token of one or two characters is punctuation that a tokenizer uses for padding.
        self._reserved = {token for token in (*reserved, seg_token) if len(token) > 2}
        self._silent = set(reserved.values()) - {self.seg_token_id}
        self._begin = _begin_text(self.tokenizer, self.template.first)

    @classmethod
    def from_config(cls, config: AuraConfig, mllm: Any) -> AuraProcessor:
        """Make the processor that belongs to a model, around the LLM's own."""
        family = config.family
        return cls(mllm, config.image_size, config.seg_token, family.image_mean, family.image_std)

    @property
    def end_token_ids(self) -> list[int]:
        """Ids of the tokens that end an answer."""
        return sorted({self.end_token_id, int(self.tokenizer.eos_token_id)})

    @property
    def pad_token_id(self) -> int:
        """Id of the token that pads a batch."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def __call__(self, images: Sequence[ImageArray], questions: Sequence[str]) -> AuraInputs:
        """Prepare the first questions about images.

        Args:
            images: B arrays (H, W, 3) uint8 RGB.
            questions: one per image.

        Returns:
            `AuraInputs`, padded at the front, as generation needs.
        """
        rows = [self.first_turn(image, question) for image, question in zip(images, questions, strict=True)]
        sam = torch.cat([self.pixels_sam(image) for image in images])
        return AuraInputs(pad_rows(rows, self.pad_token_id, front=True), sam, [i.shape[:2] for i in images])

    def first_turn(self, image: ImageArray, question: str) -> dict[str, Tensor]:
        """Prepare an image and its first question for the LLM; tensors have a batch of one."""
        text = self._begin + self.template.prompt(check_question(question, self._reserved), first=True)
        made = self.mllm(images=self._padded(image), text=text, add_special_tokens=False, return_tensors="pt")
        return {name: value for name, value in made.items() if isinstance(value, Tensor)}

    def pixels_mllm(self, image: ImageArray) -> ImageArray:
        """Resize an image to the LLM's frame: (S_mllm, S_mllm, 3) uint8, not normalised yet."""
        made = self.mllm.image_processor(self._padded(image), do_rescale=False, do_normalize=False, return_tensors="np")
        return np.ascontiguousarray(made["pixel_values"][0].transpose(1, 2, 0), np.uint8)

    def normalize_mllm(self, pixels_mllm: Tensor) -> Tensor:
        """Normalise (B, S_mllm, S_mllm, 3) uint8 of `pixels_mllm` to the LLM's (B, 3, S_mllm, S_mllm) float32."""
        settings = self.mllm.image_processor
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (settings.image_mean, settings.image_std))
        return (pixels_mllm.permute(0, 3, 1, 2).float() * settings.rescale_factor - mean) / std

    def _padded(self, image: ImageArray) -> Image.Image:
        """Pad to a square if the LLM's processor would cut the borders off."""
        pil_image, settings = Image.fromarray(image), self.mllm.image_processor
        return pad_to_square(pil_image, settings) if _crops(settings) else pil_image

    def mllm_to_sam(self, sizes: Sequence[tuple[int, ...]]) -> Tensor:
        """How to find a point of the LLM's frame in the backbone's; only of square images they are the same.

        Args:
            sizes: (H, W) of B images.

        Returns:
            (B, 4) float32: factors of x and y, then what is added to them; both frames have sides of length 1.
        """
        sides = torch.tensor([[w / max(h, w), h / max(h, w)] for h, w, *_ in sizes])
        if _crops(self.mllm.image_processor):  # padded around the image, where the backbone's frame is padded after it
            return torch.cat([torch.ones_like(sides), (sides - 1) / 2], dim=-1)
        return torch.cat([sides, torch.zeros_like(sides)], dim=-1)

    def after_image(self, question: str) -> list[int]:
        """Return the tokens of a first question that follow those of the image."""
        text = self._begin + self.template.prompt(check_question(question, self._reserved), first=True)
        tokens, image = self.tokens(text), self.mllm.image_token_id
        return tokens[len(tokens) - tokens[::-1].index(image) :]

    def later_turn(self, question: str) -> list[int]:
        """Return the tokens of a later question, starting after the end token of the previous answer."""
        return self.tokens(self.template.prompt(check_question(question, self._reserved), first=False))

    def answer_tokens(self, answer: str) -> list[int]:
        """Return the tokens of an answer with `[SEG]` tokens and phrase markup, and the end token."""
        return [*self.tokens(answer), self.end_token_id]

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a part of a conversation."""
        numbers: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return numbers

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of an answer's tokens, with `[SEG]` tokens and markup but no other special tokens."""
        kept = [t for t in tokens if t not in self._silent]
        return str(self.tokenizer.decode(kept, clean_up_tokenization_spaces=False))

    def pixels_sam(self, image: ImageArray) -> Tensor:
        """Prepare an image for the backbone: (1, 3, S_sam, S_sam) float32, normalised, padded with zeros."""
        S_sam = self.image_size
        h, w = self.fitted_size_sam(image.shape[:2])
        how = cv2.INTER_AREA if max(image.shape[:2]) > S_sam else cv2.INTER_LINEAR
        resized = cv2.resize(np.ascontiguousarray(image), (w, h), interpolation=how)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.image_mean, self.image_std))
        padded = torch.zeros(1, 3, S_sam, S_sam)
        padded[0, :, :h, :w] = (torch.from_numpy(resized).permute(2, 0, 1).float() / 255 - mean) / std
        return padded

    def mask_sam(self, mask: Mask) -> Mask:
        """Resize a mask (H, W) to the backbone's frame (S_sam, S_sam); a pixel is set if half of it is covered."""
        S_sam = self.image_size
        h, w = self.fitted_size_sam(mask.shape)
        how = cv2.INTER_AREA if max(mask.shape) > S_sam else cv2.INTER_LINEAR
        grey = cv2.resize(mask.view(np.uint8) * np.uint8(255), (w, h), interpolation=how)
        padded = np.zeros((S_sam, S_sam), bool)
        padded[:h, :w] = grey >= 128
        return padded

    def unpadded(self, probs: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """The part of a map (S_sam, S_sam) in the backbone's frame that an image of size (H, W) fills."""
        h, w = self.fitted_size_sam(size)
        return probs[:h, :w]

    def fitted_size_sam(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Return the size (h, w) that an image of size (H, W) has in the backbone's frame."""
        scale = self.image_size / max(size[:2])
        return (max(round(size[0] * scale), 1), max(round(size[1] * scale), 1))

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        max_shard_size: int | str | None = None,
    ) -> None:
        """Write the LLM's processor and the settings of this one.

        Args:
            save_directory: folder to create or fill.
            push_to_hub: upload the folder as well.
            repo_id: hub repository to upload to; named as the folder if None.
            max_shard_size: passed by transformers' `push_to_hub`; has no effect.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.mllm.save_pretrained(folder / MLLM_FOLDER)
        names = ("image_size", "seg_token", "image_mean", "image_std")
        settings = {name: getattr(self, name) for name in names}
        (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=1))
        if push_to_hub:
            upload(folder, repo_id)

    @classmethod
    def from_pretrained(cls, name: str | Path, revision: str | None = None) -> AuraProcessor:
        """Load the processor of a bundled name, folder or hub id.

        Raises:
            InputError: there is no processor, or its tokenizer lacks the `[SEG]` token.
        """
        folder = resolve_folder(name, revision)
        try:
            settings = read_json(folder / SETTINGS_FILE, "model")
            mllm = AutoProcessor.from_pretrained(str(folder / MLLM_FOLDER), trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"model {folder}: expected an AURA processor in {SETTINGS_FILE} and {MLLM_FOLDER}/, got none"
            ) from error
        return cls(mllm, **settings)


def check_question(question: str, reserved: Collection[str] = ()) -> str:
    """Return a question with single spaces.

    Args:
        question: text of a user.
        reserved: special tokens of the language model, in addition to those that `special_token` finds.

    Raises:
        InputError: it is empty, longer than `MAX_QUESTION_LENGTH`, or contains a special token.
    """
    text = " ".join(question.split())
    if not text:
        raise InputError("question: expected words, got an empty one")
    if len(text) > MAX_QUESTION_LENGTH:
        raise InputError(f"question: expected at most {MAX_QUESTION_LENGTH} characters, got {len(text)}")
    found = special_token(text) or next((token for token in reserved if token in text), None)
    if found:
        raise InputError(f"question: expected text without {found!r}, which is a special token or looks like one")
    return text


def pad_rows(rows: Sequence[dict[str, Tensor]], pad: int, *, front: bool) -> dict[str, Tensor]:
    """Join rows of different lengths to one batch.

    Tensors that are as long as the row's `input_ids` are padded: `input_ids` with `pad`, `labels` with
    `IGNORE_INDEX`, others with 0. All others, pixels for instance, are joined along their first axis.

    Args:
        rows: tensors by name, each with a batch of one.
        pad: id of the padding token.
        front: pad before the tokens (generation) instead of after them (training).
    """
    longest = max(row["input_ids"].shape[1] for row in rows)
    fill = {"input_ids": pad, "labels": IGNORE_INDEX}
    batch = {}
    for name in rows[0]:
        parts = []
        for row in rows:
            value, length = row[name], row["input_ids"].shape[1]
            if value.shape[:2] == (1, length) and value.dim() == 2:
                room = (longest - length, 0) if front else (0, longest - length)
                value = torch.nn.functional.pad(value, room, value=fill.get(name, 0))
            parts.append(value)
        batch[name] = torch.cat(parts)
    return batch


def pad_to_square(image: Image.Image, image_processor: Any) -> Image.Image:
    """Put an image in the middle of a square of the processor's mean colour."""
    mean = getattr(image_processor, "image_mean", None) or (0.5, 0.5, 0.5)
    side = max(image.size)
    colour = tuple(int(255 * float(value)) for value in mean)
    return image if image.width == image.height else ImageOps.pad(image, (side, side), color=colour)


def _crops(image_processor: Any) -> bool:
    return bool(getattr(image_processor, "do_center_crop", False))


def _begin_text(tokenizer: Any, first: str) -> str:
    """Return the begin token as text if the tokenizer adds one and the template does not contain it."""
    begin = tokenizer.bos_token
    if begin is None or first.startswith(begin):
        return ""
    adds = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return str(begin) if adds else ""
