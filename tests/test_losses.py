"""Losses equal literal computations."""

from __future__ import annotations

import math

import pytest
import torch

from amodal.losses import mask_bce, mask_dice, object_mean, occluded_dice, point_loss
from amodal.nn.uncertainty import sample_points, uncertainty_map

SETTINGS = {"epsilon": 3, "num_points": 12, "oversample": 3, "importance": 0.75, "alpha": 0.1, "beta": 0.1}


def test_bce_of_one_pixel() -> None:
    loss = mask_bce(torch.tensor([[[2.0]]]), torch.tensor([[[1.0]]]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)))


def test_dice_is_zero_for_the_truth_and_near_one_for_its_opposite() -> None:
    truth = torch.zeros(1, 32, 32)
    truth[:, 8:24, 8:24] = 1
    logits = (truth * 2 - 1) * 50
    assert mask_dice(logits, truth).item() == pytest.approx(0, abs=1e-6)
    assert mask_dice(-logits, truth).item() > 0.99


def one_object(occluded: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """True amodal and visible mask (1, 32, 32) of a square of 20 pixels, whose right quarter may be occluded."""
    amodal = torch.zeros(1, 32, 32, dtype=torch.bool)
    amodal[:, 4:24, 4:24] = True
    visible = amodal.clone()
    visible[:, :, 19:] &= not occluded
    return amodal, visible


@pytest.mark.parametrize("occluded", [True, False])
def test_occluded_dice_is_zero_for_the_truth_and_ignores_the_visible_part(occluded: bool) -> None:
    amodal, visible = one_object(occluded)
    logits = (amodal.float() * 2 - 1) * 50
    assert occluded_dice(logits, amodal, visible).item() == pytest.approx(0, abs=1e-6)
    anything = torch.where(visible, torch.randn(1, 32, 32), logits)
    assert occluded_dice(anything, amodal, visible).item() == pytest.approx(0, abs=1e-6)


def test_occluded_dice_of_a_missed_and_of_a_false_occlusion() -> None:
    """Smoothed by 5 % of the object's 400 pixels."""
    (amodal, visible), (whole, _) = one_object(True), one_object(False)
    missed = occluded_dice((visible.float() * 2 - 1) * 50, amodal, visible).item()
    assert missed == pytest.approx(1 - 20 / (100 + 20), abs=1e-5)
    too_wide = whole.roll(5, 2)
    false = occluded_dice((too_wide.float() * 2 - 1) * 50, whole, whole).item()
    assert false == pytest.approx(1 - 20 / (100 + 20), abs=1e-5)


def test_invalid_objects_do_not_count() -> None:
    logits, truth = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    valid = torch.tensor([[True, False, True], [False, False, False]])
    for loss in (mask_bce, mask_dice):
        assert loss(logits, truth, valid).item() == pytest.approx(loss(logits[0, ::2], truth[0, ::2]).item(), abs=1e-6)
        assert loss(logits, truth, torch.zeros_like(valid)).item() == 0
    visible = truth * (truth > 0.5)
    some = occluded_dice(logits[0, ::2], truth[0, ::2], visible[0, ::2]).item()
    assert occluded_dice(logits, truth, visible, valid).item() == pytest.approx(some, abs=1e-6)
    assert object_mean(torch.tensor([1.0, 5.0]), torch.tensor([True, False])).item() == 1


def test_point_loss_is_equation_10_at_the_sampled_points() -> None:
    torch.manual_seed(0)
    logits, truth = torch.randn(2, 9, 9), torch.rand(2, 9, 9).round()
    loss = point_loss(logits, truth, **SETTINGS, generator=torch.Generator().manual_seed(5))
    uncertainty = uncertainty_map(logits.sigmoid(), 3)
    points = sample_points(
        uncertainty, num_points=12, oversample=3, importance=0.75, generator=torch.Generator().manual_seed(5)
    )
    total = 0.0
    for n in range(2):
        for index in points[n].tolist():
            m, y = logits[n].flatten()[index].sigmoid().item(), truth[n].flatten()[index].item()
            extra = -(y * math.log(m) + (1 - y) * math.log(1 - m))
            total += 0.1 * extra + 0.1 * uncertainty[n].flatten()[index].item()
    assert loss.item() == pytest.approx(total / 24, abs=1e-6)


def test_both_terms_of_the_point_loss_reach_the_logits() -> None:
    truth = torch.rand(1, 9, 9).round()
    for weights in ({"alpha": 0.1, "beta": 0.0}, {"alpha": 0.0, "beta": 0.1}):
        logits = torch.randn(1, 9, 9, requires_grad=True)
        point_loss(logits, truth, **(SETTINGS | weights)).backward()
        assert logits.grad is not None
        assert logits.grad.abs().sum() > 0


def test_gradient_of_the_point_loss_is_that_of_equation_10() -> None:
    """With every pixel sampled, the points do not depend on the logits."""
    truth = torch.rand(1, 4, 4).round()
    every = SETTINGS | {"num_points": 16, "oversample": 1}
    logits = torch.randn(1, 4, 4, requires_grad=True)
    point_loss(logits, truth, **every).backward()
    exact = logits.detach().double().requires_grad_()
    extra = torch.nn.functional.binary_cross_entropy_with_logits(exact, truth.double())
    (0.1 * extra + 0.1 * uncertainty_map(exact.sigmoid(), 3).mean()).backward()
    assert exact.grad is not None
    torch.testing.assert_close(logits.grad, exact.grad.float(), atol=1e-6, rtol=1e-5)


def test_point_loss_is_the_same_with_a_prompt_axis_and_under_autocast() -> None:
    logits, truth = torch.randn(2, 3, 9, 9), torch.rand(2, 3, 9, 9).round()
    flat = point_loss(logits.flatten(0, 1), truth.flatten(0, 1), **SETTINGS, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prompts = point_loss(logits, truth, **SETTINGS, generator=torch.Generator().manual_seed(1))
    assert prompts.dtype == torch.float32
    assert torch.equal(flat, prompts)


def test_point_loss_is_lower_for_certain_logits() -> None:
    """Of two predictions that are right everywhere, the more certain one costs less."""
    truth = torch.ones(1, 9, 9)
    uncertain, certain = (point_loss(torch.full((1, 9, 9), v), truth, **SETTINGS) for v in (0.1, 4.0))
    assert certain < uncertain


def test_point_loss_of_huge_bfloat16_logits_is_finite() -> None:
    logits = torch.tensor([[[300.0, -300.0], [0.0, 300.0]]], dtype=torch.bfloat16).repeat(1, 4, 4).requires_grad_()
    loss = point_loss(logits, torch.ones(1, 8, 8), **SETTINGS)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
