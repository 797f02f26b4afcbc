"""The refine module starts without a correction and treats objects independently."""

from __future__ import annotations

import pytest
import torch

from amodal.nn import refine
from amodal.nn.refine import RefineModule


def inputs(count: int) -> tuple[torch.Tensor, ...]:
    return (torch.randn(count, 3, 8, 6), *(torch.rand(count, 1, 8, 6) for _ in range(4)))


def test_starts_without_correction() -> None:
    assert torch.equal(RefineModule(channels=8)(*inputs(2)), torch.zeros(2, 1, 8, 6))


def test_object_is_independent_of_the_others_in_the_batch() -> None:
    module = RefineModule(num_blocks=2, channels=8)
    torch.nn.init.normal_(module.head.weight)
    maps = inputs(3)
    together = module(*maps)
    alone = module(*(m[1:2] for m in maps))
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-5)


def test_blocks_and_width_are_configurable() -> None:
    sizes = [sum(p.numel() for p in RefineModule(n, c).parameters()) for n, c in ((1, 8), (2, 8), (1, 16))]
    assert sizes[0] < sizes[1] < sizes[2]


def test_pieces_that_fit_the_cache_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    module = RefineModule(num_blocks=1, channels=8)
    torch.nn.init.normal_(module.head.weight)
    maps = inputs(5)
    with_gradients = module(*maps)
    for budget in (1, 10**9):
        monkeypatch.setattr(refine, "CACHE_BYTES_PER_THREAD", budget)
        with torch.no_grad():
            torch.testing.assert_close(module(*maps), with_gradients, atol=1e-5, rtol=1e-5)
