"""Probabilities of a crop that are resized along the edges of the image."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from amodal.ops import edges
from amodal.ops.edges import COLOUR_VARIANCE, ENOUGH_EXPLAINED, LEAST_VARIANCE, resize_along_edges
from amodal.ops.masks import mask_iou, resize_probs

SIDE = 48
seeds = st.integers(0, 2**32 - 1)


def disc_image(size: int, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """A red disc on a noisy grey background, (size, size, 3) uint8, and its mask."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    disc = np.hypot(x, y) < radius
    image = np.random.default_rng(0).integers(90, 110, (size, size, 3)).astype(np.uint8)
    image[disc] = (200, 60, 50)
    return image, disc


def fitted_one_by_one(probs: np.ndarray, image: np.ndarray, radius: int) -> np.ndarray:
    """The filter with a loop over pixels, for an image of the size of the crop; without its border of 2 * radius."""
    padded_probs = np.pad(probs.astype(np.float64), radius, mode="reflect")
    padded = np.pad(image / 255, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
    h, w = probs.shape
    functions = np.zeros((h, w, 5))
    for y in range(h):
        for x in range(w):
            area = np.s_[y : y + 2 * radius + 1, x : x + 2 * radius + 1]
            colours, values = padded[area].reshape(-1, 3), padded_probs[area].ravel()
            centred = colours - colours.mean(0)
            covariance = centred.T @ centred / len(colours) + COLOUR_VARIANCE * np.eye(3)
            shared = centred.T @ (values - values.mean()) / len(colours)
            weights = np.linalg.solve(covariance, shared)
            explained = weights @ shared / (values.var() + LEAST_VARIANCE)
            functions[y, x] = *weights, values.mean() - weights @ colours.mean(0), np.clip(explained, 0, 1)
    result = np.zeros((h - 4 * radius, w - 4 * radius))
    for y, x in np.ndindex(result.shape):
        around = functions[y + radius : y + 3 * radius + 1, x + radius : x + 3 * radius + 1]
        *weights, offset, explained = around.mean((0, 1))
        own, share = probs[y + 2 * radius, x + 2 * radius], min(explained / ENOUGH_EXPLAINED, 1)
        filtered = np.clip(image[y + 2 * radius, x + 2 * radius] / 255 @ weights + offset, 0, 1)
        result[y, x] = own + share * (filtered - own)
    return result


@pytest.mark.parametrize("radius", [1, 2])
def test_an_image_of_the_size_of_the_crop(radius: int) -> None:
    rng = np.random.default_rng(radius)
    image = cv2.GaussianBlur(rng.integers(0, 256, (20, 20, 3)).astype(np.uint8), (0, 0), 1)
    probs = rng.random((20, 20)).astype(np.float32)
    result = resize_along_edges(probs, image, (0, 0, 20, 20), radius)
    inner = np.s_[2 * radius : -2 * radius, 2 * radius : -2 * radius]
    np.testing.assert_allclose(result[inner], fitted_one_by_one(probs, image, radius), atol=1e-4)


@pytest.mark.parametrize("size", [96, 200, 431])
@pytest.mark.parametrize("predicted", [0.85, 1.15])
def test_an_outline_beside_the_edge_moves_to_the_edge(size: int, predicted: float) -> None:
    image, disc = disc_image(size, size * 0.25)
    probs = disc_image(SIDE, SIDE * 0.25 * predicted)[1].astype(np.float32)
    before = mask_iou(resize_probs(probs, (0, 0, size, size)) > 0.5, disc)
    after = mask_iou(resize_along_edges(probs, image, (0, 0, size, size), 4) > 0.5, disc)
    assert before < 0.8 and after > 0.9


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(0.05, 1), st.integers(1, 9))
def test_a_constant_probability_stays(seed: int, value: float, radius: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (40, 70, 3)).astype(np.uint8)
    result = resize_along_edges(np.full((SIDE, SIDE), value, np.float32), image, (3, 5, 67, 38), radius)
    np.testing.assert_allclose(result, value, atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(seeds, st.tuples(st.integers(1, 120), st.integers(1, 120)))
def test_a_mirrored_image_gives_the_mirrored_result(seed: int, size: tuple[int, int]) -> None:
    w, h = size
    rng = np.random.default_rng(seed)
    image = cv2.GaussianBlur(rng.integers(0, 256, (h, w, 3)).astype(np.uint8), (0, 0), 1.5)
    probs = cv2.GaussianBlur(rng.random((SIDE, SIDE), np.float32), (0, 0), 3)
    result = resize_along_edges(probs, image, (0, 0, w, h), 3)
    for axes in ((0,), (1,), (0, 1)):
        mirrored = resize_along_edges(np.flip(probs, axes).copy(), np.flip(image, axes).copy(), (0, 0, w, h), 3)
        assert np.abs(np.flip(mirrored, axes) - result).mean() < 0.01


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(np.float32, (SIDE, SIDE), elements=st.floats(0, 1, width=32)),
    hnp.arrays(np.uint8, (30, 40, 3)),
    st.tuples(st.integers(0, 39), st.integers(0, 29), st.integers(1, 40), st.integers(1, 30)),
    st.integers(0, 12),
)
def test_any_input_gives_probabilities_of_the_size_of_the_window(
    probs: np.ndarray, image: np.ndarray, place: tuple[int, int, int, int], radius: int
) -> None:
    x, y, w, h = place
    window = (x, y, min(x + w, 40), min(y + h, 30))
    result = resize_along_edges(probs, image, window, radius)
    assert result.shape == (window[3] - y, window[2] - x) and result.dtype == np.float32
    assert np.isfinite(result).all() and result.min() >= 0 and result.max() <= 1


