"""Reading pickles that hold plain values only. A pickle can name any function to call, so all others are refused."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from amodal.errors import InputError


class _Marker:
    """Stands for the class `numpy.ndarray`, which a pickle names but must not call."""


class _Type:
    """Stands for a numpy type, whose own pickled state may have any element size, fields and flags without a check."""

    def __init__(self, code: Any, _align: Any = False, _copy: Any = True) -> None:
        self.dtype: np.dtype[Any] = np.dtype(code if isinstance(code, str) else object)
        if self.dtype.kind not in "biufSU":
            raise pickle.UnpicklingError(f"a numpy type of numbers or text expected, not {code!r:.40}")

    def __setstate__(self, state: Any) -> None:
        """Take the byte order; the code has all else."""
        _version, order, subtype, names, fields, *_ = state
        if order not in ("<", ">", "|", "=") or any(part is not None for part in (subtype, names, fields)):
            raise pickle.UnpicklingError("a numpy type of numbers or text expected")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray[Any, Any]):
    """An array that its pickled state fills."""

    def __setstate__(self, state: Any) -> None:
        """Fill the array with bytes of a checked type."""
        version, shape, kind, is_fortran, data = state
        super().__setstate__((version, shape, _numeric(kind), is_fortran, data))


def _empty_array(_kind: Any, _shape: Any, _code: Any) -> npt.NDArray[Any]:
    return _Array((0,), np.int8)


def _array_of_bytes(data: Any, kind: Any, shape: Any, order: Any) -> npt.NDArray[Any]:
    return np.frombuffer(data, _numeric(kind)).reshape(shape, order=order)


def _scalar(kind: Any, data: Any = None) -> Any:
    """A numpy number from its bytes."""
    return np.frombuffer(data, _numeric(kind), count=1)[0]


def _numeric(kind: Any) -> np.dtype[Any]:
    if not isinstance(kind, _Type):
        raise pickle.UnpicklingError(f"a numpy type of numbers or text expected, not {kind!r:.40}")
    return kind.dtype


def _encode(value: Any, encoding: Any = "latin1") -> bytes:
    """Bytes as the older protocols write them."""
    if not isinstance(value, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("text in latin1 expected")
    return value.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): _Marker(),
    ("numpy", "dtype"): _Type,
    **{
        (module, name): kind
        for module in ("builtins", "__builtin__")
        for name, kind in (
            ("set", set),
            ("frozenset", frozenset),
            ("list", list),
            ("dict", dict),
            ("int", int),
            ("float", float),
            ("bytes", bytes),
        )
    },
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _empty_array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _array_of_bytes for core in ("core", "_core")},
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return an allowed name; refuse all others."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _ALLOWED[module, name]


def read_plain_pickle(path: Path) -> Any:
    """Read a pickle of containers, numbers, text, bytes, and numpy numbers and arrays.

    Raises:
        InputError: the file does not exist, is no pickle, or holds or calls anything else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"expected a file that can be read, got {str(path)!r} ({error.strerror})") from error
    try:
        return _PlainUnpickler(io.BytesIO(content)).load()
    except Exception as error:  # a broken pickle can fail in any operation
        raise InputError(
            f"{path}: expected a pickle of plain containers, numbers, text and arrays, got another one ({error!s:.120})"
        ) from error
