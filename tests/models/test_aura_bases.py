"""AURA's contracts on every family of bases: its backbone and decoders are those of the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from amodal.inference.assistant import AmodalAssistant
from amodal.models.aura import AuraModel, AuraProcessor
from amodal.models.aura.modeling import parameter_counts
from amodal.models.aura.pointing import Pointed
from amodal.models.bases.protocol import ImageFeatures, LoadedBase
from amodal.models.increments import Origin, increment_state
from tests.models.aura import (
    ANSWER,
    random_image,
    small_config,
    small_mllm,
    training_batch,
    with_changed_weights,
    write_mllm,
)
from tests.models.families import ROWS, TinyBase

ANSWERS = (ANSWER, "There is none.", "I see <p>a mug</p> [SEG].")
BOX = torch.tensor([[[8.0, 8.0, 40.0, 48.0]]])


ALWAYS = "sam2"  # SAM has tests of its own; the other families are left to the slow tests


@pytest.fixture(params=[name if name == ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in ROWS])
def row(request: pytest.FixtureRequest) -> TinyBase:
    return ROWS[request.param]


def new_aura(row: TinyBase, folder: Path, **changes: Any) -> AuraModel:
    """LoRA on an LLM in `folder/mllm`, backbone in `folder/base`."""
    row.model().save_pretrained(folder / "base")
    return AuraModel.from_base(write_mllm(folder / "mllm"), folder / "base", small_config(**changes))


def base_of_states(row: TinyBase, base: Any, pixels: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Masks and quality of transformers' model if each embedding (N, C) is the only token of a prompt."""
    hook = base.prompt_encoder.register_forward_hook(lambda _, __, made: (embeddings[None, :, None], made[1]))
    try:
        logits, quality = row.predict(base, pixels, input_boxes=BOX.expand(1, len(embeddings), 4))
    finally:
        hook.remove()
    return logits[0], quality[0]


