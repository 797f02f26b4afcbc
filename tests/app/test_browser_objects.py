"""Images, tools and objects of the web page as an editor, in headless Chromium on a desktop and a phone."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from amodal.ops.rle import decode_mask
from tests.app import browser as web
from tests.app.browser import chosen, click, colours, drag, idle, ids, names, place, scene_of

pytestmark = pytest.mark.slow


def test_the_page_opens_with_a_segmented_photograph_and_six_examples(page: Any) -> None:
    assert names(page) == ["saucer", "cup", "spoon"] and "Click an object" in page.inner_text("#message")
    assert page.locator("#examples button").count() == 6
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.click("#examples button >> nth=1")
    page.wait_for_selector("text=Eileen Collins")
    idle(page)
    assert names(page) == ["astronaut", "helmet", "flag"] and "public domain" in page.inner_text("#source")
    assert page.get_attribute("#camera", "capture") == "environment"


def test_own_images_come_by_button_drop_and_paste(page: Any, tmp_path: Path) -> None:
    Image.effect_noise((120, 90), 80).convert("RGB").save(tmp_path / "mine.png")
    page.set_input_files("#file", tmp_path / "mine.png")
    idle(page)
    assert ids(page) == [] and not page.is_visible("#previous")  # nothing was changed before
    encoded = base64.b64encode((tmp_path / "mine.png").read_bytes()).decode()
    for kind in ("drop", "paste"):
        page.evaluate(
            """([kind, text]) => {
                const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
                const data = new DataTransfer();
                data.items.add(new File([bytes], `${kind}.png`, { type: "image/png" }));
                const event = kind === "drop" ? new DragEvent("drop", { dataTransfer: data, bubbles: true })
                    : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
                document.querySelector("#room").dispatchEvent(event);
            }""",
            [kind, encoded],
        )
        idle(page)
        drag(page, (250, 150), (400, 300))  # somewhere in the middle of the stage
        assert f"{kind}.png" in web.command(page)


def test_clicks_make_and_refine_one_object(page: Any, tmp_path: Path) -> None:
    web.clear(page)
    click(page, 300, 90)
    (made,) = ids(page)
    assert chosen(page) == made
    first = scene_of(page, tmp_path)["objects"][0]
    click(page, 250, 200)
    page.keyboard.down("Alt")
    click(page, 440, 350)
    page.keyboard.up("Alt")
    refined = scene_of(page, tmp_path)["objects"][0]
    assert ids(page) == [made] and [point[2] for point in refined["page"]["prompt"]["points"]] == [1, 1, 0]
    assert refined["page"]["colour"] == first["page"]["colour"] and refined["amodal"] != first["amodal"]
    page.click("#negative")
    click(page, 100, 350)
    page.click("#negative")
    assert scene_of(page, tmp_path)["objects"][0]["page"]["prompt"]["points"][-1][2] == 0
    page.keyboard.press("Escape")
    click(page, 380, 290)
    assert len(ids(page)) == 2


def test_boxes_and_lassos_start_new_objects(page: Any, tmp_path: Path) -> None:
    drag(page, (326, 66), (425, 327))
    assert len(ids(page)) == 4 and chosen(page) == ids(page)[3]
    outline = [(330, 250), (400, 240), (410, 320), (340, 325), (330, 250)]
    drag(page, *outline, tool="lasso")
    last = scene_of(page, tmp_path)["objects"][4]
    visible = decode_mask(last["visible"])
    assert visible.any() and not visible[:230].any() and not visible[:, 415:].any()  # nothing outside of the outline
    assert (decode_mask(last["amodal"]) | visible).sum() == decode_mask(last["amodal"]).sum()


def test_the_brush_changes_a_mask_that_the_model_then_completes(page: Any, tmp_path: Path) -> None:
    page.click("#objects li:nth-child(2) .select")
    before = scene_of(page, tmp_path)["objects"][1]
    drag(page, (60, 40), (100, 60), tool="brush")
    assert "cup" in page.inner_text("#message") and "Brush and eraser" in page.inner_text("#message")
    after = scene_of(page, tmp_path)["objects"][1]
    added = decode_mask(after["visible"]) & ~decode_mask(before["visible"])
    assert added[40, 60] and added[60, 100] and after["page"]["prompt"]["mask"] is True
    assert decode_mask(after["amodal"])[40, 60]
    drag(page, (60, 40), (100, 60), tool="erase")
    again = decode_mask(scene_of(page, tmp_path)["objects"][1]["visible"])
    assert page.is_hidden("#negative")  # points do not change a painted mask
    assert not again[40, 60] and again.sum() < decode_mask(after["visible"]).sum()
    for _ in range(2):
        page.click("#undo")
        idle(page)
    assert scene_of(page, tmp_path)["objects"][1]["visible"] == before["visible"]


def test_objects_keep_id_colour_and_name_through_everything(page: Any) -> None:
    facts = "all => all.map(o => [o.dataset.id, o.querySelector('[type=color]').value, o.querySelector('.name').value])"
    before = page.locator("#objects li").evaluate_all(facts)
    page.click("#find")
    idle(page)
    page.fill("#question", "What is this?")
    page.click("#send")
    page.wait_for_selector(".talk .it")
    idle(page)
    assert page.locator("#objects li").evaluate_all(facts)[:3] == before and len(ids(page)) > 3
    assert len(set(ids(page))) == len(ids(page))


def test_rename_recolour_reorder_hide_lock_and_delete_can_be_undone(page: Any) -> None:
    row = "#objects li:nth-child(1)"
    page.fill(f"{row} .name", "plate")
    page.keyboard.press("Enter")
    assert names(page) == ["plate", "cup", "spoon"]
    page.locator(f"{row} [type=color]").evaluate(
        "one => { one.value = '#112233'; one.dispatchEvent(new Event('change')); }"
    )
    page.click(f"{row} button:text('↓')")
    assert names(page) == ["cup", "plate", "spoon"]
    page.click("#objects li:nth-child(2) button:text('Lock')")
    page.click("#objects li:nth-child(2) .select")
    page.keyboard.press("Delete")
    assert "is locked" in page.inner_text("#bubble") and len(ids(page)) == 3
    page.click("#objects li:nth-child(3) button:text('Hide')")
    assert page.locator("#objects li.faint").count() == 1
    page.click("#objects li:nth-child(3) button:text('✕')")
    idle(page)
    assert names(page) == ["cup", "plate"]
    page.locator("#stage").focus()
    for keys, expected in (
        ("Control+z", ["cup", "plate", "spoon"]), ("Control+z", ["cup", "plate", "spoon"]),  # deleted, hidden
        ("Meta+z", ["cup", "plate", "spoon"]), ("Control+z", ["plate", "cup", "spoon"]),  # locked, reordered
        ("Control+z", ["plate", "cup", "spoon"]), ("Control+z", ["saucer", "cup", "spoon"]),  # recoloured, renamed
    ):  # fmt: skip
        page.keyboard.press(keys)
        idle(page)
        assert names(page) == expected, keys
    assert page.is_disabled("#undo")
    for keys in ("Control+Shift+z", "Meta+Shift+z", "Control+y", *["Control+Shift+z"] * 3):
        page.keyboard.press(keys)
        idle(page)
    assert names(page) == ["cup", "plate"] and page.is_disabled("#redo")


def test_arrow_keys_move_a_box_and_keys_zoom(desktop: Any, tmp_path: Path) -> None:
    page = desktop
    page.click("#objects li:nth-child(2) .select")
    page.keyboard.press("v")
    page.locator("#stage").focus()
    for key in ("ArrowRight", "Shift+ArrowDown", "ArrowLeft", "ArrowRight"):
        page.keyboard.press(key)
    page.wait_for_timeout(400)
    idle(page)
    assert scene_of(page, tmp_path)["objects"][1]["page"]["prompt"]["box"] == [173, 27, 411, 318]
    page.locator("#stage").focus()
    page.keyboard.press("Control+z")  # all four keys are one action
    idle(page)
    assert scene_of(page, tmp_path)["objects"][1]["page"]["prompt"]["box"] == [172, 17, 410, 308]
    whole = colours(page)
    page.keyboard.press("Escape")
    for _ in range(6):
        page.keyboard.press("+")
    assert colours(page) != whole
    page.keyboard.down(" ")
    x, y = place(page, 300, 200)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 120, y + 60, steps=3)
    page.mouse.up()
    page.keyboard.up(" ")
    page.mouse.wheel(0, -400)
    page.keyboard.press("-")
    page.keyboard.press("0")
    assert len(ids(page)) == 3  # neither panning nor zooming makes objects


def test_everything_works_with_the_keyboard_alone(desktop: Any) -> None:
    page = desktop
    page.locator("#stage").focus()
    page.keyboard.press("Escape")
    page.keyboard.press("p")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")  # a click near the middle of the image
    idle(page)
    assert len(ids(page)) == 4
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    for _ in range(5):
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Enter")
    idle(page)
    assert len(ids(page)) == 5
    page.keyboard.press("Delete")
    idle(page)
    assert len(ids(page)) == 4
    page.locator("#objects li:nth-child(1) .name").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("plate")
    page.keyboard.press("Enter")
    assert names(page)[0] == "plate"
    page.locator('[data-view="objects"]').focus()
    page.keyboard.press("ArrowRight")
    assert page.get_attribute('[data-view="contours"]', "aria-checked") == "true"
