"""Overlays and heat maps of uncertainty."""

from __future__ import annotations

import numpy as np
import pytest

from amodal.inference.draw import MAX_SIDE, MIN_SIDE, draw_scene, draw_uncertainty, object_colour
from amodal.inference.scene_object import SceneObject


def half_occluded(side: int) -> SceneObject:
    """An object whose right half is occluded, with a margin of an eighth around it."""
    amodal = np.zeros((side, side), bool)
    amodal[side // 8 : -side // 8, side // 8 : -side // 8] = True
    visible = amodal.copy()
    visible[:, side // 2 :] = False
    return SceneObject.from_masks(visible, amodal)


def test_the_visible_part_is_filled_and_the_occluded_part_hatched() -> None:
    side = 800
    image = np.full((side, side, 3), 90, np.uint8)
    drawn = draw_scene(image, [half_occluded(side)])
    assert drawn.shape == image.shape and (image == 90).all()
    filled, hatched = drawn[300:500, 200:350], drawn[300:500, 450:600]
    assert len(np.unique(filled.reshape(-1, 3), axis=0)) == 1 and (filled[0, 0] != 90).any()
    assert len(np.unique(hatched.reshape(-1, 3), axis=0)) > 4  # stripes with soft edges
    assert (drawn[:60] == 90).all() and (drawn[-60:] == 90).all()


def test_hatching_is_drawn_over_the_occluder() -> None:
    behind = half_occluded(800)
    front = SceneObject.from_masks(behind.occluded_mask, behind.occluded_mask)
    image = np.full((800, 800, 3), 90, np.uint8)
    for objects in ([behind, front], [front, behind]):
        region = draw_scene(image, objects)[300:500, 450:600]
        assert len(np.unique(region.reshape(-1, 3), axis=0)) > 4


@pytest.mark.parametrize(
    ("size", "longest"),
    [((1, 1), MIN_SIDE), ((3, 200), MIN_SIDE), ((700, 900), 900), ((20, 5000), MAX_SIDE), ((5000, 1), MAX_SIDE)],
)
def test_overlays_have_a_readable_size(size: tuple[int, int], longest: int) -> None:
    image = np.zeros((*size, 3), np.uint8)
    full, empty = np.ones(size, bool), np.zeros(size, bool)
    objects = [
        SceneObject.from_masks(full, full),
        SceneObject.from_masks(empty, full),
        SceneObject.from_masks(empty, empty),
    ]
    for drawn in (draw_scene(image, objects), draw_uncertainty(image, np.zeros(size, np.float32))):
        assert max(drawn.shape) == longest and drawn.dtype == np.uint8


def test_many_labels_in_one_place_and_long_phrases() -> None:
    obj = half_occluded(64)
    named = SceneObject.from_masks(obj.visible_mask, obj.amodal_mask, phrase="the cup behind the kettle " * 9)
    image = np.zeros((64, 64, 3), np.uint8)
    assert draw_scene(image, [named] * 40).shape == (MIN_SIDE, MIN_SIDE, 3)
    assert draw_scene(image, []).shape == (MIN_SIDE, MIN_SIDE, 3)


def test_colours_differ() -> None:
    colours = np.array([object_colour(i) for i in range(16)], float)
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    assert distance[~np.eye(16, dtype=bool)].min() > 40


def test_high_uncertainty_is_bright() -> None:
    image = np.full((700, 700, 3), 128, np.uint8)
    uncertainty = np.zeros((700, 700), np.float32)
    uncertainty[:, 350:] = np.log(2)
    drawn = draw_uncertainty(image, uncertainty).astype(int)
    assert (drawn[:, :300] == drawn[0, 0, 0]).all()  # grey
    assert drawn[0, 600].sum() > drawn[0, 100].sum()


def test_the_label_has_the_name_or_else_the_phrase() -> None:
    obj = half_occluded(64)
    image = np.zeros((64, 64, 3), np.uint8)
    cup, phrase, both, plain = (
        draw_scene(image, [SceneObject.from_masks(obj.visible_mask, obj.amodal_mask, name=name, phrase=words)])
        for name, words in (("cup", None), (None, "cup"), ("cup", "the cup behind"), (None, None))
    )
    assert np.array_equal(cup, phrase) and np.array_equal(cup, both) and not np.array_equal(cup, plain)
