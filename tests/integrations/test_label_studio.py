"""Label Studio: requests as it sends them, to the web application that `amodal label backend` runs.

The ML backend of Label Studio is on GitHub only, so that `make test-tools` installs it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from amodal.cli.main import main
from amodal.errors import InputError
from amodal.inference.exports.label_studio import LABEL_CONFIG, from_task
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from amodal.inference.segmenter import AmodalSegmenter
from amodal.ops.brush_rle import decode_brush, encode_brush
from amodal.ops.masks import mask_iou
from amodal.synthetic.scenes import render_scene

SIZE = (120, 160)
needs_backend = pytest.mark.tools("label-studio-ml")


def found_scene(image: np.ndarray) -> Scene:
    """A cup in front of a table, and an object without any pixel."""
    cup, table, nothing = (np.zeros(image.shape[:2], bool) for _ in range(3))
    cup[20:60, 30:50] = True
    table[40:100, 10:90] = True
    objects = [
        SceneObject.from_masks(cup, cup, score=0.9, phrase="cup"),
        SceneObject.from_masks(table & ~cup, table, score=0.5),
        SceneObject.from_masks(nothing, nothing, score=0),
    ]
    return Scene(objects, (image.shape[0], image.shape[1]))


def test_a_missing_backend_is_named_with_the_command_that_installs_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "label_studio_ml"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "amodal.integrations.label_studio", raising=False)
    monkeypatch.setitem(sys.modules, "label_studio_ml", None)
    monkeypatch.setenv("MODEL_DIR", "unused")
    assert main(["label", "backend"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "amodal: label-studio: expected Label Studio's ML backend 2, got no " in line
    assert "pip install 'amodal[label-studio]' 'label-studio-ml @ git+https://github.com/HumanSignal/" in line


def test_words_for_a_detector_need_a_detector(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label", "backend", "--text", "cup"]) == 2
    assert "text: expected --detector together with --text, got no detector" in capsys.readouterr().err


@pytest.fixture(scope="module")
def backend() -> Any:
    os.environ.setdefault("MODEL_DIR", tempfile.mkdtemp())
    from amodal.integrations import label_studio

    return label_studio


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "trip").mkdir()
    Image.fromarray(render_scene(27, size=SIZE).image).save(folder / "trip" / "a.png")
    return folder


@pytest.fixture(scope="module")
def segmenter() -> AmodalSegmenter:
    return AmodalSegmenter.from_pretrained("plug-small", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def client(backend: Any, folder: Path, segmenter: AmodalSegmenter) -> Iterator[Any]:
    app = backend.make_app(segmenter, found_scene, folder)
    app.config["TESTING"] = True
    with app.test_client() as client:
        yield client


def predict(client: Any, backend: Any, image: str = "/data/local-files/?d=trip/a.png", **body: Any) -> Any:
    """The response to a request of Label Studio about one task."""
    context = body.pop("context", None)
    tasks = [{"id": 7, "data": {"image": image}}]
    request = {"tasks": tasks, "label_config": backend.INTERFACE, "project": "3.170000", **body}
    return client.post("/predict", json=request | {"params": {"context": context}})


def results(response: Any) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.json
    return list(response.json["results"])


def drawn(kind: str, **value: Any) -> dict[str, Any]:
    extra = {key: value.pop(key) for key in ("is_positive",) if key in value}
    known = {"id": "x", "from_name": "f", "to_name": "image", "original_width": SIZE[1], "original_height": SIZE[0]}
    return {**known, "type": kind, "value": value, **extra}


def box(x0: float, y0: float, x1: float, y1: float) -> dict[str, Any]:
    H, W = SIZE
    sides = {"x": x0 / W * 100, "y": y0 / H * 100, "width": (x1 - x0) / W * 100, "height": (y1 - y0) / H * 100}
    return drawn("rectanglelabels", rectanglelabels=["object"], rotation=0, **sides)


def point(x: float, y: float, **extra: Any) -> dict[str, Any]:
    position = {"x": x / SIZE[1] * 100, "y": y / SIZE[0] * 100, "width": 0.3}
    return drawn("keypointlabels", keypointlabels=["object"], **position, **extra)


def masks(prediction: dict[str, Any], part: str) -> list[np.ndarray]:
    regions = [r for r in prediction["result"] if r["type"] == "brushlabels" and r["value"]["brushlabels"] == [part]]
    return [decode_brush(region["value"]["rle"], SIZE) for region in regions]


def check_same(prediction: dict[str, Any], scene: Scene) -> None:
    for part in ("visible", "amodal"):
        decoded = masks(prediction, part)
        assert len(decoded) == len(scene)
        for mask, obj in zip(decoded, scene, strict=True):
            assert np.array_equal(mask, getattr(obj, f"{part}_mask"))


@needs_backend
def test_label_studio_can_connect(client: Any, backend: Any) -> None:
    assert client.get("/health").json["status"] == "UP"
    setup = client.post("/setup", json={"project": "3.170000", "schema": backend.INTERFACE})
    assert setup.json["model_version"].startswith("amodal ")


@needs_backend
def test_all_objects_of_a_task_can_be_corrected_and_collected(client: Any, backend: Any, folder: Path) -> None:
    (prediction,) = results(predict(client, backend))
    scene = found_scene(np.zeros((*SIZE, 3), np.uint8))
    scene.objects.pop()  # it has no pixel
    check_same(prediction, scene)
    assert prediction["score"] == pytest.approx((0.9 + 0.5 + 0) / 3)
    assert prediction["model_version"].startswith("amodal ")
    task = {"id": 7, "data": {"image": "trip/a.png"}, "annotations": [{"result": prediction["result"]}]}
    read = from_task(task).scene
    assert [obj.label for obj in read] == ["cup", "object"]
    assert all(np.array_equal(a.amodal_mask, b.amodal_mask) for a, b in zip(read, scene, strict=True))


@needs_backend
def test_several_tasks_get_one_prediction_each(client: Any, backend: Any) -> None:
    tasks = [{"id": n, "data": {"image": "https://label.studio/data/upload/3/0123abcd-a.png?x=1"}} for n in range(3)]
    found = results(predict(client, backend, tasks=tasks))
    assert len(found) == 3
    ids = [region["id"] for prediction in found for region in prediction["result"] if region["type"] == "brushlabels"]
    assert len(set(ids)) == len(ids) == 3 * 2 * 2


@needs_backend
def test_a_box_a_point_or_both_become_the_masks_of_one_object(
    client: Any, backend: Any, segmenter: AmodalSegmenter, folder: Path
) -> None:
    largest = max(render_scene(27, size=SIZE).objects, key=lambda obj: int(obj.visible_mask.sum()))
    rows, columns = np.nonzero(largest.visible_mask)
    x, y = float(columns[len(columns) // 2]), float(rows[len(rows) // 2])
    corners = [float(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
    image = folder / "trip" / "a.png"
    for context, prompts in (
        ([box(*corners)], {"boxes_xyxy": [corners]}),
        ([point(x, y)], {"points_xy": [[[x, y]]]}),
        (
            [point(x, y, is_positive=1), point(2, 2, is_positive=0)],
            {"points_xy": [[[x, y], [2, 2]]], "point_labels": [[1, 0]]},
        ),
        ([box(*corners), point(x, y)], {"boxes_xyxy": [corners], "points_xy": [[[x, y]]]}),
    ):
        (prediction,) = results(predict(client, backend, context={"result": context}))
        scene = segmenter(image, **prompts)
        check_same(prediction, scene)
        assert mask_iou(masks(prediction, "amodal")[0], largest.amodal_mask) > 0.5
        assert {region["type"] for region in prediction["result"]} == {"brushlabels"}


@needs_backend
def test_a_visible_brush_keeps_its_pixels_and_gets_an_amodal_mask(client: Any, backend: Any) -> None:
    stroke = np.zeros(SIZE, bool)
    stroke[30:70, 40:90] = True
    context = [drawn("brushlabels", brushlabels=["visible"], format="rle", rle=encode_brush(stroke))]
    (prediction,) = results(predict(client, backend, context={"result": context}))
    assert np.array_equal(masks(prediction, "visible")[0], stroke)
    (amodal,) = masks(prediction, "amodal")
    assert not (stroke & ~amodal).any()


@needs_backend
def test_two_boxes_are_two_objects_whose_regions_belong_together(client: Any, backend: Any) -> None:
    context = [box(10, 10, 80, 80), box(60, 40, 150, 110)]
    (prediction,) = results(predict(client, backend, context={"result": context}))
    task = {"id": 7, "data": {"image": "a.png"}, "annotations": [{"result": prediction["result"]}]}
    assert len(from_task(task).scene) == 2


@needs_backend
def test_an_amodal_brush_asks_for_nothing(client: Any, backend: Any) -> None:
    stroke = encode_brush(np.ones(SIZE, bool))
    context = [drawn("brushlabels", brushlabels=["amodal"], format="rle", rle=stroke)]
    (prediction,) = results(predict(client, backend, context={"result": context}))
    assert prediction["result"] == []


@needs_backend
def test_the_names_of_the_tags_are_those_of_the_project(client: Any, backend: Any) -> None:
    config = """<View><Image name="photo" value="$file"/><BrushLabels name="masks" toName="photo">
      <Label value="amodal"/><Label value="visible"/><Label value="other"/></BrushLabels></View>"""
    tasks = [{"id": 1, "data": {"file": "a.png"}}]
    (prediction,) = results(predict(client, backend, tasks=tasks, label_config=config))
    brushes = [region for region in prediction["result"] if region["type"] == "brushlabels"]
    assert {(region["from_name"], region["to_name"]) for region in brushes} == {("masks", "photo")}
    assert not [region for region in prediction["result"] if region["type"] == "textarea"]


@needs_backend
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"image": "none.png"}, "none.png"),
        ({"tasks": [{"id": 1, "data": {}}]}, "expected the name of an image as data.image, got None"),
        ({"context": {"result": [box(300, 10, 400, 80)]}}, "expected a box inside the 160 x 120 image"),
        ({"context": {"result": [point(5, 5, is_positive=0)]}}, "expected at least one point with label 1"),
        ({"context": {"result": [{"type": "rectanglelabels", "value": {"x": 3}}]}}, "expected regions of Label Studio"),
        ({"context": {"result": [{"type": "keypointlabels"}]}}, "expected regions of Label Studio"),
        ({"context": {"result": [drawn("brushlabels", rle=[1, 2])]}}, "brush: expected"),
        ({"label_config": "<View><Image name='image' value='$image'/></View>"}, "expected an Image with BrushLabels"),
        (
            {
                "label_config": "<View><Image name='i' value='$image'/><BrushLabels name='b' toName='i'>"
                "<Label value='cup'/></BrushLabels></View>"
            },
            "expected brushes with the labels visible and amodal, got ['cup']",
        ),
    ],
)
def test_label_studio_learns_what_is_wrong(body: dict[str, Any], message: str, client: Any, backend: Any) -> None:
    response = predict(client, backend, **body)
    assert response.status_code == 500
    assert response.json["detail"].startswith("InputError: ") and message in response.json["detail"]


@needs_backend
def test_without_a_folder_images_come_from_label_studio(
    backend: Any, segmenter: AmodalSegmenter, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from threading import Lock

    model = backend.backend_class(backend.BackendModels(segmenter, found_scene, None, Lock()))(
        project_id="3", label_config=backend.INTERFACE
    )
    task = {"id": 7, "data": {"image": "s3://bucket/a.png"}}
    asked = []

    def download(url: str, *, task_id: int) -> str:
        asked.append((url, task_id))
        return str(folder / "trip" / "a.png")

    with monkeypatch.context() as context:
        context.setattr(model, "get_local_path", download)
        assert len(model.predict([task]).predictions) == 1
    assert asked == [("s3://bucket/a.png", 7)]
    for variable in ("LABEL_STUDIO_URL", "LABEL_STUDIO_HOST", "HOSTNAME"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(InputError, match="expected Label Studio to send it, got .* or name the folder with --images"):
        model.predict([task])


@needs_backend
def test_the_interface_has_the_brushes_of_predicted_tasks(backend: Any, tmp_path: Path) -> None:
    assert main(["label", "backend", "--interface", str(tmp_path / "interface.xml")]) == 0
    written = (tmp_path / "interface.xml").read_text()
    assert written == backend.INTERFACE

    def brushes(config: str) -> list[tuple[str | None, ...]]:
        tree = ElementTree.fromstring(config)
        return [(tag.get("name"), *(label.get("value") for label in tag)) for tag in tree.iter("BrushLabels")]

    assert brushes(written) == brushes(LABEL_CONFIG)


@needs_backend
def test_other_machines_need_a_password(
    backend: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BASIC_AUTH_PASS", raising=False)
    assert main(["label", "backend", "--host", "0.0.0.0"]) == 2
    assert "host: expected BASIC_AUTH_USER and BASIC_AUTH_PASS in the environment" in capsys.readouterr().err


@needs_backend
def test_a_missing_folder_of_images_is_named(backend: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label", "backend", "--images", "no-folder", "--device", "cpu"]) == 2
    assert "images: expected a folder, got 'no-folder'" in capsys.readouterr().err
