"""Several reports make one table and one plot."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amodal.cli.main import main
from amodal.errors import InputError
from amodal.evaluation.report import EvaluationReport
from amodal.evaluation.tables import RunTable

COUNTS = {"incremental": 1_234, "base": 90_000, "total": 91_234}


def save(path: Path, full: float, occ: float | None, objects: str = "kins", **options: Any) -> str:
    about = {"model": "m", "format": objects, "objects_sha256": objects} | options
    metrics = {"mIoU_full": full, "mIoU_occ": occ, "num_objects": 1500, "num_occluded": 3}
    protocol = options.get("protocol", "c2f")
    return str(EvaluationReport(protocol, about, metrics).save(path))


def test_reports_of_one_label_share_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        "B=" + save(tmp_path / "1.json", 0.8691, 0.59744, parameters=COUNTS),
        "B=" + save(tmp_path / "2.json", 0.8143, 0.2967, "cocoa", parameters=COUNTS),
        "other=" + save(tmp_path / "3.json", 0.5, None, "cocoa"),
    ]
    assert main(["evaluate", "report", *runs, "--out", str(tmp_path / "out")]) == 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert table.splitlines() == [
        "mIoU_full / mIoU_occ in percent, protocol c2f",
        "",
        "| row | kins, 1,500 objects | cocoa, 1,500 objects | incremental | total |",
        "| --- | --- | --- | --- | --- |",
        "| B | 86.91 / 59.74 | 81.43 / 29.67 | 1,234 | 91,234 |",
        "| other |  | 50.00 / – |  |  |",
    ]
    assert np.asarray(Image.open(tmp_path / "out" / "figure1.png")).std() > 5


def test_the_plot_has_the_models_whose_size_is_known(tmp_path: Path) -> None:
    known = "a=" + save(tmp_path / "1.json", 0.2, 0.1, parameters=COUNTS)
    unknown = "b=" + save(tmp_path / "2.json", 0.9, 0.8)
    plots = [np.asarray(Image.open(BytesIO(RunTable.read(r).plot_png()))) for r in ([known], [known, unknown])]
    assert np.array_equal(*plots)
    with pytest.raises(InputError, match="expected a report of a model with its number of parameters, got none"):
        RunTable.read([unknown]).plot_png()
    RunTable.read([unknown]).save_folder(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["table.md"]


def test_a_path_may_contain_an_equals_sign(tmp_path: Path) -> None:
    path = save(tmp_path / "lr=0.1.json", 0.2, 0.1)
    assert list(RunTable.read([path]).rows) == ["m"]
    assert list(RunTable.read([f"slow={path}"]).rows) == ["slow"]


def test_reports_that_do_not_fit_raise(tmp_path: Path) -> None:
    one, same = save(tmp_path / "1.json", 0.2, 0.1), save(tmp_path / "2.json", 0.3, 0.1)
    other = save(tmp_path / "3.json", 0.2, 0.1, protocol="strict")
    with pytest.raises(InputError, match="expected one report per row and set of objects, got a second one of 'm'"):
        RunTable.read([one, same])
    with pytest.raises(InputError, match="3.json: expected the protocol c2f, got strict"):
        RunTable.read([one, f"x={other}"])
    with pytest.raises(InputError, match="expected the protocol one of strict, c2f, cumulative, got amodal_ap"):
        RunTable.read([save(tmp_path / "4.json", 0.2, 0.1, protocol="amodal_ap")])
    with pytest.raises(InputError, match="expected one or more reports, got none"):
        RunTable.read([])
