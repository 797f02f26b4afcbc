"""Where a hidden share belongs."""

from __future__ import annotations

import numpy as np

from amodal.metrics.ranges import Range, range_indices, range_label


def test_ranges_hold_their_upper_end() -> None:
    shares = np.array([0, 1e-9, 0.1, 0.1001, 3 / 10, 0.5, 7 / 10, 0.7001, 1.0])
    assert range_indices(shares).tolist() == [0, 1, 1, 2, 2, 3, 4, 5, 5]
    for share, i in zip(shares, range_indices(shares), strict=True):
        chosen = Range.all()[i]
        assert chosen.above < share <= chosen.up_to or share == chosen.up_to == 0


def test_labels_are_those_of_the_field() -> None:
    labels = [range_label(r.above, r.up_to) for r in Range.all()]
    assert labels == ["0 %", "0-10 %", "10-30 %", "30-50 %", "50-70 %", "> 70 %"]
