"""Make the screenshots of docs/page.md: python docs/make_page_images.py. Needs Chromium and playwright."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.app.browser import SIZES, chromium, click, drag, idle, opened, place, serving

from amodal import AmodalAssistant
from amodal.models.names import DEFAULT_SEGMENTER

FOLDER = Path(__file__).parent / "images" / "page"
WIDTHS = {"desktop": 1000, "phone": 360}


def shoot(page: Any, name: str, width: int) -> None:
    """Save what the page shows as a small WebP file."""
    page.wait_for_timeout(400)
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.thumbnail((width, 10_000))
    image.save(FOLDER / f"{name}.webp", quality=78, method=6)


def example(page: Any, number: int) -> None:
    """Open an example and wait for its objects."""
    page.click(f"#examples button >> nth={number}")
    page.wait_for_selector(f"#examples button:nth-child({number + 1})[aria-pressed='true']")
    idle(page)


def view(page: Any, name: str) -> None:
    """Choose a view."""
    page.click(f'[data-view="{name}"]')


def refine(page: Any) -> None:
    """Two clicks on one object and one beside it."""
    example(page, 2)
    page.click('[data-tool="point"]')
    size = (512, 512)
    page.mouse.click(*place(page, 285, 160, size))
    idle(page)
    page.keyboard.down("Alt")
    page.mouse.click(*place(page, 330, 300, size))
    page.keyboard.up("Alt")
    idle(page)


def peel(page: Any) -> None:
    """Remove the front object of the first example."""
    example(page, 0)
    view(page, "objects")
    page.locator("#peel").fill("1")


def brush(page: Any) -> None:
    """Paint on the cup."""
    example(page, 0)
    page.locator("#peel").fill("0")
    page.click("#objects li:nth-child(2) .select")
    drag(page, (285, 290), (300, 302), (330, 300), tool="brush")


def ask(page: Any) -> None:
    """Ask about the first example."""
    example(page, 0)
    page.click('[data-tool="point"]')
    page.fill("#question", "What is hidden most?")
    page.click("#send")
    page.wait_for_selector(".talk .it")
    idle(page)


def take_home(page: Any) -> None:
    """Open the command line, and zoom in."""
    page.click("#command summary")
    page.mouse.move(*place(page, 380, 290))
    for _ in range(5):
        page.mouse.wheel(0, -300)


def message(page: Any) -> None:
    """A box that is too small."""
    page.keyboard.press("0")
    drag(page, (480, 200), (481, 201))


def main() -> None:
    """Write all screenshots."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    steps: list[tuple[str, Callable[[Any], None]]] = [
        ("start", lambda page: None),
        ("clicks", refine),
        ("contours", lambda page: (example(page, 1), view(page, "contours"))[0]),
        ("uncertainty", lambda page: view(page, "uncertainty")),
        ("layers", lambda page: view(page, "layers")),
        ("removed", peel),
        ("brush", brush),
        ("answer", ask),
        ("take-home", take_home),
        ("message", message),
    ]
    assistant = AmodalAssistant.from_pretrained("aura-small", device="cpu")
    with serving(assistant, model=DEFAULT_SEGMENTER) as address, chromium() as browser:
        with opened(browser, address, SIZES["desktop"]) as page:
            for name, step in steps:
                step(page)
                shoot(page, name, WIDTHS["desktop"])
        with opened(browser, address, SIZES["phone"], touch=True) as page:
            click(page, 380, 290)
            shoot(page, "phone", WIDTHS["phone"])


if __name__ == "__main__":
    main()
