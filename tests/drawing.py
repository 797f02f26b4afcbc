"""Masks drawn as strings, so that a truth table can be read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def mask(*rows: str) -> npt.NDArray[np.bool_]:
    """`mask("..##", ".###")`: one string a row, `#` is set."""
    return np.array([[cell == "#" for cell in row] for row in rows])
