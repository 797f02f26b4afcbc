"""The masks of the web page in JavaScript, compared with those of the package, in headless Chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from amodal.ops.rle import decode_mask, encode_mask
from tests.app import browser as web

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with web.serving() as address, web.chromium() as browser:
        page = browser.new_page()
        page.goto(address)
        yield page


def random_masks() -> list[np.ndarray]:
    """Masks with parts, holes, corners that touch and pixels at the border; empty and full ones."""
    rng = np.random.default_rng(0)
    masks = [rng.random(tuple(rng.integers(1, 14, 2))) < share for share in np.linspace(0, 1, 60)]
    coarse = [np.kron(rng.random((6, 5)) < 0.5, np.ones((7, 9))).astype(bool) for _ in range(10)]
    return masks + coarse


def test_pixels_and_run_lengths_are_those_of_the_package(page: Any) -> None:
    rles = [encode_mask(mask) for mask in random_masks()]
    found = page.evaluate(
        """async (text) => {
            const { encode, ends, filled } = await import("./masks.js");
            return JSON.parse(text).map((rle) => {
                const mask = filled(ends(rle));
                return { ...mask, bits: [...mask.bits], rle: encode(mask, rle.size) };
            });
        }""",
        json.dumps(rles),
    )
    for rle, one in zip(rles, found, strict=True):
        mask = decode_mask(rle)
        x, y, w, h = (one[key] for key in "xywh")
        whole = np.zeros_like(mask)
        whole[y : y + h, x : x + w] = np.array(one["bits"], bool).reshape(h, w)
        assert (whole == mask).all() and one["rle"] == rle
        assert not w or (mask[:, [x, x + w - 1]].any(0).all() and mask[[y, y + h - 1]].any(1).all()), "a tight window"


def test_outlines_are_closed_and_have_each_edge_of_the_mask_once(page: Any) -> None:
    rles = [encode_mask(mask) for mask in random_masks()]
    found = page.evaluate(
        """async (text) => {
            const { ends, outlines } = await import("./masks.js");
            return JSON.parse(text).map((rle) => outlines(ends(rle)));
        }""",
        json.dumps(rles),
    )
    for rle, lines in zip(rles, found, strict=True):
        padded = np.pad(decode_mask(rle), 1)
        across, down = padded[1:, 1:-1] ^ padded[:-1, 1:-1], padded[1:-1, 1:] ^ padded[1:-1, :-1]
        drawn = np.zeros(across.shape, int), np.zeros(down.shape, int)
        for line in lines:
            for (x0, y0), (x1, y1) in zip(line, line[1:] + line[:1], strict=True):
                assert (x0 == x1) != (y0 == y1)
                if y0 == y1:
                    drawn[0][y0, min(x0, x1) : max(x0, x1)] += 1
                else:
                    drawn[1][min(y0, y1) : max(y0, y1), x0] += 1
        assert (drawn[0] == across).all() and (drawn[1] == down).all()
