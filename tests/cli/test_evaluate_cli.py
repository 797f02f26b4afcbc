"""`amodal evaluate` from the command line: output, files and error messages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amodal.cli.main import main
from amodal.data.datasets import read_dataset
from amodal.evaluation.baselines import pretrained_sam
from amodal.evaluation.evaluator import EvaluationSettings, evaluate, evaluate_model
from amodal.evaluation.plan import plan_evaluation
from amodal.inference.segmenter import AmodalSegmenter
from amodal.ops.rle import encode_mask
from tests.cli.test_bad_input import refused
from tests.evaluation.toy_predictions import perfect, shifted, toy, write

PROTOCOLS = ("strict", "c2f", "cumulative", "amodal_ap")
MASKS, DETECTIONS = ["evaluate", "masks"], ["evaluate", "detections"]


@pytest.fixture
def toy_set(tmp_path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Arguments that name the annotations, and correct predictions."""
    annotations, dataset = toy(tmp_path, 3)
    return ["--annotations", str(annotations)], perfect(dataset)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0, capsys.readouterr().err
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_correct_predictions_score_1_under_every_protocol(
    toy_set: tuple[list[str], Any], protocol: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "p.json", toy_set[1])
    command = DETECTIONS if protocol == "amodal_ap" else [*MASKS, "--protocol", protocol]
    report = run(capsys, *command, *toy_set[0], "--predictions", str(path))
    assert report["protocol"] == protocol
    assert report["metrics"]["num_objects"] == 6
    assert report["metrics"]["num_occluded"] == 3
    if protocol == "amodal_ap":
        assert report["metrics"]["amodal"]["AP"] == report["metrics"]["visible"]["AP"] == pytest.approx(1)
        assert report["intervals"]["amodal"]["AP"] == pytest.approx([1, 1])
    else:
        assert report["metrics"]["mIoU_full"] == 1
        assert report["metrics"]["mIoU_occ"] == pytest.approx(1, abs=1e-6)
        assert report["intervals"]["mIoU_full"] == pytest.approx([1, 1])
        assert set(report["baselines"]) == {"true_visible", "filled_box", "hull_true_visible", "hull_own_visible"}
    assert [row["num_objects"] for row in report["by_occlusion"]] == [3, 0, 3, 0, 0, 0]
    assert [row["name"] for row in report["by_category"]] == ["red", "green"]
    assert len(report["options"]["objects_sha256"]) == 64
    assert report["version"]


@pytest.mark.parametrize("form", ["cocoa_cls", "kins2020", "canonical"])
def test_the_format_of_the_annotations_is_guessed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    source, dataset = toy(tmp_path, 2)
    file, path = tmp_path / "converted.json", write(tmp_path / "p.json", perfect(dataset))
    assert main(["data", "convert", "--annotations", str(source), "--to", form, "--out", str(file)]) == 0
    given = ["--annotations", str(file), "--images", str(source.parent / "images")]
    assert run(capsys, *MASKS, *given, "--predictions", str(path))["metrics"]["num_objects"] == 4
    other = write(tmp_path / "other.json", perfect(dataset))
    assert main(["evaluate", "compare", str(path), str(other), "--annotations", str(file)]) == 0
    capsys.readouterr()
    file.write_text('{"annotations": [{"id": 1}]}')
    wanted = f"format: expected --format, as {str(file)!r} resembles no known format"
    assert wanted in refused(capsys, tmp_path, *MASKS, "--annotations", str(file))


