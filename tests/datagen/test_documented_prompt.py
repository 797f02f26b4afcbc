"""The prompt in the documents is the one that is sent; skips without the genuine record."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from amodal.cli.main import main

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("AMODAL_SAMPLE_DATA", ROOT / "data" / "photos")) / "cocoa"


@pytest.mark.skipif(not FOLDER.is_dir(), reason="no sample data")
def test_prompt_of_a_genuine_record(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["reasonseg", "prompt", "--format", "cocoa", "--annotations", str(FOLDER), "--image-id", "343254"]
    assert main(arguments) == 0
    document = (ROOT / "docs" / "reasonseg.md").read_text()
    assert document.split("````text\n")[1].split("\n````")[0] == capsys.readouterr().out.strip()
