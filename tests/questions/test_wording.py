"""The wording of questions: purposes, forms, amounts, and the words that name a kind of object."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from amodal.errors import InputError
from amodal.questions import wording
from amodal.questions.scene_forms import DEGREE_MARGIN
from amodal.questions.wording import capitalized, named_in, naming_words, read_synonyms


def test_purposes_fit_common_knowledge() -> None:
    uses = {t: p.kinds for p in wording.PURPOSES for w in (p.gap, p.need, p.trait) if w for t in w.train}
    assert uses["drink from"] == uses["I am thirsty."] == {"mug", "wine glass", "bottle"}
    assert uses["sit on"] == {"chair"}
    assert uses["can fly"] == {"bird", "butterfly"}
    assert uses["It is going to rain."] == {"umbrella"}
    assert uses["is a fruit"] == {"apple", "banana", "pear"}
    assert set().union(*uses.values()) == set(wording.SCENE_KINDS)


def all_wordings() -> list[wording.Wording]:
    forms = wording.SCENE_FORMS.values()
    own = [w for form in forms for w in (form.question, form.yes_no) if w]
    return own + [w for p in wording.PURPOSES for w in (p.gap, p.need, p.trait) if w]


def test_held_out_forms_are_new_but_made_of_known_words() -> None:
    def words(texts: set[str]) -> set[str]:
        return set(re.findall(r"[a-z_]+", " ".join(texts).lower()))

    train = {t for w in all_wordings() for t in w.train}
    held_out = {t for w in all_wordings() for t in w.held_out}
    assert all(w.train and w.held_out for w in all_wordings())
    assert not train & held_out
    assert words(held_out) <= words(train)


@pytest.mark.parametrize(
    ("rate", "words"),
    [(0.0, "all"), (0.01, None), (0.1, "most"), (0.19, None), (0.3, "a good part"), (0.5, "about half"),
     (0.7, "less than half"), (0.99, "less than half")],
)  # fmt: skip
def test_amounts_near_a_limit_are_unclear(rate: float, words: str | None) -> None:
    assert wording.amount(rate, margin=DEGREE_MARGIN) == words


def test_capitals() -> None:
    assert capitalized("<p>the mug</p> is here") == "<p>The mug</p> is here"
    assert capitalized("") == ""


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
