"""What the rules let pass and what they do not, on a small scene drawn by hand."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from amodal.data.samples import ImageSample, ObjectSample
from amodal.datagen.occlusion_claims import claims_in_text, states_in_text
from amodal.datagen.rules import RULES, Context, RuleSettings, check_duplicate, check_pair, object_ids
from amodal.datagen.store.records import Draft
from amodal.errors import InputError
from amodal.ops.rle import encode_mask, rle_box_xyxy
from amodal.questions.synonyms import named_in, naming_words, read_synonyms
from tests.drawing import mask

CUP, PLATE, DOG = 7, 8, 9
CATEGORIES = {1: "cup", 2: "plate", 3: "dog"}


def thing(number: int, category: int, visible: str, amodal: str, *occluders: int) -> ObjectSample:
    seen, whole = encode_mask(mask(*visible.split())), encode_mask(mask(*amodal.split()))
    return ObjectSample(number, category, seen, whole, rle_box_xyxy(seen), rle_box_xyxy(whole), occluders)


SCENE = ImageSample(
    1,
    Path("scene.png"),
    3,
    6,
    (
        thing(CUP, 1, "##.... ##.... ......", "##.... ##.... ......"),
        thing(PLATE, 2, "..#... ..#... ###...", ".##... .##... ###...", CUP),
        thing(DOG, 3, "....## ....## ....##", "....## ....## ....##"),
    ),
)
CONTEXT = Context(SCENE, CATEGORIES)
QUESTION = "What could I drink from, and what is it standing on?"
ANSWER = f"Take <p>the white cup</p> {{seg:{CUP}}}, it stands on <p>the round plate</p> {{seg:{PLATE}}}."


def faults(question: str = QUESTION, answer: str = ANSWER, claims: tuple[tuple[int, int], ...] = ()) -> list[str]:
    return [str(fault) for fault in check_pair(Draft(question, answer, claims), CONTEXT)]


def test_a_good_pair_passes() -> None:
    assert faults() == []
    assert faults(claims=((CUP, PLATE),)) == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("It is the white cup on the left side.", "placeholders: expected an answer that mentions objects"),
        (f"It is {{seg:{CUP}}} on the left.", "placeholders: expected <p>words</p> before each placeholder"),
        ("Take <p>the cup</p> on the left of it.", "placeholders: expected {seg:ANNOTATION_ID} for each object"),
        (f"<p>The cup</p> {{seg:{CUP}}} is <p>a cup</p> {{seg:{CUP}}}.", "placeholders: expected one placeholder"),
        ("It is <p>the cup</p> {seg:99} on the left.", "ids: expected numbers of the picture's objects, got {seg:99}"),
        (f"You should use <p>the brown dog</p> {{seg:{CUP}}} for it.", "binding: expected words for [7], a cup"),
        (f"<p>The cup</p> {{seg:{CUP}}}.", "length: expected 4 to 120 words in the answer, got 2"),
        (f"<p>Tasse blanche</p> {{seg:{CUP}}} située près du bord gauche.", "language: expected English"),
    ],
)  # fmt: skip
def test_answers_that_fail(answer: str, message: str) -> None:
    assert any(fault.startswith(message) for fault in faults(answer=answer)), faults(answer=answer)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("Which cup could I drink from here?", "giveaway: expected a question that does not name"),
        ("Are there any mugs that I could take?", "giveaway: .* got 'mugs' for \\[7\\]"),
        ("Which Cup's handle is nearest to me?", "giveaway"),
        ("What is this?", "length: expected 4 to 60 words in the question, got 3"),
        ("What is <p>it</p> that I could drink from?", "placeholders: expected a question without placeholders"),
        ("Где стоит большая белая вещь слева на столе?", "language"),
    ],
)  # fmt: skip
def test_questions_that_fail(question: str, message: str) -> None:
    assert any(re.match(message, fault) for fault in faults(question=question)), faults(question=question)


@pytest.mark.parametrize(
    ("question", "passes"),
    [("What cupboard could I drink at, if any?", True), ("What could the dog drink from around here?", True)],
)
def test_words_that_only_look_like_names(question: str, passes: bool) -> None:
    assert (faults(question=question) == []) is passes


C, P, D = f"<p>the cup</p> {{seg:{CUP}}}", f"<p>the plate</p> {{seg:{PLATE}}}", f"<p>the dog</p> {{seg:{DOG}}}"


@pytest.mark.parametrize(
    ("answer", "claims"),
    [
        (f"I see that {C} hides part of {P}.", [(CUP, PLATE)]),
        (f"I see that {C} partly covers {P}.", [(CUP, PLATE)]),
        (f"I see that {C} is in front of {P}.", [(CUP, PLATE)]),
        (f"I see that {P} is partly hidden by {C}.", [(CUP, PLATE)]),
        (f"I see that {P} stands behind {C} and {D}.", [(CUP, PLATE), (DOG, PLATE)]),
        (f"You need {P}, which {C} partly hides, and more.", [(CUP, PLATE)]),
        (f"I see that {C} does not hide {P}.", []),
        (f"I see {C}. Behind the house is {P}.", []),
        (f"I see {C} and {P} at the table.", []),
        (f"I see that {C}, like {D}, stands in front of {P}.", [(DOG, PLATE)]),
    ],
)
def test_claims_are_read_off_the_text(answer: str, claims: list[tuple[int, int]]) -> None:
    assert claims_in_text(answer) == claims


@pytest.mark.parametrize(
    ("answer", "stated", "message"),
    [
        (f"As I see it, {P} hides part of {C} here.", (), "got that [8] hides part of [7]"),
        (f"As I see it, {C} is behind {D} in this place.", (), "got that [9] hides part of [7]"),
        (f"As I see it, {C} would do for this.", ((DOG, CUP),), "got that [9] hides part of [7]"),
        (f"As I see it, {C} would do for this.", ((DOG, 55),), "got one about [55]"),
        (f"As I see it, {P} is fully visible in this.", (), "got that [8] is fully visible"),
        (f"As I see it, {C} is partly hidden in this.", (), "got that [7] is partly hidden"),
    ],
)
def test_statements_the_masks_contradict(answer: str, stated: tuple[tuple[int, int], ...], message: str) -> None:
    found = faults("What could I take along from here?", answer, stated)
    assert len(found) == 1 and found[0].startswith("occlusion: ") and message in found[0], found


def test_babble_is_turned_down_at_once() -> None:
    for filler in (" . " * 100_000, "hidden by " * 50_000, "<p>" * 100_000, "{seg:7}" * 20_000):
        start = time.process_time()
        assert faults(answer=ANSWER + filler)[0].startswith("placeholders: expected an answer of at most 4000")
        assert time.process_time() - start < 0.5
    slow = ANSWER[:-1] + " in front of" + "," * 3_800 + P
    start = time.process_time()
    faults(answer=slow)
    assert time.process_time() - start < 2.0


def test_statements_the_masks_bear_out() -> None:
    answer = f"As I see it, {C} is fully visible, and {P} is partly hidden."
    objects = {one.id: one for one in SCENE.objects}
    assert list(states_in_text(answer, objects)) == []
    assert faults("What could I take along from here?", answer, ((CUP, PLATE),)) == []


def test_objects_of_an_answer() -> None:
    assert object_ids(ANSWER) == [CUP, PLATE]
    assert object_ids("broken {seg") == []


def test_duplicates() -> None:
    first = Draft("What could I drink from right now?", ANSWER)
    settings = RuleSettings()
    again = Draft("What could I drink from now?", f"Use {D} for that.")
    fault = check_duplicate(again, [first], settings)
    assert fault is not None and fault.rule == "duplicate"
    looser = Draft("What could I drink tea from right now, my friend?", ANSWER)
    assert check_duplicate(looser, [first], settings) is not None, "same objects, most words"
    assert check_duplicate(Draft(looser.question, f"Use {D} for that."), [first], settings) is None
    assert check_duplicate(Draft("Who barks at the door?", f"Surely {D}."), [first], settings) is None
    assert check_duplicate(first, [first], RuleSettings(skip=frozenset({"duplicate"}))) is None


def test_rules_can_be_left_out() -> None:
    draft = Draft("Which cup could I drink from?", ANSWER)
    settings = RuleSettings(skip=frozenset({"giveaway"}))
    assert check_pair(draft, Context(SCENE, CATEGORIES, settings)) == []
    with pytest.raises(InputError, match="skip: expected rules among placeholders, .*, got nonsense"):
        RuleSettings(skip=frozenset({"nonsense"}))


def test_every_rule_has_a_pair_that_breaks_it() -> None:
    broken = {
        "placeholders": ("What could I drink from here?", "It is the white cup over there."),
        "ids": ("What could I drink from here?", "It is <p>the cup</p> {seg:99} over there."),
        "binding": ("What could I drink from here?", f"It is <p>the dog</p> {{seg:{CUP}}} over there."),
        "giveaway": ("Which cup could I drink from?", ANSWER),
        "occlusion": ("What could I drink from here?", f"It is {P}, it hides part of {C}, it seems."),
        "length": ("What here?", ANSWER),
        "language": ("Was könnte ich hier wohl trinken gehen?", f"Nimm {C}, steht links neben Teller."),
    }
    assert broken.keys() == RULES.keys()
    for rule, (question, answer) in broken.items():
        assert rule in {fault.split(":")[0] for fault in faults(question, answer)}


def test_names_and_plurals() -> None:
    assert named_in("two wine glasses", naming_words("wine glass")) == "wine glasses"
    assert named_in("a wine glass", naming_words("Wine_Glass")) == "wine glass"
    assert named_in("a glass", naming_words("wine glass")) == "glass"
    assert named_in("my dog", naming_words("hot dog")) is None
    assert named_in("some people here", naming_words("person")) == "people"
    assert named_in("sharp knives", naming_words("knife")) == "knives"
    assert named_in("the butterflies", naming_words("butterfly")) == "butterflies"
    assert named_in("a gizmo", naming_words("widget", {"widget": ("gizmo",)})) == "gizmo"


def test_synonyms_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "more.json"
    path.write_text('{"Dog": ["Hound", "mutt"]}')
    assert read_synonyms(path) == {"dog": ("hound", "mutt")}
    path.write_text("[1]")
    with pytest.raises(InputError, match="expected a JSON file of lists of words"):
        read_synonyms(path)
    with pytest.raises(InputError, match="expected a JSON file of lists of words"):
        read_synonyms(tmp_path / "none.json")
