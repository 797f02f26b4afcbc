"""The check of a work folder: what passes, what is sent back, what waits for people, and the policy of the paper."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from amodal.cli.main import main
from amodal.datagen.backends.template import TemplateBackend
from amodal.datagen.check import check
from amodal.datagen.generate import generate
from amodal.datagen.policy import PairShares, is_implicit, max_pairs, pair_shares, to_replace
from amodal.datagen.review.review import ReviewPolicy, lease
from amodal.datagen.rules import RuleContext
from amodal.datagen.stats import statistics
from amodal.datagen.store.records import EXHAUSTED, Draft
from amodal.datagen.store.work_folder import WorkFolder
from amodal.errors import InputError
from tests.datagen.endpoint import serving
from tests.datagen.test_endpoint import run
from tests.datagen.test_template import row_of_objects

Works = Callable[..., WorkFolder]
MUG, BOOK = "<p>the mug</p> {seg:1}", "<p>the book</p> {seg:2}"
TRUE = Draft("What would somebody reach for at breakfast?", f"That is {MUG}, since {BOOK} is in front of it.")
FALSE = Draft("What is good company at night?", f"That is {BOOK}, since {MUG} is in front of it.")
UNREAD = Draft("What would a thief take along?", f"Likely {MUG}, which one can hardly see behind all that clutter.")


def with_pairs(work: WorkFolder, *drafts: Draft) -> WorkFolder:
    work.pairs.add_drafts(1, list(drafts), list(range(1, len(drafts) + 1)), "tester")
    work.count_reply(1, "answered")
    return work


def test_false_pairs_fail_and_unread_ones_wait_for_people(toy_work: Works) -> None:
    work = with_pairs(toy_work(1), TRUE, FALSE, UNREAD)
    report = check(work, pairs=3, progress=False)
    assert (report.checked, report.failed, report.unclear, report.again) == (1, 1, 1, 1)
    assert [pair.state for pair in work.pairs.find()] == ["checked", "failed", "unclear"]
    reasons = [pair.reason or "" for pair in work.pairs.find()]
    assert reasons[1].startswith("claims: expected what the masks show, got [1] is in front of")
    assert reasons[2].startswith("unclear: for people: no rule reads 'behind' in")
    assert report.to_json()["unclear"] == 1 and report.rules["unclear"].failed == 1
    again = check(work, pairs=3, progress=False)
    assert (again.checked, again.failed, again.unclear) == (1, 1, 1), "the same the second time"


def test_as_many_pairs_are_wanted_as_generate_was_asked_for(toy_work: Works) -> None:
    work = toy_work(2)
    with serving() as server:
        run(work, server, pairs=2)
        assert check(work, progress=False).rules["count"].failed == 0
        assert check(work, pairs=3, progress=False).again == 2, "another number for this check alone"
        run(work, server)  # as before: two
    assert len(server.requests) == 2
    assert len(list(work.pairs.find())) == 4


def test_an_image_is_not_asked_about_again_after_its_last_round(toy_work: Works) -> None:
    work = with_pairs(toy_work(1), FALSE)
    with serving() as server:
        run(work, server, pairs=1, rounds=1)
    assert check(work, progress=False).again == 0
    assert check(work, rounds=2, progress=False).again == 1


@pytest.mark.parametrize("name", ["pairs", "rounds"])
def test_numbers_below_one_are_refused(toy_work: Works, name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: expected 1 or more, got 0"):
        check(toy_work(1), progress=False, **{name: 0})


def test_unclear_pairs_are_handed_to_people_but_not_generated_again(toy_work: Works) -> None:
    work = with_pairs(toy_work(1), UNREAD)
    assert check(work, pairs=1, progress=False).again == 0
    assert "unclear" in ReviewPolicy().states
    assert lease(work, "ada", ReviewPolicy()) is not None
    with serving() as server:
        run(work, server)
    assert server.requests == []


def test_a_writer_that_knows_no_more_is_not_asked_again(toy_work: Works) -> None:
    """Two objects allow three pairs; the image is done with fewer pairs than wanted."""
    work = toy_work(2)
    outcome = generate(work, TemplateBackend(), progress=False)
    assert (outcome.images, outcome.pairs, outcome.unreadable) == (2, 6, 0)
    for _ in range(2):
        report = check(work, progress=False)
        assert (report.failed, report.again, report.rules["count"].failed) == (0, 0, 2)
        assert {(image.state, image.reason) for image in work.images()} == {("done", EXHAUSTED)}
    assert check(work, policy="paper", progress=False).failed == 0


CONTEXT = RuleContext(row_of_objects(4), {1: "mug"})
ONE = [Draft(f"Question {n}?", f"Take <p>the mug</p> {{seg:{n}}} because.") for n in (1, 2, 3, 4)]
TWO = [
    Draft(f"Question {n}{m}?", f"Take <p>a mug</p> {{seg:{n}}} and <p>a mug</p> {{seg:{m}}} because.")
    for n, m in ((1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4))
]


def test_shares() -> None:
    plain = Draft("Which mug?", "Take <p>the mug</p> {seg:1}.")
    assert pair_shares([*ONE, *TWO, plain], CONTEXT) == PairShares(11, several=6, implicit=10, reasons=10, repeated=0)
    assert pair_shares([plain, plain, plain], CONTEXT) == PairShares(3, 0, 0, 0, 1)
    assert PairShares(4, 2, 3, 4, 1).shares() == {"several": 0.5, "implicit": 0.75, "reasons": 1.0, "repeated": 0.25}
    assert PairShares().shares()["several"] == 0.0


@pytest.mark.parametrize(
    ("question", "implicit"),
    [
        ("Where could I put my tea?", True),
        ("Which mugs are there?", False),
        ("Which cup is there?", False),
        ("What has a handle and thick walls?", False),
        ("What would need a handle?", True),
    ],
)
def test_implicit_questions_name_and_describe_nothing(question: str, implicit: bool) -> None:
    assert is_implicit(Draft(question, "Take <p>the mug</p> {seg:1}."), CONTEXT) is implicit


def test_the_fewest_pairs_are_replaced() -> None:
    assert to_replace([], [*ONE, *TWO], CONTEXT) == {}
    found = to_replace([], [*ONE, *TWO[:4]], CONTEXT)
    assert found == {3: "expected at least 60% answers that mention two objects or more, got 4 of 8"}
    assert to_replace(TWO[:2], ONE, CONTEXT).keys() == {3, 2}, "reviewed pairs stay"
    same = [Draft(f"Another {n}?", TWO[0].answer) for n in range(4)]
    assert to_replace([], same, CONTEXT).keys() == {2, 3}
    mute = [Draft(d.question, d.answer.replace(" because", "")) for d in TWO]
    assert set(to_replace([], mute, CONTEXT).values()) == {
        "expected at least 60% answers that give a reason ('because ...'), got 0 of 6"
    }
    assert len(to_replace([], mute, CONTEXT)) == 4
    alone = RuleContext(row_of_objects(1), {1: "mug"})
    assert to_replace([], ONE[:1], alone) == {}, "one object cannot be several"


@pytest.mark.parametrize(("objects", "most"), [(0, 0), (1, 2), (2, 3), (3, 10), (9, 10)])
def test_most_pairs(objects: int, most: int) -> None:
    assert max_pairs(objects, 10) == most


def test_the_policy_asks_again_for_what_is_missing(toy_work: Works) -> None:
    drafts = [Draft(f"{TRUE.question[:-1]} number {n}?", f"That is {MUG}, for reason {n}.") for n in "abc"]
    work = with_pairs(toy_work(1), *drafts[:1])
    assert check(work, pairs=1, progress=False).failed == 0
    report = check(work, pairs=1, policy="paper", progress=False)
    assert (report.failed, report.again, report.rules["policy"].failed) == (1, 1, 1)
    (pair,) = work.pairs.find()
    assert pair.reason is not None and pair.reason.startswith("policy: expected at least 60%")
    with serving() as server:
        run(work, server)
    assert "expected at least 60% answers" in server.requests[0].prompt, "the model is told"


def test_shares_are_printed(toy_work: Works, capsys: pytest.CaptureFixture[str]) -> None:
    work = toy_work(1)
    generate(work, TemplateBackend(), progress=False)
    shares = statistics(work)["shares"]
    assert shares["several"] == pytest.approx(2 / 3, abs=1e-3) and shares["implicit"] == shares["reasons"] == 1.0
    assert main(["reasonseg", "stats", str(work.folder)]) == 0
    assert "shares of the pairs: 67% with two objects or more, 100% implicit questions" in capsys.readouterr().out
    assert main(["reasonseg", "check", str(work.folder), "--policy", "paper", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["failed"] == 0
    assert main(["reasonseg", "check", str(work.folder), "--policy", "strict"]) == 2
    assert "policy: expected none or paper, got 'strict'" in capsys.readouterr().err


def test_facts_of_a_file_are_used(toy_work: Works, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = tmp_path / "facts.yaml"
    facts.write_text("book: {purposes: [press a flower flat], parts: [heavy covers], looks: [heavy]}\n")
    work = toy_work(6)
    arguments = ["reasonseg", "generate", "--out", str(work.folder), "--facts", str(facts), "--json"]
    assert main(arguments) == 0
    asked = " ".join(pair.question for pair in work.pairs.find())
    assert "press a flower flat" in asked
    assert main([*arguments[:5], str(tmp_path / "none.yaml")]) == 2
    assert "facts: expected a YAML file" in capsys.readouterr().err
