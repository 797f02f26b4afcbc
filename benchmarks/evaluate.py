"""`amodal evaluate --predictions` against the literal implementation: full-size masks, one object after another.

20,000 objects on pictures of KINS' size (375 x 1242). Ours is the whole command in a process of
its own: start, both files, scoring, intervals, report; once with the model's row alone, once with
the baselines that stand beside it by default. The literal one reads the same two files, decodes
four masks an object to the image's size and takes the protocol's formulas at their word; it is
timed on a part of the objects, half before and half after ours, and scaled to all of them. It
draws no intervals and counts no ranges, so the comparison is to its advantage.

Where neighbours take turns on the cores, the ratio of processor seconds is the steadier one (it
also hides what several processes gain). Memory is the resident size of our command and all its processes together, sampled; pages they
share are counted for each.

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

from amodal.evaluation.answers import encode_window

SIZE = (375, 1242)  # (H, W) of KINS' pictures
OBJECTS_AN_IMAGE = 8
SAMPLE_SECONDS = 0.02
KINDS = {"evaluate": ["--no-baselines"], "evaluate, with baselines": list[str]()}
Mask = np.ndarray


def main() -> None:
    """Make the files, time both, print."""
    options = _options()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, options.objects)
        timed = min(options.literal, options.objects)
        before = literal(folder, 0, timed // 2)
        ours = [run_ours(folder, options, what, extra) for what, extra in KINDS.items()]
        after = literal(folder, timed // 2, timed)
        check(folder, options, before)
    per_object, cpu_per_object = ((before[k] + after[k]) / timed for k in ("scoring", "cpu_scoring"))
    whole, cpu = (
        before["reading"] + per_object * options.objects,
        before["cpu_reading"] + cpu_per_object * options.objects,
    )
    rows = [{"what": "literal, full size", "seconds": whole, "cpu_seconds": cpu, "peak_mib": None}, *ours]
    rows = [row | {"ratio": whole / row["seconds"], "cpu_ratio": cpu / row["cpu_seconds"]} for row in rows]
    finish(
        "evaluate",
        options,
        [
            {key: row[key] for key in ("what", "seconds", "ratio", "cpu_seconds", "cpu_ratio", "peak_mib")}
            for row in rows
        ],
        objects=options.objects,
        size=list(SIZE),
        literal_objects_timed=timed,
        literal_seconds_an_object=per_object,
        ratio=rows[1]["ratio"],
        cpu_ratio=rows[1]["cpu_ratio"],
        peak_gib=rows[1]["peak_mib"] / 1024,
    )


def run_ours(folder: Path, options: argparse.Namespace, what: str, extra: list[str]) -> dict[str, Any]:
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
    return {"what": what, "seconds": seconds, "cpu_seconds": _cpu_of_children() - before, "peak_mib": peak[0]}


def command(folder: Path, options: argparse.Namespace, extra: list[str]) -> list[str]:
    """`amodal evaluate` on the files of this benchmark."""
    files = ["--annotations", str(folder / "annotations.json"), "--predictions", str(folder / "predictions.json")]
    workers = [] if options.workers is None else ["--workers", str(options.workers)]
    return [sys.executable, "-m", "amodal", "evaluate", *files, *workers, *extra, "--json"]


def literal(folder: Path, start: int, stop: int) -> dict[str, Any]:
    """The protocol at its word on objects `start` to `stop`: seconds to read and to score, and the means."""
    begin, cpu_begin = time.perf_counter(), time.process_time()
    truth = json.loads((folder / "annotations.json").read_text())["annotations"]
    found = {p["annotation_id"]: p for p in json.loads((folder / "predictions.json").read_text())}
    read, cpu_read = time.perf_counter(), time.process_time()
    full, occ, visible = list[float](), list[float](), list[float]()
    for record in truth[start:stop]:
        prediction = found[record["id"]]
        G, V = decode(record["segmentation"]), decode(record["visible_mask"])
        P, W = decode(prediction["segmentation"]), decode(prediction["visible_segmentation"])
        full.append(iou(P, G))
        visible.append(iou(W, V))
        if (G & ~V).any():
            occ.append(iou(P & ~V, G & ~V))
    end, cpu_end = time.perf_counter(), time.process_time()
    means = {"mIoU_full": np.mean(full), "mIoU_occ": np.mean(occ), "mIoU_visible": np.mean(visible)}
    return {
        "reading": read - begin,
        "scoring": end - read,
        "cpu_reading": cpu_read - cpu_begin,
        "cpu_scoring": cpu_end - cpu_read,
        "count": stop - start,
        "means": means,
    }


def decode(rle: dict[str, Any]) -> Mask:
    """(H, W) bool."""
    return coco_mask.decode(rle).astype(bool)


def iou(a: Mask, b: Mask) -> float:
    """Of two full-size masks; 1 if both are empty."""
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def check(folder: Path, options: argparse.Namespace, expected: dict[str, Any]) -> None:
    """Both must say the same about the same objects."""
    extra = ["--max-objects", str(expected["count"]), "--no-baselines", "--resamples", "0"]
    report = json.loads(subprocess.run(command(folder, options, extra), stdout=subprocess.PIPE, check=True).stdout)
    for name, value in expected["means"].items():
        if abs(report["metrics"][name] - value) > 1e-9:
            raise SystemExit(f"{name}: the literal implementation gives {value}, ours {report['metrics'][name]}")


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
    parser.add_argument("--literal", type=int, default=2000, help="objects that the literal one is timed on")
    parser.add_argument("--workers", type=int, help="processes of ours; as many as pay by default")
    parser.add_argument("--quick", action="store_true", help="600 objects: shows that it runs, proves nothing")
    parser.add_argument("--json", action="store_true", help="JSON is what stdout gets in any case")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    options = parser.parse_args()
    if options.quick:
        options.objects, options.literal = 600, 200
    return options


if __name__ == "__main__":
    main()
