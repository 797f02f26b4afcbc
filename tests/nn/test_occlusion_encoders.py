"""AURA's occlusion encoders, and the true map and rates that they learn."""

from __future__ import annotations

import pytest
import torch

from amodal.nn.occlusion_encoders import (
    OcclusionConditionEncoder,
    SpatialOcclusionEncoder,
    occlusion_map,
    occlusion_rates,
)
from tests.drawing import mask


def test_true_map_is_the_papers() -> None:
    visible, amodal = mask("##..", "##.."), mask("####", "##..")
    truth = occlusion_map(torch.from_numpy(visible), torch.from_numpy(amodal))
    assert truth.tolist() == [[1, 1, 2, 2], [1, 1, 0, 0]]


def test_visible_pixels_outside_the_amodal_mask_stay_visible() -> None:
    truth = occlusion_map(torch.from_numpy(mask("##.")), torch.from_numpy(mask(".##")))
    assert truth.tolist() == [[1, 1, 2]]


def test_rates_by_hand() -> None:
    visible = torch.from_numpy(mask("##..", "....")).expand(3, -1, -1)
    amodal = torch.stack(
        [torch.from_numpy(m) for m in (mask("####", "####"), mask("##..", "...."), mask("....", "...."))]
    )
    assert occlusion_rates(visible, amodal).tolist() == [0.75, 0.0, 0.0]


def test_new_condition_encoder_returns_the_embedding_unchanged() -> None:
    encoder = OcclusionConditionEncoder(8)
    refined = torch.randn(5, 8)
    aware, rates = encoder(refined)
    torch.testing.assert_close(aware, refined)
    assert rates.shape == (5,)
    assert ((rates > 0) & (rates < 1)).all()


def test_condition_encoder_learns_rates() -> None:
    torch.manual_seed(0)
    encoder, refined = OcclusionConditionEncoder(8), torch.randn(64, 8)
    truth = refined[:, 0].sigmoid()
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        loss = (encoder(refined)[1] - truth).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 2e-3


@pytest.mark.parametrize("count", [0, 3])
def test_spatial_encoder_keeps_resolution(count: int) -> None:
    logits = SpatialOcclusionEncoder(4)(torch.randn(count, 9, 12), torch.randn(count, 9, 12))
    assert logits.shape == (count, 3, 9, 12)


def test_spatial_encoder_trains_both_masks() -> None:
    visible, amodal = (torch.randn(2, 8, 8, requires_grad=True) for _ in range(2))
    encoder = SpatialOcclusionEncoder(4)
    torch.nn.functional.cross_entropy(encoder(visible, amodal), torch.ones(2, 8, 8, dtype=torch.long)).backward()
    for logits in (visible, amodal):
        assert logits.grad is not None and logits.grad.abs().sum() > 0
