"""AURA's contracts with a language model that reads a convolutional trunk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from amodal.errors import InputError
from amodal.inference.assistant import AmodalAssistant
from amodal.losses import IGNORE_INDEX
from amodal.models.aura import AuraModel
from amodal.models.aura.heads import seg_states
from amodal.models.aura.mllm import merge_adapters
from amodal.models.aura.modeling import parameter_counts
from amodal.models.aura.pointing import RegionPointer, phrase_means
from amodal.models.aura.regions import (
    MARGIN,
    OcclusionOrder,
    RegionLogits,
    Regions,
    cell_shares,
    cut_out,
    neighbours,
    shared_boxes,
)
from amodal.models.aura.trunk_mllm import (
    FINDER_SCORE,
    TrunkMllmRecipe,
    TrunkTowerConfig,
    is_trunk_mllm,
    new_trunk_mllm,
)
from amodal.models.bases.efficientnet_lite import pretrained_weights
from amodal.models.bases.families import load_base
from amodal.models.detector import DetectorModel
from amodal.models.increments import increment_state
from amodal.training.tasks.aura import region_pointing_loss
from tests.models.aura import (
    ANSWER,
    let_names_differ,
    random_image,
    small_trunk_aura,
    small_trunk_mllm,
    small_trunk_recipe,
    training_batch,
    write_language_model,
    write_trunk_base,
)
from tests.models.test_efficientnet_lite import published_state

ANSWERS = (ANSWER, "There is none.", "I see <p>a mug</p> [SEG].")
QUESTION = "What could I drink from?"


def test_words_are_read_as_by_the_language_model_alone(tmp_path: Path) -> None:
    mllm = small_trunk_mllm(tmp_path)
    alone: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "lm", dtype=torch.float32).eval()
    tokens = torch.tensor([mllm.processor.tokenizer("What is behind it?")["input_ids"]])
    with torch.no_grad():
        ours, theirs = mllm.model(input_ids=tokens).logits, alone(input_ids=tokens).logits
    torch.testing.assert_close(ours[..., : theirs.shape[-1]], theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("unused_rows", [0, 2, 64])
def test_rows_of_the_new_tokens_start_at_the_mean_of_the_known_ones(tmp_path: Path, unused_rows: int) -> None:
    write_language_model(tmp_path / "lm", unused_rows=unused_rows)
    write_trunk_base(tmp_path / "trunk")
    mllm = small_trunk_mllm(tmp_path)
    known = len(AutoTokenizer.from_pretrained(tmp_path / "lm"))
    rows = mllm.model.get_output_embeddings().weight
    mean = rows[:known].mean(0)
    for number in mllm.processor.tokenizer.convert_tokens_to_ids(["<image>", "<p>", "</p>"]):
        assert number >= known
        torch.testing.assert_close(rows[number], mean)


def test_crops_show_the_region_in_the_middle_and_zeros_outside_of_the_image() -> None:
    pixels = torch.zeros(1, 3, 96, 96)
    pixels[0, :, 24:48, 48:72] = 1.0  # fills the box
    pixels[0, :, 80:, :16] = 2.0  # in a corner
    boxes = torch.tensor([[[0.5, 0.25, 0.75, 0.5], [0.0, 80 / 96, 16 / 96, 1.0]]])
    inner, corner = cut_out(pixels, boxes, 64).mean(1)
    edge = round(64 * (1 - 1 / MARGIN) / 2)
    assert inner[edge + 3 : -edge - 3, edge + 3 : -edge - 3].min() == pytest.approx(1, abs=1e-5)
    assert inner[: edge - 3].abs().max() < 1e-5 and inner[:, -edge + 3 :].abs().max() < 1e-5
    assert corner[edge + 4 : -edge - 4, edge + 4 : -edge - 4].min() == pytest.approx(2, abs=1e-5)
    assert corner[-edge + 4 :].abs().max() < 1e-5 and corner[:, : edge - 4].abs().max() < 1e-5


def test_what_two_boxes_share_is_found_in_the_cells_of_the_first_ones_crop() -> None:
    side = 0.4 / MARGIN  # a crop of 0.4 from 0.1 to 0.5
    low, high = 0.3 - side / 2, 0.3 + side / 2
    looked = torch.tensor([[[low, low, high, high]] * 2])
    areas = torch.tensor([[0.1, 0.1, 0.2, 0.2], [0.1, 0.2, 0.3, 0.3], [0.7, 0.7, 0.9, 0.9]])
    shares = cell_shares(looked, areas[None, None].expand(1, 2, -1, -1), 4)[0, 0].view(3, 4, 4)
    assert shares[0, 0, 0] == pytest.approx(1)
    torch.testing.assert_close(shares[1, 1, :2], torch.tensor([0.5, 0.5]))
    assert shares[2].sum() == 0  # outside of the crop
    boxes = torch.tensor([[[0.0, 0.0, 0.4, 0.4], [0.2, 0.1, 0.6, 0.3], [0.9, 0.9, 1.0, 1.0]]])
    assert shared_boxes(boxes)[0, 0, 1].tolist() == pytest.approx([0.2, 0.1, 0.4, 0.3])
    assert neighbours(boxes)[0].tolist() == [[False, True, False], [True, False, False], [False, False, False]]


def test_the_occlusion_order_is_learned_from_what_both_boxes_cover() -> None:
    """Neither object alone, nor the place of its box, says which one is in front."""
    torch.manual_seed(0)
    order = OcclusionOrder(8, 4)
    optimizer = torch.optim.Adam(order.parameters(), 0.01)

    def pairs(count: int) -> tuple[Any, Tensor, Tensor]:
        """Each grid shows, in all cells, the first channels of the object in front."""
        features, front = torch.randn(count, 2, 8), torch.rand(count) < 0.5
        boxes = torch.tensor([[0.2, 0.2, 0.6, 0.6], [0.4, 0.4, 0.8, 0.8]]).expand(count, -1, -1)
        shown = torch.where(front[:, None], features[:, 0, :4], features[:, 1, :4])
        grid = shown[:, None, :, None, None].expand(-1, 2, -1, 4, 4).flatten(0, 1)
        seen, edges = torch.zeros(2 * count), torch.zeros(2 * count, 4)
        return RegionLogits(torch.zeros(2 * count, 3), seen, edges, seen, features.flatten(0, 1), grid), boxes, front

    for _ in range(400):
        logits, boxes, front = pairs(64)
        loss = F.binary_cross_entropy_with_logits(order(logits, boxes, boxes)[:, 0, 1], front.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    logits, boxes, front = pairs(400)
    with torch.no_grad():
        right = (order.eval()(logits, boxes, boxes)[:, 0, 1] > 0) == front
    assert right.float().mean() > 0.8  # 0.5 is a guess


def test_the_finder_of_a_tower_is_the_detector_of_the_base(tmp_path: Path) -> None:
    model = small_trunk_aura(tmp_path)
    tower = model.mllm.model.vision_tower
    trunk: Any = load_base(tmp_path / "trunk").model.vision_encoder
    theirs = DetectorModel.from_pretrained(tmp_path / "trunk", trunk.backbone)
    pixels = torch.randn(2, 3, 64, 64)
    boxes, known = tower.find(pixels)
    assert boxes.shape == (2, 5, 4) and known.any()
    for number, found in enumerate(theirs.detect(pixels, FINDER_SCORE)):
        count = int(known[number].sum())
        assert count == min(len(found.boxes), 5)
        expected = torch.from_numpy(found.boxes[:count]).float() / 64
        torch.testing.assert_close(boxes[number, :count], expected, atol=1e-5, rtol=1e-5)
        assert (boxes[number, count:] == torch.tensor([0.0, 0.0, 1.0, 1.0])).all()


def test_a_base_without_a_detector_is_refused(tmp_path: Path) -> None:
    small_trunk_mllm(tmp_path)
    (tmp_path / "trunk" / "detector.json").unlink()
    with pytest.raises(InputError, match="base .*trunk: expected a base with a detector, which finds the regions"):
        new_trunk_mllm(small_trunk_recipe(tmp_path), tmp_path / "trunk")


def test_the_answer_depends_on_the_image(tmp_path: Path) -> None:
    model = small_trunk_aura(tmp_path)
    batch = training_batch(model)
    let_names_differ(model, batch["pixel_values"])
    with torch.no_grad():
        right = model(**batch).logits
        wrong = model(**batch | {"pixel_values": batch["pixel_values"].flip(0)}).logits
    assert (right - wrong).abs().max() > 1e-3


def test_batched_equals_single(tmp_path: Path) -> None:
    model = small_trunk_aura(tmp_path)
    with torch.no_grad():
        together = model(**training_batch(model, ANSWERS))
        alone = model(**training_batch(model, ANSWERS[:1]))
    torch.testing.assert_close(together.masks.amodal_logits[:3], alone.masks.amodal_logits, atol=1e-4, rtol=1e-4)
    counted = together.targets[0] != IGNORE_INDEX
    torch.testing.assert_close(together.logits[0, counted], alone.logits[0], atol=1e-4, rtol=1e-4)


def test_generated_answers_of_a_batch_equal_single_ones(tmp_path: Path) -> None:
    assistant = AmodalAssistant(small_trunk_aura(tmp_path))
    pairs: list[Any] = [(random_image(0, 60, 90), QUESTION), (random_image(1, 90, 60), "Is there anything to sit on?")]
    together = assistant.ask_batch(pairs, max_new_tokens=8)
    alone = [assistant.ask(*pair, max_new_tokens=8) for pair in pairs]
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    assert len(alone[0].text) > 2


def test_states_of_two_cached_turns_equal_a_full_forward(tmp_path: Path) -> None:
    model = small_trunk_aura(tmp_path, box_weight=1.0)
    assistant = AmodalAssistant(model)
    calls: list[int] = []
    model.mllm.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    dialogue = assistant.chat(random_image(0, 60, 90))._begin(QUESTION)
    answers = [dialogue.answer(40, given=[ANSWER])]
    read = len(calls)
    dialogue.follow(["What is behind it?"])
    answers.append(dialogue.answer(40, given=[ANSWER]))
    cached = [answer.states for answer in answers]
    phrases = [answer.phrases for answer in answers]
    torch.testing.assert_close(torch.cat(phrases), model.phrases(dialogue.tokens))  # type: ignore[arg-type]
    assert torch.cat(phrases).any(-1).all()  # type: ignore[arg-type]
    assert len(calls) == read > 0
    pixels = assistant.processor([random_image(0, 60, 90)], [QUESTION]).mllm["pixel_values"]
    with model.recorded_states() as recorded, torch.no_grad():
        model.mllm(input_ids=dialogue.tokens, attention_mask=dialogue.attention, pixel_values=pixels)
    full, _ = seg_states(recorded[0][:, :-1], dialogue.tokens[:, 1:], assistant.processor.seg_token_id)
    assert full.shape == (6, 24)
    torch.testing.assert_close(torch.cat(cached), full, atol=1e-5, rtol=1e-5)


def test_only_declared_parameters_move_and_all_of_them(tmp_path: Path) -> None:
    model = small_trunk_aura(tmp_path, box_weight=1.0, iou_weight=1.0).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    declared = {name: p for name, p in model.named_parameters() if p.requires_grad}
    output = model(**training_batch(model))
    masks = output.masks
    parts = [masks.visible_logits, masks.amodal_logits, masks.rates, masks.map_logits, masks.iou_scores, output.logits]
    parts += [output.pointing_logits]
    batch = {"pixel_values": training_batch(model)["pixel_values"]}
    batch |= {"proposals_xyxy_mllm": torch.rand(2, 2, 4).sort(-1).values, "ranks": torch.tensor([[0, 3], [1, 9]])}
    learned = model(**batch).regions
    parts += [*learned.logits, learned.order]
    sum(x.square().mean() for x in parts).backward()
    assert not [name for name, p in declared.items() if p.grad is None]  # distributed training would refuse these
    torch.optim.SGD(declared.values(), lr=0.1).step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed <= increment_state(model).keys()
    assert not any(".finder." in name for name in changed)
    assert not any(name.startswith("vision_encoder.") for name in changed)


def test_rows_of_the_new_tokens_are_trained_and_change_what_is_said(tmp_path: Path) -> None:
    model = small_trunk_aura(tmp_path)
    tokenizer = model.processor.tokenizer  # type: ignore[union-attr]
    assert tokenizer.convert_ids_to_tokens([*model.config.new_token_ids]) == ["<p>", "</p>"]
    rows = [(name, p) for name, p in model.named_parameters() if "trainable_tokens_delta" in name]
    assert [p.shape for _, p in rows] == [(3, 24)]
    batch = training_batch(model)
    with torch.no_grad():
        before = model(**batch).logits[0, 0].clone()
        rows[0][1].add_(1.0)
        moved = (model(**batch).logits[0, 0] - before).abs() > 1e-3
    assert moved[[model.config.seg_token_id, *model.config.new_token_ids]].all()


def test_save_and_load_is_bitwise(tmp_path: Path) -> None:
    model = small_trunk_aura(tmp_path, box_weight=1.0)
    model.save_pretrained(tmp_path / "aura")
    again = AuraModel.from_pretrained(tmp_path / "aura")
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    stored = increment_state(model)
    assert not any("embed_tokens.token_adapter.base_layer" in name for name in stored)
    batch = training_batch(model)
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, again(**batch).logits)
    assert parameter_counts(model.config)["total"] == sum(p.numel() for p in model.parameters())
    assert str(tmp_path) not in json.dumps(model.config.mllm), "the place of the language model is in mllm_base alone"


def test_a_merged_model_gives_the_same_masks(tmp_path: Path) -> None:
    model = small_trunk_aura(tmp_path, box_weight=1.0)
    model.save_pretrained(tmp_path / "whole", merged=True)
    again = AuraModel.from_pretrained(tmp_path / "whole")
    assert is_trunk_mllm(again.mllm.config)
    batch = training_batch(model)
    with torch.no_grad():
        ours, theirs = model(**batch), again(**batch)
        torch.testing.assert_close(theirs.masks.amodal_logits, ours.masks.amodal_logits, atol=1e-4, rtol=1e-4)
        merge_adapters(model.mllm)
        torch.testing.assert_close(model(**batch).logits, ours.logits, atol=1e-4, rtol=1e-4)


def test_another_language_model_is_refused(tmp_path: Path) -> None:
    small_trunk_aura(tmp_path).save_pretrained(tmp_path / "aura")
    other = write_language_model(tmp_path / "other", seed=2)
    with pytest.raises(InputError, match="mllm .*other: expected weights with fingerprint"):
        AuraModel.from_pretrained(tmp_path / "aura", mllm=other)


def test_a_missing_package_of_trunk_weights_is_refused(tmp_path: Path) -> None:
    write_language_model(tmp_path / "lm")
    write_trunk_base(tmp_path / "trunk")
    settings = TrunkMllmRecipe(language_model=str(tmp_path / "lm"), trunk_weights="no_such_package")
    with pytest.raises(InputError, match="trunk_weights: expected a file, or an installed package"):
        new_trunk_mllm(settings, tmp_path / "trunk")


def test_a_folder_without_a_language_model_is_refused(tmp_path: Path) -> None:
    small_trunk_mllm(tmp_path)
    (tmp_path / "empty").mkdir()
    settings = TrunkMllmRecipe(language_model=str(tmp_path / "empty"))
    with pytest.raises(InputError, match="language_model: expected a causal language model of transformers, got"):
        new_trunk_mllm(settings, tmp_path / "trunk")


def test_the_trunk_starts_from_the_named_weights(tmp_path: Path) -> None:
    write_language_model(tmp_path / "lm")
    file = tmp_path / "lite.pth"
    torch.save(published_state(TrunkTowerConfig().trunk_config), file)
    write_trunk_base(tmp_path / "trunk")
    settings = TrunkMllmRecipe(language_model=str(tmp_path / "lm"), trunk_weights=str(file))
    model: Any = new_trunk_mllm(settings, tmp_path / "trunk").model
    trunk = model.model.vision_tower.reader.trunk
    expected = pretrained_weights(file, trunk.config)
    assert expected.keys() == trunk.state_dict().keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in trunk.state_dict().items())


@pytest.mark.parametrize("train_tower", [True, False])
@pytest.mark.parametrize("part", [".reader.trunk.", ".reader.word."])
def test_trunk_and_projector_are_trained_with_train_tower_only_and_always_stored(
    tmp_path: Path, part: str, train_tower: bool
) -> None:
    model = small_trunk_aura(tmp_path, train_tower=train_tower)
    tensors = {name: p for name, p in model.named_parameters() if part in name}
    assert tensors and all(p.requires_grad == train_tower for p in tensors.values())
    assert increment_state(model).keys() >= tensors.keys()


def test_with_a_fixed_language_model_the_heads_alone_are_trained(tmp_path: Path) -> None:
    model = small_trunk_aura(tmp_path, train_language=False, box_weight=1.0).train()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and not any(name.startswith("mllm.") for name in trained)
    assert any(".lora_" in name for name in increment_state(model))
    output = model(**training_batch(model))
    assert output.logits is not None and not output.logits.requires_grad and output.masks.amodal_logits.requires_grad


def test_the_words_before_a_mask_token_are_averaged() -> None:
    before, after, seg = 7, 8, 9
    embeddings = torch.arange(12.0)[:, None]
    cases: dict[tuple[int, ...], list[float]] = {
        (5, before, 1, 3, after, seg): [2.0],
        (before, 1, after, 0, seg, 2, before, 4, after, 0, seg): [1.0, 4.0],
        (before, 1, 3, after, seg, 2, seg): [2.0, 2.0],  # several masks of the same words
        (1, 3, seg, 2): [0.0],  # no marked words
        (before, 1, 3, seg): [0.0],  # not closed
        (1, 3, after, seg): [0.0],  # not opened
        (before, after, seg, 0): [0.0],  # nothing between
        (seg, before, 1, after, seg): [0.0, 1.0],
        (before, 1, after, -1, seg): [0.0],  # of the answer before
        (1, 2): [],
    }
    for tokens, expected in cases.items():
        rows = torch.tensor([tokens])
        means = phrase_means(embeddings[rows.clamp(min=0)], rows, seg, (before, after))
        assert means.shape == (len(expected), 1) and means[:, 0].tolist() == expected, tokens


def test_a_mask_token_points_where_its_words_are_seen(tmp_path: Path) -> None:
    model = small_trunk_aura(tmp_path, box_weight=1.0)
    before, after = model.config.new_token_ids
    words = ["background", "mug", "chair"]
    named = [model.processor.tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words[1:]]  # type: ignore[union-attr]
    seg = model.config.seg_token_id
    rows = torch.tensor([[before, *named[0], after, seg, before, *named[1], after, seg, seg]])
    phrases = model.phrases(rows)
    assert phrases is not None and phrases.argmax(-1).tolist() == [1, 2, 2]
    boxes = torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 0.5], [0.0, 0.5, 0.5, 1.0], [0.5, 0.5, 1.0, 1.0]]])
    seen = F.one_hot(torch.tensor([[0, 1, 2, 1]]), 3).float()  # what each of four regions shows
    quality = torch.tensor([[0.9, 0.4, 0.6, 0.8]])
    regions = Regions(boxes, seen, quality, torch.zeros(1, 4), torch.zeros(1, 4, 4))
    states, index = torch.zeros(3, 24), torch.zeros(3, dtype=torch.long)
    with torch.no_grad():
        pointed = model.point(states, index, regions=regions, phrases=phrases)
        unnamed = model.point(states, index, regions=regions, phrases=torch.zeros_like(phrases))
        moved = model.point(
            states, index, torch.tensor([[1.0, 0.5, 0.0, 0.25]]), regions=regions, phrases=torch.eye(3)[[1, 1, 2]]
        )
    assert pointed is not None and unnamed is not None and moved is not None
    assert pointed.logits.argmax(-1).tolist() == [3, 2, 2]  # the better one of two mugs
    assert torch.equal(pointed.boxes_xyxy_sam, boxes[0, [3, 2, 2]])
    assert unnamed.logits.argmax(-1).tolist() == [3, 3, 3]  # any object, but not the background
    assert moved.boxes_xyxy_sam[0].tolist() == pytest.approx([0.5, 0.5, 1.0, 0.75])


def test_the_state_chooses_between_objects_of_one_name() -> None:
    torch.manual_seed(0)
    pointer = RegionPointer(8).eval()
    boxes = torch.tensor([[[0.0, 0.0, 0.4, 0.4], [0.6, 0.6, 1.0, 1.0]]])
    seen = torch.tensor([[[0.0, 1.0]] * 2])
    regions = Regions(boxes, seen, torch.full((1, 2), 0.8), torch.zeros(1, 2), torch.zeros(1, 2, 2))
    words, index, phrases = torch.randn(2, 8), torch.zeros(2, dtype=torch.long), torch.tensor([[0.0, 1.0]] * 2)
    states = torch.randn(2, 8)
    optimizer = torch.optim.Adam(pointer.parameters(), 0.01)
    equal = pointer(states, regions, words, index, phrases).logits
    assert torch.allclose(equal[:, 0], equal[:, 1])  # before any training
    for _ in range(60):
        logits = pointer(states, regions, words, index, phrases).logits
        loss = region_pointing_loss(logits, boxes.expand(2, -1, -1), boxes[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert pointer(states, regions, words, index, phrases).logits.argmax(-1).tolist() == [0, 1]


def test_a_reader_that_is_not_trained_sees_the_same_in_training_as_in_an_answer(tmp_path: Path) -> None:
    """Words would otherwise be learned from other image tokens than an answer reads."""
    model = small_trunk_aura(tmp_path, train_tower=False)
    pixels = training_batch(model)["pixel_values"]
    with torch.no_grad():
        expected = image_tokens(model, pixels)
        assert torch.equal(image_tokens(model.train(), pixels), expected)
        model.mllm.model.vision_tower.reader.requires_grad_(True)
        assert not torch.equal(image_tokens(model.train(), pixels), expected)


def image_tokens(model: AuraModel, pixels: torch.Tensor) -> torch.Tensor:
    """What the language model reads of images (B, n, D)."""
    return torch.stack([*model.mllm.get_image_features(pixel_values=pixels, return_dict=True).pooler_output])
