"""Cleaning of predicted masks: what is dropped, filled and kept."""

from __future__ import annotations

import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from amodal.ops.cleaning import CleanSettings, clean_masks
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
            _, cleaned = clean_masks(visible, amodal, settings=CleanSettings(min_occlusion=0), pixel=pixel)
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
