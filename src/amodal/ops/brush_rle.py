"""Label Studio's run-length encoding of brush masks, which differs from COCO's.

The encoding is a stream of bits: the number of values (32 bits), the number of bits per value minus one (5 bits), four
widths of run lengths minus one (4 bits each), then blocks. A block is 1 for a run or 0 for single values, the index of
the width (2 bits), the length minus one, and the value or values. Values are the pixels of the image row by row with
four channels each.

Label Studio's SDK has this code too, but it replaces the headless OpenCV by one that needs display libraries. The tests
compare the two.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from amodal.errors import InputError
from amodal.ops.arrays import Mask

CHANNELS = 4
VALUE_BITS = 8
WIDTHS = (3, 4, 8, 16)  # bits of a run length
SET = 255


def encode_brush(mask: Mask) -> list[int]:
    """Encode an (H, W) bool mask as Label Studio's `rle`, a list of byte values."""
    flat = mask.ravel()
    changes = np.flatnonzero(np.diff(flat.view(np.int8))) + 1
    starts = np.concatenate([[0], changes])
    lengths = np.diff(starts, append=flat.size) * CHANNELS
    bits = [f"{flat.size * CHANNELS:032b}", f"{VALUE_BITS - 1:05b}", *(f"{width - 1:04b}" for width in WIDTHS)]
    bits += [_run(int(length), SET * int(flat[start])) for start, length in zip(starts, lengths, strict=True)]
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def decode_brush(rle: list[int], size: tuple[int, int]) -> Mask:
    """Decode Label Studio's `rle` to an (H, W) bool mask; a pixel is set if its last channel is not 0.

    Raises:
        InputError: the list is invalid or encodes another size.
    """
    H, W = size
    expected = H * W * CHANNELS
    if not isinstance(rle, list):
        raise InputError(f"brush: expected a list of bytes, got {rle!r:.40}")
    try:
        text = "".join(f"{byte:08b}" for byte in bytes(rle))
        count, value_bits = int(text[:32], 2), int(text[32:37], 2) + 1
        widths = [int(text[37 + 4 * i : 41 + 4 * i], 2) + 1 for i in range(4)]
        if count != expected:
            raise InputError(f"brush: expected {expected} values for an image of {H} x {W}, got {count}")
        return _read_runs(text, 53, widths, value_bits, count).reshape(H, W, CHANNELS)[..., -1] > 0
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("brush: expected Label Studio's run lengths, got other content") from error


def _run(length: int, value: int) -> str:
    """The blocks of one run; a run that is longer than the widest length allows is split."""
    longest = 2 ** WIDTHS[-1]
    full, rest = divmod(length, longest)
    text = f"1{len(WIDTHS) - 1:02b}{longest - 1:0{WIDTHS[-1]}b}{value:0{VALUE_BITS}b}" * full
    if rest:
        index = next(i for i, width in enumerate(WIDTHS) if rest <= 2**width)
        text += f"1{index:02b}{rest - 1:0{WIDTHS[index]}b}{value:0{VALUE_BITS}b}"
    return text


def _read_runs(text: str, at: int, widths: list[int], value_bits: int, count: int) -> npt.NDArray[np.uint8]:
    values = np.zeros(count, np.uint8)
    done = 0
    while done < count:
        is_run, width = text[at : at + 1] == "1", widths[int(text[at + 1 : at + 3], 2)]
        length = int(text[at + 3 : at + 3 + width], 2) + 1
        at += 3 + width
        number = 1 if is_run else length
        read = [int(text[at + i * value_bits : at + (i + 1) * value_bits], 2) for i in range(number)]
        at += number * value_bits
        values[done : done + length] = read[0] if is_run else read[: count - done]
        done += length
    return values
