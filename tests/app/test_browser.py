"""The web page as an editor, in headless Chromium on a desktop and a phone; needs Chromium on this machine."""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amodal.cli.main import main
from amodal.inference.assistant import AmodalAssistant
from amodal.inference.scene import Scene
from amodal.ops.rle import decode_mask
from tests.app import browser as web
from tests.app.browser import chosen, click, colours, drag, idle, ids, names, place, scene_of
from tests.app.test_demo import Assistant

pytestmark = pytest.mark.slow
EXAMPLES = Path(web.__file__).parents[2] / "src" / "amodal" / "app" / "demo_page" / "examples"
UNKNOWN = [0x8F, 0x8F, 0x8F]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with web.serving(Assistant()) as place:
        yield place


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with web.chromium() as browser:
        yield browser


@pytest.fixture(params=list(web.SIZES))
def page(request: pytest.FixtureRequest, browser: Any, address: str) -> Iterator[Any]:
    with web.opened(browser, address, web.SIZES[request.param], request.param == "phone") as page:
        yield page


@pytest.fixture
def desktop(browser: Any, address: str) -> Iterator[Any]:
    with web.opened(browser, address, web.SIZES["desktop"]) as page:
        yield page


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
    after = scene_of(page, tmp_path)["objects"][1]
    added = decode_mask(after["visible"]) & ~decode_mask(before["visible"])
    assert added[40, 60] and added[60, 100] and after["page"]["prompt"]["mask"] is True
    assert decode_mask(after["amodal"])[40, 60]
    drag(page, (60, 40), (100, 60), tool="erase")
    again = decode_mask(scene_of(page, tmp_path)["objects"][1]["visible"])
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
    assert page.inner_text(".talk .you >> nth=0") == "What is this & that?"
    assert page.inner_text(".talk .it >> nth=0") == "Turn 1: it <b>&"  # text from the server is never markup
    page.click("#objects li:nth-child(1) .select")
    page.click(".talk .mark >> nth=0")
    assert chosen(page) == 4
    page.click("#undo")
    assert len(ids(page)) == 3


def test_the_bundled_assistant_answers_with_masks(browser: Any) -> None:
    assistant = AmodalAssistant.from_pretrained("aura-tiny", device="cpu")
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
    assert scene_of(page, tmp_path)["objects"] == before["objects"]
    page.click("#undo")  # the history survives as well
    idle(page)
    assert len(ids(page)) == 4


def test_the_session_survives_a_restart_of_the_server(browser: Any) -> None:
    from amodal.inference.segmenter import AmodalSegmenter

    segmenter = AmodalSegmenter.from_pretrained("plug-tiny", device="cpu")
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
    from amodal.inference.segmenter import AmodalSegmenter

    segmenter = AmodalSegmenter.from_pretrained("plug-tiny", device="cpu")
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
        assert "Your session is back: coffee.tiff with 1 objects." in page.inner_text("#message")
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
