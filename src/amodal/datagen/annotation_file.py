"""The work folder's annotations as a canonical file that other programs open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from amodal.datagen.store.manifest import Manifest
from amodal.io.json_stream import annotation_file


def write_annotations(manifest: Manifest, path: Path, keep: Callable[[int], bool] = lambda _: True) -> None:
    """Write images, objects and categories, streaming; ids stay what they are.

    Args:
        manifest: the work folder.
        path: file to write; it appears whole or not at all.
        keep: says of an image's id whether it is wanted.
    """
    named = [{"id": number, "name": name} for number, name in manifest.categories().items()]
    with annotation_file(path, {"info": {"description": "AmodalReasonSeg"}, "categories": named}) as add:
        for image in manifest.images():
            if keep(image.id):
                size = {"height": image.height, "width": image.width}
                record = {"id": image.id, "file_name": image.file_name, **size, "split": image.split}
                add(record, manifest.object_records(image.id))
