"""What a visitor takes home from the web page, and what survives a reload or a restart, in headless Chromium."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from amodal.cli.main import main
from amodal.inference.scene import Scene
from amodal.inference.segmenter import AmodalSegmenter
from amodal.ops.rle import decode_mask
from tests.app import browser as web
from tests.app.browser import EXAMPLES, click, drag, idle, ids, names, place, scene_of
from tests.app.test_demo import Assistant

pytestmark = pytest.mark.slow


def test_downloads_have_every_format(desktop: Any, tmp_path: Path) -> None:
    files = {
        "scene": "scene.json",
        "coco": "annotations.json",
        "labelme": "coffee.json",
        "cvat": "annotations.xml",
        "yolo": None,
        "layers": "layers.json",
    }
    for form, file in files.items():
        desktop.select_option("#form", form)
        with desktop.expect_download() as download:
            desktop.click("#download")
        assert download.value.suggested_filename == f"coffee-{form}.zip"
        download.value.save_as(tmp_path / f"{form}.zip")
        with zipfile.ZipFile(tmp_path / f"{form}.zip") as archive:
            assert archive.testzip() is None and (file is None or file in archive.namelist()), archive.namelist()
    with zipfile.ZipFile(tmp_path / "scene.zip") as archive:
        assert [obj["name"] for obj in json.loads(archive.read("scene.json"))["objects"]] == ["saucer", "cup", "spoon"]
        assert "object_02_amodal.png" in archive.namelist()


@pytest.mark.parametrize(
    "kind",
    [
        "boxes",
        "points",
        "one box with points",
        "found",
        "found, then refined",
        "an answer, then refined",
        "mixed and by hand",
    ],
)
def test_the_command_line_gives_the_same_masks(
    desktop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    page = desktop
    if kind != "boxes":
        web.clear(page)
    if kind in ("points", "mixed and by hand"):
        click(page, 300, 90)
        page.keyboard.down("Alt")
        click(page, 440, 350)
        page.keyboard.up("Alt")
        page.keyboard.press("Escape")
        click(page, 375, 300)
    if kind == "mixed and by hand":
        drag(page, (76, 68), (480, 388))
        drag(page, (100, 250), (140, 300), tool="brush")
        drag(page, (172, 17), (410, 308))
        page.click('[data-tool="point"]')
        click(page, 260, 150)
    if kind == "one box with points":
        drag(page, (172, 17), (410, 308))
        page.click('[data-tool="point"]')
        click(page, 260, 150)
    if kind.startswith("found"):
        page.click("#find")
        idle(page)
    if kind == "an answer, then refined":
        page.fill("#question", "What?")
        page.click("#send")
        page.wait_for_selector(".talk .it")
        idle(page)
    if kind.endswith("then refined"):
        page.click("#objects li:nth-child(1) .select")
        page.click('[data-tool="point"]')
        click(page, 260, 150)
    words = web.command(page).split()
    expected = scene_of(page, tmp_path)["objects"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coffee.jpg").write_bytes((EXAMPLES / "coffee.jpg").read_bytes())
    if page.is_visible("#prompts"):
        with page.expect_download() as download:
            page.click("#prompts")
        download.value.save_as(tmp_path / "prompts.json")
    assert ("--annotations" in words) == (kind in ("found, then refined", "mixed and by hand")) and words[:3] == [
        "amodal",
        "segment",
        "coffee.jpg",
    ]
    assert main([*words[1:], "--out", "out"]) == 0
    found = Scene.load(tmp_path / "out").to_json()["objects"]
    assert len(found) == len(expected) >= 1
    for one, other in zip(found, expected, strict=True):
        for mask in ("visible", "amodal"):
            a, b = decode_mask(one[mask]), decode_mask(other[mask])
            assert (a & b).sum() >= 0.999 * (a | b).sum(), mask  # batches of other sizes round differently


def test_scene_json_brings_everything_back_also_to_another_visitor(
    browser: Any, desktop: Any, address: str, tmp_path: Path
) -> None:
    desktop.fill("#objects li:nth-child(1) .name", "plate")
    desktop.keyboard.press("Enter")
    drag(desktop, (326, 66), (425, 327))
    desktop.click("#objects li:nth-child(2) button:text('Lock')")
    desktop.click("#objects li:nth-child(3) button:text('✕')")
    idle(desktop)
    saved = scene_of(desktop, tmp_path)
    assert len(Scene.load(tmp_path)) == 3  # the package reads the file too
    with web.opened(browser, address, web.SIZES["phone"]) as other:
        other.click("#examples button >> nth=5")
        other.wait_for_selector("text=Stefan van der Walt")
        idle(other)
        other.set_input_files("#scene-file", tmp_path / "scene.json")
        other.wait_for_selector("#objects li >> nth=2")
        idle(other)
        assert names(other) == ["plate", "cup", "Object 4"] and ids(other) == [1, 2, 4]
        (tmp_path / "again").mkdir()
        again = scene_of(other, tmp_path / "again")
        for one, two in zip(saved["objects"], again["objects"], strict=True):
            assert one == two
        assert again["page"]["image"] == saved["page"]["image"]


def test_the_session_survives_a_reload(page: Any, tmp_path: Path) -> None:
    drag(page, (326, 66), (425, 327))
    page.fill("#objects li:nth-child(1) .name", "plate")
    page.keyboard.press("Enter")
    page.fill("#question", "What?")
    page.click("#send")
    page.wait_for_selector(".talk .it")
    idle(page)
    before = scene_of(page, tmp_path)
    page.wait_for_timeout(300)
    page.reload()
    web.ready(page)
    assert names(page)[0] == "plate" and len(ids(page)) == 5 and page.locator(".talk .it").count() == 1
    assert page.locator(".talk .mark").first.evaluate("one => one.style.borderColor")  # the colour of its object
    assert scene_of(page, tmp_path)["objects"] == before["objects"]
    page.click("#undo")  # the history survives as well
    idle(page)
    assert len(ids(page)) == 4


def test_the_session_survives_a_restart_of_the_server(browser: Any) -> None:
    segmenter = AmodalSegmenter.from_pretrained("plug-small", device="cpu")
    with web.serving(Assistant(), segmenter) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        web.ready(page)
        drag(page, (326, 66), (425, 327))
    page.click('[data-tool="point"]')
    page.keyboard.press("Escape")
    click(page, 100, 100)  # the server is away
    assert "cannot be reached" in page.inner_text("#bubble") and len(ids(page)) == 4
    with web.serving(Assistant(), segmenter, int(address.rsplit(":", 1)[1])):
        drag(page, (76, 68), (480, 388))  # the new server has never seen the image
        assert len(ids(page)) == 5
        page.click("#find")
        idle(page)
        assert ids(page)[:5] == [1, 2, 3, 4, 5]
    context.close()


def test_the_session_of_an_image_that_only_the_server_decodes_survives_a_restart(browser: Any, tmp_path: Path) -> None:
    segmenter = AmodalSegmenter.from_pretrained("plug-small", device="cpu")
    Image.open(EXAMPLES / "coffee.jpg").save(tmp_path / "coffee.tiff")
    with web.serving(segmenter=segmenter) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        web.ready(page)
        page.set_input_files("#file", tmp_path / "coffee.tiff")
        idle(page)
        drag(page, (326, 66), (425, 327))
    with web.serving(segmenter=segmenter, port=int(address.rsplit(":", 1)[1])):
        page.reload()  # the new server has never seen the image
        web.ready(page)
        assert "Your session is back: coffee.tiff with 1 object." in page.inner_text("#message")
        drag(page, (76, 68), (480, 388))
        assert len(ids(page)) == 2
    context.close()


def test_work_on_another_image_can_be_reopened(desktop: Any) -> None:
    drag(desktop, (326, 66), (425, 327))
    desktop.click("#examples button >> nth=5")
    desktop.wait_for_selector("text=Stefan van der Walt")
    idle(desktop)
    assert len(ids(desktop)) == 2
    with Image.open(EXAMPLES / "cat.jpg") as cat:
        middle = place(desktop, cat.width / 2, cat.height / 2, cat.size)
    desktop.locator("#peel").fill("1")
    desktop.click('[data-tool="point"]')
    desktop.mouse.click(*middle)
    desktop.click("#previous")  # before the result of the click is there
    idle(desktop)
    assert names(desktop) == ["saucer", "cup", "spoon", "Object 4"] and desktop.inner_text("#peeled") == "0"
    desktop.click("#previous")
    idle(desktop)
    assert len(ids(desktop)) == 3
