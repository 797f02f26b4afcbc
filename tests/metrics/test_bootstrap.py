"""Intervals that can be checked against statistics one knows."""

from __future__ import annotations

import numpy as np
import pytest

from amodal.metrics.bootstrap import image_weights, ratio_intervals


def test_weights_draw_as_many_images_as_there_are() -> None:
    blocks = list(image_weights(7, 250, seed=1))
    assert sum(len(b) for b in blocks) == 250
    assert all((b.sum(1) == 7).all() for b in blocks)


def test_interval_of_a_mean_is_near_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, (400, 1))
    low, high = ratio_intervals(values, np.ones_like(values), resamples=2000, seed=3)[0]
    error = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - error, abs=0.002)
    assert high == pytest.approx(values.mean() + error, abs=0.002)


def test_intervals_cover_the_true_mean_about_19_times_in_20() -> None:
    rng = np.random.default_rng(4)
    values = rng.random((60, 400))  # 400 experiments of 60 images each, true mean 0.5
    ends = ratio_intervals(values, np.ones_like(values), resamples=400, seed=5)
    covered = ((ends[:, 0] <= 0.5) & (ends[:, 1] >= 0.5)).mean()
    assert 0.90 < covered < 0.98


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).random((30, 2))
    first, again, other = (
        ratio_intervals(values, np.ones_like(values), resamples=100, seed=s).tolist() for s in (1, 1, 2)
    )
    assert first == again != other


def test_objects_of_one_image_are_drawn_together() -> None:
    """Ten times the objects in the same images do not narrow the interval."""
    values = np.random.default_rng(0).random((50, 1))
    one = ratio_intervals(values, np.ones_like(values), resamples=300, seed=1)
    ten = ratio_intervals(10 * values, np.full_like(values, 10), resamples=300, seed=1)
    np.testing.assert_allclose(one, ten)


def test_nothing_is_said_about_a_single_image() -> None:
    below = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    ends = ratio_intervals(0.5 * below, below, resamples=50, seed=0)
    assert np.isnan(ends[[0, 2]]).all()
    assert ends[1].tolist() == [0.5, 0.5]
