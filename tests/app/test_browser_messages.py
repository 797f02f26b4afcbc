"""Messages, accessibility and weight of the web page, in headless Chromium on a desktop and a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.app import browser as web
from tests.app.browser import click, drag, idle, ids, place

pytestmark = pytest.mark.slow


def test_messages_are_at_the_place_and_say_what_to_do(page: Any, tmp_path: Path) -> None:
    drag(page, (300, 200), (301, 201))
    bubble, (x, y) = page.locator("#bubble").bounding_box(), place(page, 301, 201)
    assert "Drag from one corner" in page.inner_text("#bubble") and len(ids(page)) == 3
    assert abs(bubble["x"] + bubble["width"] / 2 - x) < 250 and abs(bubble["y"] - y) < 150
    page.click('[data-tool="brush"]')
    page.keyboard.press("Escape")
    click(page, 300, 200)
    assert "Choose the object to paint first" in page.inner_text("#bubble")
    (tmp_path / "notes.txt").write_text("not an image")
    page.set_input_files("#file", tmp_path / "notes.txt")
    idle(page)
    assert "JPEG, PNG" in page.inner_text("#bubble") and len(ids(page)) == 3
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(200 * 1024 * 1024)
    page.set_input_files("#file", tmp_path / "huge.png")
    assert "200 MB, and the server takes 20 MB" in page.inner_text("#bubble")
    for content, told in (
        ("{", "not JSON"),
        ("{}", "not a scene"),
        ('{"size": [5, 5], "objects": []}', "5 x 5 pixels"),
    ):
        (tmp_path / "wrong.json").write_text(content)
        page.set_input_files("#scene-file", tmp_path / "wrong.json")
        page.wait_for_timeout(200)
        assert told in page.inner_text("#bubble") and len(ids(page)) == 3
    page.set_input_files("#scene-file", [tmp_path / "wrong.json"])
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "ok.png")
    page.set_input_files("#file", tmp_path / "ok.png")
    idle(page)
    assert ids(page) == [] and not page.is_visible("#bubble")


def test_the_error_page_of_a_proxy_is_not_shown_as_text(desktop: Any) -> None:
    desktop.route("**/segment", lambda route: route.fulfill(status=502, body="<html>Bad Gateway</html>"))
    drag(desktop, (326, 66), (425, 327))
    assert "The server answered 502" in desktop.inner_text("#bubble") and "<" not in desktop.inner_text("#bubble")
    assert len(ids(desktop)) == 3


def test_accessibility_has_no_serious_findings(page: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    for prepare in ("#command summary", '[data-tool="brush"]', "#find"):
        page.click(prepare)
        idle(page)
        violations = axe.Axe().run(page).response["violations"]
        serious = [
            (one["id"], [node["html"] for node in one["nodes"]][:3])
            for one in violations
            if one["impact"] in ("serious", "critical")
        ]
        assert serious == []


def test_the_page_has_less_than_200_kb_without_images(browser: Any, address: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    sizes: dict[str, int] = {}
    page.on("response", lambda response: sizes.update({response.url: len(response.body())}))
    page.goto(address)
    web.ready(page)
    own = {url: size for url, size in sizes.items() if "/api/" not in url and not url.endswith("/coffee.jpg")}
    assert any(url.endswith("page.js") for url in own) and sum(own.values()) < 200_000
    context.close()
