"""Scenes as a dataset of YOLO segmentation labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import yaml

from amodal.inference.exports.coco import class_name
from amodal.inference.results import Results
from amodal.inference.scene import Scene
from amodal.io.frames import unique_stems

HEADER = """\
# Put the images into images/. Amodal masks overlap: ultralytics needs overlap_mask=False to train on them.
"""


def write_yolo(results: Results, folder: Path) -> None:
    """Write `labels/<image>.txt` with the outlines of the amodal masks, and `data.yaml` with the names of the classes.

    Classes are numbered from 0 in the order of the source's class ids, or of their names where there are no ids.
    """
    names = _class_names(results)
    (folder / "labels").mkdir()
    stems = unique_stems(result.name for result in results)
    for result, stem in zip(results, stems, strict=True):
        scene = result.scene
        named = Scene([replace(obj, name=class_name(obj)) for obj in scene], scene.size)
        lines = named.to_yolo("amodal", names)
        (folder / "labels" / f"{stem}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    content = {"train": "images", "val": "images", "names": dict(enumerate(names))}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (folder / "data.yaml").write_text(HEADER + text, encoding="utf-8")


def _class_names(results: Results) -> list[str]:
    if results.categories is not None:
        return [results.categories[number] for number in sorted(results.categories)]
    classes: set[tuple[int, str]] = set()
    for result in results:
        classes |= {(-1 if obj.class_id is None else obj.class_id, class_name(obj)) for obj in result.scene}
    numbered = all(number >= 0 for number, _ in classes)
    return list(dict.fromkeys(name for _, name in sorted(classes, key=lambda c: (c[0] if numbered else 0, c[1]))))
