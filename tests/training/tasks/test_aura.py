"""The losses of AURA: those of the paper, and none that are switched off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from amodal.losses import IGNORE_INDEX
from amodal.models.aura import AuraModel, AuraOutput
from amodal.models.aura.regions import LearnedRegions, RegionLogits, longer_sides
from amodal.nn.occlusion_encoders import occlusion_map
from amodal.training.datasets.sampling import UNNAMED
from amodal.training.tasks.aura import (
    ANY_OBJECT,
    TARGETS,
    AuraTask,
    matched_regions,
    region_pointing_loss,
    text_loss,
)
from tests.models.aura import let_names_differ, small_aura, small_trunk_aura, training_batch


def with_truth(model: AuraModel, batch: dict[str, Any], count: int = 3) -> dict[str, Any]:
    visible = torch.zeros(count, 64, 64, dtype=torch.bool)
    visible[:, 10:30, 10:30] = True
    amodal = visible.clone()
    amodal[:, 30:50, 10:30] = True
    return batch | {"visible_masks": visible, "amodal_masks": amodal, "has_amodal": torch.ones(count, dtype=torch.bool)}


def losses_of(model: AuraModel, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    return AuraTask(model.config)(model.train(), batch, torch.Generator())


def test_losses_are_those_of_the_paper(tmp_path: Path) -> None:
    """Eq. 1-4 computed by hand from the model's outputs; all weights are 1."""
    model = small_aura(tmp_path, lora_dropout=0.0).train()
    batch = with_truth(model, training_batch(model))
    losses = losses_of(model, batch)
    inputs = {k: v for k, v in batch.items() if k not in ("visible_masks", "amodal_masks", "has_amodal")}
    output: AuraOutput = model(**inputs)
    masks: Any = output.masks
    visible, amodal = batch["visible_masks"].float(), batch["amodal_masks"].float()
    assert output.logits is not None and output.targets is not None
    expected = {
        "text": F.cross_entropy(output.logits.flatten(0, 1), output.targets.flatten(), ignore_index=IGNORE_INDEX),
        "visible_bce": F.binary_cross_entropy_with_logits(masks.visible_logits, visible),
        "amodal_bce": F.binary_cross_entropy_with_logits(masks.amodal_logits, amodal),
        "rate": (masks.rates - 0.5).square().mean(),
        "map": F.cross_entropy(masks.map_logits, occlusion_map(batch["visible_masks"], batch["amodal_masks"])),
    }
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, atol=1e-5, rtol=1e-5)
    assert losses.keys() == expected.keys() | {"visible_dice", "amodal_dice"}


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"condition_encoder": False}, {"rate"}),
        ({"spatial_encoder": False}, {"map"}),
        ({"condition_encoder": False, "spatial_encoder": False}, {"rate", "map"}),
    ],
)
def test_encoders_that_are_switched_off_have_no_losses(
    tmp_path: Path, changes: dict[str, bool], missing: set[str]
) -> None:
    model = small_aura(tmp_path, **changes)
    losses = losses_of(model, with_truth(model, training_batch(model)))
    assert {"rate", "map"} - losses.keys() == missing


def test_unknown_amodal_masks_do_not_count(tmp_path: Path) -> None:
    model = small_aura(tmp_path, lora_dropout=0.0)
    batch = with_truth(model, training_batch(model))
    batch["has_amodal"][2] = False
    before = losses_of(model, batch)
    batch["amodal_masks"][2] = ~batch["amodal_masks"][2]
    batch["amodal_masks"][2] |= batch["visible_masks"][2]
    for name, value in losses_of(model, batch).items():
        torch.testing.assert_close(value, before[name], msg=name)


def test_batch_without_objects_has_a_finite_loss_and_gradients(tmp_path: Path) -> None:
    model = small_aura(tmp_path)
    batch = with_truth(model, training_batch(model, ("There is none.", "Nothing.")), count=0)
    losses = losses_of(model, batch)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert total.isfinite() and losses["amodal_bce"] == 0


def test_the_quality_loss_is_optional(tmp_path: Path) -> None:
    model = small_aura(tmp_path, iou_weight=0.5)
    batch = with_truth(model, training_batch(model))
    assert "quality" in losses_of(model, batch)
    assert "quality" not in losses_of(small_aura(tmp_path), batch)


