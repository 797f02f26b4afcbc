"""Reports that other programs changed are refused where they are opened, not where a table needs their values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amodal.errors import InputError
from amodal.evaluation.reason_report import ReasonReport
from amodal.evaluation.report import EvaluationReport
from amodal.evaluation.tables import RunTable
from tests.fuzz.mutations import CORPUS

CHANGES: list[tuple[str, Any]] = [
    ("metrics", None), ("metrics", []), ("intervals", "none"), ("by_occlusion", None), ("by_occlusion", [3]),
    ("by_occlusion", [{"above": "x"}]), ("baselines", {"none": None}), ("options", "none"), ("baselines", ["hull"]),
    ("protocol", ["strict"]), ("protocol", 3),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "seed"), [(EvaluationReport, "report"), (ReasonReport, "report_answers")])
@pytest.mark.parametrize(("key", "value"), CHANGES)
def test_values_of_other_types_are_refused(tmp_path: Path, kind: Any, seed: str, key: str, value: Any) -> None:
    content = json.loads((CORPUS / seed / "two.json").read_text())
    path = tmp_path / "report.json"
    path.write_text(json.dumps(content))
    assert kind.load(path).metrics == content["metrics"]
    path.write_text(json.dumps(content | {key: value}))
    with pytest.raises(InputError, match="report: expected a report of `amodal evaluate"):
        kind.load(path)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        *[("metrics", "num_objects", value) for value in ([1], "1", True, None)],
        *[("metrics", "mIoU_full", value) for value in ([0.5], "0.5", {"a": 0.5})],
        *[("metrics", "amodal", {"AP": value}) for value in ([0.5], "0.5", True, {"a": 0.5})],
        *[("metrics", "other", value) for value in ([0.5], "0.5", {"a": "0.5"})],
        *[("options", "parameters", value) for value in ([1], {"total": "9"}, {"total": None}, "9")],
    ],
)
def test_a_single_number_of_another_type_is_refused(tmp_path: Path, part: str, name: str, value: Any) -> None:
    content = json.loads((CORPUS / "report" / "two.json").read_text())
    path = tmp_path / "report.json"
    path.write_text(json.dumps(content))
    assert RunTable.read([str(path)]).markdown()
    content[part][name] = value
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="report: expected a report of `amodal evaluate`, got .*, other JSON"):
        RunTable.read([str(path)]).markdown()


def test_the_message_of_an_input_error_is_one_line() -> None:
    assert str(InputError("expected a pickle, got another (it was\nencountered)")) == (
        "expected a pickle, got another (it was encountered)"
    )
