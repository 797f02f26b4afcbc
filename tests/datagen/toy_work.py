"""A work folder small enough for unit tests: two pictures of two squares, pairs that passed the check."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from amodal.datagen.store.manifest import Manifest, create_work
from amodal.datagen.store.records import Draft
from tests.data.toy import write_toy

QUESTION = "Which square would fall first?"


def answer(red: int) -> str:
    return f"<p>The red square</p> {{seg:{red}}}, behind <p>a green one</p> {{seg:{red + 1}}}."


def toy_work(folder: Path, pairs: int = 3, drafts: dict[int, Draft] | None = None) -> Manifest:
    """Make `folder/work` with checked pairs 1, 2, ... on pictures 1 and 2 in turn.

    Picture 1 has annotations 1 (red, partly hidden) and 2 (green), picture 2 has 3 and 4.

    Args:
        folder: where to make it.
        pairs: how many.
        drafts: other texts, by pair id.
    """
    source = write_toy(folder / "source", count=2)
    content = json.loads(source.read_text())
    work = create_work(folder / "work")
    shutil.copytree(source.parent / "images", work.folder / "images")
    with work.transaction() as connection:
        connection.executemany(
            "INSERT INTO categories VALUES (?, ?)", [(c["id"], c["name"]) for c in content["categories"]]
        )
        connection.executemany(
            "INSERT INTO images (id, file_name, height, width, split) VALUES (?, ?, ?, ?, 'train')",
            [(i["id"], i["file_name"], i["height"], i["width"]) for i in content["images"]],
        )
        connection.executemany(
            "INSERT INTO objects VALUES (?, ?, ?)",
            [(a["id"], a["image_id"], json.dumps(a)) for a in content["annotations"]],
        )
    for number in range(1, pairs + 1):
        image = 1 + (number - 1) % 2
        draft = (drafts or {}).get(number) or Draft(QUESTION, answer(2 * image - 1))
        work.add_drafts(image, [draft], [1 + (number - 1) // 2], "template")
        work.set_state(number, "checked", "check")
    return work
