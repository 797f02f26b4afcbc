"""Where `amodal evaluate` writes, and the checks before its work that no output replaces an input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from amodal.cli.options import require_no_image
from amodal.errors import InputError
from amodal.io.files import is_file, require_file, require_folder, require_no_input

if TYPE_CHECKING:
    from amodal.data.samples import AnnotatedDataset


def output_folder(out: Path | None, inputs: Sequence[Path | None]) -> Path | None:
    """Check the output path before the work starts.

    Returns:
        The folder to write to; None if nothing is written, or the report alone.

    Raises:
        InputError: the path cannot be written to, or a file that is written is one of the inputs.
    """
    if out is None:
        return None
    if is_folder(out):
        require_folder(out)
    existing = next(parent for parent in (out.absolute(), *out.absolute().parents) if parent.exists())
    if not existing.is_dir() and existing != out.absolute():
        raise InputError(f"out: expected a folder that can be made, got {str(out)!r}, but {str(existing)!r} is a file")
    if not is_folder(out) and out.is_dir():
        raise InputError(f"out: expected a file, got the folder {str(out)!r}")
    for path in _written(out):
        require_no_input(path, inputs)
    return out if is_folder(out) else None


def _written(out: Path | None) -> list[Path]:
    """The files that are written for an output path, beside the answers of `evaluate answers`."""
    if out is None:
        return []
    report = [out / name for name in ("report.json", "table.txt", "plot.png")] if is_folder(out) else [out]
    return [*report, *filter(None, [resume_file_of(out)])]


def resume_file_of(out: Path | None) -> Path | None:
    """The file for the predictions of a run that may be stopped: inside the output folder, or beside the report."""
    if out is None:
        return None
    return out / "answers.partial.jsonl" if is_folder(out) else out.with_name(f"{out.stem}.partial.jsonl")


def is_folder(out: Path) -> bool:
    """Whether an output path is a folder; otherwise it is the JSON file of the report."""
    return out.suffix != ".json"


def check_saved(saved: Path | None, out: Path | None, inputs: Sequence[Path | None], dataset: AnnotatedDataset) -> None:
    """Check before the work starts that the predictions can be written, and replace no input and no other output.

    Raises:
        InputError: they cannot, or they do.
    """
    if saved is None:
        return
    if saved.resolve() in [path.resolve() for path in _written(out)]:
        raise InputError(f"save-predictions: expected another file than that of the report, got {str(saved)!r}")
    require_file(require_no_input(saved, inputs, "save-predictions"), "save-predictions")
    require_no_image(saved, dataset, "save-predictions")


def boxes_file(box_source: str | None) -> Path | None:
    """The file of `predicted:FILE`; None for another source."""
    name, _, file = (box_source or "").partition(":")
    return Path(file) if name == "predicted" and file else None


def model_files(*names: str | None) -> list[Path]:
    """The models that are named by the path of a file, as checkpoints are."""
    return [Path(name) for name in names if name and is_file(Path(name))]
