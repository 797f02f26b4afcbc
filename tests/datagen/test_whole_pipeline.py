"""From scenes to a training step: every stage by its command, with people on the review page in a browser."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from amodal.cli.main import main
from amodal.data.reason_seg import read_reason_seg
from amodal.datagen.store.work_folder import open_work
from amodal.models.aura import AuraModel
from amodal.synthetic.generate import synthesize
from amodal.training.loop import train
from amodal.training.recipe import parse_recipe
from tests.datagen.browser import CHROMIUM, Person, launched, served
from tests.models.aura import write_mllm, write_sam
from tests.training.tiny import TRAINING

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on the path")]

NAMES = ("Ada", "Bob", "Cyd")
BETTER = "If I wanted to tidy up here, what would I have to take hold of first?"


@pytest.mark.parametrize("images", [8, 200])
def test_scenes_to_training(tmp_path: Path, capsys: pytest.CaptureFixture[str], images: int) -> None:
    """Ten pairs per scene, three people on the page: one disagreement, one rewrite, one rejected pair."""
    amodal = partial(_amodal, capsys)
    scenes = synthesize("scenes", 2 * images + 8, 6, tmp_path / "scenes", progress=False)
    work, out, pairs = tmp_path / "work", tmp_path / "out", 10 * images
    selection = ("--min-objects", 4, "--max-images", images)
    made = amodal("generate", "--annotations", scenes, "--backend", "template", "--out", work, *selection)
    assert (made["images"], made["pairs"]) == (images, pairs)
    report = amodal("check", work)
    assert (report["checked"], report["failed"]) == (pairs, 0)
    with served(work) as link, launched() as browser:
        _three_people(browser, link)
        with ThreadPoolExecutor(3) as pool:  # the remaining pairs, without browsers
            counts = dict(zip(NAMES, pool.map(partial(_accept_the_rest, link), NAMES), strict=True))
        later = Person(browser, link, "Ada")
        assert later.is_done() and later.errors == []
    with open_work(work) as opened:
        assert {name: counts[name] + 3 - 2 * (name == "Cyd") for name in NAMES} == _verdicts(opened.reviews.all())
        rewritten = opened.pairs.get(2)
        assert (rewritten.state, rewritten.question, opened.pairs.get(3).state) == ("rewritten", BETTER, "rejected")
        assert [(entry.state, entry.who) for entry in opened.pairs.history(2)] == [
            ("generated", "template"), ("checked", "check"), ("reviewed", "Bob"), ("cross_checked", "Ada"),
            ("rewritten", "Cyd"),
        ]  # fmt: skip
    numbers = amodal("stats", work)
    assert numbers["states"] | {"accepted": pairs - 2, "rewritten": 1, "rejected": 1} == numbers["states"]
    assert numbers["agreement"]["pairs"] == pairs
    assert numbers["agreement"]["observed"] == pytest.approx((pairs - 1) / pairs)
    assert 0 < numbers["agreement"]["fleiss"]["kappa"] < 1
    assert amodal("export", work, "--to", "canonical", "--out", out)["pairs"] == pairs - 1
    dataset = read_reason_seg(out / "questions.json", out / "annotations.json")
    asked = [turn.question for conversation in dataset.conversations for turn in conversation.turns]
    assert len(asked) == pairs - 1 and asked.count(BETTER) == 1
    _train_two_steps(out, tmp_path / "training")


def _amodal(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    """Run `amodal reasonseg` and return its JSON."""
    assert main(["reasonseg", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def _three_people(browser: Any, link: str) -> None:
    """Ada and Bob both accept pair 1, disagree about pair 2 and both reject pair 3; Cyd decides about pair 2."""
    ada, bob = Person(browser, link, "Ada").sees(1), Person(browser, link, "Bob").sees(2)
    ada.press("a").sees(3)
    bob.press("f")
    bob.page.fill("#edit-question", BETTER)
    bob.press("Control+Enter").sees(1).press("a").sees(4)
    ada.press("r", "2", "Enter").sees(2).press("a").sees(5)
    bob.press("s").sees(3).press("r", "4", "Enter")
    cyd = Person(browser, link, "Cyd").sees(2)
    assert "Your verdict decides" in cyd.text("#notice") and BETTER in cyd.text("#verdicts")
    cyd.press("t", "Control+Enter").page.wait_for_selector("#said:has-text('rewritten for good')")
    for person in (ada, bob, cyd):
        person.page.wait_for_selector("body:not(.busy)")
        assert person.errors == []
        person.page.close()


def _accept_the_rest(link: str, name: str) -> int:
    """Accept every pair that the page's server hands out; returns their number."""
    count = 0
    while True:
        content = _ask(link, "next", reviewer=name)
        item = content["item"]
        if item is not None:
            _ask(link, "review", reviewer=name, pair=item["id"], tries=item["tries"], verdict="accept")
            count += 1
        elif content["progress"]["left"] == 0:
            return count


def _ask(link: str, path: str, **body: Any) -> Any:
    request = Request(f"{link}api/{path}", json.dumps(body).encode(), {"content-type": "application/json"})
    with urlopen(request) as answer:
        return json.load(answer)


def _verdicts(reviews: Any) -> dict[str, int]:
    return {name: sum(review.reviewer == name for review in reviews) for name in NAMES}


def _train_two_steps(data: Path, folder: Path) -> None:
    """Train AURA with a language model and a SAM of random weights; the saved model can be loaded."""
    source = {"annotations": str(data / "annotations.json")}
    recipe = parse_recipe(
        {
            "task": "aura",
            "output": str(folder / "run"),
            "model": {
                "mllm": str(write_mllm(folder / "mllm")),
                "base": str(write_sam(folder / "sam")),
                "image_size": 64,
                "lora_rank": 2,
            },
            "data": {
                "train": [source | {"questions": str(data / "questions-train.json")}],
                "validation": [source | {"questions": str(data / "questions-test.json")}],
                "max_tokens": 1200,
            },
            "training": TRAINING | {"steps": 2, "batch_size": 2, "picture_objects": 0},
        }
    )
    assert AuraModel.from_pretrained(train(recipe, progress=False)).processor is not None
    log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "text" in line] == [1, 2]
    assert {name for line in log for name in line} >= {"text", "visible_bce", "amodal_dice", "rate", "map", "val_full"}
