"""The demo in a real browser and under load; needs Chromium on this machine."""

from __future__ import annotations

import json
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from amodal.app.demo import make_app
from amodal.app.images import DemoModels
from amodal.inference.assistant import AmodalAssistant
from amodal.inference.find import ObjectFinder
from amodal.inference.segmenter import AmodalSegmenter
from tests.app import live
from tests.app.test_demo import Assistant, png

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LOAD_SECONDS = float(os.environ.get("AMODAL_LOAD_SECONDS", "20"))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(Assistant()) as place:
        yield place


@contextmanager
def serving(assistant: Any) -> Iterator[str]:
    """Serve a demo with the bundled segmenter and an assistant; yields its address."""
    segmenter = AmodalSegmenter.from_pretrained("plug-tiny", device="cpu")
    models = DemoModels(segmenter, ObjectFinder.from_pretrained(segmenter.base_name), assistant)
    with live.serving(make_app(models)) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(params=[(1280, 860), (390, 844)], ids=["desktop", "phone"])
def page(request: pytest.FixtureRequest, address: str) -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    from playwright.sync_api import sync_playwright

    width, height = request.param
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#examples button")
        yield page
        assert not errors
        browser.close()


def wait_until_idle(page: Any) -> None:
    page.wait_for_selector("#busy", state="hidden")
    page.wait_for_selector("#everything:not([disabled])")


def open_example(page: Any, index: int = 0) -> None:
    page.click(f"#examples button >> nth={index}")
    page.wait_for_selector("#ink", state="visible")
    wait_until_idle(page)


def drag(page: Any, x0: float, y0: float, x1: float, y1: float) -> None:
    """Draw a box; the coordinates are shares of the image."""
    page.locator("#ink").scroll_into_view_if_needed()
    box = page.locator("#ink").bounding_box()
    page.mouse.move(box["x"] + x0 * box["width"], box["y"] + y0 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + x1 * box["width"], box["y"] + y1 * box["height"], steps=4)
    page.mouse.up()
    page.wait_for_timeout(100)
    wait_until_idle(page)


def test_boxes_and_points_become_objects(page: Any) -> None:
    open_example(page)
    drag(page, 0.1, 0.1, 0.5, 0.5)
    drag(page, 0.4, 0.4, 0.9, 0.9)
    page.click("#tool-point")
    box = page.locator("#ink").bounding_box()
    page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    page.wait_for_timeout(100)
    wait_until_idle(page)
    assert page.locator("#objects li").count() == 3
    page.click("#undo")
    wait_until_idle(page)
    assert page.locator("#objects li").count() == 2
    page.click('[data-view="uncertainty"]')
    page.locator("#peel").fill("1")
    assert page.inner_text("#peeled") == "1"
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_very_short_drag_makes_no_box(page: Any) -> None:
    open_example(page)
    drag(page, 0.3, 0.3, 0.301, 0.5)
    assert page.locator("#objects li").count() == 0


def test_downloads_contain_the_scene(page: Any, tmp_path: Path) -> None:
    open_example(page)
    drag(page, 0.2, 0.2, 0.7, 0.7)
    for form, file in (("scene", "scene.json"), ("coco", "annotations.json"), ("layers", "layers.json")):
        page.select_option("#form", form)
        with page.expect_download() as download:
            page.click("#download")
        download.value.save_as(tmp_path / f"{form}.zip")
        with zipfile.ZipFile(tmp_path / f"{form}.zip") as archive:
            assert json.loads(archive.read(file))


def test_questions_are_answered_beside_the_image(page: Any) -> None:
    open_example(page)
    page.fill("#question", "What is <i>this</i>?")
    page.click("#send")
    page.wait_for_selector(".talk .it")
    assert page.inner_text(".talk .you") == "What is <i>this</i>?"
    assert page.inner_text(".talk .it") == "Turn 1: it 0 <b>&"  # text from the server is never markup
    assert page.locator(".talk .mark").count() == 1 and page.locator("#objects li").count() == 1


def test_the_bundled_assistant_answers_with_masks(page: Any) -> None:
    with serving(AmodalAssistant.from_pretrained("aura-tiny", device="cpu")) as place:
        page.goto(place)
        page.wait_for_selector("#examples button")
        open_example(page, 1)  # in the first example, the model finds nothing that is hidden
        page.fill("#question", "What is hidden most?")
        page.click("#send")
        page.wait_for_selector(".talk .it")
        named = page.locator(".talk .it .mark").count()
        assert named >= 1 and page.locator("#objects li").count() == named


def test_wrong_files_are_refused_with_a_message(page: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    page.set_input_files("#file", tmp_path / "notes.txt")
    page.wait_for_selector("#message.bad")
    assert "expected an image file" in page.inner_text("#message")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(200 * 1024 * 1024)
    page.set_input_files("#file", tmp_path / "huge.png")
    assert "at most 20 MB, got 200 MB" in page.inner_text("#message")
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "ok.png")
    page.set_input_files("#file", tmp_path / "ok.png")
    page.wait_for_selector("#ink", state="visible")


def memory() -> int:
    """Resident memory in bytes of this process, in which the server runs."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs /proc")
def test_twenty_clients_at_once(address: str) -> None:
    """No request fails, every client gets a fair share and memory does not grow; set AMODAL_LOAD_SECONDS for longer."""
    content = png((256, 256))
    deadline = time.monotonic() + LOAD_SECONDS

    def visit(_: int) -> int:
        served = 0
        with httpx.Client(base_url=address, timeout=120) as client:
            while time.monotonic() < deadline:
                files = {"image": ("a.png", content)}
                answer = client.post("/api/segment", files=files, data={"prompts": '{"boxes": [[40, 40, 200, 200]]}'})
                assert answer.status_code == 200, answer.text
                key = client.post("/demo/images", files=files).json()["key"]
                prompts = {"boxes": [[60, 60, 180, 180]]}
                assert client.post(f"/demo/images/{key}/segment", json=prompts).status_code == 200
                assert client.get(f"/demo/images/{key}/view/overlay").status_code == 200
                served += 1
        return served

    visit(99)  # fills caches and memory pools
    before = memory()
    deadline = time.monotonic() + LOAD_SECONDS
    with ThreadPoolExecutor(20) as pool:
        served = list(pool.map(visit, range(20)))
    grown = memory() - before
    print(f"{sum(served)} rounds in {LOAD_SECONDS:g} s, {min(served)} to {max(served)} each, {grown / 2**20:+.0f} MiB")
    assert min(served) >= 1 and max(served) <= 2 * min(served) + 2
    assert grown < 200 * 2**20
