"""What image tokens say about regions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from amodal.models.aura.region_tokens import FACTS, WORDS, described
from amodal.models.aura.regions import Regions

NAMES = ("background", "mug", "chair", "cat")


def regions_of(shown: list[tuple[str, list[float], float, float]], *in_front: tuple[int, int]) -> Regions:
    """One image with regions of a name, box, quality and occlusion rate; pairs of a front one and one behind."""
    names = [NAMES.index(name) for name, *_ in shown]
    hides = torch.zeros(1, len(shown), len(shown))
    for front, behind in in_front:
        hides[0, front, behind] = 1.0
    boxes, quality, rates = (torch.tensor([[region[k] for region in shown]]) for k in (1, 2, 3))
    return Regions(boxes, torch.eye(len(NAMES))[names][None], quality, rates, hides)


def said(tokens: Tensor, region: int, fact: str) -> dict[str, float]:
    """Words and their probabilities, the most probable first."""
    row = tokens[0, region * len(FACTS) + FACTS.index(fact)]
    found = {word: round(float(p), 3) for word, p in zip((*NAMES, *WORDS), row, strict=True) if p > 1e-6}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def test_the_best_regions_are_listed_once_and_the_rest_is_background() -> None:
    mug, chair = [0.0, 0.0, 0.4, 0.4], [0.5, 0.5, 1.0, 1.0]
    again = [0.0, 0.0, 0.4, 0.38]  # the mug once more
    regions = regions_of([("chair", chair, 0.6, 0.0), ("mug", again, 0.5, 0.0), ("mug", mug, 0.8, 0.0)])
    tokens = described(regions, 3)
    assert tokens.shape == (1, 3 * len(FACTS), len(NAMES) + len(WORDS))
    torch.testing.assert_close(tokens.sum(-1), torch.ones(1, 3 * len(FACTS)))
    assert said(tokens, 0, "name") == {"mug": 0.8, "background": 0.2}
    assert said(tokens, 1, "name") == {"chair": 0.6, "background": 0.4}
    assert all(said(tokens, 2, fact) == {"background": 1.0} for fact in FACTS)
    assert torch.equal(described(regions, 1)[:, 0], tokens[:, 0])


def test_regions_say_how_much_of_them_is_hidden_and_by_what() -> None:
    boxes = [[0.0, 0.0, 0.5, 0.5], [0.3, 0.3, 0.9, 0.9], [0.6, 0.0, 0.9, 0.3]]
    shown = [(name, box, 1.0, rate) for name, box, rate in zip(NAMES[1:], boxes, (0.4, 0.0, 0.1), strict=True)]
    tokens = described(regions_of(shown, (1, 0), (2, 0), (2, 1)), 3)
    assert said(tokens, 0, "hidden") == {"whole": 0.6, "hidden": 0.4}
    assert said(tokens, 0, "hidden by") == {"chair": 0.5, "cat": 0.5}
    assert said(tokens, 0, "hides") == {"nothing": 1.0}
    assert said(tokens, 1, "hides") == {"mug": 1.0}
    assert said(tokens, 2, "hides") == {"mug": 0.5, "chair": 0.5}
    assert said(tokens, 2, "hidden by") == {"nothing": 1.0}


def test_places_are_those_among_regions_of_the_same_name() -> None:
    corners = {"left": 0.0, "right": 0.7, "middle": 0.35}
    shown = [("mug", [x, 0.0, x + 0.2, 0.2], 1.0, 0.0) for x in corners.values()]
    tokens = described(regions_of([*shown, ("cat", [0.0, 0.5, 0.4, 0.9], 1.0, 0.0)]), 4)
    for region, word in enumerate(corners):
        assert said(tokens, region, "place and size")[word] == pytest.approx(0.5)
    last = said(tokens, 3, "place and size")
    assert last["only"] == pytest.approx(0.5)


def test_sizes_are_relative_to_what_else_is_listed() -> None:
    shown = [("mug", [0.0, 0.0, 0.2, 0.2], 1.0, 0.0), ("cat", [0.4, 0.4, 1.0, 1.0], 1.0, 0.0)]
    tokens = described(regions_of(shown), 2)
    small, large = (said(tokens, region, "place and size") for region in (0, 1))
    assert small["small"] > 4 * small["large"] and large["large"] > 4 * large["small"]


def test_images_of_a_batch_are_described_alone() -> None:
    one = regions_of([("mug", [0.0, 0.0, 0.5, 0.5], 0.9, 0.2), ("cat", [0.3, 0.3, 0.8, 0.8], 0.7, 0.0)], (1, 0))
    other = regions_of([("cat", [0.5, 0.0, 0.9, 0.9], 0.4, 0.6), ("mug", [0.0, 0.1, 0.2, 0.2], 0.0, 0.0)])
    both = Regions(*(torch.cat(parts) for parts in zip(one, other, strict=True)))
    torch.testing.assert_close(described(both, 2), torch.cat([described(one, 2), described(other, 2)]))
