"""Small talk, and questions about the image as a whole: they are answered in words, without masks.

A model that has only been asked for objects answers "hello" with an object.
"""

from __future__ import annotations

from amodal.questions.facts import UNNAMED_KIND
from amodal.questions.scene_forms import SceneQuestionWriter
from amodal.questions.wording import TALK_FORMS, Question

ABOUT_THE_IMAGE = ("describe", "count")
SMALL_TALK = tuple(name for name in TALK_FORMS if name not in ABOUT_THE_IMAGE)
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def small_talk(writer: SceneQuestionWriter) -> Question:
    """A greeting, thanks, a farewell, or a question about the assistant."""
    return _written(writer, writer.choose(SMALL_TALK), {})


def about_the_image(writer: SceneQuestionWriter) -> Question | None:
    """What is in the image or how many objects; None for many objects, and if one of them has no name.

    Where the image may show more than is known, the answer says so.
    """
    facts = writer.facts
    if len(facts) > len(NUMBERS) or UNNAMED_KIND in facts.kinds:
        return None
    count = NUMBERS[len(facts) - 1]
    slots = {"kinds": facts.listing(range(len(facts)), by_name=True), "count": count}
    return _written(writer, writer.choose(ABOUT_THE_IMAGE), slots)


def _written(writer: SceneQuestionWriter, name: str, slots: dict[str, str]) -> Question:
    form = TALK_FORMS[name]
    answers = form.answers if writer.knows_all else form.partial or form.answers
    return Question(name, writer.choose(form.question.of(writer.words)), writer.choose(answers).format(**slots))
