"""The ablations of aura-small and plug-small: their recipes and their reports."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import ablation as tables
import aura_start_ablation as aura
import plug_small_ablation as plug
from parts import Part


def flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a recipe by their dotted names."""
    leaves: dict[str, Any] = {}
    for key, value in content.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


def differing(first: Any, second: Any) -> set[str]:
    ours, theirs = flat(first.model_dump(mode="json")), flat(second.model_dump(mode="json"))
    return {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)} - {"output"}


def folder_of(source: Any) -> str:
    return str(Path(source.annotations).parent.relative_to("data"))


class TestPlugSmall:
    OPTIONS = Namespace(runs=Path("runs"), steps=100, learning_rate=1.5e-3, test_objects=10)

    @pytest.mark.parametrize(
        ("name", "settings"),
        [
            ("decoders", {"model.prompted_encoder"}),
            ("frozen", {"model.train_base", "model.trunk_weights"}),
            ("samtrunk", {"model.trunk_weights"}),
            ("noprompts", {"model.mask_prompts", "data.mask_prompt_share", "data.own_mask_share"}),
            ("noown", {"data.own_mask_share"}),
            ("nooccluded", {"model.occluded_dice_weight"}),
            ("noscenes", {"data.train"}),
            ("nopaste", {"data.train"}),
            ("nomodal", {"data.train"}),
            ("nopeople", {"data.train"}),
            ("nocaltech", {"data.train"}),
            ("px256", {"model.image_size"}),
            ("px320", {"model.image_size"}),
        ],
    )
    def test_a_row_differs_from_the_first_in_its_setting_alone(self, name: str, settings: set[str]) -> None:
        rows = {row.name: plug.recipe_of(row, self.OPTIONS) for row in plug.ROWS if row.trunk is None}
        assert differing(rows["reference"], rows[name]) == settings

    def test_every_row_can_be_built(self) -> None:
        """Settings that contradict each other are refused when a model's configuration is made."""
        for row in plug.ROWS:
            if row.trunk is None:  # the others first train a base
                plug.recipe_of(row, self.OPTIONS).model.config()

    def test_rows_without_a_source_still_have_the_others(self) -> None:
        rows = {row.name: plug.recipe_of(row, self.OPTIONS) for row in plug.ROWS if row.trunk is None}
        first = rows["reference"].data.train
        for name, start in (("noscenes", "data/scenes-"), ("nopaste", "data/paste-"), ("nomodal", "data/photos/")):
            weights = [source.weight for source in rows[name].data.train]
            assert weights == [0 if source.annotations.startswith(start) else source.weight for source in first]
            assert 0 in weights and any(weights)
        for name, dropped, added in (
            ("nopeople", {"paste-photos", "photos/people"}, {"paste-nopeople"}),
            ("nocaltech", {"paste-photos", "paste-objects", "photos/caltech"}, {"paste-nocaltech"}),
        ):
            used = {folder_of(source) for source in rows[name].data.train if source.weight > 0}
            assert {folder_of(source) for source in first} - used == dropped
            assert used - {folder_of(source) for source in first} == added

    def test_the_report_says_what_is_missing(self, tmp_path: Path) -> None:
        report = {
            "metrics": {"mIoU_full": 0.8, "mIoU_occ": 0.4, "mIoU_visible": 0.7, "false_occlusion_rate": 0.25},
            "intervals": {"mIoU_full": [0.79, 0.81]},
        }
        result = {"row": "noprompts", "scores": {"box": report, "box, cleaned": report}}
        plug.write_report([result], Namespace(**vars(self.OPTIONS), out=tmp_path))
        page = (tmp_path / "plug_small_ablation.md").read_text()
        cell = "0.800 (0.790-0.810), 0.400, 0.700; false 25 %"
        assert "**Unfinished: 1 of 16 rows.**" in page and f"| no mask prompts | {cell} | {cell} |  |  |" in page
        results = json.loads((tmp_path / "plug_small_ablation.json").read_text())["results"]
        assert results == [
            {"row": "noprompts", "metrics": {"box": report["metrics"], "box, cleaned": report["metrics"]}}
        ]


def test_every_row_of_the_tables_of_the_paper_can_be_built() -> None:
    options = Namespace(
        recipe=tables.RECIPE, runs=Path("runs"), steps=12, validations=2, batch_size=2, learning_rate=1e-3,
        validation_objects=4, workers=0, set=[],
    )  # fmt: skip
    for row in {row for table in tables.TABLES.values() for row in table}:
        tables.recipe_of(row, 0, options).model.config()


class TestAuraStart:
    OPTIONS = Namespace(data=Path("data"), runs=Path("runs"), part=Part(1, 2), reader_steps=6, steps=4, conversations=5)

    def recipe(self, row: aura.Row, stage: str) -> Any:
        if stage == "reader":
            return aura._recipe("small-names", Path("x"), 6, aura.reader_settings(row, self.OPTIONS))
        return aura._recipe("small-words", Path("x"), 4, aura.words_settings(row, Path("start"), self.OPTIONS))

    def test_rows_differ_in_where_their_parts_start(self) -> None:
        rows = {row.name: row for row in aura.ROWS}
        reader, words = ({name: self.recipe(row, stage) for name, row in rows.items()} for stage in ("reader", "words"))
        trunk = {"model.trunk_mllm.trunk_weights", "training.trunk_rate"}
        language = {"model.trunk_mllm.language_model", "model.train_mllm", "model.lora_rank"}
        assert differing(reader["both"], reader["no-language"]) == set()
        assert differing(reader["both"], reader["no-trunk"]) == differing(reader["both"], reader["neither"]) == trunk
        assert differing(words["both"], words["no-trunk"]) == set()  # their starts differ
        assert differing(words["both"], words["neither"]) == differing(words["both"], words["no-language"]) == language
        assert words["neither"].model.trunk_mllm.language_model == "runs/neither/random-language"

    def test_training_uses_the_first_images_of_both_sets(self) -> None:
        sources = self.recipe(aura.ROWS[0], "words").data.train
        assert [source.questions for source in sources] == [
            "data/paste-train/free-150.json",
            "data/scenes-train/free-150.json",
            "data/paste-train/decisions-150.json",
            "data/scenes-train/decisions-150.json",
        ]

    def test_the_report_says_what_is_missing(self, tmp_path: Path) -> None:
        scores = {"set_F1": 0.25, "no_object_accuracy": 0.5}
        words = {"val_token": 0.75, "val_image_gain": 1.125}
        result = {"row": "both", "reader": {"val_naming": 0.5}, "words": words, "paste": scores, "scenes": scores}
        aura.write_report([result], Namespace(**vars(self.OPTIONS), out=tmp_path))
        page = (tmp_path / "aura_start_ablation.md").read_text()
        assert "**Unfinished: 1 of 5 rows.**" in page
        assert "| both parts pretrained | 0.500 | 0.750 | 1.12 | 0.250 | 0.500 | 0.250 | 0.500 |" in page
