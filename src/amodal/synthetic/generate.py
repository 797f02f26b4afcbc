"""Writing a dataset of synthetic images to disk; resumable, and the same for the same seed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2

from amodal.data.datasets import read_dataset
from amodal.data.formats.canonical import canonical_record, write_canonical
from amodal.data.splits import Split, select_split
from amodal.errors import InputError
from amodal.io.files import one_writer, write_atomic
from amodal.io.json_stream import read_json
from amodal.io.processes import in_processes
from amodal.io.progress import progress_bar
from amodal.ops.rle import encode_mask
from amodal.synthetic.paste import PastedOccluders
from amodal.synthetic.scenes import SyntheticImage, SyntheticObject, render_scene
from amodal.synthetic.shapes import SHAPES

Kind = Literal["scenes", "paste"]
JPEG_QUALITY = 92
PARTS = ".parts"  # records of finished images, until the annotation file is written


def synthesize(
    kind: Kind,
    count: int,
    seed: int,
    out: Path,
    *,
    sources: Sequence[tuple[Path, Path | None]] = (),
    split: Split = "all",
    exclude_categories: Sequence[str] = (),
    workers: int = 1,
    progress: bool = True,
) -> Path:
    """Write synthetic images to `out/images/` and their canonical annotations to `out/annotations.json`.

    Image i depends on (seed, i) alone. An interrupted run resumes and ends with the same bytes.

    Args:
        kind: procedural `scenes`, or `paste` for photographs with pasted occluders.
        count: number of images.
        seed: seed of the dataset.
        out: folder to create; it may hold an interrupted run with the same settings.
        sources: COCO annotation files and image folders (`paste` only).
        split: part of the photographs to use (`paste` only).
        exclude_categories: names of categories to leave out (`paste` only).
        workers: number of processes; with more than one, a script must call this under `if __name__ == "__main__"`.
        progress: show a bar on stderr.

    Returns:
        Path of the annotation file.

    Raises:
        InputError: the settings do not fit together, a source cannot be read, or the folder holds something else.
    """
    if kind not in ("scenes", "paste"):
        raise InputError(f"kind: expected 'scenes' or 'paste', got {kind!r}")
    for name, number, least in (("count", count, 1), ("seed", seed, 0), ("workers", workers, 1)):
        if number < least:
            raise InputError(f"{name}: expected {least} or more, got {number}")
    if kind == "paste" and not sources:
        raise InputError("annotations: expected photographs in COCO form for kind paste, got none")
    if kind == "scenes" and (sources or split != "all" or exclude_categories):
        name = "annotations" if sources else "split" if split != "all" else "exclude_categories"
        raise InputError(f"{name}: expected for kind paste only, got it for scenes, which have no photographs")
    settings = {
        "kind": kind, "count": count, "seed": seed, "split": split,
        "exclude_categories": sorted(exclude_categories), "sources": [[str(p) for p in source] for source in sources],
    }  # fmt: skip
    painter = _Painter(kind, seed, out, sources, split, tuple(exclude_categories))
    with one_writer(out):
        _prepare(out, settings)
        todo = [i for i in range(count) if not _part(out, i).exists()]
        steps = in_processes(painter, todo, workers)
        for _ in progress_bar(steps, kind, progress, len(todo)):
            pass
        info = {"description": f"amodal {kind}", **{k: settings[k] for k in ("kind", "seed", "split", "count")}}
        write_canonical(out / "annotations.json", info, painter.categories, _records(out, count))
        for index in range(count):  # the settings are deleted last, so that a run that is killed here can resume
            _part(out, index).unlink()
        shutil.rmtree(out / PARTS)
        return out / "annotations.json"


class _Painter:
    """Renders and stores one image; sent to each process once."""

    def __init__(
        self,
        kind: Kind,
        seed: int,
        out: Path,
        sources: Sequence[tuple[Path, Path | None]],
        split: Split,
        exclude: tuple[str, ...],
    ) -> None:
        self.seed, self.out = seed, out
        self._render: Callable[[Sequence[int]], SyntheticImage] = render_scene
        self.categories = list(SHAPES)
        if kind == "paste":
            datasets = [select_split(read_dataset("coco", *source), split) for source in sources]
            maker = PastedOccluders(datasets, exclude)
            self._render, self.categories = maker.render, maker.categories

    def __call__(self, index: int) -> int:
        made = self._render((self.seed, index))
        name = f"{index:06d}.jpg"
        bgr = cv2.cvtColor(made.image, cv2.COLOR_RGB2BGR)
        _, code = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        height, width = made.image.shape[:2]
        record = {
            "image": {"file_name": name, "height": height, "width": width},
            "objects": [
                object_record(obj, i, 1 + self.categories.index(obj.category)) for i, obj in enumerate(made.objects)
            ],
        }
        write_atomic(self.out / "images" / name, code.tobytes())
        write_atomic(_part(self.out, index), json.dumps(record))
        return index


def object_record(obj: SyntheticObject, index: int, category_id: int) -> dict[str, Any]:
    """The canonical record of a synthetic object whose ids are positions in its image, as `write_canonical` takes it.

    Args:
        obj: object with exact masks.
        index: its position in the image.
        category_id: key of its category.
    """
    return canonical_record(
        index,
        0,
        category_id,
        encode_mask(obj.visible_mask),
        encode_mask(obj.amodal_mask),
        occluders=obj.occluders,
        attributes=obj.attributes,
    )


def _prepare(out: Path, settings: dict[str, Any]) -> None:
    """Create the folder, or check that it holds an interrupted run of the same settings."""
    marker = out / PARTS / "settings.json"
    if marker.exists():
        found = read_json(marker, "out")
        if found != settings:
            differing = {key: found.get(key) for key in settings if found.get(key) != settings[key]}
            wanted = {key: settings[key] for key in differing}
            raise InputError(f"out {out}: expected an interrupted run of {wanted}, got {differing}")
    elif out.exists() and not out.is_dir():
        raise InputError(f"out: expected a new or empty folder, got the file {str(out)!r}")
    elif out.exists() and any(path.name != PARTS for path in out.iterdir()):
        raise InputError(f"out: expected a new or empty folder, got {str(out)!r}, which holds files")
    (out / PARTS).mkdir(parents=True, exist_ok=True)
    write_atomic(marker, json.dumps(settings))
    (out / "images").mkdir(exist_ok=True)


def _records(out: Path, count: int) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    for index in range(count):
        record = json.loads(_part(out, index).read_text())
        yield record["image"], record["objects"]


def _part(out: Path, index: int) -> Path:
    return out / PARTS / f"{index:06d}.json"
