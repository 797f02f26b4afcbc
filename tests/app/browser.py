"""The web page in headless Chromium: starting it, and what the tests do with mouse and keyboard."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from amodal.app.demo import make_app
from amodal.app.images import DemoModels
from amodal.inference.segmenter import AmodalSegmenter
from tests.app import live

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EXAMPLES = Path(__file__).parents[2] / "src" / "amodal" / "app" / "demo_page" / "examples"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


@contextmanager
def serving(
    assistant: Any = None, segmenter: AmodalSegmenter | None = None, port: int = 0, model: str = "plug-small"
) -> Iterator[str]:
    """Serve the page with a bundled segmenter, loaded here if it is None, and an assistant; yields its address."""
    segmenter = segmenter or AmodalSegmenter.from_pretrained(model, device="cpu")
    models = DemoModels(segmenter, segmenter.finder, assistant, ["--model", model])
    with live.serving(make_app(models), port=port) as chosen_port:
        yield f"http://127.0.0.1:{chosen_port}"


@contextmanager
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, address: str, size: tuple[int, int], touch: bool = False) -> Iterator[Any]:
    """A new visitor's page with the first example; fails if a script raised an error."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, has_touch=touch, accept_downloads=True
    )
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(180_000)
    page.goto(address)
    ready(page)
    yield page
    assert not errors
    context.close()


def ready(page: Any) -> None:
    """Wait until the page has started and shows its example or the kept session."""
    page.wait_for_selector("body[data-ready]")
    page.wait_for_selector("#find:not([disabled])")
    idle(page)


def idle(page: Any) -> None:
    page.wait_for_timeout(60)
    page.wait_for_selector("#busy", state="hidden")


def ids(page: Any) -> list[int]:
    return [int(item) for item in page.locator("#objects li").evaluate_all("all => all.map(one => one.dataset.id)")]


def names(page: Any) -> list[str]:
    return list(page.locator("#objects .name").evaluate_all("all => all.map(one => one.value || one.placeholder)"))


def chosen(page: Any) -> int | None:
    """Id of the selected object."""
    found = page.locator('#objects li:has(.select[aria-pressed="true"])').evaluate_all(
        "all => all.map(o => o.dataset.id)"
    )
    return int(found[0]) if found else None


def place(page: Any, x: float, y: float, size: tuple[int, int] = (600, 400)) -> tuple[float, float]:
    """Screen position of a position in an image of size (W, H) that is shown as a whole."""
    page.locator("#stage").scroll_into_view_if_needed()
    box = page.locator("#stage").bounding_box()
    scale = min(box["width"] / size[0], box["height"] / size[1])
    left = box["x"] + (box["width"] - size[0] * scale) / 2
    top = box["y"] + (box["height"] - size[1] * scale) / 2
    return left + x * scale, top + y * scale


def click(page: Any, x: float, y: float, **options: Any) -> None:
    page.mouse.click(*place(page, x, y), **options)
    idle(page)


def drag(page: Any, *points: tuple[float, float], tool: str = "box") -> None:
    """Choose a tool and drag along points of the image."""
    page.click(f'[data-tool="{tool}"]')
    page.mouse.move(*place(page, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*place(page, *point), steps=4)
    page.mouse.up()
    idle(page)


def clear(page: Any) -> None:
    page.click("#clear")
    idle(page)
    assert ids(page) == []


def command(page: Any) -> str:
    """The command line that the page shows."""
    if not page.is_visible("#command-text"):
        page.click("#command summary")
    page.wait_for_selector("#command-text:not(:empty)")
    return str(page.inner_text("#command-text"))


def scene_of(page: Any, tmp_path: Path) -> dict[str, Any]:
    """The scene.json that the page saves."""
    with page.expect_download() as download:
        page.click("#save-scene")
    download.value.save_as(tmp_path / "scene.json")
    content: dict[str, Any] = json.loads((tmp_path / "scene.json").read_text())
    return content


def colours(page: Any) -> list[list[int]]:
    """The most frequent colours of the stage as it is painted, most frequent first."""
    page.wait_for_timeout(250)
    found: list[list[int]] = page.evaluate(
        """() => {
            const canvas = document.querySelector("#stage");
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            const counts = new Map();
            for (let i = 0; i < data.length; i += 4) {
                const key = `${data[i]},${data[i + 1]},${data[i + 2]}`;
                counts.set(key, (counts.get(key) || 0) + 1);
            }
            const most = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 20);
            return most.map(([key, n]) => [...key.split(",").map(Number), n]);
        }"""
    )
    return found