def test_the_output_folder_has_report_table_plot_and_images(
    toy_set: tuple[list[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write(tmp_path / "p.json", toy_set[1]), tmp_path / "out"
    assert main([*MASKS, *toy_set[0], "--predictions", str(path), "--out", str(out), "--worst", "2"]) == 0
    printed = capsys.readouterr().out
    assert "mIoU_full" in printed and "by occlusion rate" in printed and "convex hull" in printed
    assert sorted(p.name for p in out.iterdir()) == ["plot.png", "report.json", "table.txt", "worst"]
    assert len(list((out / "worst").iterdir())) == 2
    assert np.asarray(Image.open(out / "plot.png")).std() > 5
    assert "strict: 6 objects, 3 occluded" in (out / "table.txt").read_text()
    assert json.loads((out / "report.json").read_text())["metrics"]["mIoU_full"] == 1
    alone = tmp_path / "alone.json"
    assert main([*MASKS, *toy_set[0], "--predictions", str(path), "--out", str(alone)]) == 0
    assert json.loads(alone.read_text())["protocol"] == "strict"


def test_the_bundled_model_and_its_saved_predictions(
    toy_set: tuple[list[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, out = tmp_path / "saved.json", tmp_path / "out"
    report = run(capsys, *MASKS, *toy_set[0], "--save-predictions", str(saved), "--out", str(out))
    assert report["options"]["model"] == "plug-small"
    assert report["options"]["threshold"] == 0.5
    assert report["options"]["box_source"] == "gt_visible"
    assert report["options"]["union_visible"] is True
    assert not (out / "answers.partial.jsonl").exists()
    again = run(capsys, *MASKS, *toy_set[0], "--predictions", str(saved))
    assert again["metrics"] == report["metrics"]
    apart = run(capsys, *MASKS, *toy_set[0], "--no-union-visible", "--no-baselines", "--max-objects", "2")
    assert apart["options"]["union_visible"] is False
    assert apart["baselines"] == {}
    assert apart["options"]["objects"] == "the first 2 of all annotated objects"


def test_the_plan_is_scaled_from_a_measurement_and_writes_nothing(
    toy_set: tuple[list[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    before = set(tmp_path.rglob("*"))
    plan = run(capsys, *MASKS, *toy_set[0], "--plan", "--processes", "4", "--out", str(out), "--worst", "1")
    assert set(tmp_path.rglob("*")) == before
    num_objects = plan["objects"]
    assert num_objects == len(toy_set[1]) and 0 < plan["measured_objects"] <= num_objects
    assert plan["seconds_per_object"] > 0 and plan["memory_gib"] > 0.05
    alone = ["--no-baselines", "--max-objects", "2"]
    assert run(capsys, *MASKS, *toy_set[0], *alone, "--plan")["objects"] == 2
    assert main([*MASKS, *toy_set[0], "--plan", "--model", "filled_box"]) == 2
    assert "plan: expected a model, got filled_box" in capsys.readouterr().err


def test_the_plan_counts_only_objects_that_are_scored(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 3)
    image, crowded, *rest = dataset.images
    image = replace(image, objects=[replace(image.objects[0], amodal_rle=None), *image.objects[1:]])
    crowded = replace(crowded, objects=[*crowded.objects[:1], replace(crowded.objects[1], iscrowd=True)])
    few = replace(dataset, images=(image, crowded, *rest))
    segmenter = AmodalSegmenter.from_pretrained("plug-small")
    settings = EvaluationSettings(baselines=(), progress=False)
    plan = plan_evaluation(segmenter, few, settings)
    assert plan["objects"] == evaluate_model(segmenter, few, settings).metrics["num_objects"] == 4


def test_the_plan_grows_with_the_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the size of KINS, whose test list names 65,864 objects."""
    monkeypatch.setattr("amodal.evaluation.plan.MEASURED_SECONDS", 0.1)
    _, dataset = toy(tmp_path, 2)
    dataset = replace(dataset, images=tuple(dataset.images) * (65_864 // 4))
    segmenter, settings = AmodalSegmenter.from_pretrained("plug-small"), EvaluationSettings(progress=False)
    one, eight = (plan_evaluation(segmenter, dataset, settings, processes=n) for n in (1, 8))
    for plan in (one, eight):
        hours = 65_864 * plan["seconds_per_object"] / plan["processes"] / 3600
        assert plan["hours"] == pytest.approx(hours, abs=0.01)
        assert 0 < plan["added_memory_gib"] < 1 and 0 < plan["disk_gib"] < 1
    assert eight["added_memory_gib"] > one["added_memory_gib"]  # the first process collects all predictions


def test_average_precision_of_a_model_with_boxes_from_a_file(
    toy_set: tuple[list[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = [{"image_id": 1, "category_id": 2, "score": 0.7, "bbox": [16, 18, 24, 24]}]
    path, saved = write(tmp_path / "b.json", boxes), tmp_path / "saved.json"
    common = [*DETECTIONS, *toy_set[0], "--resamples", "0"]
    report = run(capsys, *common, "--box-source", f"predicted:{path}", "--save-predictions", str(saved))
    assert report["metrics"]["num_detections"] == 1
    assert report["intervals"] == {}
    assert json.loads(saved.read_text())[0]["score"] == 0.7
    assert run(capsys, *common, "--predictions", str(saved))["metrics"] == report["metrics"]
    truth = run(capsys, *common, "--box-source", "gt_amodal")
    assert truth["metrics"]["num_detections"] == 6
    assert truth["options"]["box_source"] == "gt_amodal"


def test_spilled_visible_masks_are_reported_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations, dataset = toy(tmp_path, 2)
    content = json.loads(annotations.read_text())
    small = np.zeros((64, 64), bool)
    small[8:12, 8:12] = True
    content["annotations"][1]["segmentation"] = encode_mask(small)
    path = write(tmp_path / "p.json", perfect(dataset))
    write(annotations, content)
    assert main([*MASKS, "--annotations", str(annotations), "--predictions", str(path), "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "amodal: warning: 1 true visible masks reach outside their amodal mask\n"
    assert json.loads(captured.out)["options"]["num_visible_outside_amodal"] == 1


def test_a_baseline_can_be_scored_instead_of_a_model(
    toy_set: tuple[list[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(capsys, *MASKS, *toy_set[0], "--model", "filled_box", "--baseline", "true_visible")
    assert report["options"]["model"] == "filled_box"
    assert list(report["baselines"]) == ["true_visible"]
    assert report["metrics"]["mIoU_full"] == 1  # the objects of this dataset are squares


def test_comparison_of_reports(
    toy_set: tuple[list[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = write(tmp_path / "right.json", toy_set[1])
    moved = [r | {"segmentation": shifted(r["segmentation"], 6)} for r in toy_set[1]]
    wrong = write(tmp_path / "wrong.json", moved)
    (tmp_path / "list.txt").write_text("1_1\n1_2\n")
    reports = {}
    for name, extra in {
        "a": ["--predictions", str(right)],
        "b": ["--predictions", str(wrong)],
        "c2f": ["--predictions", str(wrong), "--protocol", "c2f"],
        "listed": ["--predictions", str(wrong), "--objects", str(tmp_path / "list.txt")],
        "boxes": ["--predictions", str(wrong), "--box-source", "gt_amodal"],
        "visible": ["--predictions", str(wrong), "--box-source", "gt_visible"],
        "united": ["--predictions", str(wrong), "--union-visible"],
    }.items():
        reports[name] = str(tmp_path / f"{name}.report.json")
        run(capsys, *MASKS, *toy_set[0], *extra, "--out", reports[name])
    compared = run(capsys, "evaluate", "compare", reports["a"], reports["b"])
    overall = {row["metric"]: row for row in compared["rows"] if row["objects"] == "all"}
    assert overall["mIoU_full"]["first"] == 1
    assert overall["mIoU_full"]["difference"] == pytest.approx(18 / 30 - 1)
    assert main(["evaluate", "compare", reports["a"], reports["b"]]) == 0
    assert "-0.4000" in capsys.readouterr().out
    for pair, message in {
        ("a", "listed"): "got 6 (all annotated objects) and 2 (an explicit list of 2), not the same ones",
        ("c2f", "listed"): "not the same ones",
        ("visible", "boxes"): "expected the same box_source in both reports, got 'gt_visible' and 'gt_amodal'",
        ("a", "united"): "expected the same union_visible in both reports, got False and True",
    }.items():
        assert message in refused(capsys, tmp_path, "evaluate", "compare", *(reports[name] for name in pair))
    allowed = run(capsys, "evaluate", "compare", reports["visible"], reports["boxes"], "--allow", "box_source")
    assert allowed["different_options"] == {"box_source": ["gt_visible", "gt_amodal"]}
    unstated = run(capsys, "evaluate", "compare", reports["a"], reports["boxes"])
    assert unstated["different_options"] == {"box_source": [None, "gt_amodal"]}
    two = run(capsys, "evaluate", "compare", reports["b"], reports["c2f"])
    assert two["protocol"] == "strict and c2f"
    assert {row["metric"] for row in two["unshared"]} == {"false_occlusion_rate", "single_component"}
    assert main(["evaluate", "compare", reports["b"], reports["c2f"]]) == 0
    assert "in one report only" in capsys.readouterr().out
    broken = write(tmp_path / "broken.json", {"protocol": "strict"})
    assert "broken.json', other JSON" in refused(capsys, tmp_path, "evaluate", "compare", reports["a"], str(broken))
    assert "expected a report of" in refused(capsys, tmp_path, "evaluate", "compare", reports["a"], "none.json")
    assert "allow: expected one of" in refused(
        capsys, tmp_path, "evaluate", "compare", reports["a"], reports["b"], "--allow", "protocol"
    )
    nameless = json.loads(Path(reports["a"]).read_text())
    del nameless["options"]["objects_sha256"]
    old = write(tmp_path / "old.json", nameless)
    assert "name their objects" in refused(capsys, tmp_path, "evaluate", "compare", reports["a"], str(old))


def test_comparison_of_detections(
    toy_set: tuple[list[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right, wrong = toy_set[1], [r | {"segmentation": shifted(r["segmentation"], 3)} for r in toy_set[1]]
    reports = []
    for name, records in (("right", right), ("wrong", wrong)):
        path, out = write(tmp_path / f"{name}.json", records), tmp_path / f"{name}.report.json"
        run(capsys, *DETECTIONS, *toy_set[0], "--predictions", str(path), "--resamples", "9", "--out", str(out))
        reports.append(str(out))
    same = run(capsys, "evaluate", "compare", reports[0], reports[0])
    assert same["protocol"] == "amodal_ap" and {row["difference"] for row in same["rows"]} <= {0, None}
    overall = {r["metric"]: r for r in run(capsys, "evaluate", "compare", *reports)["rows"] if r["objects"] == "all"}
    assert overall["AP amodal"]["first"] == pytest.approx(1) and overall["AP amodal"]["difference"] < 0
    assert overall["AP visible"]["difference"] == pytest.approx(0)
    assert main(["evaluate", "compare", *reports]) == 0 and "AP75 amodal" in capsys.readouterr().out


def test_detections_in_a_single_image_have_no_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations, dataset = toy(tmp_path, 1)
    path, out = write(tmp_path / "p.json", perfect(dataset)), tmp_path / "out"
    arguments = [*DETECTIONS, "--annotations", str(annotations), "--predictions", str(path), "--out", str(out)]
    none = dict.fromkeys(("AP", "AP50", "AP75"))
    assert run(capsys, *arguments)["intervals"] == {"amodal": none, "visible": none}
    assert (out / "plot.png").is_file() and "1.0000 (" not in (out / "table.txt").read_text()
    assert main(arguments) == 0 and "1.0000" in capsys.readouterr().out
    assert main(["evaluate", "compare", str(out), str(out)]) == 0


def test_comparison_of_runs_and_predictions(
    toy_set: tuple[list[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run folder, the model's saved predictions, and a file of another model, in any combination."""
    saved, out, other = tmp_path / "saved.json", tmp_path / "run" / "evaluation", tmp_path / "other.json"
    report = run(capsys, *MASKS, *toy_set[0], "--protocol", "c2f", "--save-predictions", str(saved), "--out", str(out))
    write(other, [{k: v for k, v in r.items() if k != "annotation_id"} for r in toy_set[1]])
    compare = ["evaluate", "compare"]
    for second in (str(out), str(tmp_path / "run"), str(out / "report.json")):
        same = run(capsys, *compare, str(saved), second, *toy_set[0])
        assert same["protocol"] == "c2f"
        assert {row["difference"] for row in same["rows"]} <= {0, None}
    better = run(capsys, *compare, str(saved), str(other), *toy_set[0], "--protocol", "c2f")
    overall = {row["metric"]: row for row in better["rows"] if row["objects"] == "all"}
    assert overall["mIoU_full"]["first"] == report["metrics"]["mIoU_full"]
    assert overall["mIoU_full"]["second"] == 1
    (tmp_path / "list.txt").write_text("1_1\n1_2\n")
    few = run(capsys, *compare, str(saved), str(other), *toy_set[0], "--objects", str(tmp_path / "list.txt"))
    assert (few["protocol"], few["num_objects"]) == ("strict", 2)
    assert "annotations: expected --annotations to score" in refused(capsys, tmp_path, *compare, str(saved), str(out))
    assert "expected a folder with one report.json" in refused(capsys, tmp_path, *compare, str(tmp_path / "toy"), "x")


def test_predictions_without_ids_are_matched(
    toy_set: tuple[list[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [{k: v for k, v in r.items() if k != "annotation_id"} for r in toy_set[1]]
    path = str(write(tmp_path / "p.json", [r | {"category_id": 2} for r in records]))
    command = [*MASKS, *toy_set[0], "--predictions", path]
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == (
        "amodal: warning: 3 of 6 objects have no prediction and score 0\n"
        "amodal: warning: 3 of 6 predictions match no scored object\n"
    )
    options = json.loads(captured.out)["options"]
    assert (options["num_matched"], options["num_unmatched"]) == (3, 3)
    options = run(capsys, *command, "--any-category", "--match-iou", "0.8", "--clean")["options"]
    assert (options["num_matched"], options["match_iou"], options["match_category"]) == (6, 0.8, False)
    assert options["clean"] is True  # as stated
    mixed = write(tmp_path / "mixed.json", [toy_set[1][0], records[1]])
    for arguments, message in (
        ([*command, "--match-iou", "0"], "match-iou: expected a number in (0, 1], got 0.0"),
        ([*MASKS, *toy_set[0], "--predictions", str(mixed)], "got one in record 0 and none in record 1"),
    ):
        assert message in refused(capsys, tmp_path, *arguments)


def test_cleaning_is_off_by_default_and_stated(
    toy_set: tuple[list[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (MASKS, DETECTIONS):
        for option, expected in (([], False), (["--no-clean"], False), (["--clean"], True)):
            report = run(capsys, *command, *toy_set[0], *option, "--resamples", "0", "--device", "cpu")
            assert report["options"]["clean"] is expected
            assert report["options"]["device"] == "cpu"
            assert report["options"]["dtype"] in ("float32", "bfloat16")
    path = str(write(tmp_path / "p.json", toy_set[1]))
    for command in (MASKS, DETECTIONS):
        options = run(capsys, *command, *toy_set[0], "--predictions", path)["options"]
        assert options.keys() >= {"device", "dtype", "clean"}
        assert options["clean"] is None
    message = "clean: expected with a model or a predictions file of masks, got the baseline 'filled_box'"
    assert message in refused(capsys, tmp_path, *MASKS, *toy_set[0], "--model", "filled_box", "--clean")


def test_a_baseline_refuses_the_options_of_a_model(
    toy_set: tuple[list[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = "got the baseline 'true_visible'"
    for option, message in (
        (["--clean"], f"clean: expected with a model or a predictions file of masks, {baseline}"),
        (["--union-visible"], f"union-visible: expected with a model only, {baseline}"),
        (["--dtype", "bfloat16"], f"dtype: expected with a model only, {baseline}"),
        (["--visible-from", "sam-small"], "visible-from: expected together with a model, got true_visible"),
        (["--plan"], "plan: expected a model, got true_visible"),
        (["--threshold", "0.4"], "threshold: expected None for 'true_visible', which takes none, got 0.4"),
    ):
        assert message in refused(capsys, tmp_path, *MASKS, *toy_set[0], "--model", "true_visible", *option)
    as_it_is = ["--model", "true_visible", "--no-clean", "--no-union-visible", "--dtype", "auto", "--device", "cpu"]
    assert run(capsys, *MASKS, *toy_set[0], *as_it_is)["options"]["union_visible"] is False


def test_the_baselines_that_run_sam_use_the_device(
    toy_set: tuple[list[str], Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    devices: list[str] = []

    def pretrained(base: str, device: str = "auto") -> AmodalSegmenter:
        devices.append(device)
        return pretrained_sam(base, "cpu")

    monkeypatch.setattr("amodal.evaluation.evaluator.pretrained_sam", pretrained)
    command = [*MASKS, *toy_set[0], "--max-objects", "1", "--resamples", "0"]
    for of_sam in (["--model", "sam"], ["--model", "filled_box", "--baseline", "sam"], ["--baseline", "sam"]):
        run(capsys, *command, *of_sam, "--device", "cpu")
    assert devices == ["cpu"] * 3
    run(capsys, *command, "--model", "sam")
    dataset = read_dataset("canonical", toy_set[0][1])
    segmenter = AmodalSegmenter.from_pretrained("plug-small", device="cpu")
    evaluate(segmenter, dataset, max_objects=1, baselines=["sam"], num_resamples=0, progress=False)
    assert devices[3:] == ["auto", "cpu"]


@pytest.mark.parametrize("through_link", [False, True])
def test_no_output_replaces_an_input(
    toy_set: tuple[list[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], through_link: bool
) -> None:
    """Each file that a run reads, as each file that it writes; the list of objects had been overwritten."""
    annotations = Path(toy_set[0][1])
    image, folder = sorted((annotations.parent / "images").iterdir())[0], tmp_path / "out"
    folder.mkdir()
    found = [{"image_id": 1, "category_id": 2, "score": 0.7, "bbox": [16, 18, 24, 24]}]
    written = [folder / name for name in ("report.json", "table.txt", "plot.png", "answers.partial.jsonl")]
    outputs = {path: ["--out", str(folder)] for path in written}
    for output in (tmp_path / "x.json", tmp_path / "x.partial.jsonl"):
        outputs[output] = ["--out", str(tmp_path / "x.json")]
    outputs[tmp_path / "saved.json"] = ["--save-predictions", str(tmp_path / "saved.json")]
    for output, writing in outputs.items():
        for command, option, content in (
            (MASKS, "--objects", "1_1\n"),
            (MASKS, "--box-source", json.dumps(found)),
            (DETECTIONS, "--box-source", json.dumps(found)),
            (MASKS, "--sam", "weights"),
            (MASKS, "--model", "weights"),
            (MASKS, "--predictions", json.dumps(toy_set[1])),
            (DETECTIONS, "--predictions", json.dumps(toy_set[1])),
        ):
            if option == "--predictions" and "--save-predictions" in writing:
                continue
            source = output.with_name("read.json")
            source.write_text(content)
            if through_link:
                output.symlink_to(source)
            else:
                source.rename(output)
                source = output
            given = f"predicted:{source}" if option == "--box-source" else str(source)
            error = refused(capsys, tmp_path, *command, *toy_set[0], *writing, option, given)
            assert f"{writing[0][2:]}: expected another file than the input" in error, (output, option)
            assert source.read_text() == content
            output.unlink()
            source.unlink(missing_ok=True)
    for read in (annotations, image):
        before, target = read.read_bytes(), read
        if through_link:
            target = tmp_path / f"link{read.suffix}"
            target.symlink_to(read)
        for command in (MASKS, DETECTIONS):
            error = refused(capsys, tmp_path, *command, *toy_set[0], "--save-predictions", str(target))
            assert "save-predictions: expected another file than the input" in error
        assert read.read_bytes() == before


def test_invalid_input_is_reported_in_one_line_and_writes_nothing(
    toy_set: tuple[list[str], list[dict[str, Any]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = str(write(tmp_path / "good.json", toy_set[1]))
    (tmp_path / "broken.json").write_text("[{")
    huge = write(tmp_path / "huge.json", [toy_set[1][0] | {"segmentation": {"size": [64, 64], "counts": "0" * 10**6}}])
    nan = write(tmp_path / "nan.json", [toy_set[1][0] | {"segmentation": [[0, 0, float("nan"), 5, 9, 9]]}])
    out = ["--out", str(tmp_path / "out")]
    start, detections = [*MASKS, *toy_set[0], *out], [*DETECTIONS, *toy_set[0], *out]
    for arguments, message in (
        ([*MASKS, "--predictions", good], "Missing option '--annotations'"),
        ([*start, "--predictions", str(tmp_path / "broken.json")], "expected JSON"),
        ([*start, "--predictions", str(tmp_path / "none.json")], "predictions: expected a file"),
        ([*start, "--predictions", str(huge)], "record 0: segmentation: expected at most"),
        ([*start, "--predictions", str(nan)], "record 0: segmentation: expected finite coordinates"),
        ([*start, "--predictions", good, "--model", "plug-small"], "expected --model or --predictions, got both"),
        (
            [*start, "--predictions", good, "--protocol", "mean"],
            "protocol: expected one of strict, c2f, cumulative, got 'mean'",
        ),
        ([*start, "--predictions", good, "--format", "coco2"], "format: expected one of"),
        ([*start, "--predictions", good, "--baseline", "best"], "baseline: expected one of"),
        ([*start, "--predictions", good, "--box-source", "mine"], "box source: expected gt_visible"),
        ([*start, "--box-source", f"predicted:{tmp_path / 'none.json'}"], "boxes: expected a file"),
        ([*start, "--predictions", good, "--objects", str(tmp_path / "no.txt")], "objects: expected a text file"),
        ([*start, "--model", "hull_own_visible"], "expected a baseline that can be scored alone"),
        ([*start, "--threshold", "2"], "threshold: expected a number in (0, 1), got 2"),
        ([*start, "--predictions", good, "--threshold", "2"], "threshold: expected a number in (0, 1), got 2"),
        ([*detections, "--max-objects", "2"], "No such option: --max-objects"),
        ([*detections, "--model", "filled_box"], "model: expected a model for the protocol amodal_ap"),
        (
            [*detections, "--predictions", good, "--save-predictions", "x.json"],
            "save-predictions: expected with a model",
        ),
        ([*MASKS, *toy_set[0], "--predictions", good, "--out", good + "/x"], "out: expected a folder that can be made"),
        ([*start, "--predictions", good, "--save-predictions", "x.json"], "save-predictions: expected with a model"),
        ([*start, "--match-iou", "0.5"], "match-iou, any-category: expected with --predictions only"),
        ([*start, "--any-category"], "match-iou, any-category: expected with --predictions only"),
        ([*start, "--baseline", "sam", "--no-baselines"], "expected --baseline or --no-baselines, got both"),
        ([*start, "--predictions", good, "--workers", "0"], "workers"),
    ):
        assert message in refused(capsys, tmp_path, *arguments), arguments
    boxes, report = str(tmp_path / "boxes.json"), str(tmp_path / "r.json")
    for outputs, message in (
        (
            ["--box-source", f"predicted:{boxes}", "--save-predictions", boxes],
            "save-predictions: expected another file",
        ),
        (["--box-source", f"predicted:{boxes}", "--out", boxes], "out: expected another file than the input"),
        (["--out", report, "--save-predictions", report], "save-predictions: expected another file than that of the"),
        (
            ["--out", str(tmp_path / "r"), "--save-predictions", str(tmp_path / "r" / "table.txt")],
            "save-predictions: expected another file than that of the",
        ),
        (["--save-predictions", str(tmp_path)], "save-predictions: expected a file to write, got the folder"),
    ):
        assert message in refused(capsys, tmp_path, *MASKS, *toy_set[0], *outputs), outputs
    scoreless = write(tmp_path / "s.json", [{k: v for k, v in toy_set[1][0].items() if k != "score"}])
    assert "record 0: expected a score for amodal_ap" in refused(
        capsys, tmp_path, *detections, "--predictions", str(scoreless)
    )
    plain = write(tmp_path / "boxes.json", [{"image_id": 1, "bbox": [16, 18, 24, 24]}])
    assert f"boxes {plain}: record 0: expected a category_id for amodal_ap" in refused(
        capsys, tmp_path, *detections, "--box-source", f"predicted:{plain}"
    )


def test_a_missing_image_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations, _ = toy(tmp_path, 2)
    for image in (annotations.parent / "images").iterdir():
        image.unlink()
    arguments = [*MASKS, "--annotations", str(annotations), "--out", str(tmp_path / "out")]
    assert "image: expected a file" in refused(capsys, tmp_path, *arguments, "--json")


@pytest.mark.parametrize("command", ["masks", "detections", "answers", "compare"])
def test_the_help_of_each_command_fits_a_screen(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    main(["evaluate", command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 56
    assert max(map(len, lines)) <= 80
