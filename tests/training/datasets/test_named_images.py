"""Images with named regions, or with objects in boxes, for a training without words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from amodal.models.aura import AuraProcessor
from amodal.ops.boxes import box_iou, mask_to_box
from amodal.training.datasets.crops import Augmentation
from amodal.training.datasets.named_images import NUM_PROPOSALS, NUM_RANKS, NamedImages
from amodal.training.datasets.sampling import UNNAMED
from tests.models.aura import random_image
from tests.training.datasets.test_conversations import conversations, processor, source

__all__ = ["processor"]
UNCHANGED = Augmentation(colour=0.0, hue=0.0, grey=0.0, blur=0.0, noise=0.0)


def test_images_of_any_shape_are_normalised_as_by_the_language_models_processor(processor: AuraProcessor) -> None:
    wide = random_image(3, height=30, width=80)
    ours = processor.normalize_mllm(torch.from_numpy(processor.pixels_mllm(wide))[None])
    torch.testing.assert_close(ours, processor.first_turn(wide, "What is it?")["pixel_values"], atol=1e-5, rtol=0)


def test_a_sample_depends_only_on_its_key(tmp_path: Path, processor: AuraProcessor) -> None:
    first, again = (
        NamedImages([source(tmp_path / name)], processor, kind="regions", augmentation=Augmentation()) for name in "ab"
    )
    for key in ((0, 0, (1, 2, 3)), (0, 1, (1, 2, 4))):
        one, two = first[key], again[key]
        assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not np.array_equal(first[(0, 0, (1, 2, 3))]["image"], first[(0, 0, (1, 2, 5))]["image"])


def test_masks_and_boxes_of_objects_move_with_the_pixels(tmp_path: Path, processor: AuraProcessor) -> None:
    """The toy's squares have one colour each; amodal masks contain the visible ones."""
    colours = [(220, 40, 40), (40, 220, 40)]
    strength = UNCHANGED.model_copy(update={"flip": 0.5})
    data = NamedImages([source(tmp_path)], processor, augmentation=strength, kind="objects")
    found = 0
    for seed in range(12):
        items = [data[(0, position, (seed,))] for position in range(2)]
        batch = data.collate(items)
        assert batch["pixel_values_sam"].shape == (2, 3, 64, 64)
        assert batch["image_index"].tolist() == [i for i in range(2) for _ in items[i]["has_amodal"]]
        for number, index in enumerate(batch["image_index"].tolist()):
            image = cv2.resize(items[index]["image"], (64, 64)).astype(int)
            visible = batch["visible_masks"][number].numpy()
            shares = [((np.abs(image - colour).max(-1) < 60) & visible).sum() / visible.sum() for colour in colours]
            assert max(shares) > 0.7 and not (visible & ~batch["amodal_masks"][number].numpy()).any()
            np.testing.assert_allclose(batch["box_hints_xyxy_sam"][number] * 64, mask_to_box(visible), atol=1)
            found += 1
    assert found > 12
    few = NamedImages(data.sources, processor, kind="objects", max_masks=1, box_error=0.1)
    exact = NamedImages(data.sources, processor, kind="objects", max_masks=1)
    item, truth = few[(0, 0, (1,))], exact[(0, 0, (1,))]["box_hints_xyxy_sam"]
    assert len(item["visible_masks"]) == len(truth) == 1
    assert 0 < np.abs(item["box_hints_xyxy_sam"] - truth).max() < 0.3


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_true_boxes_of_regions_are_where_their_colours_are(
    tmp_path: Path, processor: AuraProcessor, flip: float
) -> None:
    colours = {1: (220, 40, 40), 2: (40, 220, 40)}
    strength = UNCHANGED.model_copy(update={"flip": flip, "shift": 0.3, "scale": (0.7, 2.0)})
    data = NamedImages([source(tmp_path)], processor, augmentation=strength, kind="regions")
    found = 0
    for seed in range(20):
        item = data[(0, seed % 2, (seed,))]
        side = len(item["image"])
        close = {name: np.abs(item["image"].astype(int) - colour).max(-1) < 60 for name, colour in colours.items()}
        for box, name, rate in zip(*(item[f"true_{x}"] for x in ("boxes_xyxy_mllm", "names", "rates")), strict=True):
            assert 0 <= rate < 1
            if list(item["true_names"]).count(name) == 1 and box.min() > 0 and box.max() < 1:
                np.testing.assert_allclose(box * side, mask_to_box(close[int(name)]), atol=2.5)
                found += 1
        assert item["proposals_xyxy_mllm"].shape == (NUM_PROPOSALS, 4) and item["ranks"].shape == (NUM_RANKS,)
        assert (item["proposals_xyxy_mllm"][:, 2:] > item["proposals_xyxy_mllm"][:, :2]).all()
    assert found > 8