def test_the_choice_of_a_region_is_learned_with_the_box_weight(tmp_path: Path) -> None:
    model = small_trunk_aura(tmp_path, box_weight=0.5, train_tower=False, lora_dropout=0.0).train()
    batch = with_truth(model, training_batch(model))
    output: Any = model(**training_batch(model))
    regions = output.pointing_boxes_xyxy_sam
    boxes = batch["visible_boxes_xyxy_sam"] = regions[:, 0].clone()  # so that a region fits
    loss = losses_of(model, batch)["pointing"]
    torch.testing.assert_close(loss, 0.5 * region_pointing_loss(output.pointing_logits, regions, boxes))
    loss.backward()
    assert model.box_reader is not None
    assert all(p.grad is not None for p in model.box_reader.parameters())
    other = small_aura(tmp_path / "other")
    assert "pointing" not in losses_of(other, with_truth(other, training_batch(other)))


def test_decisions_have_a_loss_of_their_own(tmp_path: Path) -> None:
    """With a weight for nothing else, only the outputs at the marked tokens get gradients."""
    model = small_aura(tmp_path, decision_weight=2.0, lora_dropout=0.0).train()
    batch = with_truth(model, training_batch(model))
    marked = torch.zeros_like(batch["labels"], dtype=torch.bool)
    rows, columns = (batch["labels"] != IGNORE_INDEX).nonzero(as_tuple=True)
    marked[rows[3], columns[3]] = True
    batch["deciding"] = marked
    logits = model(**{k: v for k, v in batch.items() if k not in TARGETS}).logits[rows[3], 3]
    expected = 2 * F.cross_entropy(logits, batch["labels"][rows[3], columns[3]])
    torch.testing.assert_close(losses_of(model, batch)["decision"], expected, atol=1e-5, rtol=1e-5)
    assert AuraTask(model.config).scores(model.eval(), batch, 0.5)["decision"][1] == 1
    assert "decision" not in losses_of(model, {k: v for k, v in batch.items() if k != "deciding"})


def test_text_loss_of_no_answer_is_zero() -> None:
    assert text_loss(torch.randn(2, 3, 7), torch.full((2, 3), IGNORE_INDEX)) == 0


def test_overfits_one_answer(tmp_path: Path) -> None:
    """A few steps on one batch improve text and masks."""
    torch.manual_seed(0)
    model = small_aura(tmp_path, train_mllm=True, lora_rank=0)
    batch = with_truth(model, training_batch(model))
    task = AuraTask(model.config)
    task.prepare(model)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    history = []
    for _ in range(40):
        losses = losses_of(model, batch)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append({name: loss.item() for name, loss in losses.items()})
    for name, share in {"text": 0.5, "rate": 0.5, "map": 0.8, "visible_bce": 0.85, "amodal_bce": 0.85}.items():
        assert history[-1][name] < share * history[0][name], name
    scores = task.scores(model.eval(), batch, 0.5)
    assert not any(name.startswith("image_gain") for name in scores)
    assert scores["full"][1] == 3
    assert scores["token"][0] / scores["token"][1] > 0.2


@pytest.mark.parametrize("reads_words", [False, True])
def test_what_the_right_image_is_worth_by_family(tmp_path: Path, reads_words: bool) -> None:
    """By hand: the log probabilities of each answer with its own image, and with that of the other sample."""
    model = (small_trunk_aura if reads_words else small_aura)(tmp_path).eval()
    batch = with_truth(model, training_batch(model))
    if reads_words:
        let_names_differ(model, batch["pixel_values"])
        batch["visible_boxes_xyxy_sam"] = torch.tensor([[0.1, 0.1, 0.5, 0.5]]).repeat(3, 1)
        batch["box_hints_xyxy_sam"] = torch.full((3, 4), torch.nan)
    answers = batch["labels"] != IGNORE_INDEX
    batch["families"] = answers * torch.tensor([[2], [1]])  # the first answer is of the second family
    scores = AuraTask(model.config, ["missing", "use"]).scores(model, batch, 0.5)

    def nats(pixels: torch.Tensor) -> list[float]:
        with torch.no_grad():
            logits = model.mllm(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], pixel_values=pixels
            ).logits
        chances = logits[:, :-1].log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
        return [float(-row[counted[1:]].sum()) for row, counted in zip(chances, answers, strict=True)]

    right, wrong = nats(batch["pixel_values"]), nats(batch["pixel_values"].flip(0))
    assert scores["image_gain_use"] == (pytest.approx(wrong[0] - right[0], abs=1e-3), 1)
    assert scores["image_gain_missing"] == (pytest.approx(wrong[1] - right[1], abs=1e-3), 1)
    assert scores["image_gain"] == (pytest.approx(sum(wrong) - sum(right), abs=1e-3), 2)
    assert abs(scores["image_gain_use"][0]) > 1e-3


