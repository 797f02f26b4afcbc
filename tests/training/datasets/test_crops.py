from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from amodal.data.datasets import read_dataset
from amodal.data.samples import AnnotatedDataset
from amodal.errors import InputError
from amodal.models.plug import PlugConfig, PlugProcessor
from amodal.ops.boxes import mask_to_box
from amodal.ops.rle import decode_mask, encode_mask
from amodal.training.build import build
from amodal.training.datasets.crops import (
    MAX_POINTS,
    Augmentation,
    ObjectCrops,
    augment_colours,
    collate,
    jitter_box,
    noisy_mask,
)
from amodal.training.datasets.sampling import CropSource, StepSampler, evaluation_keys
from tests.data.toy import BACK_VISIBLE, write_toy
from tests.models.families import ROWS
from tests.training.tiny import tiny_recipe

UNCHANGED = Augmentation(
    scale=(1.0, 1.0), shift=0.0, box_jitter=0.0, flip=0.0, colour=0.0, hue=0.0, grey=0.0, blur=0.0, noise=0.0
)


@pytest.fixture
def toy(tmp_path: Path) -> AnnotatedDataset:
    return read_dataset("canonical", write_toy(tmp_path / "toy"))


def crops(toy: AnnotatedDataset, **options: object) -> ObjectCrops:
    return ObjectCrops([CropSource(toy)], image_size=32, **options)


