"""Seeds of the corpus, changed in the ways in which real files differ from what a reader expects."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

CORPUS = Path(__file__).parent / "corpus"
MAX_CHANGES = 4  # of one seed

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 0.5, -0.0, 255, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**30, 1e308, 1e-320,
    float("nan"), float("inf"), float("-inf"),
    "", "0", "1.0", "x", "nan", "1e5", "\x00", "\ud800", "é", "e\u0301", "\u202e", "a" * 300, "../a.png",
    "/etc/hosts", "C:\\a.png", "http://127.0.0.1/a.png", "%2e%2e%2fa.png", "a.png", "[SEG]", "<image>", "a\nb",
    [], {}, [None], [[]], [[[]]], [0], [1, 2], [[1, 2]], [0, 0, 1e9, 1e9], [[0, 0, 1e9, 0, 1e9, 1e9]], [-5, -5, 0, 0],
    {"size": [20, 30], "counts": "0"}, {"size": [20, 30], "counts": [600]}, {"size": [20, 30], "counts": [0, 600]},
    {"size": [2**31, 2**31], "counts": [2**62]}, {"size": [40000, 40000], "counts": [0, 1600000000]},
    {"size": [0, 0], "counts": []}, {"size": [20, 30]}, {"counts": "P"}, {"size": [20, 30], "counts": "~~~~~~~"},
]  # fmt: skip
"""Values that readers of other tools were reported to fail with, and values at the limits of types."""

TOKENS = [
    b"", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\xc3\x28", b"\r\n", b"\n\n", b"\t", b" ", b'"', b"'", b"\\",
    b"{", b"}", b"[", b"]", b",", b":", b"-", b"0", b"9" * 30, b"1e999", b"NaN", b"null", b"true", b"<", b">", b"&x;",
    b"&a ", b"*a", b"<<: ", b"!!python/object/apply:os.getcwd []", b"- ", b"? ", b"|", b"%", b"/", b"../", b";", b"=",
    b"[" * 2000, b'{"a":' * 500, b"\x80\x05", b".", b"c", b"(", b"R", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff",
]  # fmt: skip
"""Parts that are put into the bytes of a seed."""


def seeds(*folders: str) -> list[Path]:
    """The seeds of some folders of the corpus, in the order of their names."""
    found = [path for name in folders for path in sorted((CORPUS / name).iterdir()) if path.is_file()]
    assert found, folders
    return found


def json_seeds(*folders: str) -> list[Path]:
    """The seeds of some folders, and half as often the invalid ones that all readers of JSON share."""
    own, shared = seeds(*folders), seeds("json")
    return own * max(2 * len(shared) // len(own), 1) + shared


@st.composite
def changed_file(draw: st.DrawFn, files: list[Path]) -> bytes:
    """The content of a seed with up to `MAX_CHANGES` changes: of the values of JSON, or of the bytes of any file."""
    seed = draw(st.sampled_from(files))
    content = seed.read_bytes()
    if seed.suffix == ".json" and draw(st.integers(0, 3)):
        try:
            return as_bytes(draw(changed_value(json.loads(content))))
        except (ValueError, RecursionError):  # an invalid seed
            pass
    return draw(changed_bytes(content))


@st.composite
def changed_value(draw: st.DrawFn, value: Any) -> Any:
    """A value of JSON in which some values are others, missing, repeated or moved."""
    holder = [copy.deepcopy(value)]
    for _ in range(draw(st.integers(0, MAX_CHANGES))):
        places = list(_places(holder))
        parent, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["value", "value", "text", "missing", "wrapped", "repeated", "moved", "renamed"]))
        old = parent[key]
        if kind == "missing" and parent is not holder:
            del parent[key]
        elif kind == "text":
            parent[key] = str(old)[:400]
        elif kind == "wrapped":
            parent[key] = draw(st.sampled_from([[old], {"a": old}, {"0": old}]))
        elif kind == "repeated" and isinstance(old, list):
            parent[key] = (old * draw(st.sampled_from([2, 3, 40])))[:2000]
        elif kind == "moved":
            other, there = draw(st.sampled_from(places))
            parent[key] = copy.deepcopy(other[there])
        elif kind == "renamed" and isinstance(parent, dict):
            parent[draw(st.sampled_from(["", "id", "iscrowd", "size", "counts", "x", "\ud800"]))] = parent.pop(key)
        else:
            parent[key] = copy.deepcopy(
                draw(st.sampled_from(VALUES) | st.integers() | st.floats() | st.text(max_size=20))
            )
    return holder[0]


@st.composite
def changed_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes of which some are others, missing, repeated or followed by nothing."""
    found = bytearray(content)
    for _ in range(draw(st.integers(0, MAX_CHANGES))):
        at = draw(st.integers(0, len(found)))
        end = draw(st.integers(at, min(at + 16, len(found))))
        kind = draw(st.sampled_from(["bit", "bit", "token", "missing", "repeated", "cut", "random"]))
        if kind == "bit" and at < len(found):
            found[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "token":
            found[at:end] = draw(st.sampled_from(TOKENS))
        elif kind == "missing":
            del found[at:end]
        elif kind == "repeated":
            found[at:at] = bytes(found[at:end]) * draw(st.sampled_from([1, 2, 50]))
        elif kind == "cut":
            del found[at:]
        else:
            found[at:end] = draw(st.binary(max_size=8))
    return bytes(found)


def as_bytes(value: Any) -> bytes:
    """JSON as a file of another tool has it, with NaN and lone surrogates."""
    return json.dumps(value, ensure_ascii=True).encode()


def _places(value: Any) -> Any:
    """Each list or object inside a value, with each of its keys."""
    stack = [value]
    while stack:
        outer = stack.pop()
        for key in list(range(len(outer)) if isinstance(outer, list) else outer):
            yield outer, key
            if isinstance(outer[key], (list, dict)):
                stack.append(outer[key])