@pytest.mark.parametrize("name", [name for name in ROWS if name != "conv_prompt"])
def test_seg_states_are_decoded_as_a_prompt_of_the_base(name: str) -> None:
    row = ROWS[name]
    base = row.model().double()
    loaded = LoadedBase(base, Origin(fingerprint=row.family.fingerprint(base)))
    for size in (64, row.sizes[0]):
        model = AuraModel.from_base(small_mllm(), loaded, small_config(image_size=size)).double().eval()
        theirs = row.at_size(base, size)
        generator = torch.Generator().manual_seed(8)
        pixels = torch.randn(2, 3, size, size, generator=generator).double()
        states = torch.randn(3, 24, generator=generator).double() * 3
        image_index = torch.tensor([1, 0, 1])
        with torch.no_grad():
            masks = model.decode(states, model.encode_image(pixels), image_index)
            embeddings = model.prompt_encoder(states)
            for number, image in enumerate(image_index.tolist()):
                own = embeddings[number : number + 1]
                logits, quality = base_of_states(row, theirs, pixels[image : image + 1], own)
                expected = model._upsample(logits[None])[0]
                for got in (masks.visible_logits, masks.amodal_logits):
                    torch.testing.assert_close(got[number : number + 1], expected, atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(masks.iou_scores[number : number + 1], quality, atol=1e-5, rtol=1e-5)
        assert (masks.visible_logits[0] - masks.visible_logits[2]).abs().max() > 1e-3  # embeddings matter


def test_boxes_are_decoded_as_prompts_of_a_base_whose_prompts_are_maps() -> None:
    """Tokens have no effect until the decoders are trained with them."""
    row = ROWS["conv_prompt"]
    base: Any = row.model().double()
    for weight in (*base.mask_decoder.token.parameters(), base.mask_decoder.token_match):
        torch.nn.init.zeros_(weight)
    loaded = LoadedBase(base, Origin(fingerprint=row.family.fingerprint(base)))
    model = AuraModel.from_base(small_mllm(), loaded, small_config(image_size=64)).double().eval()
    theirs = row.at_size(base, 64)
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(8)).double()
    image_index, boxes = torch.tensor([1, 0]), torch.tensor([[0.1, 0.2, 0.6, 0.9], [0.5, 0.0, 1.0, 0.4]]).double()
    with torch.no_grad():
        pointed = Pointed(boxes, torch.zeros(2, 16).double())
        masks = model.decode(torch.randn(2, 24).double(), model.encode_image(pixels), image_index, pointed)
        for number, image in enumerate(image_index.tolist()):
            box = boxes[number : number + 1, None] * 64
            logits, quality = row.predict(theirs, pixels[image : image + 1], input_boxes=box)
            expected = model._upsample(logits)[0]
            for got in (masks.visible_logits, masks.amodal_logits):
                torch.testing.assert_close(got[number : number + 1], expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(masks.iou_scores[number : number + 1], quality[0], atol=1e-5, rtol=1e-5)
    assert (masks.visible_logits[0] - masks.visible_logits[1]).abs().max() > 1e-3


def test_batched_equals_single(row: TinyBase, tmp_path: Path) -> None:
    model = with_changed_weights(new_aura(row, tmp_path))
    batch = training_batch(model, ANSWERS)
    with torch.no_grad():
        together = model(**batch).masks
        one = model(**training_batch(model, ANSWERS[:1])).masks
        features = model.encode_image(batch["pixel_values_sam"][:1])
        assert features.embedding.shape[0] == 1
    torch.testing.assert_close(together.amodal_logits[:3], one.amodal_logits, atol=1e-4, rtol=1e-4)
    assert len(together.amodal_logits) == 4


@pytest.mark.parametrize("merged", [False, True])
def test_save_and_load_is_bitwise(row: TinyBase, tmp_path: Path, merged: bool) -> None:
    model = with_changed_weights(new_aura(row, tmp_path))
    model.save_pretrained(tmp_path / "aura", merged=merged)
    again = AuraModel.from_pretrained(tmp_path / "aura")
    assert again.config.family is row.family
    batch = training_batch(model)
    with torch.no_grad():
        ours, theirs = model(**batch), again(**batch)
    if merged:  # adapters added to the LLM's weights round differently
        torch.testing.assert_close(theirs.masks.amodal_logits, ours.masks.amodal_logits, atol=1e-4, rtol=1e-4)
    else:
        assert again.state_dict().keys() == model.state_dict().keys()
        for name, tensor in model.state_dict().items():
            assert torch.equal(again.state_dict()[name], tensor), name
        assert torch.equal(theirs.masks.amodal_logits, ours.masks.amodal_logits)
        assert not any(name.startswith("vision_encoder.") for name in increment_state(model))
    assert parameter_counts(model.config)["total"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("train_vision", [pytest.param(False, marks=pytest.mark.slow), True])
def test_only_declared_parameters_move_and_all_of_them(row: TinyBase, tmp_path: Path, train_vision: bool) -> None:
    settings: dict[str, Any] = {"iou_weight": 1.0, "train_vision": train_vision}
    model = with_changed_weights(new_aura(row, tmp_path, **settings)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    declared = {name: p for name, p in model.named_parameters() if p.requires_grad}
    output = model(**training_batch(model))
    masks = output.masks
    parts = (masks.visible_logits, masks.amodal_logits, masks.rates, masks.map_logits, masks.iou_scores)
    total = sum(x.square().mean() for x in (*parts, output.logits))
    total.backward()
    assert not [name for name, p in declared.items() if p.grad is None]  # distributed training would refuse these
    torch.optim.SGD(declared.values(), lr=0.1).step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed <= increment_state(model).keys() & declared.keys()
    for part in ("prompt_encoder.projection", "visible_decoder", "amodal_decoder", "spatial_encoder"):
        assert any(name.startswith(part) for name in changed), part
    assert any(name.startswith("vision_encoder") for name in changed) == train_vision


def test_assistant_answers_with_masks_and_reuses_features(
    row: TinyBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assistant = AmodalAssistant(with_changed_weights(new_aura(row, tmp_path)), clean=False)
    encode = assistant.model.encode_image
    calls: list[Tensor] = []

    def counted(pixels: Tensor) -> ImageFeatures:
        calls.append(pixels)
        return encode(pixels)

    monkeypatch.setattr(assistant.model, "encode_image", counted)
    image = random_image()
    chat = assistant.chat(image)
    questions = ["What could I drink from?", "What is behind it?"]
    replies = [chat.ask(question, answer=answer) for question, answer in zip(questions, ANSWERS[::2], strict=True)]
    assert [len(reply.scene.objects) for reply in replies] == [3, 1]
    assert all(obj.amodal_mask.shape == image.shape[:2] for reply in replies for obj in reply.scene.objects)
    assert len(calls) == 1
    together = assistant.converse([(image, questions)], answers=[ANSWERS[::2]])[0]
    for one, two in zip(replies, together, strict=True):
        assert [o.score for o in one.scene.objects] == pytest.approx([o.score for o in two.scene.objects], abs=1e-4)


def test_images_are_normalised_as_the_base_was_trained(row: TinyBase, tmp_path: Path) -> None:
    model = new_aura(row, tmp_path)
    model.save_pretrained(tmp_path / "aura")
    again = AuraProcessor.from_pretrained(tmp_path / "aura")
    image = random_image(height=64, width=64)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (row.family.image_mean, row.family.image_std))
    expected = (torch.from_numpy(image).permute(2, 0, 1).float() / 255 - mean) / std
    torch.testing.assert_close(again.pixels_sam(image)[0], expected)
