"""The work folder's annotations as a canonical file that other programs open."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from amodal.datagen.manifest import Manifest
from amodal.datagen.records import SplitName, WorkImage


def write_annotations(manifest: Manifest, path: Path, split: SplitName | None = None) -> None:
    """Write images, objects and categories, streaming; ids stay what they are.

    Args:
        manifest: the work folder.
        path: file to write; it appears whole or not at all.
        split: only images on this side.
    """
    temporary = path.with_name(path.name + ".writing")
    named = [{"id": number, "name": name} for number, name in manifest.categories().items()]
    with temporary.open("w", encoding="utf-8") as file:
        file.write(f'{{"info": {{"description": "AmodalReasonSeg"}},\n"categories": {json.dumps(named)},\n"images": [')
        separator = "\n"
        for image in _images(manifest, split):
            size = {"height": image.height, "width": image.width}
            record = {"id": image.id, "file_name": image.file_name, **size, "split": image.split}
            file.write(separator + json.dumps(record))
            separator = ",\n"
        file.write('\n],\n"annotations": [')
        separator = "\n"
        for image in _images(manifest, split):
            for record in manifest.object_records(image.id):
                file.write(separator + json.dumps(record))
                separator = ",\n"
        file.write("\n]}\n")
    os.replace(temporary, path)


def _images(manifest: Manifest, split: SplitName | None) -> Iterator[WorkImage]:
    return (image for image in manifest.images() if split in (None, image.split))
