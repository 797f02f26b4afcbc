"""`amodal reasonseg review`: its output, and one line per mistake."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from amodal.cli.main import main
from amodal.datagen.review.review import ReviewPolicy, submit
from amodal.datagen.store.work_folder import open_work
from tests.datagen.toy_work import toy_work


@pytest.fixture
def work(tmp_path: Path) -> Path:
    with toy_work(tmp_path) as folder:
        return folder.folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["reasonseg", "review", *arguments]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["reasonseg", "review", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


def test_label_studio_export_and_import(capsys: pytest.CaptureFixture[str], work: Path, tmp_path: Path) -> None:
    out = tmp_path / "tasks"
    made = json.loads(run(capsys, "export", str(work), "--to", "label-studio", "--out", str(out), "--json"))
    assert made == {"tasks": 3, "images": 2, "objects": 2}
    tasks = json.loads((out / "tasks-001.json").read_text())
    for task in tasks:
        choice = {"from_name": "verdict", "to_name": "image", "type": "choices", "value": {"choices": ["reject"]}}
        drawn = {"type": "brushlabels", "value": {"rle": [1], "brushlabels": ["1 whole"]}}
        task["annotations"] = [{"completed_by": 1, "result": [choice, drawn]}, {"completed_by": 2, "result": [choice]}]
    tasks[0]["annotations"].append({"completed_by": 3, "result": [choice]})
    (tmp_path / "annotated.json").write_text(json.dumps(tasks))
    output = run(capsys, "import", str(work), str(tmp_path / "annotated.json"), "--from", "label-studio").splitlines()
    assert output == [
        "Imported: 6 verdicts; 0 known before, 0 empty.",
        "Not imported: pair 1: expected one that is open for review, got one that is rejected",
        "Changed masks, not imported: pairs 1, 2, 3",
    ]
    with open_work(work) as opened:
        assert opened.pairs.counts()["rejected"] == 3


def test_agreement(capsys: pytest.CaptureFixture[str], work: Path) -> None:
    assert run(capsys, "agreement", str(work)) == "agreement: no pair was reviewed by two people\n"
    with open_work(work) as opened:
        for number, verdicts in enumerate((("accept", "accept"), ("accept", "reject"), ("reject", "reject")), start=1):
            for name, verdict in zip(("ada", "bob"), verdicts, strict=True):
                submit(opened, number, name, verdict, ReviewPolicy())
    lines = [
        "3 pairs reviewed by two people or more, 0.667 of verdicts equal",
        "Fleiss' kappa: 0.333 (3 pairs, 2 verdicts each)",
        "Cohen's kappa of ada and bob: 0.400 (3 pairs)",
    ]
    assert run(capsys, "agreement", str(work)).splitlines() == lines
    assert main(["reasonseg", "stats", str(work)]) == 0
    assert capsys.readouterr().out.splitlines()[-4:] == ["reviews: 3 accept, 3 reject by 2 people", *lines]
    assert main(["reasonseg", "stats", str(work), "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["agreement"] == json.loads(run(capsys, "agreement", str(work), "--json"))
    assert numbers["agreement"]["fleiss"]["kappa"] == pytest.approx(1 / 3)


def test_bad_input(capsys: pytest.CaptureFixture[str], work: Path, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    for command in (["serve", nowhere], ["agreement", nowhere], ["export", nowhere, "--out", nowhere]):
        assert "work: expected a folder made by" in refused(capsys, *command)
    assert "reviewers: expected 1 or more" in refused(capsys, "serve", str(work), "--reviewers", "0")
    assert "lease: expected a time above 0" in refused(capsys, "serve", str(work), "--lease", "-1")
    assert "token: expected at least 16" in refused(capsys, "serve", str(work), "--token", "short")
    assert "address that is free" in refused(capsys, "serve", str(work), "--host", "no.such.host.invalid")
    assert "tool: expected label-studio, got 'paper'" in refused(
        capsys, "export", str(work), "--to", "paper", "--out", nowhere
    )
    assert "annotated: expected a file" in refused(capsys, "import", str(work), nowhere)
    assert not Path(nowhere).exists()


@pytest.mark.parametrize(
    ("module", "command"),
    [("fastapi", "serve"), ("sklearn.metrics", "agreement"), ("statsmodels.stats.inter_rater", "agreement")],
)
def test_the_extra_of_a_missing_library_is_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, work: Path, module: str, command: str
) -> None:
    with open_work(work) as opened:
        for name in ("ada", "bob"):
            submit(opened, 1, name, "accept", ReviewPolicy())
    for name in ("amodal.app.review", "amodal.app.server"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    assert "amodal[reasonseg]" in refused(capsys, command, str(work))
