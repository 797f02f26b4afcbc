"""Label Studio's brush encoding round-trips and agrees with Label Studio's own code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from amodal.errors import InputError
from amodal.ops.brush_rle import decode_brush, encode_brush

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))


@given(MASKS)
def test_round_trip_keeps_every_pixel(mask: np.ndarray) -> None:
    assert np.array_equal(decode_brush(encode_brush(mask), mask.shape), mask)


def test_runs_longer_than_the_widest_length_are_split() -> None:
    mask = np.ones((300, 301), bool)
    mask[7, 9] = False
    assert np.array_equal(decode_brush(encode_brush(mask), mask.shape), mask)


@pytest.mark.tools("label-studio-sdk")
@given(MASKS)
def test_the_sdk_decodes_our_encoding(mask: np.ndarray) -> None:
    from label_studio_sdk.converter import brush

    assert np.array_equal(brush.decode_rle(encode_brush(mask)).reshape(*mask.shape, 4)[..., 3] > 0, mask)


@pytest.mark.tools("label-studio-sdk")
@given(st.integers(0, 2**32 - 1))
def test_we_decode_the_encoding_of_the_sdk(seed: int) -> None:
    """The SDK's encoder also writes single values and any grey value."""
    from label_studio_sdk.converter import brush

    grey = np.random.default_rng(seed).integers(0, 3, (5, 7)).astype(np.uint8) * 100
    assert np.array_equal(decode_brush(brush.mask2rle(grey), (5, 7)), grey > 0)


@pytest.mark.parametrize("rle", [[], [1, 2, 3], ["a"], None, [300], list(range(30))])
def test_invalid_content_raises(rle: object) -> None:
    with pytest.raises(InputError, match="brush: expected"):
        decode_brush(rle, (4, 4))


def test_a_truncated_stream_raises() -> None:
    rle = encode_brush(np.eye(6, dtype=bool))
    with pytest.raises(InputError, match="brush: expected Label Studio's run lengths"):
        decode_brush(rle[: len(rle) // 2], (6, 6))


def test_another_size_raises() -> None:
    with pytest.raises(InputError, match="brush: expected 80 values for an image of 4 x 5, got 144"):
        decode_brush(encode_brush(np.eye(6, dtype=bool)), (4, 5))
