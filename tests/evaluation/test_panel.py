"""Methods side by side: rows of image, truth and masks."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amodal.cli.main import main
from amodal.errors import InputError
from amodal.evaluation.matching import read_by_object
from amodal.evaluation.panel import draw_methods, example_objects
from amodal.evaluation.worst import CAPTION, OCCLUDED, PANEL, VISIBLE
from amodal.ops.rle import encode_empty
from tests.evaluation.toy_predictions import perfect, shifted, toy, write

SIDE = PANEL + 4


def columns(figure: np.ndarray, row: int = 0) -> list[np.ndarray]:
    """The panels of a row without captions."""
    lines = figure[row * (PANEL + CAPTION) : row * (PANEL + CAPTION) + PANEL]
    return [lines[:, start : start + SIDE] for start in range(0, figure.shape[1], SIDE)]


def test_each_object_is_a_row_of_image_truth_and_methods(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 3)
    records = perfect(dataset)
    moved = [r | {"segmentation": shifted(r["segmentation"], 5)} for r in records]
    nothing = [r | {"segmentation": encode_empty(r["segmentation"]["size"])} for r in records]
    few = [r for r in records if r["annotation_id"] != 1]
    files = {"right": records, "moved": moved, "nothing": nothing, "few": few}
    methods = {name: read_by_object(write(tmp_path / f"{name}.json", r), dataset) for name, r in files.items()}
    figure = draw_methods(dataset, methods, [(1, 1), (2, 4)])
    assert figure.shape == (2 * (PANEL + CAPTION), 6 * SIDE, 3) and figure.dtype == np.uint8
    image, truth, right, moved_column, nothing_column, few_column = columns(figure)
    assert np.array_equal(truth, right) and not np.array_equal(truth, image)
    assert not np.array_equal(truth, moved_column)
    assert np.array_equal(nothing_column, few_column)  # no mask; the caption says which of the two it is
    captions = figure[PANEL : PANEL + CAPTION]
    assert not np.array_equal(captions[:, 4 * SIDE : 5 * SIDE], captions[:, 5 * SIDE :])


def test_the_colours_are_those_of_visible_and_occluded_pixels(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 1)
    methods = {"right": read_by_object(write(tmp_path / "p.json", perfect(dataset)), dataset)}
    image, truth, _ = columns(draw_methods(dataset, methods, [(1, 1)]))
    is_visible, is_occluded = (
        (np.abs(truth - (0.315 * image + 0.55 * np.array(colour))) < 3).all(-1) for colour in (VISIBLE, OCCLUDED)
    )
    shown = is_occluded.sum() / (is_visible | is_occluded).sum()
    obj = dataset.images[0].objects[0]
    assert shown == pytest.approx(obj.occlusion_rate(), abs=0.03)


def test_without_names_the_first_occluded_objects_are_drawn(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 3)
    chosen = [(image.id, obj.id) for image, obj in example_objects(dataset, 2)]
    assert chosen == [(1, 1), (2, 3)]
    methods = {"right": read_by_object(write(tmp_path / "p.json", perfect(dataset)), dataset)}
    assert np.array_equal(draw_methods(dataset, methods, count=2), draw_methods(dataset, methods, chosen))


def test_the_command_writes_the_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, dataset = toy(tmp_path, 3)
    file = write(tmp_path / "p.json", perfect(dataset))
    base = ["evaluate", "panel", "--annotations", str(path), "--out", str(tmp_path / "figure.png")]
    assert main([*base, "--predictions", f"A={file}", "--predictions", f"B={file}", "--object", "2_3"]) == 0
    figure = np.asarray(Image.open(BytesIO((tmp_path / "figure.png").read_bytes())))
    assert figure.shape == (PANEL + CAPTION, 4 * SIDE, 3)
    (tmp_path / "figure.png").unlink()
    for extra, message in (
        (["--predictions", str(file)], "predictions: expected NAME=PATH"),
        (["--predictions", f"A={file}", "--predictions", f"A={file}"], "one name per method"),
        (["--predictions", f"A={file}", "--object", "2-3"], "object: expected imageid_annoid, got '2-3'"),
        (["--predictions", f"A={file}", "--object", "2_99"], "object: expected an annotated object"),
        (["--predictions", f"A={file}", "--out", str(tmp_path / "x.jpg")], "out: expected a PNG file"),
    ):
        capsys.readouterr()
        assert main([*base, *extra]) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.png"))


def test_no_method_and_no_occluded_object_raise(tmp_path: Path) -> None:
    _, dataset = toy(tmp_path, 1)
    with pytest.raises(InputError, match="expected predictions of one or more methods"):
        draw_methods(dataset, {})
    methods = {"right": read_by_object(write(tmp_path / "p.json", perfect(dataset)), dataset)}
    with pytest.raises(InputError, match="expected an object of which 10% to 70% is occluded"):
        draw_methods(dataset, methods, [])
