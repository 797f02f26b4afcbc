"""`amodal evaluate --predictions` against the literal implementation: full-size masks, one object after another.

20,000 objects on pictures of KINS' size (375 x 1242). Ours is the whole command in a process of
its own: start, both files, scoring, intervals, report; once with the model's row alone, once with
the baselines that stand beside it by default. The literal one reads the same two files, decodes
the masks to the image's size, takes the protocol's formulas at their word, and makes the same
baselines at full size. The two take turns, the smallest time of each counts; the literal one is
timed on `--literal` other objects each turn and scaled to all of them, reading the files not
counted. It draws no intervals and counts no ranges, which is to its advantage too.

Where neighbours take turns on the cores, the ratio of processor seconds is the steadier one (it
also hides what several processes gain). Memory is the resident size of our command and all its
processes together, sampled; pages they share are counted for each.

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

from amodal.ops.rle import encode_window

SIZE = (375, 1242)  # (H, W) of KINS' pictures
OBJECTS_AN_IMAGE = 8
SAMPLE_SECONDS = 0.02
KINDS = {"model alone": ["--no-baselines"], "with baselines": list[str]()}
"""What is scored, and the options that say so."""
Mask = np.ndarray


def main() -> None:
    """Make the files, let both take turns, print."""
    options = _options()
    ours: dict[str, list[dict[str, float]]] = {what: [] for what in KINDS}
    plain: dict[str, list[dict[str, Any]]] = {what: [] for what in KINDS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, options.objects)
        for start in range(0, options.rounds * options.literal, options.literal):
            for what, extra in KINDS.items():
                plain[what].append(literal(folder, start, start + options.literal, not extra))
                ours[what].append(run_ours(folder, options, extra))
        for what, extra in KINDS.items():
            check(folder, options, plain[what][0], extra)
    rows = [_row(what, ours[what], plain[what], options) for what in KINDS]
    facts = {key: rows[0][key] for key in ("ratio", "cpu_ratio")} | {"peak_gib": rows[0]["peak_mib"] / 1024}
    finish("evaluate", options, rows, objects=options.objects, size=list(SIZE), **facts)


def _row(
    what: str, ours: list[dict[str, float]], plain: list[dict[str, Any]], options: argparse.Namespace
) -> dict[str, Any]:
    """Smallest times of both, the literal one's scaled to all objects, and the largest memory."""
    row: dict[str, Any] = {"what": what}
    for name, prefix in (("seconds", ""), ("cpu_seconds", "cpu_")):
        row[name] = min(run[name] for run in ours)
        row[f"literal_{name}"] = min(run[f"{prefix}scoring"] for run in plain) / options.literal * options.objects
        row[f"{prefix}ratio"] = row[f"literal_{name}"] / row[name]
    return row | {"peak_mib": max(run["peak_mib"] for run in ours)}


def run_ours(folder: Path, options: argparse.Namespace, extra: list[str]) -> dict[str, float]:
    """The command, its time and the memory of all its processes."""
    start, before = time.perf_counter(), _cpu_of_children()
    process = subprocess.Popen(command(folder, options, extra), stdout=subprocess.DEVNULL)
    peak = [0.0]
    watcher = threading.Thread(target=_watch, args=(process, peak), daemon=True)
    watcher.start()
    if process.wait() != 0:
        raise SystemExit(f"amodal evaluate ended with {process.returncode}")
    seconds = time.perf_counter() - start
    watcher.join()
    return {"seconds": seconds, "cpu_seconds": _cpu_of_children() - before, "peak_mib": peak[0]}


def command(folder: Path, options: argparse.Namespace, extra: list[str]) -> list[str]:
    """`amodal evaluate` on the files of this benchmark."""
    files = ["--annotations", str(folder / "annotations.json"), "--predictions", str(folder / "predictions.json")]
    workers = [] if options.workers is None else ["--workers", str(options.workers)]
    return [sys.executable, "-m", "amodal", "evaluate", *files, *workers, *extra, "--json"]


def literal(folder: Path, start: int, stop: int, baselines: bool) -> dict[str, Any]:
    """The protocol at its word on objects `start` to `stop`: seconds to score them, and the means."""
    truth = json.loads((folder / "annotations.json").read_text())["annotations"]
    found = {p["annotation_id"]: p for p in json.loads((folder / "predictions.json").read_text())}
    begin, cpu_begin = time.perf_counter(), time.process_time()
    scores: dict[str, list[float]] = {}
    for record in truth[start:stop]:
        prediction = found[record["id"]]
        G, V = decode(record["segmentation"]), decode(record["visible_mask"])
        P, W = decode(prediction["segmentation"]), decode(prediction["visible_segmentation"])
        answers = {"": P}
        if baselines:
            answers |= {
                "true_visible ": V,
                "filled_box ": box(V),
                "hull_true_visible ": hull(V),
                "hull_own_visible ": hull(W),
            }
        scores.setdefault("mIoU_visible", []).append(iou(W, V))
        for name, answer in answers.items():
            scores.setdefault(f"{name}mIoU_full", []).append(iou(answer, G))
            if (G & ~V).any():
                scores.setdefault(f"{name}mIoU_occ", []).append(iou(answer & ~V, G & ~V))
    return {
        "scoring": time.perf_counter() - begin,
        "cpu_scoring": time.process_time() - cpu_begin,
        "count": stop - start,
        "means": {name: float(np.mean(values)) for name, values in scores.items()},
    }


