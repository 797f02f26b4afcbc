"""The work folder: one dataset in the making, with its whole state in one SQLite file.

    WORK/state.db           images, objects, pairs, requests, reviews, leases, history
    WORK/annotations.json   the selected annotations in canonical form, for other programs
    WORK/images/            the selected images

Every change is one transaction, so that the process may be killed at any moment. Several processes
may open a folder at the same time (a generator, review pages); writers wait for each other.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from amodal.data.samples import ImageSample, ObjectSample
from amodal.datagen.store.database import VERSION, Database
from amodal.datagen.store.pairs import PairTable
from amodal.datagen.store.records import ImageState, SplitName, WorkImage
from amodal.datagen.store.requests import RequestTable
from amodal.datagen.store.reviews import ReviewTable
from amodal.errors import InputError
from amodal.io.files import require_empty_folder
from amodal.io.json_stream import annotation_file
from amodal.ops.rle import rle_box_xyxy

STATE_FILE = "state.db"
_COLUMNS = "id, file_name, height, width, split, state, tries, reason"


class WorkFolder:
    """An open work folder. Threads may share it; use it as a context manager or `close` it.

    Attributes:
        folder: path of the work folder.
        pairs: question-answer pairs and their history.
        reviews: reviews and leases.
        requests: requests to the backend.
    """

    def __init__(self, folder: Path, database: Database) -> None:
        """Use `open_work` or `create_work`."""
        self.folder = folder
        self._database = database
        self.pairs = PairTable(database)
        self.reviews = ReviewTable(database, self.pairs)
        self.requests = RequestTable(database)

    def __enter__(self) -> WorkFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the state file; the folder can be opened again."""
        self._database.close()

    @contextmanager
    def atomic(self) -> Iterator[None]:
        """Make all changes inside in one transaction, or none of them."""
        with self._database.transaction():
            yield

    def settings(self) -> dict[str, Any]:
        """Settings that the folder was made with, by name."""
        return {name: json.loads(value) for name, value in self._database.query("SELECT name, value FROM settings")}

    def set_settings(self, settings: dict[str, Any]) -> None:
        """Add or replace settings; values are stored as JSON."""
        with self._database.transaction() as connection:
            rows = [(name, json.dumps(value)) for name, value in settings.items()]
            connection.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", rows)

    def categories(self) -> dict[int, str]:
        """Category names by id."""
        return dict(self._database.query("SELECT id, name FROM categories ORDER BY id"))

    def add_category(self, category_id: int, name: str) -> None:
        """Add a category under a new id."""
        with self._database.transaction() as connection:
            connection.execute("INSERT INTO categories VALUES (?, ?)", (category_id, name))

    def images(self, *states: ImageState) -> Iterator[WorkImage]:
        """Images by id, read one page at a time; only those in one of `states` if any are given."""
        where = {"state": states} if states else {}
        yield from (WorkImage(*row) for row in self._database.pages("images", _COLUMNS, where))

    def image(self, image_id: int) -> WorkImage:
        """One image.

        Raises:
            InputError: no image has this id.
        """
        rows = self._database.query(f"SELECT {_COLUMNS} FROM images WHERE id = ?", (image_id,))
        if not rows:
            raise InputError(f"image: expected one of the work folder, got id {image_id}")
        return WorkImage(*rows[0])

    def image_state_counts(self) -> dict[str, int]:
        """Number of images by state, without states that no image is in."""
        return self._database.counts("images", "state")

    def image_path(self, image: WorkImage) -> Path:
        """Path of the image file."""
        return self.folder / "images" / image.file_name

    def add_image(
        self, image_id: int, file_name: str, size: tuple[int, int], split: SplitName, records: Sequence[dict[str, Any]]
    ) -> None:
        """Add an image and its objects.

        Args:
            image_id: a new id.
            file_name: name in the work folder's `images/`.
            size: (H, W) in pixels.
            split: side of the split.
            records: canonical annotations of its objects, each with a new id.
        """
        with self._database.transaction() as connection:
            sql = "INSERT INTO images (id, file_name, height, width, split) VALUES (?, ?, ?, ?, ?)"
            connection.execute(sql, (image_id, file_name, *size, split))
            rows = [(record["id"], image_id, json.dumps(record)) for record in records]
            connection.executemany("INSERT INTO objects (id, image_id, record) VALUES (?, ?, ?)", rows)

    def id_offset(self, table: Literal["images", "objects"], ids: Iterable[int]) -> int:
        """What to add to new ids so that none of them is taken: 0 if none is."""
        ((highest,),) = self._database.query(f"SELECT max(id) FROM {table}")
        lowest, clash = None, False
        for number in ids:
            lowest = number if lowest is None else min(lowest, number)
            clash = clash or bool(self._database.query(f"SELECT 1 FROM {table} WHERE id = ?", (number,)))
        return highest + 1 - lowest if clash and lowest is not None else 0

    def set_image_state(self, image_id: int, state: ImageState, reason: str | None = None) -> None:
        """Move an image to a state."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE images SET state = ?, reason = ? WHERE id = ?", (state, reason, image_id))

    def count_reply(self, image_id: int, state: ImageState, reason: str | None = None) -> None:
        """Move an image to a state after a reply about it, which counts as one of its tries."""
        with self._database.transaction() as connection:
            self.set_image_state(image_id, state, reason)
            connection.execute("UPDATE images SET tries = tries + 1 WHERE id = ?", (image_id,))

    def object_records(self, image_id: int) -> list[dict[str, Any]]:
        """Canonical annotations of an image, by id."""
        rows = self._database.query("SELECT record FROM objects WHERE image_id = ? ORDER BY id", (image_id,))
        return [json.loads(record) for (record,) in rows]

    def num_modal_objects(self) -> int:
        """Number of objects whose amodal mask is unknown, so that the visible mask stands for it."""
        sql = "SELECT count(*) FROM objects WHERE record LIKE '%\"amodal_unknown\": true%'"
        return int(self._database.query(sql)[0][0])

    def sample(self, image: WorkImage) -> ImageSample:
        """An image with its objects, in the form that dataset readers return."""
        objects = tuple(_object_sample(record) for record in self.object_records(image.id))
        return ImageSample(image.id, self.image_path(image), image.height, image.width, objects)

    def write_annotations(self, path: Path, keep: Callable[[int], bool] = lambda _: True) -> None:
        """Write images, objects and categories as one canonical file, with unchanged ids.

        Args:
            path: file to write; it appears complete or not at all.
            keep: whether to write the image with this id.
        """
        categories = [{"id": number, "name": name} for number, name in self.categories().items()]
        with annotation_file(path, {"info": {"description": "AmodalReasonSeg"}, "categories": categories}) as add:
            for image in self.images():
                if keep(image.id):
                    size = {"height": image.height, "width": image.width}
                    record = {"id": image.id, "file_name": image.file_name, **size, "split": image.split}
                    add(record, self.object_records(image.id))


def open_work(folder: str | Path) -> WorkFolder:
    """Open an existing work folder.

    Raises:
        InputError: the folder is not a work folder, or one of another version.
    """
    folder = Path(folder)
    path = folder / STATE_FILE
    if not path.is_file():
        raise InputError(f"work: expected a folder made by `amodal reasonseg generate`, got {str(folder)!r}")
    database = Database(path)
    version = database.version()
    if version != VERSION:
        database.close()
        raise InputError(f"work {path}: expected version {VERSION}, got {version}")
    return WorkFolder(folder, database)


def create_work(folder: str | Path) -> WorkFolder:
    """Make an empty work folder.

    Raises:
        InputError: the folder exists and is not empty.
    """
    folder = require_empty_folder(Path(folder), "work")
    folder.mkdir(parents=True, exist_ok=True)
    database = Database(folder / STATE_FILE)
    database.create_tables()
    return WorkFolder(folder, database)


def link_file(path: Path, target: Path) -> None:
    """Give a file a second name: a hard link where the disk allows it, otherwise a copy."""
    try:
        os.link(path.resolve(), target)
    except OSError:  # another disk, or a file system without hard links
        shutil.copyfile(path, target)


def _object_sample(record: dict[str, Any]) -> ObjectSample:
    return ObjectSample(
        id=record["id"],
        category_id=record["category_id"],
        visible_rle=record["visible_mask"],
        amodal_rle=record["segmentation"],
        visible_box_xyxy=rle_box_xyxy(record["visible_mask"]),
        amodal_box_xyxy=rle_box_xyxy(record["segmentation"]),
        occluders=tuple(record["occluders"]),
        attributes=record.get("attributes", {}),
    )
