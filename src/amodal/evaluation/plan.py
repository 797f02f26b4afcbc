"""What scoring a model on a whole dataset will take: measured on its first objects, then scaled by arithmetic."""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amodal.data.samples import AnnotatedDataset
from amodal.evaluation.evaluator import EvaluationSettings, evaluate_model
from amodal.evaluation.rows import MaskPredictor
from amodal.metrics.mask_protocols import PixelCounts

if TYPE_CHECKING:
    from amodal.inference.segmenter import AmodalSegmenter

WARM_UP_OBJECTS = 4
MEASURED_SECONDS = 20.0
MAX_MEASURED_OBJECTS = 256
KEY_BYTES = 256
"""Bytes that the ids of one scored object take as Python objects, rounded up."""
PREDICTION_BYTES = 1024
"""Bytes of one prediction in memory beside the text of its masks, rounded up."""

GIB = 2**30


def plan_evaluation(
    model: AmodalSegmenter | MaskPredictor,
    dataset: AnnotatedDataset,
    settings: EvaluationSettings,
    *,
    processes: int = 1,
    **options: Any,
) -> dict[str, Any]:
    """Measure a model on the first objects of a dataset, and compute what all of them will take.

    Args:
        model, dataset, options: as for `evaluate_share`, which does the evaluation.
        settings: protocol, objects and baselines; nothing is written.
        processes: number of processes that would share the images, each with a device like this one.

    Returns:
        Measured: `measured_objects`, `seconds_per_object` (images, network, baselines and scoring),
        `memory_gib`, the most that this process has had, and on a GPU `gpu_memory_gib`, the most that tensors have
        had there. Computed for all `objects`: `hours`, for all processes together; `added_memory_gib`, what their
        counts, and the predictions that the first process collects, take beside that; and `disk_gib`, what the
        predictions take on disk until the run is complete.

    Raises:
        InputError: as `evaluate_share`.
    """
    selection = settings.selection()
    num_objects = sum(len(objects) for _, objects in selection.iterate(dataset))
    quiet = replace(settings, num_workers=1, num_worst=0, worst_folder=None, save_predictions=None, progress=False)

    def measure(count: int, file: Path) -> tuple[float, int]:
        start = time.perf_counter()
        few = replace(quiet, max_objects=count, save_predictions=file)
        report = evaluate_model(model, dataset, few, **options)
        return time.perf_counter() - start, report.metrics["num_objects"]

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "predictions.json"
        seconds, warm = measure(min(WARM_UP_OBJECTS, num_objects), file)
        wanted = int(MEASURED_SECONDS * warm / seconds)
        seconds, measured = measure(min(max(wanted, WARM_UP_OBJECTS), MAX_MEASURED_OBJECTS, num_objects), file)
        bytes_per_prediction = file.stat().st_size / measured
    rows = 1 + len(settings.baselines)
    per_object = 3 * rows * len(PixelCounts._fields) * 8 + KEY_BYTES  # the counts, their sum and its columns
    if processes > 1:
        per_object += int(bytes_per_prediction) + PREDICTION_BYTES
    return {
        "objects": num_objects,
        "processes": processes,
        "measured_objects": measured,
        "seconds_per_object": round(seconds / measured, 4),
        "hours": round(num_objects * seconds / measured / processes / 3600, 2),
        **_peak_memory(model),
        "added_memory_gib": round(num_objects * per_object / GIB, 2),
        "disk_gib": round(num_objects * bytes_per_prediction / GIB, 2),
    }


def _peak_memory(model: Any) -> dict[str, float]:
    """The most memory that this process, and its tensors on a GPU, have had, in GiB."""
    peak = {}
    if sys.platform != "win32":  # Windows has no such record
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
        peak["memory_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB, 2)
    if str(getattr(model, "device", "cpu")).startswith("cuda"):
        import torch

        peak["gpu_memory_gib"] = round(torch.cuda.max_memory_allocated() / GIB, 2)
    return peak