def box(mask: Mask) -> Mask:
    """All pixels of a mask's box."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    filled = np.zeros_like(mask)
    filled[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return filled


def hull(mask: Mask) -> Mask:
    """The smallest convex region around a mask."""
    filled = np.zeros(mask.shape, np.uint8)
    cv2.fillConvexPoly(filled, cv2.convexHull(np.argwhere(mask)[:, ::-1].astype(np.int32)), 1)
    return filled.astype(bool)


def decode(rle: dict[str, Any]) -> Mask:
    """(H, W) bool."""
    return coco_mask.decode(rle).astype(bool)


def iou(a: Mask, b: Mask) -> float:
    """Of two full-size masks; 1 if both are empty."""
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def check(folder: Path, options: argparse.Namespace, literal_run: dict[str, Any], extra: list[str]) -> None:
    """Both must say the same about the same objects."""
    some = [*extra, "--max-objects", str(literal_run["count"]), "--resamples", "0"]
    report = json.loads(subprocess.run(command(folder, options, some), stdout=subprocess.PIPE, check=True).stdout)
    for name, value in literal_run["means"].items():
        row, _, figure = name.rpartition(" ")
        got = (report["baselines"][row] if row else report["metrics"])[figure]
        if abs(got - value) > 1e-9:
            raise SystemExit(f"{name}: the literal implementation gives {value}, ours {got}")


def write_files(folder: Path, count: int) -> None:
    """Annotations in the canonical form and a predictions file that is nearly right."""
    rng = np.random.default_rng(0)
    annotations, predictions = [], []
    for index in range(count):
        image_id = index // OBJECTS_AN_IMAGE + 1
        amodal, visible, predicted, own = (_encoded(mask, corner) for mask, corner in _object(rng))
        common = {"image_id": image_id, "category_id": index % 7 + 1}
        annotations.append({"id": index + 1, "segmentation": amodal, "visible_mask": visible, **common})
        predictions.append(
            {"annotation_id": index + 1, "segmentation": predicted, "visible_segmentation": own, "score": 0.9, **common}
        )
    images = [
        {"id": i + 1, "file_name": f"{i:06d}.png", "height": SIZE[0], "width": SIZE[1]}
        for i in range(-(-count // OBJECTS_AN_IMAGE))
    ]
    categories = [{"id": i + 1, "name": f"kind {i}"} for i in range(7)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    (folder / "annotations.json").write_text(json.dumps(content))
    (folder / "predictions.json").write_text(json.dumps(predictions))


def _object(rng: np.random.Generator) -> list[tuple[Mask, tuple[int, int]]]:
    """Amodal, visible, predicted amodal and predicted visible mask, each in a window at a corner (x, y)."""
    h, w = (int(np.clip(rng.lognormal(4, 0.6), 12, 240)) for _ in range(2))  # as high as a car near and far
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    radius = 1 + 0.25 * rng.standard_normal(24)
    corner = (int(rng.integers(0, SIZE[1] - w)), int(rng.integers(0, SIZE[0] - h)))
    shapes = []
    for wobble in (0.0, 0.05):
        r = np.clip(radius + wobble * rng.standard_normal(24), 0.3, 1)
        points = np.stack([w / 2 * (1 + r * np.cos(angles)), h / 2 * (1 + r * np.sin(angles))], axis=1)
        canvas = np.zeros((h, w), np.uint8)
        cv2.fillPoly(canvas, [points.astype(np.int32)], 1)
        shapes.append(canvas.astype(bool))
    cut = int(w * rng.uniform(0.3, 1)) if rng.random() < 0.5 else w
    seen = [shape.copy() for shape in shapes]
    for mask in seen:
        mask[:, cut:] = False
    return [(mask, corner) for mask in (shapes[0], seen[0], shapes[1], seen[1])]


def _encoded(mask: Mask, corner: tuple[int, int]) -> dict[str, Any]:
    x, y = corner
    return encode_window(mask, (x, y, x + mask.shape[1], y + mask.shape[0]), SIZE)


def _cpu_of_children() -> float:
    """Processor seconds of all processes that have ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _watch(process: subprocess.Popen[bytes], peak: list[float]) -> None:
    """Largest resident size of a process and its children together, in MiB."""
    while process.poll() is None:
        try:
            root = psutil.Process(process.pid)
            total = sum(p.memory_info().rss for p in [root, *root.children(recursive=True)])
            peak[0] = max(peak[0], total / 2**20)
        except psutil.Error:
            pass  # one of them has just ended
        time.sleep(SAMPLE_SECONDS)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--objects", type=int, default=20_000)
    parser.add_argument("--literal", type=int, default=300, help="objects that the literal one is timed on each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, help="processes of ours; as many as pay by default")
    parser.add_argument("--quick", action="store_true", help="600 objects: shows that it runs, proves nothing")
    parser.add_argument("--json", action="store_true", help="JSON is what stdout gets in any case")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    options = parser.parse_args()
    if options.quick:
        options.objects, options.literal, options.rounds = 600, 100, 1
    return options


if __name__ == "__main__":
    main()
