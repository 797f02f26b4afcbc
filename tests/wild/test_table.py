"""Each row of `docs/inputs.md` names a test in this folder."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
TABLE = HERE.parents[1] / "docs" / "inputs.md"


def test_every_row_has_its_test() -> None:
    tests = {name for file in HERE.glob("test_*.py") for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)}
    rows = [line for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith(("| ---", "| input "))]
    assert len(rows) >= 30
    for row in rows:
        named = re.findall(r"`(test_\w+)` \|$", row)
        assert len(named) == 1 and named[0] in tests, row
