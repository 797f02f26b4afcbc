"""Procedural scenes: exact ground truth, recognisable objects, the same bytes for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from amodal.ops.occlusion import MIN_OCCLUDER_SHARE, occlusion_rate
from amodal.synthetic import scenes
from amodal.synthetic.scenes import SyntheticImage, render_scene
from amodal.synthetic.shapes import SHAPES


def check_truth(made: SyntheticImage) -> None:
    """Check what must hold for the ground truth of every synthetic image."""
    front = np.zeros(made.image.shape[:2], bool)
    visible = [obj.visible_mask for obj in made.objects]
    for index, obj in reversed(list(enumerate(made.objects))):  # the list goes from back to front
        assert np.array_equal(obj.visible_mask, obj.amodal_mask & ~front)
        front |= obj.amodal_mask
        occluded = obj.amodal_mask & ~obj.visible_mask
        rate = occlusion_rate(obj.visible_mask, obj.amodal_mask)
        assert rate == 0 or 0.05 <= rate <= 0.75
        covered = [np.count_nonzero(mask & occluded) for mask in visible]
        least = max(MIN_OCCLUDER_SHARE * occluded.sum(), 1)
        assert obj.occluders == [i for i, count in enumerate(covered) if count >= least]
        assert all(occluder > index for occluder in obj.occluders)


@pytest.mark.parametrize("seed", range(12))
def test_scenes_are_fair(seed: int) -> None:
    scene = render_scene(seed)
    assert scene.image.shape == (256, 256, 3) and scene.image.dtype == np.uint8
    assert 2 <= len(scene.objects) <= 8
    check_truth(scene)
    for obj in scene.objects:
        assert obj.visible_mask.sum() >= scenes.MIN_VISIBLE_PIXELS
        mask = obj.amodal_mask
        border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert border.any() or not obj.attributes["truncated"]


def test_an_object_that_covers_a_sliver_is_no_occluder() -> None:
    num_slivers = 0
    for scene in map(render_scene, range(12)):
        for obj in scene.objects:
            occluded = obj.amodal_mask & ~obj.visible_mask
            touching = {i for i, other in enumerate(scene.objects) if (other.visible_mask & occluded).any()}
            num_slivers += len(touching - set(obj.occluders))
    assert num_slivers > 0


def test_the_same_seed_gives_the_same_bytes() -> None:
    a, b, c = render_scene([3, 1]), render_scene([3, 1]), render_scene([3, 2])
    assert np.array_equal(a.image, b.image)
    assert not np.array_equal(a.image, c.image)


def test_all_categories_occur() -> None:
    assert len(SHAPES) >= 20
    seen = {obj.category for seed in range(60) for obj in render_scene(seed).objects}
    assert len(seen) >= 0.9 * len(SHAPES)