def test_regions_say_which_objects_are_in_front(tmp_path: Path, processor: AuraProcessor) -> None:
    data = NamedImages([source(tmp_path)], processor, kind="regions")
    items = [data[(0, position, (0,))] for position in range(2)]
    for item in items:
        rates, hides = item["true_rates"], item["true_hides"]
        assert hides.shape == (len(rates), len(rates)) and not hides.diagonal().any()
        assert ((hides.max(0) > 0) == (rates > 0)).all()
    assert any(item["true_hides"].any() for item in items)
    joined = data.collate(items)["true_hides"]
    count = len(items[0]["true_names"])
    assert torch.equal(joined[:count, :count], torch.from_numpy(items[0]["true_hides"]))
    assert not joined[:count, count:].any() and not joined[count:, :count].any()
    sample = data._images[0][0]
    unknown = replace(sample, objects=[replace(obj, occluders=(), occluders_known=False) for obj in sample.objects])
    data._images[0][0] = unknown
    assert np.isnan(data[(0, 0, (0,))]["true_hides"]).all()


def test_regions_are_proposed_near_their_objects(tmp_path: Path, processor: AuraProcessor) -> None:
    data = NamedImages([source(tmp_path)], processor, kind="regions")
    best = []
    for seed in range(30):
        item = data[(0, seed % 2, (seed,))]
        best += list(box_iou(item["proposals_xyxy_mllm"], item["true_boxes_xyxy_mllm"]).max(1))
    assert 0.5 < np.mean(np.array(best) > 0.5) < 0.98  # most show an object, some do not


def test_all_regions_that_a_detector_finds_can_be_learned_without_proposals(
    tmp_path: Path, processor: AuraProcessor
) -> None:
    data = NamedImages([source(tmp_path)], processor, kind="regions", num_found=6)
    batch = data.collate([data[(0, position, (0,))] for position in range(2)])
    assert batch["proposals_xyxy_mllm"].shape == (2, 0, 4) and batch["ranks"].tolist() == [list(range(6))] * 2
    assert len(batch["true_hides"]) == len(batch["true_boxes_xyxy_mllm"]) > 2


def test_no_name_is_learned_from_objects_of_unknown_kind(tmp_path: Path, processor: AuraProcessor) -> None:
    known = source(tmp_path / "a")
    unnamed = replace(known, classes=known.classes | {1: UNNAMED})
    full, partly = (NamedImages([data], processor, kind="regions")[(0, 0, (0,))] for data in (known, unnamed))
    assert 1 in full["true_names"] and set(partly["true_names"]) == {2, UNNAMED}
    np.testing.assert_array_equal(partly["true_boxes_xyxy_mllm"], full["true_boxes_xyxy_mllm"])


def test_images_are_those_of_a_conversation(tmp_path: Path, processor: AuraProcessor) -> None:
    samples = conversations(tmp_path / "a", processor)
    data = NamedImages([source(tmp_path / "b")], processor, kind="regions")
    keys = [(0, 0, (0,)), (0, 1, (0,))]
    pixels = data.collate([data[key] for key in keys])["pixel_values"]
    assert data.lengths == samples.lengths == [2]
    expected = samples.collate([samples[key] for key in keys])["pixel_values"]
    torch.testing.assert_close(pixels, expected, atol=1e-5, rtol=0)
