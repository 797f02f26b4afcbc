"""The evaluator, with models whose scores are known in advance."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from amodal.data.datasets import read_dataset
from amodal.data.samples import AnnotatedDataset
from amodal.errors import InputError
from amodal.evaluation.baselines import BASELINES, DEFAULT_BASELINES, BaselineInputs
from amodal.evaluation.evaluator import evaluate
from amodal.evaluation.report import EvaluationReport, as_text
from amodal.ops.boxes import mask_to_box
from amodal.ops.masks import convex_hull_mask
from amodal.ops.rle import decode_mask, encode_mask
from amodal.synthetic.generate import synthesize
from amodal.version import __version__, source_commit


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize("scenes", 4, 11, tmp_path_factory.mktemp("scenes") / "set", progress=False)


@pytest.fixture
def dataset(annotations: Path) -> AnnotatedDataset:
    return read_dataset("canonical", annotations)


@dataclass
class FullSizeMasks:
    visible_mask: np.ndarray
    amodal_mask: np.ndarray


class Oracle:
    """Returns the true masks of the object in a box, or its visible mask for both."""

    def __init__(self, dataset: AnnotatedDataset, knows_occluded: bool = True) -> None:
        self.images = [(i.load(), i.objects) for i in dataset.images]
        self.knows_occluded = knows_occluded
        self.boxes_seen: list[list[float]] = []

    def predict(self, image: np.ndarray, boxes_xyxy: np.ndarray) -> list[FullSizeMasks]:
        (objects,) = [o for pixels, o in self.images if np.array_equal(pixels, image)]
        self.boxes_seen += boxes_xyxy.tolist()
        predictions = []
        for box in boxes_xyxy.tolist():
            (obj,) = [o for o in objects if box in (list(o.visible_box_xyxy), list(o.amodal_box_xyxy or ()))][:1]
            visible, amodal = obj.visible_mask(), obj.amodal_mask()
            assert amodal is not None
            predictions.append(FullSizeMasks(visible, amodal if self.knows_occluded else visible))
        return predictions


def test_true_masks_score_1(dataset: AnnotatedDataset) -> None:
    report = evaluate(Oracle(dataset), dataset, progress=False)
    assert report.metrics["mIoU_full"] == report.metrics["mIoU_occ"] == report.metrics["mIoU_visible"] == 1
    assert report.metrics["num_objects"] == dataset.num_objects
    assert 0 < report.metrics["num_occluded"] < dataset.num_objects


def test_predicting_the_visible_mask_equals_the_baseline(dataset: AnnotatedDataset) -> None:
    report = evaluate(Oracle(dataset, knows_occluded=False), dataset, progress=False)
    baseline = report.baselines["true_visible"]
    assert report.metrics["mIoU_full"] == pytest.approx(baseline["mIoU_full"])
    assert report.metrics["mIoU_occ"] == baseline["mIoU_occ"] == 0
    assert report.baselines["hull_own_visible"] == report.baselines["hull_true_visible"]
    assert tuple(report.baselines) == DEFAULT_BASELINES


def test_false_occlusions_and_masks_in_several_pieces_are_reported(dataset: AnnotatedDataset) -> None:
    report = evaluate(Oracle(dataset), dataset, progress=False)
    pieces = [
        cv2.connectedComponents(amodal.astype(np.uint8), connectivity=8)[0] - 1
        for image in dataset.images
        for obj in image.objects
        if (amodal := obj.amodal_mask()) is not None
    ]
    assert report.metrics["single_component"] == pytest.approx(np.mean(np.array(pieces) == 1))
    assert report.metrics["false_occlusion_rate"] == 0
    assert report.intervals["false_occlusion_rate"] == pytest.approx([0, 0])
    assert all("single_component" not in row and "false_occlusion_rate" not in row for row in report.baselines.values())
    assert "shape of the masks" in as_text(report.tables(), 120)
    for protocol in ("c2f", "cumulative"):
        other = evaluate(Oracle(dataset), dataset, protocol=protocol, progress=False)
        assert not {"single_component", "false_occlusion_rate"} & other.metrics.keys()
        assert "shape of the masks" not in as_text(other.tables(), 120)


def test_boxes_come_from_the_source_in_the_report(dataset: AnnotatedDataset) -> None:
    first = dataset.images[0].objects[0]
    for source, box in (("gt_visible", first.visible_box_xyxy), ("gt_amodal", first.amodal_box_xyxy)):
        oracle = Oracle(dataset)
        report = evaluate(oracle, dataset, box_source=source, max_objects=1, progress=False)
        assert oracle.boxes_seen == [list(box or ())]
        assert report.options["box_source"] == source
        assert report.metrics["num_objects"] == 1


def test_an_object_without_a_visible_pixel_scores_0_and_is_counted(dataset: AnnotatedDataset) -> None:
    image = dataset.images[0]
    invisible = replace(
        image.objects[0], visible_rle=encode_mask(np.zeros(image.size, bool)), visible_box_xyxy=(0.0, 0.0, 0.0, 0.0)
    )
    changed = replace(dataset, images=(replace(image, objects=(invisible, *image.objects[1:])),))
    report = evaluate(Oracle(dataset), changed, progress=False)
    assert report.options["num_without_answer"] == 1
    assert report.options["without_answer"] == [invisible.id]
    count = len(image.objects)
    assert report.metrics["mIoU_full"] == pytest.approx((count - 1) / count)


def test_visible_masks_outside_their_amodal_mask_are_counted_in_a_warning(dataset: AnnotatedDataset) -> None:
    image = dataset.images[0]
    obj = image.objects[0]
    amodal = obj.visible_mask()
    amodal[:, : int((obj.visible_box_xyxy[0] + obj.visible_box_xyxy[2]) // 2)] = False
    spilled = replace(obj, amodal_rle=encode_mask(amodal))
    changed = replace(dataset, images=(replace(image, objects=(spilled, *image.objects[1:])),))
    with pytest.warns(UserWarning, match="1 true visible masks reach outside their amodal mask"):
        report = evaluate(Oracle(dataset), changed, progress=False)
    assert report.options["num_visible_outside_amodal"] == 1


def test_other_models_are_called_in_batches(dataset: AnnotatedDataset) -> None:
    calls: list[int] = []

    class Counting(Oracle):
        def predict(self, image: np.ndarray, boxes_xyxy: np.ndarray) -> list[FullSizeMasks]:
            calls.append(len(boxes_xyxy))
            return super().predict(image, boxes_xyxy)

    report = evaluate(Counting(dataset), dataset, batch_size=1, progress=False)
    assert calls == [1] * dataset.num_objects
    assert report.metrics["mIoU_full"] == 1


def test_baselines_can_be_left_out(dataset: AnnotatedDataset) -> None:
    report = evaluate(Oracle(dataset), dataset, baselines=(), progress=False)
    assert report.baselines == {}
    assert report.table().row_count == 1


def test_report_has_the_documented_form(dataset: AnnotatedDataset, tmp_path: Path) -> None:
    report = evaluate(Oracle(dataset), dataset, name="oracle", progress=False)
    content = json.loads(report.save(tmp_path / "new" / "report.json").read_text())
    assert content.keys() >= {"protocol", "options", "metrics", "by_occlusion", "version", "commit"}
    assert content["protocol"] == "strict"
    assert (content["version"], content["commit"]) == (__version__, source_commit())
    assert {name: content["options"][name] for name in ("device", "dtype", "clean")} == {
        "device": None,  # unknown for a model other than AmodalSegmenter
        "dtype": None,
        "clean": None,
    }
    assert sum(row["num_objects"] for row in content["by_occlusion"]) == dataset.num_objects
    assert EvaluationReport(**content) == report
    assert report.table().row_count == 1 + len(DEFAULT_BASELINES)
    (tmp_path / "file").touch()
    del content["commit"]
    old = tmp_path / "old.json"
    old.write_text(json.dumps(content))
    assert EvaluationReport.load(old).commit is None  # it was made by another commit than this one
    for save in (report.save, report.save_folder):
        with pytest.raises(InputError, match="out: expected a file to write, got"):
            save(tmp_path / "file" / "below")


def test_invalid_arguments_raise(dataset: AnnotatedDataset) -> None:
    for protocol in ("loose", "amodal_ap"):  # the second has a command of its own
        with pytest.raises(InputError, match=f"protocol: expected one of strict, c2f, cumulative, got '{protocol}'"):
            evaluate(Oracle(dataset), dataset, protocol=protocol, progress=False)
    with pytest.raises(
        InputError, match="expected gt_visible, gt_visible_mask, gt_amodal or predicted:FILE, got 'mine'"
    ):
        evaluate(Oracle(dataset), dataset, box_source="mine", progress=False)
    for option in ("max_objects", "batch_size"):
        with pytest.raises(InputError, match=f"{option}: expected 1 or more, got 0"):
            evaluate(Oracle(dataset), dataset, progress=False, **{option: 0})
    modal = replace(
        dataset,
        images=tuple(replace(i, objects=tuple(replace(o, amodal_rle=None) for o in i.objects)) for i in dataset.images),
    )
    with pytest.raises(InputError, match="expected objects with amodal masks, got none"):
        evaluate(Oracle(dataset), modal, progress=False)


def test_masks_of_the_baselines(dataset: AnnotatedDataset) -> None:
    obj = dataset.images[0].objects[0]
    visible, rle = obj.visible_mask(), obj.visible_rle
    inputs = BaselineInputs(rle, obj.visible_box_xyxy, rle)
    box, hull = (decode_mask(BASELINES[name].amodal_mask(inputs)) for name in ("filled_box", "hull_own_visible"))
    assert mask_to_box(box).tolist() == mask_to_box(visible).tolist()
    assert box.sum() == np.prod(mask_to_box(visible)[2:] - mask_to_box(visible)[:2])
    assert np.array_equal(hull, convex_hull_mask(visible))
    assert (hull | visible).sum() == hull.sum() <= box.sum()
