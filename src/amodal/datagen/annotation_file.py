"""The work folder's annotations as a canonical file that other programs open."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from amodal.data.files import appearing
from amodal.datagen.manifest import Manifest
from amodal.datagen.records import WorkImage


def write_annotations(manifest: Manifest, path: Path, keep: Callable[[int], bool] = lambda _: True) -> None:
    """Write images, objects and categories, streaming; ids stay what they are.

    Args:
        manifest: the work folder.
        path: file to write; it appears whole or not at all.
        keep: says of an image's id whether it is wanted.
    """
    named = [{"id": number, "name": name} for number, name in manifest.categories().items()]
    with appearing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(f'{{"info": {{"description": "AmodalReasonSeg"}},\n"categories": {json.dumps(named)},\n"images": [')
        separator = "\n"
        for image in _images(manifest, keep):
            size = {"height": image.height, "width": image.width}
            record = {"id": image.id, "file_name": image.file_name, **size, "split": image.split}
            file.write(separator + json.dumps(record))
            separator = ",\n"
        file.write('\n],\n"annotations": [')
        separator = "\n"
        for image in _images(manifest, keep):
            for record in manifest.object_records(image.id):
                file.write(separator + json.dumps(record))
                separator = ",\n"
        file.write("\n]}\n")


def _images(manifest: Manifest, keep: Callable[[int], bool]) -> Iterator[WorkImage]:
    return (image for image in manifest.images() if keep(image.id))