def test_two_answers_of_a_family_in_one_sequence_count_twice(tmp_path: Path) -> None:
    model = small_aura(tmp_path).eval()
    batch = with_truth(model, training_batch(model))
    families = (batch["labels"] != IGNORE_INDEX).long()
    last = int(families[0].nonzero()[-1])
    families[0, last - 2] = 0  # as if a question stood there
    scores = AuraTask(model.config, ["use"]).scores(model, batch | {"families": families}, 0.5)
    assert scores["image_gain_use"][1] == 3


def region_batch() -> tuple[LearnedRegions, dict[str, Any]]:
    """Two images with four regions each; the true objects are a named one and an unnamed one of the first image."""
    exact, half, near, far = [0.0, 0.0, 0.4, 0.4], [0.0, 0.0, 0.2, 0.4], [0.0, 0.0, 0.16, 0.4], [0.5, 0.5, 1.0, 1.0]
    boxes = torch.tensor([[exact, half, near, far], [exact, half, near, [0.5, 0.0, 0.6, 0.1]]])
    generator = torch.Generator().manual_seed(0)
    words, rates, quality = (torch.randn(*shape, generator=generator) for shape in ((8, 3), (8,), (8,)))
    edges = 0.1 * torch.randn(8, 4, generator=generator)
    corrected = (boxes.flatten(0, 1) + edges * longer_sides(boxes.flatten(0, 1))).view_as(boxes)
    features, grid = torch.zeros(8, 4), torch.zeros(8, 2, 4, 4)
    order = torch.randn(2, 4, 4, generator=generator)
    batch = {
        "true_boxes_xyxy_mllm": torch.tensor([exact, far]),
        "true_names": torch.tensor([2, UNNAMED]),
        "true_rates": torch.tensor([0.3, torch.nan]),
        "true_hides": torch.tensor([[0.0, torch.nan], [1.0, torch.nan]]),  # the second one hides the first
        "image_index": torch.tensor([0, 0]),
    }
    return LearnedRegions(boxes, RegionLogits(words, rates, edges, quality, features, grid), corrected, order), batch


def test_regions_learn_the_object_of_their_own_image_that_they_overlap_most() -> None:
    names, rates, truth, _ = matched_regions(*region_batch())
    assert names.tolist() == [2, 2, UNNAMED, ANY_OBJECT, 0, 0, 0, 0]  # half of a box is an IoU of 0.5, 0.16 of 0.4 less
    assert rates[:2].tolist() == pytest.approx([0.3, 0.3]) and rates[2:].isnan().all()
    assert truth[:2].tolist() == [pytest.approx([0.0, 0.0, 0.4, 0.4])] * 2 and truth[3].tolist() == [0.5, 0.5, 1.0, 1.0]
    assert truth[[2, 4, 5, 6, 7]].isnan().all()
    learned, batch = region_batch()
    none = {name: value[:0] for name, value in batch.items()}
    names, *_, hides = matched_regions(learned, none)
    assert not names.any() and hides.isnan().all()


def test_pairs_of_regions_that_meet_learn_which_one_is_in_front() -> None:
    learned, batch = region_batch()
    close = torch.tensor([0.0, 0.0, 0.6, 0.6]).expand(2, 4, 4)
    hides = matched_regions(learned._replace(corrected_xyxy_mllm=close), batch)[3]
    assert hides[0, 3, :2].tolist() == [1.0, 1.0] and hides[0, 0, 1] == hides[0, 1, 0] == 0  # two views of one object
    assert hides[0, :, 2].isnan().all(), "what is between object and background is not learned"
    assert hides[0, 2].isnan().all()
    assert hides[0, :, 3].isnan().all(), "what hides the unnamed one is unknown"
    assert hides[1].isnan().all(), "nothing is hidden where there is no object"
    apart = close.clone()
    apart[0, 3] = torch.tensor([0.9, 0.9, 1.0, 1.0])
    hides = matched_regions(learned._replace(corrected_xyxy_mllm=apart), batch)[3]
    assert hides[0, 3].isnan().all() and hides[0, 0, 1] == 0


