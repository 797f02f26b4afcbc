"""Facts about categories: the built-in ones, and files that people edit."""

from __future__ import annotations

from pathlib import Path

import pytest

from amodal.errors import InputError
from amodal.questions.knowledge import CategoryFacts, all_facts, built_in_facts, category_key, read_facts
from amodal.questions.wording import SCENE_KINDS


def test_built_in_facts_cover_the_kinds_of_scenes_and_give_reasons() -> None:
    facts = built_in_facts()
    assert set(SCENE_KINDS) <= facts.keys()
    assert len(facts) > 100
    for name, one in facts.items():
        assert one.purposes and one.reason(plural=False), name
        assert name == category_key(name)


def test_reasons() -> None:
    wheels = CategoryFacts(parts=("two wheels", "pedals"), materials=("steel",))
    assert wheels.reason(plural=False) == "has two wheels and pedals"
    assert wheels.reason(plural=True) == "have two wheels and pedals"
    assert CategoryFacts(materials=("wood", "iron")).reason(plural=False) == "is made of wood and iron"
    assert CategoryFacts(purposes=("sit",)).reason(plural=True) is None


def test_a_file_extends_and_replaces_the_built_in_facts(tmp_path: Path) -> None:
    path = tmp_path / "facts.yaml"
    path.write_text(
        "Gear_Box: {purposes: [change the speed], parts: [toothed wheels]}\n"
        "mug: {purposes: [hold pencils], parts: [a handle]}\n"
        "valve: {purposes: [stop a flow], parts: [a plug], confirmed: false}\n"
    )
    facts = all_facts(path)
    assert facts["gear box"].purposes == ("change the speed",)
    assert facts["mug"].purposes == ("hold pencils",)
    assert facts["chair"] == built_in_facts()["chair"]
    assert "valve" not in facts, "nobody has confirmed it"
    assert read_facts(path)["valve"].purposes == ("stop a flow",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a list", "expected categories with their facts, got list"),
        ("mug: 3", "mug: .*valid dictionary"),
        ("mug: {purpose: [drink]}", "mug: purpose: Extra inputs are not permitted"),
        ("mug: {purposes: drink}", "mug: purposes: .*valid tuple"),
        ("mug: {purposes: [drink my tea]}", "expected a purpose without 'I', 'me' or 'my', got 'drink my tea'"),
        ("mug: {parts: [a handle, ' ']}", "mug: parts: .*expected texts, got ' '"),
        ("mug: {purposes: [a: b", "expected a YAML file of facts by category"),
        ("!!python/object/apply:os.system [ls]", "expected a YAML file of facts by category"),
    ],
)
def test_invalid_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "facts.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_facts(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="facts: expected a YAML file"):
        all_facts(tmp_path / "none.yaml")
