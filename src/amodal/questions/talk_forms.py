"""Small talk, and questions about the image as a whole: they are answered in words, without masks.

A model that has only been asked for objects answers "hello" with an object.
"""

from __future__ import annotations

from amodal.questions.scene_forms import SceneQuestionWriter
from amodal.questions.wording import TALK_FORMS, Question

ABOUT_THE_IMAGE = ("describe", "count")
SMALL_TALK = tuple(name for name in TALK_FORMS if name not in ABOUT_THE_IMAGE)
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def small_talk(writer: SceneQuestionWriter) -> Question:
    """A greeting, thanks, a farewell, or a question about the assistant."""
    return _written(writer, writer.choose(SMALL_TALK), {})


def about_the_image(writer: SceneQuestionWriter) -> Question | None:
    """What is in a scene or how many objects; None for other images, which may show more, and for many objects."""
    facts = writer.facts
    if not writer.knows_all or len(facts) > len(NUMBERS):
        return None
    count = NUMBERS[len(facts) - 1]
    slots = {"kinds": facts.listing(range(len(facts)), by_name=True), "count": count}
    return _written(writer, writer.choose(ABOUT_THE_IMAGE), slots)


def _written(writer: SceneQuestionWriter, name: str, slots: dict[str, str]) -> Question:
    form = TALK_FORMS[name]
    return Question(name, writer.choose(form.question.of(writer.words)), writer.choose(form.answers).format(**slots))