def test_an_evaluation_crop_equals_the_output_of_the_processor(toy: AnnotatedDataset) -> None:
    dataset = crops(toy)
    batch = collate([dataset[(0, i, (0,))] for i in range(4)])
    image = toy.images[0]
    boxes = np.array([obj.visible_box_xyxy for obj in image.objects])
    expected = PlugProcessor(image_size=32)(image.load(), boxes)
    torch.testing.assert_close(batch["pixel_values"][:2], expected.pixel_values, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(batch["input_boxes"][:2], expected.input_boxes)


@pytest.mark.parametrize("augmentation", [None, UNCHANGED])
def test_the_extra_pixel_reaches_training_as_it_does_the_processor(
    toy: AnnotatedDataset, augmentation: Augmentation | None
) -> None:
    image = toy.images[0]
    boxes = np.array([obj.visible_box_xyxy for obj in image.objects])
    windows = {}
    for extra in (False, True):
        dataset = crops(toy, augmentation=augmentation, crop_extra_pixel=extra)
        config = PlugConfig(image_size=32, crop_extra_pixel=extra)
        expected = PlugProcessor.from_config(config)(image.load(), boxes)
        pixels = collate([dataset[(0, i, (0,))] for i in range(2)])["pixel_values"]
        torch.testing.assert_close(pixels, expected.pixel_values, atol=1e-5, rtol=1e-5)
        windows[extra] = expected.windows
    assert windows[False] != windows[True]


def test_the_amodal_target_is_a_union_or_the_annotation(toy: AnnotatedDataset) -> None:
    image = toy.images[0]
    spilling = replace(image.objects[0], amodal_rle=encode_mask(np.zeros(image.size, bool)))
    unknown = replace(image.objects[1], amodal_rle=None)
    dataset = replace(toy, images=(replace(image, objects=(spilling, unknown)),))
    for target, lacks_visible in (("union", False), ("annotated", True)):
        batch = collate([crops(dataset, amodal_target=target)[(0, i, (0,))] for i in range(2)])
        lacking = (batch["visible_masks"] & ~batch["amodal_masks"]).flatten(1).any(1)
        assert lacking.tolist() == [lacks_visible, False]  # an unknown amodal mask counts as the visible one
        assert batch["has_amodal"].flatten().tolist() == [True, False]


def test_an_exact_mask_prompt_equals_the_output_of_the_processor(toy: AnnotatedDataset) -> None:
    dataset = crops(toy, mask_prompt_share=1.0)
    batch = collate([dataset[(0, i, (0,))] for i in range(2)])
    image = toy.images[0]
    boxes = np.array([obj.visible_box_xyxy for obj in image.objects])
    masks = [decode_mask(obj.visible_rle) for obj in image.objects]
    expected = PlugProcessor(image_size=32)(image.load(), boxes, masks)
    assert torch.equal(batch["input_masks"], expected.input_masks)
    assert torch.equal(batch["mask_given"], expected.mask_given)


def test_mask_prompts_leave_everything_else_as_it_was(toy: AnnotatedDataset) -> None:
    options: dict[str, object] = {"augmentation": Augmentation(wide=0.5), "num_prompts": 3}
    without, noisy = crops(toy, **options), crops(toy, **options, mask_prompt_share=0.5, mask_prompt_noise=0.3)
    given = []
    for step in range(30):
        key = (0, step % 8, (3, step, 0))
        plain, prompted, again = (collate([dataset[key]]) for dataset in (without, noisy, noisy))
        assert not {"input_masks", "mask_given"} & plain.keys()
        assert all(torch.equal(prompted[name], tensor) for name, tensor in plain.items())
        assert all(torch.equal(again[name], tensor) for name, tensor in prompted.items())
        assert not (prompted["mask_given"] & ~prompted["valid"]).any()  # padding has no mask
        assert torch.equal(prompted["input_masks"].any(-1).any(-1), prompted["mask_given"])
        given += prompted["mask_given"][prompted["valid"]].tolist()
    assert 0.3 < np.mean(given) < 0.7


def test_mask_prompts_are_flipped_with_the_image(toy: AnnotatedDataset) -> None:
    flipped, straight = (
        collate([crops(toy, augmentation=UNCHANGED.model_copy(update={"flip": flip}), **noisy)[(0, 0, (1,))]])
        for flip in (1.0, 0.0)
        for noisy in [{"mask_prompt_share": 1.0, "mask_prompt_noise": 0.2}]
    )
    assert torch.equal(flipped["input_masks"].flip(-1), straight["input_masks"])
    assert not torch.equal(straight["input_masks"], straight["visible_masks"])


def test_noise_moves_the_outline_of_a_mask_by_a_limited_distance() -> None:
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    areas = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        assert np.array_equal(noisy_mask(np.random.default_rng(seed), mask, 0.0), mask)
        moved = noisy_mask(rng, mask, 0.1)  # 3.2 pixels
        assert moved[20:44, 20:44].all() and not moved[:12].any() and not moved[:, 52:].any()
        areas.append(moved.sum() / mask.sum())
    assert min(areas) < 0.9 and max(areas) > 1.1
    thin = np.zeros((64, 64), bool)
    thin[30] = True
    assert all(noisy_mask(np.random.default_rng(seed), thin, 1.0).any() for seed in range(20))
    full = np.ones((64, 64), bool)
    assert noisy_mask(np.random.default_rng(0), full, 0.1).all()


def test_an_augmentation_of_strength_zero_changes_nothing(toy: AnnotatedDataset) -> None:
    still, exact = crops(toy, augmentation=UNCHANGED), crops(toy)
    for i in range(4):
        a, b = collate([still[(0, i, (0,))]]), collate([exact[(0, i, (0,))]])
        torch.testing.assert_close(a["pixel_values"], b["pixel_values"])
        assert torch.equal(a["amodal_masks"], b["amodal_masks"])
        assert (a["input_boxes"] - b["input_boxes"]).abs().max() <= 1  # the box of the mask has whole pixels


def test_a_sample_depends_only_on_its_key(toy: AnnotatedDataset) -> None:
    dataset = crops(toy, augmentation=Augmentation(wide=0.5), num_prompts=2)
    first, _, again = (collate([dataset[(0, 1, (7, seed, 0))]]) for seed in (3, 4, 3))
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = collate([dataset[(0, 1, (7, 5, 0))]])
    assert not torch.equal(first["pixel_values"], other["pixel_values"])


def test_visible_is_within_amodal_and_the_box_around_visible(toy: AnnotatedDataset) -> None:
    dataset = crops(toy, augmentation=Augmentation(wide=0.5, box_jitter=0.0), num_prompts=2)
    for seed in range(20):
        batch = collate([dataset[(0, seed % 8, (seed,))]])
        assert not (batch["visible_masks"] & ~batch["amodal_masks"]).any()
        for p in torch.nonzero(batch["valid"][0]).flatten():
            expected = mask_to_box(batch["visible_masks"][0, p].numpy())
            np.testing.assert_allclose(batch["input_boxes"][0, p], expected)


def test_flip_moves_image_masks_boxes_and_points_together(toy: AnnotatedDataset) -> None:
    flipped = collate([crops(toy, augmentation=UNCHANGED.model_copy(update={"flip": 1.0}))[(0, 0, (1,))]])
    straight = collate([crops(toy, augmentation=UNCHANGED)[(0, 0, (1,))]])
    for name in ("pixel_values", "visible_masks", "amodal_masks"):
        assert torch.equal(flipped[name].flip(-1), straight[name])
    x0, y0, x1, y1 = straight["input_boxes"][0, 0].tolist()
    assert flipped["input_boxes"][0, 0].tolist() == [32 - x1, y0, 32 - x0, y1]
    assert_points_match_masks(flipped)


def assert_points_match_masks(batch: dict[str, torch.Tensor]) -> None:
    masks, points, labels = (batch[k][0, 0] for k in ("visible_masks", "input_points", "input_labels"))
    known = labels >= 0
    x, y = points[known].long().T
    assert masks[y, x].tolist() == labels[known].bool().tolist()


def test_points_agree_with_their_labels(toy: AnnotatedDataset) -> None:
    dataset = crops(toy, augmentation=Augmentation())
    labels = []
    for seed in range(60):
        batch = collate([dataset[(0, seed % 8, (seed,))]])
        assert_points_match_masks(batch)
        labels.append(batch["input_labels"][0, 0])
    drawn = torch.stack(labels)
    assert drawn.shape[1] == MAX_POINTS
    assert ((drawn == 1).sum(1) >= 1).all()
    assert (drawn == 0).any()
    assert (drawn == -10).any()


def test_neighbours_become_prompts_and_missing_ones_are_padding(toy: AnnotatedDataset) -> None:
    batch = collate([crops(toy, num_prompts=3)[(0, 0, (0,))]])
    assert batch["valid"].tolist() == [[True, True, False]]
    assert batch["input_boxes"][0, 2].tolist() == [0, 0, 32, 32]
    assert (batch["input_labels"][0, 2] == -10).all()


def test_unknown_amodal_masks_are_marked(toy: AnnotatedDataset) -> None:
    image = toy.images[0]
    modal = replace(image, objects=tuple(replace(o, amodal_rle=None, amodal_box_xyxy=None) for o in image.objects))
    batch = collate([crops(replace(toy, images=(modal,)), box_source="amodal")[(0, 0, (0,))]])
    assert not batch["has_amodal"].any()
    assert torch.equal(batch["visible_masks"], batch["amodal_masks"])


def test_amodal_boxes_on_request(toy: AnnotatedDataset) -> None:
    batch = collate([crops(toy, box_source="amodal")[(0, 0, (0,))]])
    expected = mask_to_box(batch["amodal_masks"][0, 0].numpy())
    np.testing.assert_allclose(batch["input_boxes"][0, 0], expected, atol=1)


def test_small_objects_and_crowds_are_excluded(toy: AnnotatedDataset) -> None:
    assert ObjectCrops([CropSource(toy, min_visible_pixels=BACK_VISIBLE + 1)], image_size=32).lengths == [4]
    crowd = replace(toy.images[0], objects=tuple(replace(o, iscrowd=True) for o in toy.images[0].objects))
    assert crops(replace(toy, images=(crowd, toy.images[1]))).lengths == [2]


def test_a_dataset_without_usable_objects_is_rejected(toy: AnnotatedDataset) -> None:
    with pytest.raises(InputError, match="data: expected sources with at least one usable object, got none"):
        ObjectCrops([CropSource(toy, min_visible_pixels=10_000)], image_size=32)


def test_batches_depend_only_on_seed_and_step() -> None:
    def batches(seed: int, start: int, stop: int) -> list[object]:
        return list(StepSampler([5, 9], [1.0, 2.0], 6, seed, start, stop))

    assert batches(0, 0, 6)[3:] == batches(0, 3, 6)
    assert batches(0, 0, 3) != batches(1, 0, 3)
    assert len(StepSampler([5], [1.0], 6, 0, 2, 6)) == 4


def test_processes_share_a_batch() -> None:
    whole = next(iter(StepSampler([50], [1.0], 6, 0, 0, 1)))
    parts = [next(iter(StepSampler([50], [1.0], 6, 0, 0, 1, process_index=p, num_processes=2))) for p in (0, 1)]
    assert sorted(parts[0] + parts[1]) == sorted(whole)


def test_two_processes_draw_the_batches_of_one_with_twice_the_accumulation() -> None:
    one = StepSampler([50, 20], [1.0, 1.0], 4, 3, 0, 2, accumulation=6)
    two = [
        StepSampler([50, 20], [1.0, 1.0], 8, 3, 0, 2, accumulation=3, process_index=p, num_processes=2) for p in (0, 1)
    ]
    for step in (0, 1):
        for batch in range(6):
            assert one.keys(step, batch) == two[batch % 2].keys(step, batch // 2)
    assert list(one) == [one.keys(step, batch) for step in (0, 1) for batch in range(6)]
    assert len(one) == 12


def test_weights_are_shares_of_the_batches() -> None:
    keys = [key for batch in StepSampler([10, 1000, 0], [3.0, 1.0, 5.0], 50, 0, 0, 40) for key in batch]
    share = np.mean([source == 0 for source, _, _ in keys])
    assert share == pytest.approx(0.75, abs=0.05)
    assert all(position < [10, 1000][source] for source, position, _ in keys)
    with pytest.raises(InputError, match="weight: expected a source with objects and a weight above 0"):
        StepSampler([3, 0], [0.0, 1.0], 2, 0, 0, 1)


def test_describe_names_the_object_of_a_key(toy: AnnotatedDataset) -> None:
    dataset = crops(toy)
    image = toy.images[1]
    described = dataset.describe((0, 3, (0,)))
    expected = {"source": 0, "image_id": image.id, "annotation_id": image.objects[1].id, "file": str(image.path)}
    assert described == expected


def test_evaluation_keys_are_a_fixed_choice_without_repeats(toy: AnnotatedDataset) -> None:
    keys = evaluation_keys(crops(toy), 5, seed=3)
    assert keys == evaluation_keys(crops(toy), 5, seed=3)
    assert len({key[:2] for key in keys}) == 5
    assert len(evaluation_keys(crops(toy), 100, seed=3)) == 8


def test_colours_change_and_stay_colours() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    strong = Augmentation(colour=0.5, hue=0.2, grey=1.0, blur=1.0, noise=0.0)
    grey = augment_colours(np.random.default_rng(1), pixels, strong)
    assert (grey.dtype, grey.shape) == (np.uint8, pixels.shape)
    assert np.ptp(grey.astype(int), axis=2).max() == 0
    assert not np.array_equal(augment_colours(np.random.default_rng(2), pixels, Augmentation()), pixels)


def test_a_jittered_box_stays_inside() -> None:
    rng = np.random.default_rng(0)
    box = np.array([0.0, 4.0, 32.0, 20.0])
    for _ in range(50):
        moved = jitter_box(rng, box, 32, 0.1)
        assert moved.min() >= 0
        assert moved.max() <= 32
        assert np.abs(moved - box).max() <= 3.2


@pytest.mark.parametrize("family", sorted(ROWS))
def test_training_normalises_crops_as_the_processor_of_the_model_does(tmp_path: Path, family: str) -> None:
    """SAM 3 has a mean and a deviation of its own; training with others would fit another network."""
    ROWS[family].model().save_pretrained(tmp_path / "base")
    settings = {"base": str(tmp_path / "base"), "image_size": 64}
    setup = build(tiny_recipe(tmp_path, "plug", settings))
    for samples in (setup.train, setup.validation):
        item = samples[(0, 0, (0,))]
        found = samples.collate([item])["pixel_values"]
        expected = PlugProcessor.from_config(setup.model.config).normalize(item["pixels"][None])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
