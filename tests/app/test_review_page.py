"""The review page in a real browser: decisions of three people, hostile texts, masks, small screens."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amodal.cli.main import main
from amodal.datagen.review.review import ReviewPolicy, submit
from amodal.datagen.store.records import Draft
from amodal.datagen.store.work_folder import open_work
from tests.datagen.browser import CHROMIUM, Person, launched, served
from tests.datagen.toy_work import QUESTION, answer, execute_sql, toy_work

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on the path")]

BETTER = "Which of them lies below?"
HOSTILE = "<script async>document.title='taken'</script ><img src=x onerror=\"document.title='taken'\"> '\" &lt;b&gt;"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as chromium:
        yield chromium


def test_three_people_one_disagreement_one_rewrite(
    browser: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    toy_work(tmp_path).close()
    with served(work) as link:
        assert link.startswith("http://127.0.0.1:")
        ada, bob = Person(browser, link, "Ada"), Person(browser, link, "Bob")
        ada.sees(1)
        bob.sees(2)
        assert ada.text("#question") == QUESTION
        assert ada.text("#answer") == "The red square1, behind a green one2."
        ada.press("a").sees(3)
        bob.press("f")
        bob.page.fill("#edit-question", BETTER)
        bob.press("Control+Enter").sees(1)
        ada.press("r", "2", "Enter").sees(2)
        bob.press("a").sees(3)
        ada.press("a")
        bob.press("r", "Enter")
        assert ada.is_done() and bob.is_done()
        cyd = Person(browser, link, "Cyd").sees(2)
        assert "Your verdict decides" in cyd.text("#notice")
        assert BETTER in cyd.text("#verdicts") and "Bob" not in cyd.text("#sheet")
        cyd.press("t")
        assert cyd.page.input_value("#edit-question") == BETTER
        cyd.press("Control+Enter")
        assert cyd.is_done()
        for person in (ada, bob, cyd):
            assert person.errors == []
            assert person.hosts == {link.split("/")[2]}, "no requests to other hosts"
    with open_work(work) as opened:
        states = {pair.id: (pair.state, pair.question) for pair in opened.pairs.find()}
        assert states == {1: ("accepted", QUESTION), 2: ("rewritten", BETTER), 3: ("rejected", QUESTION)}
        assert [(entry.state, entry.who) for entry in opened.pairs.history(2)][2:] == [
            ("reviewed", "Bob"), ("cross_checked", "Ada"), ("rewritten", "Cyd"),
        ]  # fmt: skip
        notes = {(r.pair_id, r.reviewer): r.note for r in opened.reviews.all() if r.note}
        assert notes == {(3, "Ada"): "The answer names a wrong object"}
    assert main(["reasonseg", "review", "agreement", str(work), "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    # Ada: accept accept reject, Bob: accept fix reject: po = 2/3, pe = 2/3 * 1/3 + 0 + 1/3 * 1/3 = 1/3
    assert numbers["cohen"] == [
        {"reviewers": ["Ada", "Bob"], "pairs": 3, "observed": pytest.approx(2 / 3), "kappa": pytest.approx(0.5)}
    ]


def test_hostile_texts_are_shown_as_text(browser: Any, tmp_path: Path) -> None:
    drafts = {1: Draft(HOSTILE, f"{HOSTILE} <p>{'it' * 400}</p> {{seg:1}}."), 2: Draft("w" * 1000, answer(3))}
    with toy_work(tmp_path, pairs=2, drafts=drafts) as opened:
        execute_sql(opened, "UPDATE categories SET name = ?", (HOSTILE,))
        submit(opened, 1, "x", "fix", ReviewPolicy(), question=f"{HOSTILE}?", note=HOSTILE)
        submit(opened, 1, "<i>eve</i>", "reject", ReviewPolicy(), note=HOSTILE)
    with served(tmp_path / "work") as link:
        name = "<img src=x onerror=alert(1)>"
        eve = Person(browser, link, name).sees(1)
        assert eve.text("#question") == HOSTILE and HOSTILE in eve.text("#answer")
        assert eve.text("#verdicts").count(HOSTILE) >= 2 and HOSTILE in eve.text("#objects")
        assert eve.text("#who") == name
        eve.press("t")
        assert eve.page.input_value("#edit-question") == f"{HOSTILE}?"
        assert HOSTILE in eve.text("#preview")
        eve.press("Escape", "a").sees(2)
        for width in (1280, 390):
            eve.page.set_viewport_size({"width": width, "height": 800})
            wide = eve.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, "a word of a thousand letters is wrapped"
        assert eve.page.title() == "Review · amodal"
        assert eve.page.evaluate("document.querySelectorAll('img, #sheet script, #stage script').length") == 0
        assert eve.errors == []


def test_masks_on_the_image(browser: Any, tmp_path: Path) -> None:
    """Pixels of the canvas: the part (16..27, 18..29) of the red square (4..27, 6..29) is occluded."""
    toy_work(tmp_path, pairs=1).close()
    with served(tmp_path / "work") as link:
        ada = Person(browser, link, "Ada").sees(1)
        inside_occluded, inside_visible, outside = (22, 23), (7, 26), (55, 10)

        def colours(mode: str) -> list[Any]:
            ada.page.wait_for_selector(f'#canvas[data-drawn="1 {mode}"]')
            return [_mean_colour(ada.page, *point) for point in (inside_occluded, inside_visible, outside)]

        visible = colours("visible -")
        whole = colours("whole -") if ada.press("v") else []
        ada.page.keyboard.down(" ")
        bare = colours("none -")
        ada.page.keyboard.up(" ")
        assert colours("whole -") == whole
        assert bare == [_near((40, 220, 40)), _near((220, 40, 40)), _near((40, 40, 40))]
        assert visible[2] == bare[2] == whole[2], "nothing is drawn outside of objects"
        assert visible[1] == whole[1] != bare[1], "the visible part is tinted in both"
        assert whole[0] != visible[0], "the occluded part shows only with whole objects"

        box = ada.page.locator("#canvas").bounding_box()
        x, y = _on_screen(ada.page, 10, 26)
        ada.page.mouse.move(box["x"] + x, box["y"] + y)
        ada.page.wait_for_selector('#canvas[data-drawn="1 whole 1"]')
        assert ada.page.locator(".mention.lit").inner_text().startswith("The red square")
        ada.page.mouse.move(box["x"] + 2, box["y"] + 2)
        ada.page.wait_for_selector('#canvas[data-drawn="1 whole -"]')
        ada.press("2")
        ada.page.wait_for_selector('#canvas[data-drawn="1 whole 2"]')
        ada.press("Escape")
        ada.page.wait_for_selector('#canvas[data-drawn="1 whole -"]')
        ada.page.mouse.move(box["x"] + x, box["y"] + y)
        ada.page.mouse.wheel(0, -400)
        ada.page.wait_for_selector("#zoom:not([hidden])")
        ada.press("0")
        ada.page.wait_for_selector("#zoom", state="hidden")
        assert ada.errors == []


def test_writing_an_answer_with_its_objects(browser: Any, tmp_path: Path) -> None:
    toy_work(tmp_path, pairs=1, drafts={1: Draft(QUESTION, "The thing below.")}).close()
    with served(tmp_path / "work", "--reviewers", "1") as link:
        ada = Person(browser, link, "Ada").sees(1)
        assert ada.page.locator("#objects button").count() == 0, "unmentioned objects are not listed"
        ada.press("l")
        assert ada.page.locator("#objects button").count() == 2
        ada.press("l", "f")
        ada.page.evaluate("document.getElementById('edit-answer').setSelectionRange(0, 9)")
        ada.page.click('#objects button[data-number="1"]')
        assert ada.page.input_value("#edit-answer") == "[The thing #1] below."
        ada.page.fill("#edit-question", "Would the red one fall first?")
        ada.page.wait_for_selector("#faults li:has-text('red')")
        ada.page.fill("#edit-answer", "[The thing #9] below.")
        assert "no such object" in ada.text("#preview")
        ada.press("Control+Enter")
        ada.page.wait_for_selector("#said.bad:has-text('expected objects #1 to #2, got #9')")
        ada.press("Escape", "f")
        assert ada.page.input_value("#edit-answer") == "[The thing #9] below.", "the edited text is kept"
        ada.page.fill("#edit-question", BETTER)
        ada.page.fill("#edit-answer", "[The thing #1] below [the other one #2].")
        ada.press("Control+Enter")
        assert ada.is_done()
        assert len(ada.errors) == 1 and "422" in ada.errors[0]
        ada.page.click("#done-undo")
        ada.sees(1).press("s").sees(1).press("z").page.wait_for_selector("#said.bad")
    with open_work(tmp_path / "work") as opened:
        assert [(entry.state, entry.answer) for entry in opened.pairs.history(1)][2:] == [
            ("rewritten", "<p>The thing</p> {seg:1} below <p>the other one</p> {seg:2}."),
            ("checked", "The thing below."),
        ]


def test_a_page_that_others_can_reach_requires_a_token(browser: Any, tmp_path: Path) -> None:
    toy_work(tmp_path, pairs=1).close()
    with served(tmp_path / "work", "--host", "0.0.0.0") as link:
        local = link.replace("0.0.0.0", "127.0.0.1")
        bare = local.split("?")[0]
        assert len(local.split("token=")[1]) >= 40
        for path in ("", "images/1", "page.js", "?token=guessed"):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(bare + path)
        ada = Person(browser, local, "Ada").sees(1)
        assert ada.page.url == bare, "the token is removed from the address"
        assert ada.page.evaluate("document.cookie") == "", "scripts cannot read it"
        assert ada.errors == []


def test_a_narrow_screen(browser: Any, tmp_path: Path) -> None:
    toy_work(tmp_path).close()
    with served(tmp_path / "work") as link:
        ada = Person(browser, link, "Ada", is_mobile=True, has_touch=True)
        ada.page.set_viewport_size({"width": 390, "height": 800})
        ada.sees(1)
        for selector in ("#canvas", "#question", "#accept", "#fix", "#reject"):
            box = ada.page.locator(selector).bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["y"] + box["height"] <= 800, selector
        ada.page.tap("#accept")
        ada.sees(2)


def _near(colour: tuple[int, int, int]) -> Any:
    return pytest.approx(colour, abs=6)  # JPEG changes colours slightly


_TO_SCREEN = """([x, y]) => { const c = document.getElementById('canvas'), k = Math.min(c.width, c.height) / 64;
  return [c.width / 2 + (x + .5 - 32) * k, c.height / 2 + (y + .5 - 32) * k]; }"""


def _on_screen(page: Any, x: float, y: float) -> list[float]:
    """A point of the 64 x 64 image in pixels of the canvas."""
    found: list[float] = page.evaluate(_TO_SCREEN, [x, y])
    return found


def _mean_colour(page: Any, x: float, y: float) -> tuple[float, ...]:
    """Mean colour over a pixel of the image, which is larger on the screen."""
    left, top = _on_screen(page, x, y)
    script = """([x, y]) => { const pen = document.getElementById('canvas').getContext('2d');
      const d = pen.getImageData(x - 4, y - 4, 9, 9).data;
      const sum = [0, 0, 0]; for (let i = 0; i < d.length; i++) if (i % 4 < 3) sum[i % 4] += d[i] / 81; return sum; }"""
    return tuple(page.evaluate(script, [left, top]))
