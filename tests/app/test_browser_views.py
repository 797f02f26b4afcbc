"""Found objects, answers and views of the web page, in headless Chromium on a desktop and a phone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from amodal.inference.assistant import AmodalAssistant
from tests.app import browser as web
from tests.app.browser import chosen, colours, drag, idle, ids, place
from tests.models.aura import needs_language_model

pytestmark = pytest.mark.slow
UNKNOWN = [0x8F, 0x8F, 0x8F]


def test_find_all_adds_and_the_slider_filters(page: Any) -> None:
    before = ids(page)
    page.click("#find")
    idle(page)
    found = ids(page)
    assert found[:3] == before and len(found) > 3
    page.click("#find")
    idle(page)
    assert ids(page) == found and "No further object" in page.inner_text("#message")
    page.locator("#confidence").fill("1")
    assert ids(page) == before and f"{len(found) - 3} hidden" in page.inner_text("#filtered")
    page.locator("#confidence").fill("0")
    assert ids(page) == found
    drag(page, (326, 66), (425, 327))
    assert ids(page)[: len(found)] == found and len(ids(page)) == len(found) + 1


def test_answers_add_objects_or_mark_known_ones(page: Any) -> None:
    for turn in (1, 2):
        page.fill("#question", "What is this & that?")
        page.click("#send")
        page.wait_for_selector(f".talk .it >> nth={turn - 1}")
        idle(page)
        assert len(ids(page)) == 4 and chosen(page) == 4  # added once, then found again
        told = ("added 1 object.", "marked 1 object that was there.")[turn - 1]
        assert page.inner_text("#message").endswith(told)
    assert page.inner_text(".talk .you >> nth=0") == "What is this & that?"
    assert page.inner_text(".talk .it >> nth=0") == "Turn 1: it <b>&"  # text from the server is never markup
    page.click("#objects li:nth-child(1) .select")
    page.click(".talk .mark >> nth=0")
    assert chosen(page) == 4
    page.click("#undo")
    assert len(ids(page)) == 3


@needs_language_model
def test_the_bundled_assistant_answers_with_masks(browser: Any) -> None:
    assistant = AmodalAssistant.from_pretrained("aura-small", device="cpu")
    with web.serving(assistant) as address, web.opened(browser, address, web.SIZES["desktop"]) as page:
        page.fill("#question", "What is hidden most?")
        page.click("#send")
        page.wait_for_selector(".talk .it")
        idle(page)
        assert page.inner_text(".talk .it") and ids(page)[:3] == [1, 2, 3]


def test_views_show_edges_uncertainty_layers_and_the_plain_image(page: Any) -> None:
    seen = []
    for view in ("objects", "contours", "uncertainty", "layers", "image"):
        page.click(f'[data-view="{view}"]')
        seen.append(json.dumps(colours(page)))
        assert page.inner_text("#legend")
    assert len(set(seen)) == 5
    assert "occludes" in str(page.get_attribute("#order", "aria-label"))


def test_removed_objects_leave_neutral_grey_that_is_said_to_be_unknown(page: Any) -> None:
    assert all(colour[:3] != UNKNOWN for colour in colours(page)[:5])
    page.locator("#peel").fill("1")
    assert UNKNOWN in [colour[:3] for colour in colours(page)[:5]]
    assert page.inner_text("#legend").startswith("Grey: unknown.") and page.inner_text("#peeled") == "1"


def test_overlays_are_sharp_at_the_resolution_of_the_image(desktop: Any) -> None:
    """Zoomed in, every pixel of a mask is a square: rows of the screen within one image pixel are the same."""
    page = desktop
    page.mouse.move(*place(page, 200, 100))
    for _ in range(14):
        page.mouse.wheel(0, -500)
    page.mouse.move(5, 5)
    page.wait_for_timeout(300)
    rows = page.evaluate(
        """() => {
            const pen = document.querySelector("#stage").getContext("2d");
            const { data } = pen.getImageData(200, 200, 80, 20);
            const row = (i) => data.slice(i * 320, i * 320 + 320).join();
            const rows = Array.from({ length: 20 }, (_, i) => row(i));
            return rows.filter((text, i) => i === 0 || text !== rows[i - 1]).length;
        }"""
    )
    assert rows <= 3  # 40 screen pixels per image pixel
