"""Finding reports, and comparing them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from amodal.errors import InputError
from amodal.evaluation.detection import detections_from_file, evaluate_detections
from amodal.evaluation.evaluator import EvaluationSettings, evaluate_predictions
from amodal.evaluation.reason_report import ReasonReport, compare_reason, is_reason_report
from amodal.evaluation.report import COMPARED_OPTIONS, EvaluationReport, as_text, compare, report_file
from amodal.evaluation.scoring import Resampling
from tests.evaluation.toy_predictions import perfect, toy, write


def report(protocol: str = "strict", metrics: dict[str, Any] | None = None, **options: Any) -> EvaluationReport:
    known = {"model": "m", "objects_sha256": "a", "objects": "all annotated objects"}
    counts = {"num_objects": 3, "num_occluded": 1}
    return EvaluationReport(protocol, known | options, counts | (metrics or {"mIoU_full": 0.5}))


def test_a_folder_with_one_report_is_found(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "evaluation").mkdir(parents=True)
    report().save(run / "evaluation" / "report.json")
    assert report_file(run) == run / "evaluation" / "report.json"
    assert EvaluationReport.load(run) == report()
    report(protocol="c2f").save(run / "report.json")
    assert EvaluationReport.load(run).protocol == "c2f"  # its own one comes first
    assert report_file(run / "report.json") == run / "report.json"


@pytest.mark.parametrize("visible", [True, False])
@pytest.mark.parametrize("protocol", ["strict", "c2f", "cumulative", "amodal_ap"])
def test_a_saved_report_of_every_protocol_is_loaded(protocol: str, visible: bool, tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 3)
    hidden = {} if visible else {"visible_segmentation": None}
    path = write(tmp_path / "p.json", [record | hidden for record in perfect(dataset)])
    if protocol == "amodal_ap":
        made = evaluate_detections(detections_from_file(path, dataset), dataset, {"model": "m"}, Resampling(20))
        assert made.metrics["amodal"]["AP_large"] is None  # a number that does not exist is loaded as well
    else:
        made = evaluate_predictions(path, dataset, EvaluationSettings(protocol, num_worst=2, progress=False))
    made.save_folder(tmp_path / "run")
    loaded = EvaluationReport.load(tmp_path / "run")
    assert loaded == made and str(loaded) == str(made)
    assert {row["difference"] for row in compare(loaded, made).rows()} <= {0, None}


def test_folders_without_a_single_report_raise(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"report: expected a folder with one report.json, got '.*' with none$"):
        EvaluationReport.load(tmp_path)
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(InputError, match="with none: score it with `amodal evaluate masks --model .*model --out"):
        EvaluationReport.load(tmp_path)
    for name in ("a", "b"):
        report().save(tmp_path / name / "report.json")
    with pytest.raises(InputError, match="with a/report.json, b/report.json$"):
        EvaluationReport.load(tmp_path)


@pytest.mark.parametrize("name", COMPARED_OPTIONS)
def test_options_that_both_reports_state_must_agree(name: str) -> None:
    first, second = report(**{name: 1}), report(**{name: 2})
    with pytest.raises(InputError, match=rf"expected the same {name} in both reports, got 1 and 2 \(--allow {name}\)"):
        compare(first, second)
    assert compare(first, second, (name,)).different == (name,)
    unstated = compare(first, report())
    assert unstated.to_json()["different_options"] == {name: [1, None]}
    assert f"{name} 1 against not stated" in as_text([unstated.table()], 200)


def test_a_model_is_comparable_with_its_saved_predictions() -> None:
    model = report(box_source="gt_visible", threshold=0.3, union_visible=True, clean=False)
    saved = {"box_source": None, "threshold": None, "clean": None, "num_unused_predictions": 0}
    file = report(union_visible=False, **saved)
    for pair in ((model, file), (file, model)):
        assert set(compare(*pair).different) == {"box_source", "threshold", "union_visible", "clean"}
    united = report(union_visible=True, **saved)
    with pytest.raises(InputError, match="expected the same union_visible in both reports, got False and True"):
        compare(file, united)  # both are files, so this is known


def test_metrics_that_two_protocols_share_are_compared_and_the_others_are_listed() -> None:
    strict = report(metrics={"mIoU_full": 0.5, "mIoU_occ": None, "single_component": 0.75})
    cumulative = report("cumulative", {"mIoU_full": 0.6, "mIoU_occ": 0.3})
    content = compare(strict, cumulative).to_json()
    assert content["protocol"] == "strict and cumulative"
    assert content["rows"] == [
        {"objects": "all", "metric": "mIoU_full", "first": 0.5, "second": 0.6, "difference": pytest.approx(0.1)},
        {"objects": "all", "metric": "mIoU_occ", "first": None, "second": 0.3, "difference": None},
    ]
    assert content["unshared"] == [{"model": "m", "protocol": "strict", "metric": "single_component", "value": 0.75}]
    text = as_text(compare(strict, cumulative).tables(), 120)
    assert "m, strict" in text and "m, cumulative" in text and "0.7500" in text
    detections = report("amodal_ap", {"amodal": {"AP": 0.4, "AP50": 0.5, "AP75": None}})
    content = compare(detections, strict).to_json()
    assert content["rows"] == []
    assert [row["metric"] for row in content["unshared"]] == [
        "AP amodal",
        "AP50 amodal",
        "AP75 amodal",
        "mIoU_full",
        "mIoU_occ",
        "single_component",
    ]
    assert as_text(compare(detections, strict).tables(), 120).count("amodal_ap") == 5  # title, head and three metrics


@pytest.mark.parametrize("surroundings", ["terminal", "colour", "notebook"])
def test_printed_reports_are_their_tables(surroundings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where `rich` would colour the text, or show it in the notebook and leave nothing for the file."""
    if surroundings == "colour":
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLORTERM", "truecolor")
    if surroundings == "notebook":
        monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    ranges = [{"above": 0.1, "up_to": 0.3, "num_objects": 3, "mIoU_full": 0.5}]
    first = report(threshold=0.5, union_visible=True, model="mine")
    first.by_occlusion = ranges
    asked = ReasonReport("reason", {"mode": "free", "model": "mine", "questions": "a"}, {"num_answers": 2})
    asked.metrics |= {"num_objects": 3, "gIoU_amodal": 0.25}
    title = "strict: 3 objects, 1 occluded; box not stated, threshold 0.5, visible mask united"
    shown: list[tuple[Any, list[str]]] = [
        (first, [title, "10-30 %", "0.5000"]),
        (compare(first, first), ["strict: 3 objects", "0.5000", "+0.0000"]),
        (asked, ["reason, free: 2 answers, 3 objects", "other means of the masks", "0.250"]),
        (compare_reason(asked, asked), ["reason: 2 answers", "gIoU_amodal", "+0.000"]),
    ]
    for printed, parts in shown:
        text = str(printed)
        assert all(part in " ".join(text.split()) for part in parts), text
        assert "\x1b" not in text and not text.endswith("\n")
        assert max(map(len, text.splitlines())) <= 160
    for saved in (first, asked):
        assert saved.save_folder(tmp_path).with_name("table.txt").read_text() == f"{saved}\n"


