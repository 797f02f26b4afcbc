"""Values as files state them: numbers as text, flags as numbers, missing fields. Each is understood or refused."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from amodal.errors import InputError

MAX_INTEGER = 2**63 - 1
"""Largest id: that of NumPy, SQLite and Parquet."""

_DIGITS = re.compile(r"\s*[+-]?\d{1,30}\s*", re.ASCII)
_FLAGS = {"": False, "0": False, "false": False, "no": False, "n": False, "f": False} | dict.fromkeys(
    ("1", "true", "yes", "y", "t"), True
)


def number(value: Any, what: str) -> float:
    """A finite number, stored as a number or as text.

    Raises:
        InputError: the value is anything else; the message names `what`.
    """
    try:
        if not isinstance(value, bool) and isinstance(value, (int, float, str)) and "_" not in str(value):
            found = float(value)
            if math.isfinite(found):
                return found
    except (ValueError, OverflowError):
        pass
    raise InputError(f"expected {what} to be a finite number, got {value!r:.60}")


def integer(value: Any, what: str) -> int:
    """An integer of at most 64 bits, stored as a number, as a float without fraction, or as text.

    Raises:
        InputError: the value is anything else; the message names `what`.
    """
    found = None
    if isinstance(value, int) and not isinstance(value, bool):
        found = value
    elif isinstance(value, str) and _DIGITS.fullmatch(value):
        found = int(value)
    elif isinstance(value, (float, str)):
        try:
            real = number(value, what)
            found = int(real) if real.is_integer() else None
        except InputError:
            pass
    if found is None:
        raise InputError(f"expected {what} to be an integer, got {value!r:.60}")
    if abs(found) > MAX_INTEGER:
        raise InputError(f"expected {what} to be an integer of 64 bits, got {value!r:.60}")
    return found


def optional_integer(value: Any, what: str) -> int | None:
    """An integer, or None where the field is missing or empty. Raises `InputError` as `integer` does."""
    return None if value is None or value == "" else integer(value, what)


def flag(value: Any, what: str) -> bool:
    """Yes or no, stored as a boolean, as 0 or 1, or as text; a missing field is no.

    Raises:
        InputError: the value is anything else; the message names `what`.
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, (int, float)) and value in (0, 1):
        return bool(value)
    text = value.strip().lower() if isinstance(value, str) else None
    if text not in _FLAGS:
        try:  # "0.0"
            return flag(number(text, what), what)
        except InputError:
            raise InputError(f"expected {what} to be 0 or 1, got {value!r:.60}") from None
    return _FLAGS[text]


def text(value: Any, what: str) -> str:
    """A text, or a number as text.

    Raises:
        InputError: the value is anything else; the message names `what`.
    """
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    raise InputError(f"expected {what} to be a text, got {value!r:.60}")


def ids(value: Any, what: str) -> tuple[int, ...] | None:
    """A list of integers, None where the field is missing. Raises `InputError` for anything else."""
    if value is None:
        return None
    if not isinstance(value, (list, tuple)):
        raise InputError(f"expected {what} as ids, got {value!r:.60}")
    return tuple(integer(entry, f"each of {what}") for entry in value)


def numbers(values: Sequence[Any], what: str) -> npt.NDArray[np.float64]:
    """Finite numbers (N,) float64, stored as numbers or as text.

    Raises:
        InputError: one of the values is anything else; the message names `what`.
    """
    if any(isinstance(value, (bool, list, dict)) or value is None for value in values):
        raise InputError(f"expected numbers as {what}, got other content")
    try:
        found = np.array([number(value, what) if isinstance(value, str) else value for value in values], np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"expected numbers as {what}, got other content") from error
    if found.ndim != 1:
        raise InputError(f"expected numbers as {what}, got other content")
    if not np.isfinite(found).all():
        raise InputError(f"expected finite {what}, got NaN or infinity")
    return found
