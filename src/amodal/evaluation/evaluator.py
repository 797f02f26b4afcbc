"""Scoring a model, a predictions file or a baseline under the protocols `strict`, `c2f` and `cumulative`.

The dataset must have visible and amodal masks. The protocol `amodal_ap` is in `evaluation.detection`, the protocol
`reason` in `evaluation.reason`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amodal.data.samples import AnnotatedDataset
from amodal.errors import InputError
from amodal.evaluation.baselines import BASELINES, DEFAULT_BASELINES, check_baselines, pretrained_sam
from amodal.evaluation.boxes import DEFAULT_BOX_SOURCE, BoxSource, default_box_source
from amodal.evaluation.matching import DEFAULT_MATCH_IOU, Matcher, read_by_object
from amodal.evaluation.predictions import image_sizes
from amodal.evaluation.report import PREDICTIONS_COUNT, EvaluationReport
from amodal.evaluation.resume import Processes, ResumableRow, check_launch, digests
from amodal.evaluation.rows import (
    UNKNOWN_COMPUTATION,
    FileRow,
    ImageCache,
    MaskPredictor,
    ModelRow,
    Row,
    iterate_cases,
)
from amodal.evaluation.scoring import (
    PartScorer,
    Resampling,
    RowSummary,
    ScoredObjects,
    Scorer,
    pick_num_workers,
)
from amodal.evaluation.selection import ObjectSelection, objects_digest, read_object_list
from amodal.evaluation.tallying import tally_cases, tally_parts
from amodal.evaluation.worst import WorstObjects
from amodal.inference.prompts import check_threshold
from amodal.metrics.mask_protocols import MASK_PROTOCOLS

if TYPE_CHECKING:
    from amodal.inference.segmenter import AmodalSegmenter

MAIN = "(main)"
"""Internal name of the row that the report is about; no baseline has it."""
MAX_LISTED_MISSING = 20
"""Largest number of objects without a prediction that a report lists; it counts all of them."""


@dataclass(frozen=True)
class EvaluationSettings:
    """How to score, on which objects, and with which baselines; independent of what is scored.

    Attributes:
        protocol: `strict`, `c2f` or `cumulative`.
        objects: file of `imageid_annoid` lines with the objects to score; all annotated objects if None.
        max_objects: score the first objects in file order only; all if None.
        baselines: names of baselines to score as well.
        sam: base of the baselines `sam` and `sam_amodal_box`.
        device: device of these two; `auto` is a GPU if there is one.
        num_workers: number of processes that count pixels; None picks the fastest.
        resampling: of the 95 % intervals; None leaves them out.
        num_worst: number of the worst objects to list in the report.
        worst_folder: folder for images of the worst objects; None to draw none.
        save_predictions: predictions file to write; None to write none.
        progress: show a progress bar.

    Raises:
        InputError: unknown protocol or baseline, or a number below its minimum.
    """

    protocol: str = "strict"
    objects: Path | None = None
    max_objects: int | None = None
    baselines: tuple[str, ...] = DEFAULT_BASELINES
    sam: str = "sam-small"
    device: str = "auto"
    num_workers: int | None = None
    resampling: Resampling | None = field(default_factory=Resampling)
    num_worst: int = 0
    worst_folder: Path | None = None
    save_predictions: Path | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.protocol not in MASK_PROTOCOLS:
            raise InputError(f"protocol: expected one of {', '.join(MASK_PROTOCOLS)}, got {self.protocol!r}")
        object.__setattr__(self, "baselines", check_baselines(self.baselines))
        if self.num_workers is not None and self.num_workers < 1:
            raise InputError(f"workers: expected 1 or more, got {self.num_workers}")
        if self.num_worst < 0:
            raise InputError(f"worst: expected 0 or more, got {self.num_worst}")

    def selection(self) -> ObjectSelection:
        """Return the objects to score. Raises `InputError` for a list that cannot be read."""
        listed = None if self.objects is None else read_object_list(self.objects)
        return ObjectSelection(listed, self.max_objects)


def evaluate(
    model: AmodalSegmenter | MaskPredictor,
    dataset: AnnotatedDataset,
    *,
    protocol: str = "strict",
    box_source: str = DEFAULT_BOX_SOURCE,
    threshold: float | None = None,
    union_visible: bool | None = None,
    clean: bool = False,
    objects: str | Path | None = None,
    max_objects: int | None = None,
    baselines: Sequence[str] = DEFAULT_BASELINES,
    batch_size: int = 32,
    num_resamples: int = 1000,
    seed: int = 0,
    num_worst: int = 0,
    name: str = "model",
    progress: bool = True,
) -> EvaluationReport:
    """Score a model on a dataset, with baselines on the same objects.

    Example:
        >>> from amodal import AmodalSegmenter, evaluate, read_dataset
        >>> dataset = read_dataset("canonical", "data/scenes-val/annotations.json")
        >>> report = evaluate(AmodalSegmenter.from_pretrained("plug-small"), dataset, max_objects=100)
        >>> report.metrics["mIoU_full"], report.metrics["mIoU_occ"]

    Args:
        model: an `AmodalSegmenter`, or any object with a method `predict(image, boxes_xyxy)` that returns one
            prediction per box, with the attributes `amodal_mask` and `visible_mask`, both (H, W) bool at the size of
            the image; `visible_mask` may be None (see `MaskPredictor`). The masks of another model are scored as it
            returns them.
        dataset: an `AnnotatedDataset` with visible and amodal masks, from `read_dataset`.
        protocol: `strict`, `c2f` or `cumulative`; see `amodal.metrics.mask_protocols`.
        box_source: prompts given to the model: `gt_visible` (box of the true visible mask), `gt_visible_mask` (the
            true visible mask itself), `gt_amodal` or `predicted:FILE`.
        threshold: probability above which a pixel is foreground; the model's own if None. This and the next two are
            for an `AmodalSegmenter` only.
        union_visible: unite each predicted amodal mask with the predicted visible mask; True if None.
        clean: clean the masks, as `AmodalSegmenter` does by default; the papers score the masks of the network.
        objects: file of `imageid_annoid` lines with the objects to score; all annotated objects if None.
        max_objects: score the first objects in file order only; all if None.
        baselines: names of baselines to score as well; empty for none.
        batch_size: maximum number of objects per forward pass.
        num_resamples: number of resamples for the 95 % intervals; 0 leaves them out.
        seed: of the resampling.
        num_worst: number of the worst objects to list in the report.
        name: name of the model in the report.
        progress: show a progress bar.

    Returns:
        The report; `print(report)` shows its tables. An object without a box cannot be predicted; it scores 0 and is
        counted and named in `options`. Metrics and baselines that need predicted visible masks are left out if there
        are none. True visible masks that reach outside their amodal mask are scored as the protocol says; a warning
        gives their number.

    Raises:
        InputError: a model or a dataset of another kind; predictions of another form; unknown protocol, baseline or box
            source; a threshold, `union_visible` or `clean=True` for a model other than `AmodalSegmenter`; a number
            below its minimum; an invalid list; or no object with an amodal mask.
    """
    settings = EvaluationSettings(
        protocol=protocol,
        objects=None if objects is None else Path(objects),
        max_objects=max_objects,
        baselines=tuple(baselines),
        device="auto" if hasattr(model, "predict") else str(getattr(model, "device", "auto")),
        num_workers=1,
        resampling=Resampling(num_resamples, seed) if num_resamples else None,
        num_worst=num_worst,
        progress=progress,
    )
    return evaluate_model(
        model,
        dataset,
        settings,
        box_source=box_source,
        threshold=threshold,
        union_visible=union_visible,
        clean=clean,
        batch_size=batch_size,
        name=name,
    )


def evaluate_model(
    model: AmodalSegmenter | MaskPredictor, dataset: AnnotatedDataset, settings: EvaluationSettings, **options: Any
) -> EvaluationReport:
    """Score a model as `evaluate_share` does in a single process, with the same options."""
    report = evaluate_share(model, dataset, settings, **options)
    assert report is not None  # the first process has the report
    return report


def evaluate_share(
    model: AmodalSegmenter | MaskPredictor,
    dataset: AnnotatedDataset,
    settings: EvaluationSettings,
    processes: Processes | None = None,
    *,
    box_source: str = DEFAULT_BOX_SOURCE,
    threshold: float | None = None,
    union_visible: bool | None = None,
    clean: bool = False,
    batch_size: int = 32,
    name: str = "model",
    resume_file: Path | None = None,
    contents: dict[str, str] | None = None,
) -> EvaluationReport | None:
    """Score a model as `evaluate` does, with all settings, in one of several processes that share the images.

    Args:
        model, dataset, box_source, threshold, union_visible, clean, batch_size, name: as for `evaluate`.
        settings: protocol, objects, baselines and outputs.
        processes: all of them call this function; a single one if None.
        resume_file: file in which predictions are saved as they are made, so that a stopped run can be resumed.
        contents: fingerprints of the files of the model; a run with others is not resumed.

    Returns:
        The report; None in all processes but the first.

    Raises:
        InputError: as `evaluate`; or several processes have no `resume_file`, or another run writes to it.
    """
    processes = processes or Processes()
    check_launch(processes, resume_file)
    _check_dataset(dataset)
    selection = settings.selection()
    boxes, images = BoxSource.parse(box_source, image_sizes(dataset)), ImageCache()
    row = ModelRow(model, boxes, images, threshold, union_visible, batch_size, clean)
    options = {"model": name, "box_source": box_source} | row.options
    has_visible = getattr(model, "has_visible_branch", True)
    if resume_file is None:
        return _evaluate_row(row, dataset, settings, options, boxes, images, has_visible)
    with processes.one_writer(resume_file):
        about = {"objects": selection.description} | (contents or {})
        about |= digests(box_file=box_source.partition(":")[2], object_list=settings.objects)
        main = ResumableRow(row, resume_file, options | about, processes)
        if processes.count > 1 and not main.predict_share(dataset, selection, settings.progress):
            return None
        report = _evaluate_row(main, dataset, settings, options, boxes, images, has_visible)
        main.finish()
        return report


def evaluate_predictions(
    path: Path,
    dataset: AnnotatedDataset,
    settings: EvaluationSettings,
    *,
    box_source: str | None = None,
    threshold: float | None = None,
    union_visible: bool = False,
    clean: bool | None = None,
    match_iou: float = DEFAULT_MATCH_IOU,
    match_category: bool = True,
    name: str | None = None,
) -> EvaluationReport:
    """Score a predictions file.

    Args:
        path: a file of any form that `iterate_records` reads. Where its records name no annotations, they are matched
            to the annotated objects of their image by `evaluation.matching`.
        dataset: dataset with visible and amodal masks.
        settings: protocol, objects, baselines and outputs.
        box_source: box source that the file was made with, for the report and the baseline `filled_box`; None if
            unknown.
        threshold: threshold that the file was made with, for the report; None if unknown.
        union_visible: unite each amodal mask with the visible mask before scoring.
        clean: whether the masks of the file were cleaned, for the report; None if unknown.
        match_iou: smallest IoU of a prediction and an object that may match.
        match_category: whether a prediction that states a category matches objects of this category only.
        name: name of the row; the name of the file if None.

    Returns:
        The report. Annotated objects without a prediction in the file score 0 and are counted. Its `options` name the
        matcher, if it was needed, and count the predictions that were matched and the others.

    Raises:
        InputError: an invalid file, list or threshold, or a file without any of the scored objects.
    """
    matcher = Matcher(match_iou, match_category)
    if threshold is not None:
        check_threshold(threshold)
    _check_dataset(dataset)
    sizes = image_sizes(dataset)
    boxes = BoxSource.parse(box_source or default_box_source(dataset), sizes)
    records = read_by_object(path, dataset, matcher)
    options = {
        "model": name or path.name,
        "box_source": box_source,
        "threshold": threshold,
        "union_visible": union_visible,
        **UNKNOWN_COMPUTATION,
        "clean": clean,
        **records.options,
    }
    main = FileRow(records, union_visible)
    report = _evaluate_row(main, dataset, settings, options, boxes, ImageCache(), records.have_visible)
    num_predicted = report.metrics["num_objects"] - report.options["num_without_answer"]
    if not num_predicted and not records.options:
        raise InputError(f"predictions {path}: expected records of the annotated objects, got none of their ids")
    num_unused = len(records) - num_predicted
    report.options[PREDICTIONS_COUNT] = num_unused
    if records.options:
        report.options |= {"num_matched": num_predicted, "num_unmatched": num_unused}
        if num_unused:
            warnings.warn(f"{num_unused} of {len(records)} predictions match no scored object", stacklevel=2)
    return report


def evaluate_baseline(
    name: str,
    dataset: AnnotatedDataset,
    settings: EvaluationSettings,
    *,
    box_source: str = DEFAULT_BOX_SOURCE,
    threshold: float | None = None,
) -> EvaluationReport:
    """Score a baseline instead of a model.

    Args:
        name: key of `BASELINES`.
        dataset, settings: as for `evaluate_share`.
        box_source: as for `evaluate`; a baseline with a box source of its own ignores it.
        threshold: as for `evaluate`; for the baselines that run SAM only.

    Raises:
        InputError: unknown baseline, one that can only be scored beside a model, a threshold for a baseline without a
            network, or what `evaluate` raises.
    """
    _check_dataset(dataset)
    boxes, images = BoxSource.parse(box_source, image_sizes(dataset)), ImageCache()
    check_baselines((name,))
    baseline = BASELINES[name]
    if baseline.needs_visible_pred:
        raise InputError(
            f"model: expected a baseline that can be scored alone, got {name!r}, which needs a model's visible mask"
        )
    options = {
        "model": name,
        "box_source": baseline.box_source or box_source,
        "threshold": None,
        "union_visible": False,
        **UNKNOWN_COMPUTATION,
    }
    main: Row | None = None
    if baseline.amodal_mask is None:
        segmenter = pretrained_sam(settings.sam, settings.device)
        row = ModelRow(segmenter, _boxes_of(name, boxes), images, threshold, union_visible=False)
        main, options = row, options | row.options | {"sam": settings.sam}
    elif threshold is not None:
        raise InputError(f"threshold: expected None for {name!r}, which takes none, got {threshold}")
    return _evaluate_row(main, dataset, settings, options, boxes, images, has_visible=False)


def _check_dataset(dataset: Any) -> None:
    if not isinstance(dataset, AnnotatedDataset):
        raise InputError(
            f"dataset: expected an AnnotatedDataset, as read_dataset returns it, got {type(dataset).__name__}"
        )


def _boxes_of(baseline: str, boxes: BoxSource) -> BoxSource:
    own = BASELINES[baseline].box_source
    return boxes if own is None else BoxSource(own)


def _evaluate_row(
    main: Row | None,
    dataset: AnnotatedDataset,
    settings: EvaluationSettings,
    options: dict[str, Any],
    boxes: BoxSource,
    images: ImageCache,
    has_visible: bool,
) -> EvaluationReport:
    """Predict, count and summarize.

    Args:
        main: row that the report is about; None for a baseline without a network, named by `options["model"]`.
        dataset: dataset with visible and amodal masks.
        settings: protocol, objects, baselines and outputs.
        options: options of the main row, for the report.
        boxes: source of the box prompts.
        images: cache shared by the rows that look at images.
        has_visible: whether the main row predicts visible masks.

    Raises:
        InputError: an invalid list, or no object with an amodal mask.
    """
    selection = settings.selection()
    name = str(options["model"]) if main is None else MAIN
    baselines = [
        b for b in settings.baselines if b != options["model"] and (has_visible or not BASELINES[b].needs_visible_pred)
    ]
    scorer = Scorer((name, *baselines), name, counts_components=settings.protocol == "strict")
    sam_rows = _sam_rows(baselines, settings, boxes, images)
    num_workers = settings.num_workers or pick_num_workers(
        settings.max_objects or dataset.num_objects, 1 + len(settings.baselines)
    )
    writes_nothing_else = settings.max_objects is None and settings.save_predictions is None
    if isinstance(main, FileRow) and not sam_rows and writes_nothing_else:
        scorer_of_part = PartScorer(dataset, selection, boxes, scorer, settings.num_worst, main.union_visible)
        tally = tally_parts(main, scorer_of_part, num_workers, settings.progress)
    else:
        rows = ({} if main is None else {name: main}) | sam_rows
        selection.check_list(dataset)
        cases = iterate_cases(dataset, selection, rows, boxes, settings.progress)
        tally = tally_cases(cases, scorer, settings.num_worst, settings.save_predictions, num_workers)
    selection.check_complete(tally.object_keys)
    if settings.worst_folder is not None and settings.num_worst:
        tally.worst.draw(settings.worst_folder, dataset)
    scored = tally.scored_objects(scorer.rows)
    visible_union = scored.counts[name].visible_union
    if (visible_union >= 0).sum() == len(tally.missing) < len(tally.keys):  # the empty masks of missing objects
        scored.counts[name] = scored.counts[name]._replace(visible_union=np.full_like(visible_union, -1))
        baselines = [b for b in baselines if not BASELINES[b].needs_visible_pred]
    num_spilled = int((scored.counts[name].spilled_area > 0).sum())
    if num_spilled:
        warnings.warn(f"{num_spilled} true visible masks reach outside their amodal mask", stacklevel=3)
    if tally.missing:
        warnings.warn(f"{len(tally.missing)} of {len(tally.keys)} objects have no prediction and score 0", stacklevel=3)
    options = options | {
        "format": dataset.format,
        "objects": selection.description,
        "objects_sha256": objects_digest(tally.object_keys),
        "num_without_answer": len(tally.missing),
        "without_answer": tally.missing[:MAX_LISTED_MISSING],
        "num_visible_outside_amodal": num_spilled,
    }
    return _report(scored, name, baselines, dataset, settings, options, tally.worst)


def _sam_rows(
    baselines: Sequence[str], settings: EvaluationSettings, boxes: BoxSource, images: ImageCache
) -> dict[str, Row]:
    """Make the rows of the baselines that run SAM; they share one model."""
    names = [name for name in baselines if BASELINES[name].amodal_mask is None]
    if not names:
        return {}
    segmenter = pretrained_sam(settings.sam, settings.device)
    return {name: ModelRow(segmenter, _boxes_of(name, boxes), images, union_visible=False) for name in names}


def _report(
    scored: ScoredObjects,
    name: str,
    baselines: list[str],
    dataset: AnnotatedDataset,
    settings: EvaluationSettings,
    options: dict[str, Any],
    worst: WorstObjects,
) -> EvaluationReport:
    summaries = {row: RowSummary(scored, row, settings.protocol) for row in (name, *baselines)}
    main, resampling = summaries[name], settings.resampling
    metrics = main.overall(resampling)
    intervals = metrics.pop("intervals", {})
    if resampling is not None:
        how = {"resampled": "images", "resamples": resampling.num_resamples, "seed": resampling.seed}
        options = options | {"intervals": how}
    return EvaluationReport(
        protocol=settings.protocol,
        options=options,
        metrics=metrics,
        intervals=intervals,
        by_occlusion=main.by_occlusion(resampling),
        by_category=main.by_category(dataset.categories, resampling),
        baselines={
            row: summaries[row].overall(resampling) | {"by_occlusion": summaries[row].by_occlusion()}
            for row in baselines
        },
        worst=worst.lines(),
    )
