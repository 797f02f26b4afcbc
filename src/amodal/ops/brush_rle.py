"""Label Studio's run-length form of painted masks, which is not COCO's.

A stream of bits: the number of values (32 bits), the bits a value has less one (5), four run-length
widths less one (4 each), then blocks of: 1 for a run or 0 for single values, which width (2 bits),
length less one, value or values. The values are the image's pixels row by row, four channels each.

Written here although Label Studio's SDK has it, because the SDK brings an OpenCV that needs a
display's libraries over the headless one; the tests compare the two.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from amodal.errors import InputError

Mask = npt.NDArray[np.bool_]

CHANNELS = 4
VALUE_BITS = 8
WIDTHS = (3, 4, 8, 16)  # bits of a run's length
SET = 255


def encode_brush(mask: Mask) -> list[int]:
    """(H, W) bool to Label Studio's `rle`, bytes as numbers."""
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
    """Label Studio's `rle` to (H, W) bool; a pixel is set where its last channel is not 0.

    Raises:
        InputError: not such a list, or one of another size.
    """
    H, W = size
    expected = H * W * CHANNELS
    try:
        text = "".join(f"{byte:08b}" for byte in bytes(rle))
        count, value_bits = int(text[:32], 2), int(text[32:37], 2) + 1
        widths = [int(text[37 + 4 * i : 41 + 4 * i], 2) + 1 for i in range(4)]
        if count != expected:
            raise InputError(f"brush: expected {expected} values for an image of {H} x {W}, got {count}")
        return _read_runs(text, 53, widths, value_bits, count).reshape(H, W, CHANNELS)[..., -1] > 0
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError("brush: expected Label Studio's run lengths, got other content") from error


def _run(length: int, value: int) -> str:
    """Blocks of one run; those longer than the widest length are split."""
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
