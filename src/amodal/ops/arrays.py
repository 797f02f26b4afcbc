"""Types of the arrays and tuples that the library passes around; shapes and ranges stand where they are used."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
"""(H, W) bool, True for the pixels of an object."""

FloatMap = npt.NDArray[np.float32]
"""(H, W) float32: probabilities, logits or uncertainty per pixel."""


Boxes = npt.NDArray[np.float64]
"""(..., 4) float64."""

Points = npt.NDArray[np.float64]
"""(..., 2) float64, (x, y)."""

Box = tuple[float, float, float, float]
"""One box, (x0, y0, x1, y1) in pixels, right and bottom edge exclusive."""

Window = tuple[int, int, int, int]
"""Part of an image, (x0, y0, x1, y1) in whole pixels, right and bottom edge exclusive."""
