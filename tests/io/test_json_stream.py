"""A JSON file that is read record by record has the same content as when it is read as a whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amodal.errors import InputError
from amodal.io import json_stream
from amodal.io.json_stream import read_json, scan

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=4), v, max_size=3))
FILES = st.dictionaries(st.text(max_size=6), VALUES, max_size=4)


def content_of(path: Path) -> dict[str, Any]:
    """Build the content of the file from its entries, each read from its byte range."""
    content: dict[str, Any] = {}
    raw = path.read_bytes()
    for entry in scan(path):
        if entry.kind == "list":
            content[entry.section] = []
            continue
        record = json.loads(raw[entry.offset : entry.offset + entry.length])
        assert record == entry.record
        if entry.kind == "item":
            content[entry.section].append(record)
        else:
            content[entry.section] = record
    return content


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=FILES, ascii_only=st.booleans(), indent=st.none() | st.just(1), chunk=st.integers(1, 40))
def test_any_file_in_chunks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, ascii_only: bool, indent: Any, chunk: int
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", chunk)
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content, ensure_ascii=ascii_only, indent=indent), encoding="utf-8")
    assert content_of(path) == content


def test_a_top_level_list_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf [{"a": 1}, {"b": [2]}] \n')
    assert [(e.section, e.record) for e in scan(path)] == [("", {"a": 1}), ("", {"b": [2]})]
    path.write_text("[]")
    assert list(scan(path)) == []


@pytest.mark.parametrize(
    "text",
    [
        "", "  ", "7", '"x"', "{", "[", '{"a"', '{"a": ', '{"a": 1', '{"a": 1,}', '{"a" 1}', "{1: 2}", "[1 2]", "[1,]",
        '{"a": [1, {]}', '{"a": 1} x', "[1] [2]", '{"a": "\\x"}', '{"a": tru}', "[" * 100_000,
        '{"a": ' + "9" * 5000 + "}",
    ],
)  # fmt: skip
def test_broken_json_raises(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError, match="expected JSON, got broken text") as caught:
        list(scan(path))
    assert "\n" not in str(caught.value)


def test_text_that_is_not_utf8_raises(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InputError, match="not UTF-8"):
        list(scan(path))


def test_a_record_above_the_limit_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", 1 << 10)
    monkeypatch.setattr(json_stream, "MAX_RECORD_BYTES", 1 << 20)
    path = tmp_path / "x.json"
    path.write_text('{"annotations": [{"counts": "' + "0" * (8 << 20) + '"}]}')
    with pytest.raises(InputError, match="expected records of at most 1 MiB, got a longer one at byte 17"):
        list(scan(path))


def test_a_fault_is_reported_at_its_position(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"annotations": [{"a": 1}, {"b" 2}' + ', {"c": 3}' * 1000 + "]}")
    with pytest.raises(InputError, match="Expecting ':' delimiter at byte 32"):
        list(scan(path))


def test_a_truncated_file_raises(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"images": [{"file_name": "stre')
    with pytest.raises(InputError, match=r"\(Unterminated string starting at byte 26\)"):
        list(scan(path))


def test_a_key_twice_among_many_is_found_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("{" + "".join(f'"{i}": 0, ' for i in range(200_000)) + '"199999": 0}')
    with pytest.raises(InputError, match="got '199999' twice"):
        read_json(path, "file")
