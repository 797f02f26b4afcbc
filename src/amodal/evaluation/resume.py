"""Predicting in parts: what a stopped run has predicted is kept, and several processes share the images."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amodal.data.formats.c2f import PROMPT_BOX
from amodal.data.samples import AnnotatedDataset, ImageSample, ObjectSample
from amodal.errors import InputError
from amodal.evaluation.predictions import MaskPrediction
from amodal.evaluation.rows import Row
from amodal.evaluation.selection import ObjectSelection
from amodal.io.files import content_digest, one_writer, write_atomic

Saved = dict[str, dict[int, MaskPrediction | None]]
"""Predictions by the `inputs_digest` of their image, then by object."""


@dataclass(frozen=True)
class Processes:
    """The processes of `accelerate launch` that run the same evaluation.

    Attributes:
        rank: number of this process, from 0.
        count: number of processes.
        state: Accelerate's state; None for a single process.
    """

    rank: int = 0
    count: int = 1
    state: Any = None

    @classmethod
    def launched(cls, device: str = "auto") -> Processes:
        """Return the processes of the launcher; a single one without a launcher.

        Args:
            device: device that the user wants; on `cpu` no GPU is used for the processes either.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls()
        import torch  # slow to import like accelerate, and only needed for this
        from accelerate import PartialState

        state = PartialState(cpu=device == "cpu" or not torch.accelerator.is_available())
        return cls(state.process_index, state.num_processes, state)

    def device(self, wanted: str) -> str:
        """Return the device of this process: its own GPU where the user leaves the choice open."""
        return str(self.state.device) if self.state is not None and wanted in ("auto", "cuda") else wanted

    @contextmanager
    def one_writer(self, path: Path | None) -> Iterator[None]:
        """Hold the lock of the output of all processes, in the first one; nothing for a run without an output.

        Raises:
            InputError: another run writes to it.
        """
        with nullcontext() if path is None or self.rank else one_writer(path):
            yield

    def wait(self) -> None:
        """Wait until all processes have come here."""
        if self.state is not None:
            self.state.wait_for_everyone()


class ResumableRow:
    """A row that saves its predictions to files as they are made, one file per process.

    The first line of a file states what all predictions depend on; a file with another first line does not count. Each
    other line has the predictions of an image and the digest of what they depend on beside that (`inputs_digest`).
    Images whose line is complete in any of the files are not predicted again, so a stopped run can be resumed with any
    number of processes. An image with other content or other annotations, or with a damaged line, is predicted again.

    Args:
        row: makes the predictions.
        path: file of the first process; those of the others have their rank before the suffix. `finish` deletes them.
        settings: content of the first line.
        processes: processes that share the images.
    """

    def __init__(self, row: Row, path: Path, settings: dict[str, Any], processes: Processes | None = None) -> None:
        self._row, self._path, self._processes = row, path, processes or Processes()
        rank = self._processes.rank
        self._own = path.with_name(f"{path.stem}.{rank}{path.suffix}") if rank else path
        self._started = False
        self._header = json.dumps(settings, sort_keys=True).encode()
        self._content = b"\n".join(self._lines(self._own)) + b"\n"
        self._saved = self._read()

    def __call__(self, image: ImageSample, objects: Sequence[ObjectSample]) -> list[MaskPrediction | None]:
        """Return the saved predictions of an image, or make and save them."""
        inputs = inputs_digest(image, objects)
        if inputs in self._saved:
            saved = self._saved[inputs]
            return [saved[obj.id] for obj in objects]
        predictions = self._row(image, objects)
        plain = [None if p is None else (p.amodal, p.visible, p.score) for p in predictions]
        answers = [(obj.id, p) for obj, p in zip(objects, plain, strict=True)]
        record = {"image_id": image.id, "inputs": inputs, "answers": answers}
        if not self._started:  # not before the first prediction, so that a run with invalid input writes nothing
            write_atomic(self._own, self._content)
            self._started = True
        with self._own.open("ab") as file:
            file.write(json.dumps(record).encode() + b"\n")
        return predictions

    def predict_share(self, dataset: AnnotatedDataset, selection: ObjectSelection, progress: bool) -> bool:
        """Predict the images of this process, and wait for the other processes.

        Returns:
            Whether this is the first process, which now has the predictions of all.

        Raises:
            InputError: as `ObjectSelection.iterate`.
        """
        rank, count = self._processes.rank, self._processes.count
        self._processes.wait()  # all processes have read the same files before one of them writes
        position = 0
        for image, objects in selection.iterate(dataset, progress and rank == 0):
            if inputs_digest(image, objects) not in self._saved:
                if position % count == rank:
                    self(image, objects)
                position += 1
        self._processes.wait()
        self._saved = self._read()
        return rank == 0

    def finish(self) -> None:
        """Delete the files; call it once the report is complete."""
        for path in self._paths():
            path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        """The files of all processes of this run and of stopped ones."""
        others = self._path.parent.glob(f"{self._path.stem}.*{self._path.suffix}")
        ranked = (p for p in others if p.name.removeprefix(f"{self._path.stem}.").split(".")[0].isdecimal())
        return [self._path, *sorted(ranked)]

    def _lines(self, path: Path) -> list[bytes]:
        """The complete lines of a file, beginning with the first line of this run."""
        # The part after the last line break is empty, or a line that was cut off when the run was stopped.
        lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
        return lines if lines and lines[0] == self._header else [self._header]

    def _read(self) -> Saved:
        saved: Saved = {}
        for path in self._paths():
            for line in self._lines(path)[1:]:
                with suppress(ValueError, KeyError, TypeError, RecursionError):  # a damaged line: predicted again
                    record = json.loads(line)
                    saved[record["inputs"]] = {
                        i: None if masks is None else MaskPrediction(*masks) for i, masks in record["answers"]
                    }
        return saved


def inputs_digest(image: ImageSample, objects: Sequence[ObjectSample]) -> str:
    """Return a fingerprint of what the predictions for some objects of an image depend on.

    It is about the objects with their prompts, and about the image file as its name, size and time of change state it:
    neither masks nor images are decoded.
    """
    try:
        status = image.path.stat()
        file = (status.st_size, status.st_mtime_ns)
    except OSError:  # reported when the image is loaded
        file = (0, 0)
    prompts = [
        (obj.id, obj.visible_box_xyxy, obj.amodal_box_xyxy, obj.attributes.get(PROMPT_BOX), obj.visible_rle["counts"])
        for obj in objects
    ]
    return hashlib.sha256(repr((image.id, str(image.path), image.size, file, prompts)).encode()).hexdigest()[:16]


def digests(**files: str | Path | None) -> dict[str, str]:
    """Return fingerprints of the files that predictions depend on, by name; a file that is not used has none."""
    return {name: content_digest(Path(file)) for name, file in files.items() if file}


def check_launch(processes: Processes, resume_file: Path | None) -> None:
    """Raise `InputError` if several processes have no file in which to put their predictions."""
    if processes.count > 1 and resume_file is None:
        raise InputError(f"out: expected --out with a model scored by {processes.count} processes, got none")