@pytest.mark.parametrize("union", [None, True, False])
def test_the_title_says_whether_masks_are_united_if_it_is_known(union: bool | None) -> None:
    words = {None: "union with the visible mask not stated", True: "visible mask united", False: "masks as they are"}
    assert report(union_visible=union).title.endswith(f", {words[union]}")
    assert report().title.endswith(f", {words[None]}")


def test_the_representation_of_a_report_is_one_short_line() -> None:
    asked = ReasonReport("reason", {"mode": "free", "model": "m"}, {"num_answers": 2})
    assert repr(report()) == "EvaluationReport(protocol='strict', model='m', num_objects=3)"
    assert repr(asked) == "ReasonReport(mode='free', model='m', num_answers=2)"
    assert (
        repr(EvaluationReport("strict", {}, {})) == "EvaluationReport(protocol='strict', model=None, num_objects=None)"
    )


def test_reports_of_other_objects_or_of_none_raise() -> None:
    with pytest.raises(InputError, match="expected the same objects in both reports, got 3 .* and 3 .*, not the same"):
        compare(report(), report("c2f", objects_sha256="b"))
    with pytest.raises(InputError, match="expected reports that name their objects"):
        compare(report(), report(objects_sha256=None))
    with pytest.raises(InputError, match="allow: expected one of box_source, .* got 'protocol'"):
        compare(report(), report(), ("protocol",))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('{"options": ' + "[" * 100_000, "nested too deeply"),
        ("[]", "other JSON"),
        ('{"protocol": "strict", "options": {}, "metrics": {"num_objects": 1}}', "other JSON"),
        ('{"protocol": "strict", "options": {"model": "m"}, "metrics": null}', "other JSON"),
        ("{", "broken text"),
    ],
)
def test_other_files_are_no_reports(content: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    assert not is_reason_report(path)
    for kind in (EvaluationReport, ReasonReport):
        with pytest.raises(InputError, match=f"report: expected a report of `amodal evaluate.*{fault}"):
            kind.load(path)