def test_the_losses_of_regions_are_those_of_their_targets(tmp_path: Path) -> None:
    learned, batch = region_batch()
    task = AuraTask(small_aura(tmp_path, naming_weight=0.5).config)
    losses = task._region_losses(learned, batch)
    logits = learned.logits
    named = [0, 1, 4, 5, 6, 7]
    naming = F.cross_entropy(
        logits.words[named], torch.tensor([2, 2, 0, 0, 0, 0]), label_smoothing=0.03, reduction="sum"
    )
    naming = naming - (1 - logits.words[3].softmax(-1)[0]).log()  # an object of unknown name is no background
    rate = F.binary_cross_entropy_with_logits(logits.rates[:2], torch.full((2,), 0.3), reduction="sum")
    torch.testing.assert_close(losses["naming"], 0.5 * naming / 8, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses["region_rate"], 0.5 * rate / 8, atol=1e-5, rtol=1e-5)
    assert losses.keys() == {"naming", "region_rate", "region_box", "region_quality"}
    better = learned._replace(logits=logits._replace(edges=torch.zeros(8, 4)))
    assert task._region_losses(better, batch)["region_box"] < losses["region_box"]


def test_the_occlusion_order_is_learned_alone(tmp_path: Path) -> None:
    learned, batch = region_batch()
    weights = dict.fromkeys(("text_weight", "bce_weight", "dice_weight", "rate_weight", "map_weight"), 0.0)
    model = small_trunk_aura(tmp_path, naming_weight=0.5, train_tower=False, **weights)
    assert model.config.order_only
    task = AuraTask(model.config)
    hides = matched_regions(learned, batch)[3]
    pairs = ~hides.isnan()
    order = F.binary_cross_entropy_with_logits(learned.order[pairs], hides[pairs])
    losses = task._region_losses(learned, batch)
    assert losses.keys() == {"region_order"}
    torch.testing.assert_close(losses["region_order"], 0.5 * order)
    tower = model.train().mllm.model.vision_tower
    assert {name for name, p in tower.named_parameters() if p.requires_grad} == {
        f"reader.order.{name}" for name, _ in tower.reader.order.named_parameters()
    }
    assert tower.reader.order.training and not tower.reader.training and not tower.reader.trunk.training


def test_the_object_in_front_is_scored_by_pairs(tmp_path: Path) -> None:
    learned, batch = region_batch()
    close = torch.tensor([0.0, 0.0, 0.6, 0.6]).expand(2, 4, 4)
    right, wrong = (torch.zeros(2, 4, 4) for _ in range(2))
    right[0, 3, :2] = wrong[0, :2, 3] = 1.0  # the fourth region is in front of the first two
    model = small_trunk_aura(tmp_path, naming_weight=0.5)
    for order, expected in ((right, 2.0), (wrong, 0.0)):
        seen = AuraOutput(regions=learned._replace(corrected_xyxy_mllm=close, order=order))
        scores = AuraTask(model.config).scores(lambda seen=seen, **_: seen, batch, 0.5)  # type: ignore[arg-type]
        assert scores["order"] == (expected, 2)


def test_the_choice_of_a_region_is_learned_from_the_overlap() -> None:
    regions = torch.tensor([[[0.0, 0.0, 0.4, 0.4], [0.0, 0.0, 0.3, 0.4], [0.6, 0.6, 1.0, 1.0]]]).repeat(2, 1, 1)
    boxes = torch.tensor([[0.0, 0.0, 0.4, 0.4], [0.4, 0.4, 0.5, 0.5]])  # no region fits the second
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 9.0]])
    shares = torch.tensor([1.0, 0.75, 0.0]) / 1.75
    expected = -(shares * logits[0].log_softmax(-1)).sum()
    torch.testing.assert_close(region_pointing_loss(logits, regions, boxes), expected)
