"""Every reader of files understands a changed seed of its corpus or refuses it with an `InputError`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from amodal.data.convert import convert
from amodal.data.datasets import guess_format, read_dataset
from amodal.data.reason_seg import read_reason_seg
from amodal.data.statistics import compute_statistics
from amodal.data.validation.validate import validate
from amodal.errors import InputError
from amodal.evaluation.answers import read_answers
from amodal.evaluation.boxes import read_boxes
from amodal.evaluation.predictions import image_sizes, iterate_records, read_predictions
from amodal.evaluation.reason_report import ReasonReport
from amodal.evaluation.selection import read_object_list
from amodal.evaluation.tables import RunTable
from amodal.inference.prompt_files import read_coco_file, read_masks
from amodal.inference.results import read_results
from amodal.inference.scene import Scene
from amodal.io.images import image_size, load_image
from amodal.io.mask_images import read_label_image, read_mask_image
from amodal.io.plain_pickle import read_plain_pickle
from amodal.questions.knowledge import read_facts
from amodal.training.recipe import load_recipe
from tests.data import written
from tests.data.c2f_archive import write_cocoa, write_kins
from tests.fuzz.campaign import run
from tests.fuzz.mutations import changed_file, json_seeds, seeds

Reader = Callable[[Path], object]
FORMATS = [*written.FILES, "labelme", "cvat"]
PROMPT_SIZE = written.SIZE


def refused(error: InputError, folder: Path) -> str:
    """The outcome of a refusal, which is one line."""
    line = str(error)
    assert line and "\n" not in line and len(line) < 1200 + 2 * len(str(folder)), line
    return "refused"


def fuzz(name: str, files: list[Path], place: Path, read: Reader) -> None:
    """Write changed seeds to `place` and read them."""

    def check(content: bytes) -> str:
        place.write_bytes(content)
        try:
            read(place)
        except InputError as error:
            return refused(error, place.parent)
        return "understood"

    run(name, changed_file(files), check)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an image, its annotations and its questions."""
    written.write(tmp_path, written.canonical())
    shutil.copy(seeds("questions")[1], tmp_path / "questions.json")
    return tmp_path


def read_all(name: str, path: Path) -> None:
    """Read, count and convert a dataset; what `validate` finds no error in is not refused."""
    try:
        guess_format(path)
        report = validate(name, path)
    except InputError:
        report = None
    try:
        dataset = read_dataset(name, path)
        compute_statistics(dataset)
        convert(dataset, "canonical", path.parent / "out" / "converted.json")
    except InputError as error:
        if report is not None and not report.num_errors and "out" not in str(error):
            raise AssertionError(f"validate found no error, but: {error}") from error
        raise


@pytest.mark.parametrize("name", FORMATS)
def test_annotations(folder: Path, name: str) -> None:
    (folder / "out").mkdir()
    files = seeds(name) if name == "cvat" else json_seeds(name)
    ending = "xml" if name == "cvat" else "json"
    fuzz(name, files, folder / f"annotations.{ending}", partial(read_all, name))


@pytest.mark.parametrize("name", ["kins", "cocoa"])
@pytest.mark.parametrize("part", ["list", "pickle"])
def test_c2f_archives(tmp_path: Path, name: str, part: str) -> None:
    path = {"kins": write_kins, "cocoa": write_cocoa}[name](tmp_path / "archive")
    (tmp_path / "archive" / "out").mkdir()
    files = [f for f in seeds("c2f_list" if part == "list" else "pickle") if f.stem == name]
    changed = path if part == "list" else path.parent / "fusion_test.pkl"
    fuzz(f"c2f {name} {part}", files, changed, lambda _: read_all("c2f", path))


def test_pickles(tmp_path: Path) -> None:
    fuzz("pickle", seeds("pickle"), tmp_path / "a.pkl", read_plain_pickle)


def read_prompts(path: Path) -> None:
    found = read_coco_file(path)
    for image in found.images:
        found.path_of(image, path.parent)
        found.prompts(image, PROMPT_SIZE)