def test_without_edges_in_the_image_nothing_changes() -> None:
    probs = np.zeros((SIDE, SIDE), np.float32)
    probs[20:22, 5:40] = 1  # a part that is thinner than the neighbourhoods
    for image in (np.full((130, 130, 3), 77, np.uint8), disc_image(130, 60)[0]):
        resized = resize_probs(probs, (0, 0, 130, 130))
        result = resize_along_edges(probs, image, (0, 0, 130, 130), 4)
        assert mask_iou(result > 0.3, resized > 0.3) > 0.9


def test_a_radius_of_zero_ignores_the_image() -> None:
    image, _ = disc_image(120, 30)
    probs = disc_image(SIDE, 10)[1].astype(np.float32)
    np.testing.assert_array_equal(
        resize_along_edges(probs, image, (0, 0, 120, 120), 0), resize_probs(probs, (0, 0, 120, 120))
    )


def test_only_the_neighbourhood_of_the_mask_depends_on_the_image() -> None:
    image, _ = disc_image(480, 100)
    probs = np.zeros((SIDE, SIDE), np.float32)
    probs[10:20, 22:30] = 0.9
    result = resize_along_edges(probs, image, (0, 0, 480, 480), 2)
    changed = np.argwhere(result != resize_probs(probs, (0, 0, 480, 480)))
    assert (changed.min(0) >= [60, 180]).all() and (changed.max(0) < [240, 340]).all()
    empty = np.zeros((SIDE, SIDE), np.float32)
    assert not resize_along_edges(empty, image, (0, 0, 480, 480), 2).any()


def test_a_part_of_an_image_gives_what_the_part_alone_gives() -> None:
    image, _ = disc_image(300, 70)
    window = (60, 70, 260, 240)
    probs = cv2.GaussianBlur(disc_image(SIDE, 15)[1].astype(np.float32), (0, 0), 2)
    alone = np.ascontiguousarray(image[70:240, 60:260])
    np.testing.assert_array_equal(
        resize_along_edges(probs, image, window, 4), resize_along_edges(probs, alone, (0, 0, 200, 170), 4)
    )


def test_strips_of_rows_give_what_one_pass_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = disc_image(300, 70)
    probs = cv2.GaussianBlur(disc_image(SIDE, 15)[1].astype(np.float32), (0, 0), 2)
    window = (10, 20, 290, 280)
    once = resize_along_edges(probs, image, window, 4)
    monkeypatch.setattr(edges, "STRIP", 37)
    np.testing.assert_allclose(resize_along_edges(probs, image, window, 4), once, atol=1e-3)
    guide = edges.guide_of(image, window, (SIDE, SIDE))
    np.testing.assert_allclose(resize_along_edges(probs, image, window, 4, guide), once, atol=1e-3)


@pytest.mark.parametrize("view", [lambda x: x[:, ::-1], lambda x: x.transpose(1, 0, 2), lambda x: x[::2, ::2]])
def test_read_only_views_of_images(view: Callable[[np.ndarray], np.ndarray]) -> None:
    seen = view(disc_image(200, 50)[0])
    seen.setflags(write=False)
    probs = disc_image(SIDE, 14)[1].astype(np.float32)
    window = (3, 5, 97, 91)
    result = resize_along_edges(probs, seen, window, 4)
    expected = resize_along_edges(probs, np.ascontiguousarray(seen), window, 4)
    np.testing.assert_allclose(result, expected, atol=1e-6)
