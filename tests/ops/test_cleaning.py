"""Cleaning of predicted masks: what is dropped, filled and kept."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from amodal.errors import InputError
from amodal.ops.cleaning import MAX_DISC, CleanSettings, clean_masks
from tests.drawing import mask

SETTINGS = CleanSettings(min_component=0.1, max_hole=0.1, min_thickness=2, min_occlusion=0.05)


def test_specks_are_dropped() -> None:
    visible = mask("######...#", "######....", "######....")
    cleaned, amodal = clean_masks(visible, visible, settings=SETTINGS)
    expected = mask("######....", "######....", "######....")
    assert (cleaned == expected).all() and (amodal == expected).all()


def test_a_second_large_part_is_kept() -> None:
    visible = mask("####..####", "####..####")
    cleaned, _ = clean_masks(visible, visible, settings=SETTINGS)
    assert (cleaned == visible).all()


def test_small_holes_are_filled_and_large_ones_stay() -> None:
    visible = mask("##########", "#.###....#", "#####....#", "#####....#", "##########")
    cleaned, _ = clean_masks(visible, visible, settings=SETTINGS)
    assert cleaned[1, 1]
    assert not cleaned[1:4, 5:9].any()


def test_a_rim_is_not_an_occluded_part() -> None:
    visible = mask(".......", ".#####.", ".#####.", ".......")
    amodal = np.ones_like(visible)
    amodal[0] = False
    amodal[:, 0] = False
    cleaned_visible, cleaned_amodal = clean_masks(visible, amodal, settings=SETTINGS)
    assert (cleaned_visible == visible).all() and (cleaned_amodal == visible).all()


def test_a_thick_occluded_part_is_kept() -> None:
    visible = mask("######....", "######....", "######....", "######....")
    amodal = np.ones_like(visible)
    _, cleaned = clean_masks(visible, amodal, settings=SETTINGS)
    assert cleaned.all()
    _, thin = clean_masks(visible, amodal, settings=SETTINGS, pixel=4)
    assert (thin == visible).all(), "four columns are thinner than two pixels of the network's input"


def test_a_low_occlusion_rate_becomes_zero() -> None:
    visible, amodal = np.ones((20, 20), bool), np.ones((20, 20), bool)
    visible[:3, :3] = False  # 9 of 400 pixels
    cleaned_visible, cleaned_amodal = clean_masks(visible, amodal, settings=SETTINGS)
    assert (cleaned_visible == cleaned_amodal).all()


def test_an_empty_mask_stays_empty() -> None:
    empty = np.zeros((4, 5), bool)
    visible, amodal = clean_masks(empty, empty, settings=SETTINGS)
    assert not visible.any() and not amodal.any()


@given(arrays(bool, (9, 11)), arrays(bool, (9, 11)), st.booleans(), st.floats(0.5, 4))
def test_always(visible: np.ndarray, amodal: np.ndarray, keep: bool, pixel: float) -> None:
    """The visible mask lies within the amodal mask, and a given visible mask is returned as it is."""
    found_visible, found_amodal = clean_masks(visible, amodal, settings=CleanSettings(), pixel=pixel, keep_visible=keep)
    assert not (found_visible & ~found_amodal).any()
    if keep:
        assert (found_visible == visible).all()


def blobs(seed: int, cell: int, size: tuple[int, int] = (60, 70)) -> np.ndarray:
    """A random mask of round parts about as large as `cell`, with holes, parts in holes and corners that touch."""
    rng = np.random.default_rng(seed)
    noise = ndimage.zoom(rng.normal(size=(size[0] // cell + 1, size[1] // cell + 1)), cell, order=1)
    return np.ascontiguousarray(noise[: size[0], : size[1]] > rng.uniform(-0.8, 0.8))


@given(st.integers(0), st.integers(1, 6), st.booleans(), st.sampled_from([0.02, 0.1]), st.sampled_from([0.05, 0.3]))
def test_parts_and_holes_are_those_of_a_labelling(
    seed: int, cell: int, keep: bool, min_component: float, max_hole: float
) -> None:
    visible, amodal = blobs(seed, cell), blobs(seed + 1, cell)
    settings = CleanSettings(min_component, max_hole, min_thickness=0, min_occlusion=0)
    cleaned = clean_masks(visible, visible | amodal, settings=settings, keep_visible=keep)
    expected = visible if keep else labelled(visible, min_component, max_hole)
    whole = labelled(expected | ((visible | amodal) & ~expected), min_component, max_hole, visible if keep else None)
    assert (cleaned[1] == whole).all() and (cleaned[0] == (expected if keep else expected & whole)).all()


def labelled(mask: np.ndarray, min_component: float, max_hole: float, keep: np.ndarray | None = None) -> np.ndarray:
    """Drop small parts and fill small holes, by their labels."""
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    assume(count == 0 or (sizes == sizes.max()).sum() == 1 or sizes.max() >= min_component * mask.sum())
    kept = np.zeros_like(mask)
    for label, size in enumerate(sizes, 1):
        part = labels == label
        if size >= min_component * mask.sum() or size == sizes.max() or (keep is not None and (part & keep).any()):
            kept |= part
    holes, count = ndimage.label(np.pad(~kept, 1, constant_values=True))
    limit = max_hole * kept.sum()
    for label in range(1, count + 1):
        part = holes == label
        if not part[0, 0] and part.sum() <= limit:
            kept = kept | part[1:-1, 1:-1]
    return kept


@given(st.integers(0), st.integers(3, 15), st.integers(MAX_DISC + 1, 16))
def test_large_discs_are_distances_to_the_border_of_the_mask(seed: int, cell: int, thickness: int) -> None:
    amodal = blobs(seed, cell, (90, 110))
    settings = CleanSettings(0, 0, min_thickness=thickness, min_occlusion=0)
    _, cleaned = clean_masks(np.zeros_like(amodal), amodal, settings=settings)
    core = ndimage.distance_transform_edt(np.pad(amodal, 1))[1:-1, 1:-1] >= thickness / 2
    around = ndimage.distance_transform_edt(~core) <= thickness if core.any() else core
    assert (cleaned == (amodal & around)).all()


@given(arrays(bool, (9, 11)), arrays(bool, (9, 11)))
def test_cleaning_twice_drops_no_more_parts(visible: np.ndarray, amodal: np.ndarray) -> None:
    once = clean_masks(visible, amodal, settings=CleanSettings(min_occlusion=0))
    twice = clean_masks(*once, settings=CleanSettings(min_occlusion=0))
    assert np.count_nonzero(twice[1]) >= 0.8 * np.count_nonzero(once[1])


def test_large_and_small_discs_remove_the_same_strips() -> None:
    """Distances replace discs above `MAX_DISC`; they agree where a strip is clearly thicker or thinner."""
    visible = np.zeros((120, 200), bool)
    visible[:, :100] = True
    for width, is_kept in ((8, False), (24, True)):
        amodal = visible.copy()
        amodal[:, 100 : 100 + width] = True
        for pixel in (4, 8):  # discs of 8 and 16 pixels
            settings = CleanSettings(min_thickness=2, min_occlusion=0)
            _, cleaned = clean_masks(visible, amodal, settings=settings, pixel=pixel)
            expected = is_kept or width >= 2 * pixel
            assert bool((cleaned & ~visible).any()) == expected, (width, pixel)


def test_a_large_image_is_cleaned_quickly() -> None:
    visible = np.zeros((1500, 2000), bool)
    visible[250:1250, 250:1000] = True
    amodal = visible.copy()
    amodal[250:1250, 250:1750] = True
    start = time.process_time()
    clean_masks(visible, amodal, settings=CleanSettings(), pixel=54)
    assert time.process_time() - start < 5


PIECES = mask("###....###", "###....###", "###....###", "###....###")


def test_pieces_are_joined_where_the_network_is_least_sure_that_nothing_is_between_them() -> None:
    probs = np.where(PIECES, 0.9, 0.01).astype(np.float32)
    probs[1, 3:7], probs[3, 3:7] = 0.3, 0.1  # two bridges; the first one is enough
    visible, amodal = clean_masks(PIECES, PIECES, settings=SETTINGS, keep_visible=True, amodal_probs=probs)
    assert (visible == PIECES).all()
    assert (amodal == mask("###....###", "##########", "###....###", "###....###")).all()
    probs[1] = np.where(PIECES[1], 0.9, 0.01)
    _, amodal = clean_masks(PIECES, PIECES, settings=SETTINGS, keep_visible=True, amodal_probs=probs)
    assert (amodal == mask("###....###", "###....###", "###....###", "##########")).all()


def test_pieces_stay_apart_without_probabilities_between_them() -> None:
    probs = np.where(PIECES, 0.9, SETTINGS.min_bridge / 2).astype(np.float32)
    probs[0, 3:5] = 0.6  # touches one piece only
    for settings, given_probs in ((SETTINGS, probs), (SETTINGS, None), (replace(SETTINGS, min_bridge=1), probs + 0.2)):
        _, amodal = clean_masks(PIECES, PIECES, settings=settings, keep_visible=True, amodal_probs=given_probs)
        assert (amodal == PIECES).all()


def test_without_a_smallest_probability_the_pieces_are_joined_by_what_is_most_probable() -> None:
    probs = np.where(PIECES, 0.9, 0.002).astype(np.float32)
    settings = replace(SETTINGS, min_bridge=0)
    _, amodal = clean_masks(PIECES, PIECES, settings=settings, keep_visible=True, amodal_probs=probs)
    assert amodal.all()
    _, apart = clean_masks(PIECES, PIECES, settings=settings, keep_visible=True, amodal_probs=probs * PIECES)
    assert (apart == PIECES).all()


def test_a_bridge_does_not_leave_the_convex_hull_of_the_pieces() -> None:
    upper = mask("..........", "###....###", "###....###", "..........")
    _, amodal = clean_masks(
        upper, upper, settings=SETTINGS, keep_visible=True, amodal_probs=np.full(upper.shape, 0.4, np.float32)
    )
    assert (amodal == mask("..........", "##########", "##########", "..........")).all()


def test_the_hull_is_that_of_the_pieces_before_any_bridge() -> None:
    """The drawn outline of a thin hull moves by a pixel when a bridge has been added."""
    pieces = mask("#....#.....", ".........#.")
    probs = np.full(pieces.shape, 0.5, np.float32)
    probs[1, 8] = 0
    _, amodal = clean_masks(pieces, pieces, settings=CleanSettings(), amodal_probs=probs)
    assert (amodal == mask("########...", ".....###.#.")).all()


@given(arrays(bool, (9, 11)), arrays(np.float32, (9, 11), elements=st.floats(0, 1, width=32)), st.booleans())
def test_joining_adds_pixels_of_the_convex_hull_and_never_leaves_more_pieces(
    visible: np.ndarray, probs: np.ndarray, keep: bool
) -> None:
    def clean(given_probs: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        return clean_masks(
            visible, visible | (probs > 0.5), settings=CleanSettings(), keep_visible=keep, amodal_probs=given_probs
        )

    (apart, before), (joined, after) = clean(None), clean(probs)
    assert (joined == apart).all() and not (before & ~after).any()
    assert ndimage.label(after, np.ones((3, 3)))[1] <= ndimage.label(before, np.ones((3, 3)))[1]
    added = after & ~before
    assert (probs[added] > CleanSettings().min_bridge).all()
    if before.any():
        hull = np.zeros(before.shape, np.uint8)
        cv2.fillConvexPoly(hull, cv2.convexHull(cv2.findNonZero(before.view(np.uint8))), 1)
        assert not (added & ~hull.astype(bool)).any()


@pytest.mark.parametrize("radius", [-1, 2.0, True, "4"])
def test_an_impossible_edge_radius(radius: Any) -> None:
    with pytest.raises(InputError, match="edge_radius: expected a whole number of 0 or more, got"):
        CleanSettings(edge_radius=radius)
