"""Time `amodal evaluate masks --predictions` against a literal implementation on full-size masks.

The dataset has 20,000 objects on images of KINS' size (375 x 1242). The command is timed as a whole, in a process of
its own: start, both files, scoring, intervals and report; once with the model's row alone, once with the default
baselines. The literal implementation reads the same two files, decodes the masks to the size of the image, computes
the formulas of the protocol one object after another, and makes the same baselines at full size. The two take turns
and the smallest time of each counts. The literal implementation is timed on `--literal` other objects each turn and
scaled to all objects, without the time to read the files. It also computes no intervals and no occlusion ranges, which
favours it.

On a machine shared with other programs, the ratio of CPU seconds varies less than the ratio of seconds, but it does
not show the gain of several processes. Memory is the resident size of the command and all its processes together,
sampled; shared pages are counted once per process.

Command: python benchmarks/evaluate.py
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from measure import finish
from pycocotools import mask as coco_mask

from amodal.ops.masks import mask_iou
from amodal.ops.rle import encode_window

SIZE = (375, 1242)  # (H, W) of KINS' images
OBJECTS_PER_IMAGE = 8
SAMPLE_SECONDS = 0.02
KINDS = {"model alone": ["--no-baselines"], "with baselines": list[str]()}
"""What is scored, and the options of the command for it."""
Mask = np.ndarray


def main() -> None:
    """Write the files, time both implementations in turns, and print the result."""
    options = _options()
    command_runs: dict[str, list[dict[str, float]]] = {what: [] for what in KINDS}
    literal_runs: dict[str, list[dict[str, Any]]] = {what: [] for what in KINDS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, options.objects)
        for start in range(0, options.rounds * options.literal, options.literal):
            for what, extra in KINDS.items():
                literal_runs[what].append(literal(folder, start, start + options.literal, not extra))
                command_runs[what].append(run_command(folder, options, extra))
        for what, extra in KINDS.items():
            check(folder, options, literal_runs[what][0], extra)
    rows = [_row(what, command_runs[what], literal_runs[what], options) for what in KINDS]
    facts = {key: rows[0][key] for key in ("ratio", "cpu_ratio")} | {"peak_gib": rows[0]["peak_mib"] / 1024}
    finish("evaluate", options, rows, objects=options.objects, size=list(SIZE), **facts)


def _row(
    what: str, command_runs: list[dict[str, float]], literal_runs: list[dict[str, Any]], options: argparse.Namespace
) -> dict[str, Any]:
    """Smallest times of both, with the literal implementation scaled to all objects, and the largest memory."""
    row: dict[str, Any] = {"what": what}
    for name, prefix in (("seconds", ""), ("cpu_seconds", "cpu_")):
        row[name] = min(run[name] for run in command_runs)
        row[f"literal_{name}"] = (
            min(run[f"{prefix}scoring"] for run in literal_runs) / options.literal * options.objects
        )
        row[f"{prefix}ratio"] = row[f"literal_{name}"] / row[name]
    return row | {"peak_mib": max(run["peak_mib"] for run in command_runs)}


def run_command(folder: Path, options: argparse.Namespace, extra: list[str]) -> dict[str, float]:
    """Run the command; return its time and the memory of all its processes."""
    start, before = time.perf_counter(), _cpu_of_children()
    process = subprocess.Popen(command(folder, options, extra), stdout=subprocess.DEVNULL)
    peak = [0.0]
    watcher = threading.Thread(target=_watch, args=(process, peak), daemon=True)
    watcher.start()
    if process.wait() != 0:
        raise SystemExit(f"amodal evaluate masks ended with {process.returncode}")
    seconds = time.perf_counter() - start
    watcher.join()
    return {"seconds": seconds, "cpu_seconds": _cpu_of_children() - before, "peak_mib": peak[0]}


def command(folder: Path, options: argparse.Namespace, extra: list[str]) -> list[str]:
    """Arguments that run `amodal evaluate masks` on the files of this benchmark."""
    files = ["--annotations", str(folder / "annotations.json"), "--predictions", str(folder / "predictions.json")]
    workers = [] if options.workers is None else ["--workers", str(options.workers)]
    return [sys.executable, "-m", "amodal", "evaluate", "masks", *files, *workers, *extra, "--json"]


def literal(folder: Path, start: int, stop: int, baselines: bool) -> dict[str, Any]:
    """Compute the protocol literally on objects `start` to `stop`; return the seconds and the means."""
    truth = json.loads((folder / "annotations.json").read_text())["annotations"]
    records = {p["annotation_id"]: p for p in json.loads((folder / "predictions.json").read_text())}
    begin, cpu_begin = time.perf_counter(), time.process_time()
    scores: dict[str, list[float]] = {}
    for record in truth[start:stop]:
        prediction = records[record["id"]]
        G, V = decode(record["segmentation"]), decode(record["visible_mask"])
        P, W = decode(prediction["segmentation"]), decode(prediction["visible_segmentation"])
        predicted = {"": P}
        if baselines:
            predicted |= {
                "true_visible ": V,
                "filled_box ": box(V),
                "hull_true_visible ": hull(V),
                "hull_own_visible ": hull(W),
            }
        scores.setdefault("mIoU_visible", []).append(mask_iou(W, V))
        for name, amodal in predicted.items():
            scores.setdefault(f"{name}mIoU_full", []).append(mask_iou(amodal, G))
            if (G & ~V).any():
                scores.setdefault(f"{name}mIoU_occ", []).append(mask_iou(amodal & ~V, G & ~V))
    return {
        "scoring": time.perf_counter() - begin,
        "cpu_scoring": time.process_time() - cpu_begin,
        "count": stop - start,
        "means": {name: float(np.mean(values)) for name, values in scores.items()},
    }


def box(mask: Mask) -> Mask:
    """Return a mask of all pixels in the tight box of a mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    filled = np.zeros_like(mask)
    filled[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return filled


def hull(mask: Mask) -> Mask:
    """Return the smallest convex region that covers a mask."""
    filled = np.zeros(mask.shape, np.uint8)
    cv2.fillConvexPoly(filled, cv2.convexHull(np.argwhere(mask)[:, ::-1].astype(np.int32)), 1)
    return filled.astype(bool)


def decode(rle: dict[str, Any]) -> Mask:
    """Return a mask as (H, W) bool."""
    return coco_mask.decode(rle).astype(bool)


def check(folder: Path, options: argparse.Namespace, literal_run: dict[str, Any], extra: list[str]) -> None:
    """Check that both implementations give the same metrics on the same objects."""
    subset = [*extra, "--max-objects", str(literal_run["count"]), "--resamples", "0"]
    report = json.loads(subprocess.run(command(folder, options, subset), stdout=subprocess.PIPE, check=True).stdout)
    for name, value in literal_run["means"].items():
        row, _, metric = name.rpartition(" ")
        got = (report["baselines"][row] if row else report["metrics"])[metric]
        if abs(got - value) > 1e-9:
            raise SystemExit(f"{name}: the literal implementation gives {value}, the command {got}")


def write_files(folder: Path, count: int) -> None:
    """Write canonical annotations and a predictions file with small errors."""
    rng = np.random.default_rng(0)
    annotations, predictions = [], []
    for index in range(count):
        image_id = index // OBJECTS_PER_IMAGE + 1
        amodal, visible, predicted, own = (_encoded(mask, corner) for mask, corner in _object(rng))
        common = {"image_id": image_id, "category_id": index % 7 + 1}
        annotations.append({"id": index + 1, "segmentation": amodal, "visible_mask": visible, **common})
        predictions.append(
            {"annotation_id": index + 1, "segmentation": predicted, "visible_segmentation": own, "score": 0.9, **common}
        )
    images = [
        {"id": i + 1, "file_name": f"{i:06d}.png", "height": SIZE[0], "width": SIZE[1]}
        for i in range(-(-count // OBJECTS_PER_IMAGE))
    ]
    categories = [{"id": i + 1, "name": f"category {i}"} for i in range(7)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    (folder / "annotations.json").write_text(json.dumps(content))
    (folder / "predictions.json").write_text(json.dumps(predictions))


def _object(rng: np.random.Generator) -> list[tuple[Mask, tuple[int, int]]]:
    """Draw an amodal, visible, predicted amodal and predicted visible mask, each in a window at a corner (x, y)."""
    h, w = (int(np.clip(rng.lognormal(4, 0.6), 12, 240)) for _ in range(2))  # the heights of near and distant cars
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    radius = 1 + 0.25 * rng.standard_normal(24)
    corner = (int(rng.integers(0, SIZE[1] - w)), int(rng.integers(0, SIZE[0] - h)))
    shapes = []
    for noise in (0.0, 0.05):
        r = np.clip(radius + noise * rng.standard_normal(24), 0.3, 1)
        points = np.stack([w / 2 * (1 + r * np.cos(angles)), h / 2 * (1 + r * np.sin(angles))], axis=1)
        canvas = np.zeros((h, w), np.uint8)
        cv2.fillPoly(canvas, [points.astype(np.int32)], 1)
        shapes.append(canvas.astype(bool))
    cut = int(w * rng.uniform(0.3, 1)) if rng.random() < 0.5 else w
    visible = [shape.copy() for shape in shapes]
    for mask in visible:
        mask[:, cut:] = False
    return [(mask, corner) for mask in (shapes[0], visible[0], shapes[1], visible[1])]


def _encoded(mask: Mask, corner: tuple[int, int]) -> dict[str, Any]:
    x, y = corner
    return encode_window(mask, (x, y, x + mask.shape[1], y + mask.shape[0]), SIZE)


def _cpu_of_children() -> float:
    """CPU seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _watch(process: subprocess.Popen[bytes], peak: list[float]) -> None:
    """Record the largest resident size of a process and its children together, in MiB."""
    while process.poll() is None:
        try:
            root = psutil.Process(process.pid)
            total = sum(p.memory_info().rss for p in [root, *root.children(recursive=True)])
            peak[0] = max(peak[0], total / 2**20)
        except psutil.Error:
            pass  # one of the processes has just ended
        time.sleep(SAMPLE_SECONDS)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--objects", type=int, default=20_000)
    parser.add_argument("--literal", type=int, default=300, help="objects per turn of the literal implementation")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, help="processes of the command; the fastest number by default")
    parser.add_argument("--quick", action="store_true", help="600 objects, to check that the benchmark runs")
    parser.add_argument("--json", action="store_true", help="JSON is what stdout gets in any case")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    options = parser.parse_args()
    if options.quick:
        options.objects, options.literal, options.rounds = 600, 100, 1
    return options


if __name__ == "__main__":
    main()
