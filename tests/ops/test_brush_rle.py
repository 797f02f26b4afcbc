import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from amodal.errors import InputError
from amodal.ops.brush_rle import decode_brush, encode_brush

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40))


@given(MASKS)
def test_a_mask_comes_back_to_the_bit(mask: np.ndarray) -> None:
    assert np.array_equal(decode_brush(encode_brush(mask), mask.shape), mask)


def test_runs_longer_than_the_widest_length_are_split() -> None:
    mask = np.ones((300, 301), bool)
    mask[7, 9] = False
    assert np.array_equal(decode_brush(encode_brush(mask), mask.shape), mask)


@pytest.mark.tools("label-studio-sdk")
@given(MASKS)
def test_label_studios_own_decoder_reads_it(mask: np.ndarray) -> None:
    from label_studio_sdk.converter import brush

    assert np.array_equal(brush.decode_rle(encode_brush(mask)).reshape(*mask.shape, 4)[..., 3] > 0, mask)


@pytest.mark.tools("label-studio-sdk")
@given(st.integers(0, 2**32 - 1))
def test_what_label_studio_paints_is_read(seed: int) -> None:
    """Its own encoder also writes single values, and any grey."""
    from label_studio_sdk.converter import brush

    grey = np.random.default_rng(seed).integers(0, 3, (5, 7)).astype(np.uint8) * 100
    assert np.array_equal(decode_brush(brush.mask2rle(grey), (5, 7)), grey > 0)


@pytest.mark.parametrize("rle", [[], [1, 2, 3], ["a"], None, [300], list(range(30))])
def test_other_content_is_refused(rle: object) -> None:
    with pytest.raises(InputError, match="brush: expected"):
        decode_brush(rle, (4, 4))


def test_a_stream_cut_short_is_refused() -> None:
    rle = encode_brush(np.eye(6, dtype=bool))
    with pytest.raises(InputError, match="brush: expected Label Studio's run lengths"):
        decode_brush(rle[: len(rle) // 2], (6, 6))


def test_another_size_is_refused() -> None:
    with pytest.raises(InputError, match="brush: expected 80 values for an image of 4 x 5, got 144"):
        decode_brush(encode_brush(np.eye(6, dtype=bool)), (4, 5))
