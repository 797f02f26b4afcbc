"""Values of files are understood or refused, each by the same rule alone and in a list."""

from __future__ import annotations

from typing import Any

import pytest

from amodal.errors import InputError
from amodal.ops.values import number, numbers


@pytest.mark.parametrize("value", [2, 2.0, "2", " 2.0 ", "2e0"])
def test_numbers_alone_and_in_a_list(value: Any) -> None:
    assert number(value, "x") == 2 and numbers([value], "x").tolist() == [2]


@pytest.mark.parametrize("value", ["1_0", "", "x", True, None, [1], (1,), {}, "nan", float("inf")])
def test_other_values_are_refused_alone_and_in_a_list(value: Any) -> None:
    with pytest.raises(InputError, match="x"):
        number(value, "x")
    with pytest.raises(InputError, match="x"):
        numbers([value], "x")