def test_prompts_of_coco_files(folder: Path) -> None:
    fuzz("prompts", json_seeds("coco", "cocoa_cls", "canonical"), folder / "prompts.json", read_prompts)


def test_masks_of_prompts(folder: Path) -> None:
    fuzz(
        "masks", json_seeds("masks_file"), folder / "masks.json",
        lambda path: read_masks(path, folder / "images" / "a.png", PROMPT_SIZE),
    )  # fmt: skip


def read_predicted(annotations: Path, path: Path) -> None:
    dataset = read_dataset("canonical", annotations)
    list(iterate_records(path, dataset))
    list(read_predictions(path, dataset))
    for scene in read_results(path, annotations):
        assert scene is not None


def test_predictions(folder: Path) -> None:
    annotations = folder / "annotations.json"
    fuzz("predictions", json_seeds("predictions"), folder / "p.json", partial(read_predicted, annotations))


def test_boxes(folder: Path) -> None:
    sizes = image_sizes(read_dataset("canonical", folder / "annotations.json"))
    fuzz("boxes", json_seeds("boxes"), folder / "boxes.json", lambda path: read_boxes(path, sizes))


def test_object_lists(tmp_path: Path) -> None:
    fuzz("object list", seeds("object_list"), tmp_path / "list.txt", read_object_list)


def test_questions(folder: Path) -> None:
    fuzz(
        "questions", json_seeds("questions"), folder / "q.json",
        lambda path: read_reason_seg(path, folder / "annotations.json"),
    )  # fmt: skip


def test_answers(folder: Path) -> None:
    dataset = read_reason_seg(folder / "questions.json", folder / "annotations.json")
    fuzz("answers", seeds("answers"), folder / "answers.jsonl", lambda path: read_answers(path, dataset))


def read_scene(path: Path) -> None:
    scene = Scene.load(path.parent)
    scene.front_to_back()
    scene.to_json()
    scene.draw() if scene.image is not None else repr(scene)
    scene.save(path.parent / "copy")


def test_scenes(tmp_path: Path) -> None:
    fuzz("scene.json", json_seeds("scene"), tmp_path / "scene.json", read_scene)


def test_reports(tmp_path: Path) -> None:
    """Tables of reports."""

    def read(path: Path) -> None:
        RunTable.read([str(path)]).markdown()

    fuzz("report", json_seeds("report"), tmp_path / "report.json", read)


def test_reports_of_answers(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        list(ReasonReport.load(path).tables())

    fuzz("report of answers", json_seeds("report_answers"), tmp_path / "report.json", read)


def read_image(path: Path) -> None:
    pixels = load_image(path)
    assert pixels.shape[:2] == image_size(path) and pixels.shape[2] == 3 and pixels.dtype == "uint8"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("read", [read_image, read_mask_image, read_label_image])
def test_images(tmp_path: Path, read: Any) -> None:
    fuzz(read.__name__, seeds("images"), tmp_path / "image.png", read)


def test_recipes(tmp_path: Path) -> None:
    fuzz("recipe", seeds("recipes"), tmp_path / "recipe.yaml", load_recipe)


def test_settings_of_recipes(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    shutil.copy(seeds("recipes")[-1].parent / "plug.yaml", recipe)
    keys = st.sampled_from(["training.steps", "training", "model.base", "", "a.b", "training.steps.x", "training.."])
    texts = st.sampled_from(["1", "no", "null", "[1", "{a: 1}", "*a", "&a [*a]", "!!set {}", "\x00"]) | st.text()

    def check(override: tuple[str, str]) -> str:
        try:
            load_recipe(recipe, ["=".join(override)])
        except InputError as error:
            return refused(error, tmp_path)
        return "understood"

    run("--set", st.tuples(keys | st.text(max_size=8), texts), check)


def test_facts(tmp_path: Path) -> None:
    fuzz("facts", seeds("facts", "recipes"), tmp_path / "facts.yaml", read_facts)
