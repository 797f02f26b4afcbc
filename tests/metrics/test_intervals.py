"""Confidence intervals against known statistics, and the occlusion ranges."""

from __future__ import annotations

import numpy as np
import pytest

from amodal.metrics.intervals import OcclusionRange, image_weights, range_indices, range_label, ratio_intervals


def test_each_resample_draws_as_many_images_as_there_are() -> None:
    blocks = list(image_weights(7, 250, seed=1))
    assert sum(len(b) for b in blocks) == 250
    assert all((b.sum(1) == 7).all() for b in blocks)


def test_the_interval_of_a_mean_is_near_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, (400, 1))
    low, high = ratio_intervals(values, np.ones_like(values), num_resamples=2000, seed=3)[0]
    error = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - error, abs=0.002)
    assert high == pytest.approx(values.mean() + error, abs=0.002)


def test_intervals_cover_the_true_mean_about_19_times_in_20() -> None:
    rng = np.random.default_rng(4)
    values = rng.random((60, 400))  # 400 experiments of 60 images each, true mean 0.5
    ends = ratio_intervals(values, np.ones_like(values), num_resamples=400, seed=5)
    covered = ((ends[:, 0] <= 0.5) & (ends[:, 1] >= 0.5)).mean()
    assert 0.90 < covered < 0.98


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).random((30, 2))
    first, again, other = (
        ratio_intervals(values, np.ones_like(values), num_resamples=100, seed=s).tolist() for s in (1, 1, 2)
    )
    assert first == again != other


def test_objects_of_one_image_are_drawn_together() -> None:
    """Ten times the objects in the same images do not narrow the interval."""
    values = np.random.default_rng(0).random((50, 1))
    one = ratio_intervals(values, np.ones_like(values), num_resamples=300, seed=1)
    ten = ratio_intervals(10 * values, np.full_like(values, 10), num_resamples=300, seed=1)
    np.testing.assert_allclose(one, ten)


def test_the_interval_of_a_single_image_is_unknown() -> None:
    denominators = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    ends = ratio_intervals(0.5 * denominators, denominators, num_resamples=50, seed=0)
    assert np.isnan(ends[[0, 2]]).all()
    assert ends[1].tolist() == [0.5, 0.5]


def test_ranges_include_their_upper_end() -> None:
    rates = np.array([0, 1e-9, 0.1, 0.1001, 3 / 10, 0.5, 7 / 10, 0.7001, 1.0])
    assert range_indices(rates).tolist() == [0, 1, 1, 2, 2, 3, 4, 5, 5]
    for rate, i in zip(rates, range_indices(rates), strict=True):
        selected = OcclusionRange.all()[i]
        assert selected.above < rate <= selected.up_to or rate == selected.up_to == 0


def test_range_labels() -> None:
    labels = [range_label(r.above, r.up_to) for r in OcclusionRange.all()]
    assert labels == ["0 %", "0-10 %", "10-30 %", "30-50 %", "50-70 %", "> 70 %"]
