"""Small work folders and annotation files for tests."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from amodal.data.formats.canonical import write_canonical
from amodal.datagen.store.records import Draft
from amodal.datagen.store.work_folder import STATE_FILE, WorkFolder, create_work
from amodal.synthetic.generate import object_record
from amodal.synthetic.scenes import SyntheticObject
from tests.data.toy import write_toy

QUESTION = "Which square would fall first?"


def answer(red: int) -> str:
    return f"<p>The red square</p> {{seg:{red}}}, behind <p>a green one</p> {{seg:{red + 1}}}."


def toy_work(folder: Path, pairs: int = 3, drafts: dict[int, Draft] | None = None) -> WorkFolder:
    """Make `folder/work` with checked pairs 1, 2, ... about images 1 and 2 in turn.

    Image 1 has annotations 1 (red, partly occluded) and 2 (green), image 2 has 3 and 4.

    Args:
        folder: where to make it.
        pairs: number of pairs.
        drafts: other texts, by pair id.
    """
    source = write_toy(folder / "source", count=2)
    content = json.loads(source.read_text())
    work = create_work(folder / "work")
    shutil.copytree(source.parent / "images", work.folder / "images")
    for category in content["categories"]:
        work.add_category(category["id"], category["name"])
    for image in content["images"]:
        records = [record for record in content["annotations"] if record["image_id"] == image["id"]]
        work.add_image(image["id"], image["file_name"], (image["height"], image["width"]), "train", records)
    for number in range(1, pairs + 1):
        image_id = 1 + (number - 1) % 2
        draft = (drafts or {}).get(number) or Draft(QUESTION, answer(2 * image_id - 1))
        work.pairs.add_drafts(image_id, [draft], [1 + (number - 1) // 2], "template")
        work.pairs.set_state(number, "checked", "check")
    return work


def execute_sql(work: WorkFolder, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run one SQL statement on a work folder's state, as another program could."""
    with closing(sqlite3.connect(work.folder / STATE_FILE)) as connection, connection:
        return connection.execute(sql, values).fetchall()


def write_many(folder: Path, count: int, size: int = 32) -> Path:
    """Write `count` images of one square behind another under different names; returns the annotation file."""
    (folder / "images").mkdir(parents=True)
    back, front = np.zeros((size, size), bool), np.zeros((size, size), bool)
    back[4:20, 4:20] = True
    front[12:28, 12:28] = True
    image = np.full((size, size, 3), 40, np.uint8)
    image[back], image[front] = (220, 40, 40), (40, 220, 40)
    cv2.imwrite(str(folder / "image.png"), image[..., ::-1])
    objects = [SyntheticObject("mug", back & ~front, back, [1]), SyntheticObject("book", front, front)]
    records = [object_record(obj, j, j + 1) for j, obj in enumerate(objects)]
    images = []
    for number in range(count):
        name = f"{number:06d}.png"
        os.link(folder / "image.png", folder / "images" / name)
        images.append(({"file_name": name, "height": size, "width": size}, [dict(record) for record in records]))
    path = folder / "annotations.json"
    write_canonical(path, {}, ["mug", "book"], images)
    return path
