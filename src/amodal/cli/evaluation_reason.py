"""What `amodal evaluate --protocol reason` does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from amodal.errors import InputError

if TYPE_CHECKING:
    from amodal.evaluation.reason_report import ReasonReport

DEFAULT_MODEL = "aura-tiny"


def evaluate_answers(
    questions: Path | None,
    annotations: Path,
    images: Path | None,
    *,
    model: str | None,
    teacher_forced: bool,
    max_questions: int | None,
    device: str,
    answers: Path | None,
    unsuitable: Mapping[str, object],
    progress: bool,
) -> ReasonReport:
    """Ask a model the questions of a file.

    Args:
        questions: question file.
        annotations: canonical annotation file.
        images: folder of the images; `images/` beside the annotations if None.
        model: bundled name, folder or hub id.
        teacher_forced: give it the true words.
        max_questions: ask the first conversations only.
        device: auto, cpu, cuda, ...
        answers: file that keeps what was said, from which a stopped run goes on.
        unsuitable: values of options that this protocol has no use for, None where not given.
        progress: show a bar.

    Raises:
        InputError: no question file, an option without a use, or anything that cannot be read.
    """
    if questions is None:
        raise InputError("questions: expected --questions FILE with the protocol 'reason', got none")
    for name, value in unsuitable.items():
        if value is not None:
            raise InputError(f"{name}: expected none with the protocol 'reason', got {value}")
    from amodal.data.formats.reason_seg import read_reason_seg

    dataset = read_reason_seg(questions, annotations, images)
    from amodal.evaluation.reason import AssistantAnswerer, evaluate_reason
    from amodal.inference.assistant import AmodalAssistant

    name = model or DEFAULT_MODEL
    return evaluate_reason(
        AssistantAnswerer(AmodalAssistant.from_pretrained(name, device=device)),
        dataset,
        teacher_forced=teacher_forced,
        max_conversations=max_questions,
        name=name,
        answers=answers,
        progress=progress,
    )
