"""Models other than `AmodalSegmenter`: what `evaluate` accepts from them, refuses, and reports about them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amodal import AmodalSegmenter, Scene, evaluate, read_dataset
from amodal.data.samples import AnnotatedDataset
from amodal.errors import InputError
from amodal.evaluation.boxes import BoxSource
from amodal.evaluation.detection import detections_from_model
from amodal.evaluation.evaluator import EvaluationSettings, evaluate_baseline, evaluate_predictions
from amodal.evaluation.predictions import MaskPrediction
from amodal.evaluation.report import EvaluationReport, as_text, compare
from amodal.evaluation.rows import ImageCache, ModelRow
from amodal.inference.prompts import mask_prompt
from amodal.ops.rle import encode_mask
from amodal.synthetic.generate import synthesize
from tests.evaluation.toy_predictions import perfect, toy, write

QUIET: dict[str, Any] = {"progress": False, "num_resamples": 0}
SIZE = (64, 64)
"""(H, W) of the images of `toy`."""
BLOCK = np.zeros(SIZE, bool)
BLOCK[20:40, 10:30] = True


@dataclass
class Masks:
    amodal_mask: Any
    visible_mask: Any


class OwnModel:
    """Returns what a function makes of the number of boxes."""

    def __init__(self, answer: Callable[[int], Any]) -> None:
        self.answer = answer

    def predict(self, image: np.ndarray, boxes_xyxy: np.ndarray) -> Any:
        return self.answer(len(boxes_xyxy))


def same_for_every_box(prediction: Any) -> OwnModel:
    return OwnModel(lambda count: [prediction] * count)


@pytest.fixture
def dataset(tmp_path: Path) -> AnnotatedDataset:
    return toy(tmp_path, 2)[1]


@pytest.mark.parametrize(
    ("mask", "accepted"),
    [
        (BLOCK, True),
        (BLOCK.astype(np.uint8), True),
        (BLOCK.astype(np.uint8) * 255, True),
        (BLOCK.astype(np.int64), True),
        (torch.tensor(BLOCK), True),
        (BLOCK[None], True),
        (BLOCK * 0.9, False),
        (BLOCK.astype(np.float32), False),
        (torch.tensor(BLOCK).half(), False),
        (BLOCK * 8.0 - 4, False),
        (BLOCK.astype(np.uint8) * 230, False),
        (BLOCK.astype(np.int32) * 3, False),
        (BLOCK[:-1], False),
        (BLOCK[:, :-1].T, False),
        (np.stack([BLOCK, BLOCK]), False),
    ],
    ids=lambda value: f"{value.dtype}-{tuple(value.shape)}-{value.max()}" if hasattr(value, "dtype") else None,
)
def test_masks_are_read_like_given_masks_of_a_prompt(mask: Any, accepted: bool, dataset: AnnotatedDataset) -> None:
    """Probabilities, logits and labels are refused; casting them had made empty masks of them, without a message."""
    expected = evaluate(same_for_every_box(Masks(BLOCK, BLOCK)), dataset, **QUIET)
    assert expected.metrics["mIoU_full"] > 0
    for name, masks in (("amodal_mask", Masks(mask, BLOCK)), ("visible_mask", Masks(BLOCK, mask))):
        if accepted:
            assert mask_prompt(mask, SIZE) == encode_mask(BLOCK)
            assert evaluate(same_for_every_box(masks), dataset, **QUIET).metrics == expected.metrics
            continue
        with pytest.raises(InputError):
            mask_prompt(mask, SIZE)
        with pytest.raises(InputError, match=f"^predict: image 1: {name}: expected .*, got "):
            evaluate(same_for_every_box(masks), dataset, **QUIET)


def test_a_message_about_probabilities_says_what_to_do(dataset: AnnotatedDataset) -> None:
    message = "predict: image 1: amodal_mask: expected bool, got float64; compare with a threshold first"
    with pytest.raises(InputError, match=f"^{message}$"):
        evaluate(same_for_every_box(Masks(BLOCK * 0.9, BLOCK)), dataset, **QUIET)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda _: None, "expected a list with one prediction per box, got NoneType"),
        (lambda _: Masks(BLOCK, BLOCK), "expected a list with one prediction per box, got Masks"),
        (lambda _: {"amodal_mask": BLOCK, "visible_mask": BLOCK}, "one prediction per box, got dict"),
        (lambda _: [], "expected one prediction for each of 2 boxes, got 0"),
        (lambda count: [Masks(BLOCK, BLOCK)] * (count + 1), "for each of 2 boxes, got 3"),
        (lambda count: [None] * count, "amodal_mask and visible_mask, got NoneType without amodal_mask"),
        (
            lambda count: [{"amodal_mask": BLOCK}] * count,
            "expected predictions with the attributes .* got dict without",
        ),
        (lambda count: np.stack([BLOCK] * count), "expected predictions with the attributes .*, got ndarray without"),
        (lambda count: [type("Half", (), {"amodal_mask": BLOCK})()] * count, "got Half without visible_mask"),
        (lambda count: [Masks(None, BLOCK)] * count, r"amodal_mask: expected an array \(H, W\), got NoneType"),
        (lambda count: [Masks(encode_mask(BLOCK), BLOCK)] * count, "amodal_mask: expected an array .*, got dict"),
        (lambda count: [Masks(BLOCK, BLOCK.tolist())] * count, "visible_mask: expected an array .*, got list"),
        (lambda count: [MaskPrediction(encode_mask(BLOCK[:9]), None)] * count, r"amodal: expected .* got \[9, 64\]"),
        (
            lambda count: [MaskPrediction({"size": [64, "x"], "counts": "1"}, None)] * count,
            "amodal: expected each of the size .*, got .x.",
        ),
        (lambda count: [MaskPrediction(encode_mask(BLOCK), BLOCK)] * count, "visible: expected .* RLE, got ndarray"),
        (
            lambda count: [MaskPrediction(encode_mask(BLOCK), None, None)] * count,
            "score: expected a finite .*, got None",
        ),
        (lambda count: [MaskPrediction(encode_mask(BLOCK), None, np.nan)] * count, "score: expected a .*, got nan"),
    ],
)
def test_predictions_of_another_form_raise(
    answer: Callable[[int], Any], message: str, dataset: AnnotatedDataset
) -> None:
    model = OwnModel(answer)
    with pytest.raises(InputError, match=f"^predict: image 1: .*{message}"):
        evaluate(model, dataset, **QUIET)
    row = ModelRow(model, BoxSource("gt_visible"), ImageCache())
    with pytest.raises(InputError, match=f"^predict: image 1: .*{message}"):
        detections_from_model(row, dataset, progress=False)


def test_a_scene_is_a_list_of_predictions(dataset: AnnotatedDataset) -> None:
    segmenter = AmodalSegmenter.from_pretrained("plug-small", dtype="float32")

    class Wrapped:
        def predict(self, image: np.ndarray, boxes_xyxy: np.ndarray) -> Scene:
            return segmenter(image, boxes_xyxy, clean=False)

    assert evaluate(Wrapped(), dataset, **QUIET).metrics == evaluate(segmenter, dataset, **QUIET).metrics


class OnlyCallable:
    def __call__(self, image: np.ndarray, boxes_xyxy: np.ndarray) -> list[Masks]:
        return []


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ("plug-small", r"'plug-small' \(AmodalSegmenter.from_pretrained loads a model\)"),
        (Path("runs/mine"), r"'runs/mine' \(AmodalSegmenter.from_pretrained loads a model\)"),
        (lambda image, boxes_xyxy: [], "function"),
        (OnlyCallable(), "OnlyCallable"),
        (OwnModel, "the class OwnModel"),
        (OnlyCallable, "the class OnlyCallable"),
        (torch.nn.Identity(), "Identity"),
        (None, "NoneType"),
    ],
)
def test_models_of_another_kind_raise(model: Any, found: str, dataset: AnnotatedDataset) -> None:
    expected = r"an AmodalSegmenter or an object with a method predict\(image, boxes_xyxy\)"
    with pytest.raises(InputError, match=f"^model: expected {expected}, got {found}$"):
        evaluate(model, dataset, **QUIET)


@pytest.mark.parametrize("wrong", ["annotations.json", Path("annotations.json"), None, [], {"images": []}])
def test_datasets_of_another_kind_raise(wrong: Any, tmp_path: Path) -> None:
    message = f"^dataset: expected an AnnotatedDataset, as read_dataset returns it, got {type(wrong).__name__}$"
    settings = EvaluationSettings(progress=False)
    with pytest.raises(InputError, match=message):
        evaluate(same_for_every_box(Masks(BLOCK, BLOCK)), wrong, **QUIET)
    with pytest.raises(InputError, match=message):
        evaluate_baseline("filled_box", wrong, settings)
    with pytest.raises(InputError, match=message):
        evaluate_predictions(write(tmp_path / "p.json", []), wrong, settings)


@pytest.mark.parametrize("prediction", [Masks(BLOCK, None), MaskPrediction(encode_mask(BLOCK), None)])
@pytest.mark.parametrize("protocol", ["strict", "c2f", "cumulative"])
def test_visible_masks_may_be_unknown(prediction: Any, protocol: str, tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 2)
    boxes = [{"image_id": 1, "annotation_id": 1, "bbox": [2, 2, 30, 30]}]
    for source in ("gt_visible", f"predicted:{write(tmp_path / 'boxes.json', boxes)}"):
        report = evaluate(same_for_every_box(prediction), dataset, protocol=protocol, box_source=source, **QUIET)
        assert report.options["num_without_answer"] == (0 if source == "gt_visible" else 3)
        groups = [report.metrics, *report.by_occlusion, *report.by_category]
        assert all("mIoU_full" in group and "mIoU_visible" not in group for group in groups)
        assert "false_occlusion_rate" not in report.metrics
        assert "filled_box" in report.baselines and "hull_own_visible" not in report.baselines
    with_visible = evaluate(same_for_every_box(Masks(BLOCK, BLOCK)), dataset, protocol=protocol, **QUIET)
    assert (
        with_visible.metrics["mIoU_full"]
        == evaluate(same_for_every_box(prediction), dataset, protocol=protocol, **QUIET).metrics["mIoU_full"]
    )
    assert "mIoU_visible" in with_visible.metrics and "hull_own_visible" in with_visible.baselines


def test_the_report_does_not_claim_how_another_model_makes_its_masks(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 2)
    apart = np.roll(BLOCK, 25, axis=1)  # the visible mask lies outside the amodal mask
    report = evaluate(same_for_every_box(Masks(BLOCK, apart)), dataset, **QUIET)
    alone = evaluate(same_for_every_box(Masks(BLOCK, None)), dataset, **QUIET)
    assert report.metrics["mIoU_full"] == alone.metrics["mIoU_full"]  # nothing was united
    assert {name: report.options[name] for name in ("threshold", "union_visible", "clean", "device", "dtype")} == (
        dict.fromkeys(("threshold", "union_visible", "clean", "device", "dtype"))
    )
    assert "union with the visible mask not stated" in report.title
    assert EvaluationReport.load(report.save(tmp_path / "report.json")).title == report.title


@pytest.mark.parametrize("union", [True, False])
def test_another_model_is_comparable_with_united_masks_and_with_others(union: bool, tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 2)
    path, settings = write(tmp_path / "p.json", perfect(dataset)), EvaluationSettings(progress=False, resampling=None)
    own = evaluate(same_for_every_box(Masks(BLOCK, BLOCK)), dataset, name="own", **QUIET)
    other = evaluate_predictions(path, dataset, settings, union_visible=union)
    united = EvaluationReport(other.protocol, own.options | {"union_visible": union}, other.metrics)  # of a segmenter
    for pair in ((own, other), (other, own), (own, united), (united, own)):
        comparison = compare(*pair)
        assert "union_visible" in comparison.different
        assert re.search(
            r"union_visible\s+(not\s+stated\s+against|\w+\s+against\s+not)", as_text([comparison.table()], 400)
        )


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"threshold": 0.6}, r"\(0.6, None, False\)"),
        ({"union_visible": False}, r"\(None, False, False\)"),
        ({"union_visible": True}, r"\(None, True, False\)"),
        ({"clean": True}, r"\(None, None, True\)"),
    ],
)
def test_mask_options_of_other_models_raise(options: dict[str, Any], found: str, dataset: AnnotatedDataset) -> None:
    message = f"threshold, union_visible, clean: expected None, None and False .* got {found} for OwnModel"
    with pytest.raises(InputError, match=message):
        evaluate(same_for_every_box(Masks(BLOCK, BLOCK)), dataset, **options, **QUIET)


def test_python_of_the_documentation_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    synthesize("scenes", 4, 9100, tmp_path / "data" / "scenes-test", progress=False)
    monkeypatch.chdir(tmp_path)
    page, names = Path(__file__).parents[2] / "docs" / "evaluation.md", dict[str, Any]()
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "evaluation.md", "exec"), names)
    assert sorted(path.name for path in (tmp_path / "runs" / "mine").iterdir()) == [
        "plot.png",
        "report.json",
        "table.txt",
    ]
    assert capsys.readouterr().out.count("by occlusion rate") == 2
    dataset = read_dataset("canonical", "data/scenes-test/annotations.json")
    assert names["report"].metrics["num_objects"] == min(20, dataset.num_objects)
