"""Uncertainty equals a literal loop over PLUG Eq. 6-8; points are sampled as in Fig. 3b."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from amodal.nn.uncertainty import binary_entropy, sample_points, uncertainty_map


def literal_uncertainty(probs: Tensor, epsilon: int) -> Tensor:
    """Eq. 6-8 pixel by pixel; pixels outside the map count as 0."""
    H, W = probs.shape
    result = torch.zeros(H, W, dtype=probs.dtype)
    for x1 in range(H):
        for x2 in range(W):
            total = 0.0
            for i in range(H):
                for j in range(W):
                    if abs(i - x1) < epsilon and abs(j - x2) < epsilon:
                        m = probs[i, j].item()
                        if 0 < m < 1:
                            total -= m * math.log(m) + (1 - m) * math.log(1 - m)
            result[x1, x2] = total / (2 * epsilon - 1) ** 2
    return result


@pytest.mark.parametrize("epsilon", [1, 2, 3, 5])
def test_equals_the_equations_up_to_the_border(epsilon: int) -> None:
    torch.manual_seed(epsilon)
    probs = torch.rand(9, 7, dtype=torch.float64)
    probs[0, 0], probs[4, 3] = 0.0, 1.0
    torch.testing.assert_close(
        uncertainty_map(probs, epsilon), literal_uncertainty(probs, epsilon), atol=1e-6, rtol=1e-6
    )


def test_certain_pixels_have_exactly_no_uncertainty() -> None:
    probs = torch.tensor([[0.0, 1.0], [1.0, 0.0]], requires_grad=True)
    entropy = binary_entropy(probs)
    assert torch.equal(entropy, torch.zeros(2, 2))
    assert torch.equal(uncertainty_map(probs, 3), torch.zeros(2, 2))
    entropy.sum().backward()
    assert probs.grad is not None
    assert probs.grad.isfinite().all()


def test_gradient_is_that_of_the_equations() -> None:
    probs = torch.rand(2, 5, 4, dtype=torch.float64) * 0.9 + 0.05
    assert torch.autograd.gradcheck(lambda p: uncertainty_map(p, 2), (probs.requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_through_huge_logits_is_finite(dtype: torch.dtype) -> None:
    logits = torch.tensor([[500.0, -500.0, 0.0], [20.0, -20.0, 88.0]], dtype=dtype, requires_grad=True)
    uncertainty = uncertainty_map(logits.sigmoid(), 2)
    uncertainty.sum().backward()
    assert uncertainty.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_leading_dimensions_are_batches() -> None:
    probs = torch.rand(2, 3, 5, 4)
    batched = uncertainty_map(probs, 2)
    assert batched.shape == probs.shape
    torch.testing.assert_close(batched[1, 2], uncertainty_map(probs[1, 2], 2))


@pytest.mark.parametrize(
    ("num_points", "oversample", "importance"), [(256, 4, 0.75), (10, 3, 0.0), (10, 3, 1.0), (7, 2, 0.5)]
)
def test_points_have_the_requested_number_and_are_distinct(num_points: int, oversample: int, importance: float) -> None:
    points = sample_points(torch.rand(5, 40, 40), num_points=num_points, oversample=oversample, importance=importance)
    assert points.shape == (5, num_points)
    for row in points:
        assert row.unique().numel() == num_points
        assert 0 <= int(row.min()) <= int(row.max()) < 1600


def test_important_points_are_the_most_uncertain_candidates() -> None:
    """With every pixel a candidate, the first c·K points are the top c·K of the map."""
    uncertainty = torch.rand(1, 8, 8)
    points = sample_points(uncertainty, num_points=16, oversample=4, importance=0.75)[0]
    top = uncertainty.flatten().topk(12).indices
    assert set(points[:12].tolist()) == set(top.tolist())
    assert not set(points[12:].tolist()) & set(top.tolist())


def test_share_of_important_points_is_exact_where_floats_are_not() -> None:
    """0.29 * 100 is 28.999... in floats; the top 29 pixels must be in every sample."""
    uncertainty = torch.arange(400.0).reshape(1, 20, 20)
    points = sample_points(uncertainty, num_points=100, oversample=4, importance=0.29)[0]
    assert set(points[:29].tolist()) == set(range(371, 400))


def test_candidates_are_a_random_part_of_the_map() -> None:
    """With n·K of 64 pixels as candidates, the top pixel is taken about n·K / 64 of the time."""
    uncertainty = torch.arange(64.0).reshape(1, 8, 8).expand(400, 8, 8)
    generator = torch.Generator().manual_seed(0)
    points = sample_points(uncertainty, num_points=8, oversample=4, importance=0.5, generator=generator)
    share = (points == 63).any(1).float().mean().item()
    assert share == pytest.approx(0.5, abs=0.1)


def test_same_generator_same_points() -> None:
    uncertainty = torch.rand(2, 16, 16)
    draws = [
        sample_points(
            uncertainty, num_points=9, oversample=2, importance=0.5, generator=torch.Generator().manual_seed(4)
        )
        for _ in range(2)
    ]
    assert torch.equal(*draws)


def test_more_points_than_pixels_is_an_error() -> None:
    with pytest.raises(ValueError, match="num_points: expected at most 4 for this map, got 5"):
        sample_points(torch.rand(1, 2, 2), num_points=5, oversample=1, importance=0.5)
