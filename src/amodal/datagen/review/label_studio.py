"""Review in Label Studio: export of pairs as tasks with both masks of every object, import of verdicts."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from amodal.datagen.review.items import ReviewItems, from_editable, reason_for_people, safe_image_path, to_editable
from amodal.datagen.review.review import ReviewPolicy, reviewer_name, submit
from amodal.datagen.rules import object_ids
from amodal.datagen.store.records import Pair, Review, Verdict, WorkImage
from amodal.datagen.store.work_folder import WorkFolder
from amodal.errors import InputError
from amodal.inference.draw import object_colour
from amodal.io.files import atomic_folder
from amodal.io.json_stream import read_json
from amodal.io.progress import progress_bar
from amodal.ops.arrays import Mask
from amodal.ops.brush_rle import decode_brush, encode_brush
from amodal.ops.occlusion import is_occluded
from amodal.ops.rle import decode_mask

Record = dict[str, Any]

MODEL_VERSION = "amodal"
TASKS_PER_FILE = 500  # about 30 MB with ten objects per image
PARTS = {"visible": "visible_mask", "whole": "segmentation"}
_NO_VERDICTS = "None yet."


def export_label_studio(
    work: WorkFolder,
    policy: ReviewPolicy,
    out: str | Path,
    *,
    image_url: str,
    mentioned_only: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Write the pairs that wait for people: `tasks-*.json`, `config.xml` and `images/`.

    Args:
        work: work folder.
        policy: determines which pairs wait.
        out: new folder.
        image_url: URL prefix of the images in the tasks.
        mentioned_only: leave out the masks of objects that the answer does not mention.
        progress: show a progress bar on stderr.

    Returns:
        `tasks` and `images` (numbers of both) and `objects` (the largest number of objects per image).

    Raises:
        InputError: the folder exists, no pair waits, or an image file is missing or outside the work
            folder.
    """
    folder = Path(out)
    if folder.exists():
        raise InputError(f"out: expected a new folder, got {str(folder)!r}, which exists")
    images = {pair.image_id for pair in work.pairs.find(policy.states)}
    if not images:
        raise InputError(f"work {work.folder}: expected pairs that wait for people, got none")
    largest = max(len(work.object_records(image_id)) for image_id in images)
    with atomic_folder(folder) as unfinished:
        (unfinished / "config.xml").write_text(labeling_config(largest), encoding="utf-8")
        shown = progress_bar(sorted(images), "images", progress)
        tasks = _tasks(work, policy, shown, unfinished / "images", image_url, mentioned_only)
        count = _write_parts(tasks, unfinished)
    return {"tasks": count, "images": len(images), "objects": largest}


def labeling_config(num_objects: int) -> str:
    """The labeling interface: image and masks, the objects in words, editable texts, and the verdict.

    Args:
        num_objects: largest number of objects per image; each gets one label per mask.
    """
    view = ElementTree.Element("View")
    _add(view, "Image", name="image", value="$image", zoom="true", zoomControl="true")
    labels = _add(view, "BrushLabels", name="masks", toName="image", showInline="true", opacity="0.4")
    for number in range(1, num_objects + 1):
        colour = "#" + "".join(f"{part:02x}" for part in object_colour(number - 1))
        for part in PARTS:
            _add(labels, "Label", value=f"{number} {part}", background=colour)
    for title, name in (("Objects", "objects"), ("What others said", "earlier")):
        _add(view, "Header", value=title, size="5")
        _add(view, "Text", name=name, value=f"${name}")
    for title, name in (("Question", "question"), ("Answer; [words #2] names object 2", "answer")):
        _add(view, "Header", value=title, size="5")
        _add(
            view, "TextArea",
            name=name, toName="image", editable="true", required="true", maxSubmissions="1", rows="3",
        )  # fmt: skip
    choices = _add(view, "Choices", name="verdict", toName="image", choice="single", required="true", showInline="true")
    for verdict, key in (("accept", "a"), ("fix", "f"), ("reject", "r")):
        _add(choices, "Choice", value=verdict, hotkey=key)
    _add(
        view, "TextArea",
        name="note", toName="image", editable="true", maxSubmissions="1", placeholder="Why, in a few words",
    )  # fmt: skip
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode")


def import_label_studio(work: WorkFolder, policy: ReviewPolicy, annotated: str | Path) -> dict[str, Any]:
    """Import the verdicts of a Label Studio export ("JSON").

    Changes of masks are reported, but not imported: masks belong to the dataset.

    Args:
        work: work folder.
        policy: how verdicts become a decision.
        annotated: the exported file.

    Returns:
        Numbers `taken` (imported now), `known` (imported before) and `empty` (skipped or without a
        verdict); `refused`, one line per verdict that was not imported, with the reason; and
        `masks_changed`, ids of the pairs whose masks people changed.

    Raises:
        InputError: the file is missing or of another form.
    """
    counts, refused, changed = Counter[str](), list[str](), set[int]()
    items = ReviewItems(work)
    masks_of = lru_cache(maxsize=8)(lambda image_id: labelled_masks(work.object_records(image_id)))
    for task in _read_tasks(Path(annotated)):
        try:
            pair = _pair_of(work, task)
        except InputError as error:
            refused.append(str(error))
            continue
        for annotation in task["annotations"]:
            if masks_changed(annotation.get("result") or [], masks_of(pair.image_id)):
                changed.add(pair.id)
            try:
                counts[_import_annotation(work, items, policy, task, annotation)] += 1
            except InputError as error:
                line = " ".join(str(error).split())
                refused.append(line if line.startswith("pair ") else f"pair {pair.id}: {line}")
    taken = {name: counts[name] for name in ("taken", "known", "empty")}
    return {**taken, "refused": refused, "masks_changed": sorted(changed)}


def _write_parts(tasks: Iterable[Record], folder: Path) -> int:
    """Write `tasks-001.json` and so on, each small enough to be imported; returns the number of tasks."""
    count = 0
    rest = iter(tasks)
    while part := list(islice(rest, TASKS_PER_FILE)):
        number = count // TASKS_PER_FILE + 1
        (folder / f"tasks-{number:03d}.json").write_text(json.dumps(part), encoding="utf-8")
        count += len(part)
    return count


def _tasks(
    work: WorkFolder, policy: ReviewPolicy, images: Iterable[int], folder: Path, image_url: str, mentioned_only: bool
) -> Iterator[Record]:
    """One task per pair, image by image; also copies the image files."""
    folder.mkdir()
    for image_id in images:
        image = work.image(image_id)
        name = _copy_image(work, image, folder)
        records = work.object_records(image_id)
        ids = [record["id"] for record in records]
        regions = _regions(records, image)
        data = {"image": image_url + quote(name), "objects": _in_words(records, work.categories())}
        for pair in work.pairs.find(policy.states, image_id):
            numbers = {ids.index(i) + 1 for i in object_ids(pair.answer) if i in ids}
            kept = [r for r in regions if not mentioned_only or int(r["id"].partition("-")[0]) in numbers]
            yield _task(work, pair, ids, data, kept)


def _copy_image(work: WorkFolder, image: WorkImage, folder: Path) -> str:
    source = safe_image_path(work, image)
    if not source.is_file():
        raise InputError(f"image {image.id}: expected the file {str(source)!r}, which does not exist")
    name = f"{image.id}{source.suffix.lower()}"
    shutil.copyfile(source, folder / name)
    return name


def _regions(records: Sequence[Record], image: WorkImage) -> list[Record]:
    return [
        {
            "id": label.replace(" ", "-"),
            "from_name": "masks",
            "to_name": "image",
            "type": "brushlabels",
            "original_width": image.width,
            "original_height": image.height,
            "image_rotation": 0,
            "readonly": True,
            "value": {"format": "rle", "rle": encoded, "brushlabels": [label]},
        }
        for label, (_, encoded) in labelled_masks(records).items()
    ]


def _task(work: WorkFolder, pair: Pair, ids: Sequence[int], data: Record, regions: Sequence[Record]) -> Record:
    answer = to_editable(pair.answer, ids)
    texts = [_text_region("question", pair.question), _text_region("answer", answer)]
    earlier = (
        [_verdict_in_words(r, ids) for r in work.reviews.of_pair(pair.id)] if pair.state == "cross_checked" else []
    )
    if pair.state in ("failed", "unclear"):
        earlier = [f"The automatic check: {reason_for_people(pair.reason or '', ids)}"]
    return {
        "data": {
            **data,
            "pair": pair.id,
            "tries": pair.tries,
            "question": pair.question,
            "answer": answer,
            "earlier": "\n".join(earlier) or _NO_VERDICTS,
        },
        "predictions": [{"model_version": MODEL_VERSION, "result": [*regions, *texts]}],
    }


def _text_region(name: str, text: str) -> Record:
    return {"id": name, "from_name": name, "to_name": "image", "type": "textarea", "value": {"text": [text]}}


def _in_words(records: Sequence[Record], categories: dict[int, str]) -> str:
    """Describe the objects as `#1 lamp, 19% hidden behind #2`, one line per object."""
    number = {record["id"]: i + 1 for i, record in enumerate(records)}
    lines = []
    for record in records:
        name = categories.get(record["category_id"], f"category {record['category_id']}")
        front = ", ".join(f"#{number[i]}" for i in record["occluders"] if i in number)
        rate = record["occlude_rate"]
        hidden = f", {rate:.0%} hidden" if is_occluded(rate) else ", not hidden"
        lines.append(f"#{number[record['id']]} {name}{hidden}{f' behind {front}' if front else ''}")
    return "\n".join(lines)


def _verdict_in_words(review: Review, ids: Sequence[int]) -> str:
    texts = [review.question, None if review.answer is None else to_editable(review.answer, ids), review.note]
    return ": ".join([review.verdict, *(text for text in texts if text)])


def _read_tasks(path: Path) -> list[Record]:
    if not path.is_file():
        raise InputError(f"annotated: expected a file, got {str(path)!r}, which does not exist")
    content = read_json(path, "annotated")
    if not isinstance(content, list) or not all(_is_task(task) for task in content):
        raise InputError(f"annotated {path}: expected Label Studio's JSON export, tasks with annotations, got another")
    return content


def _is_task(task: Any) -> bool:
    return (
        isinstance(task, dict)
        and isinstance(task.get("data"), dict)
        and isinstance(task.get("annotations"), list)
        and all(isinstance(a, dict) and isinstance(a.get("result") or [], list) for a in task["annotations"])
        and all(isinstance(r, dict) for a in task["annotations"] for r in a.get("result") or [])
    )


def _pair_of(work: WorkFolder, task: Record) -> Pair:
    """The pair from which a task was made; the task must have its question, or one from its history."""
    number, question = task["data"].get("pair"), task["data"].get("question")
    if not isinstance(number, int):
        raise InputError(f"task {task.get('id')}: expected the number of a pair, got {number!r}")
    pair = work.pairs.get(number)
    if question not in {event.question for event in work.pairs.history(number)}:
        raise InputError(f"pair {number}: expected a task of this work folder, got another question")
    return pair


def _import_annotation(
    work: WorkFolder, items: ReviewItems, policy: ReviewPolicy, task: Record, annotation: Record
) -> str:
    """Import one annotation; returns whether it was `taken`, `known` or `empty`."""
    values = _values(annotation)
    verdict = values.get("verdict")
    if annotation.get("was_cancelled") or verdict is None:
        return "empty"
    pair = work.pairs.get(task["data"]["pair"])
    name = reviewer_name(work, _annotator(annotation.get("completed_by")))
    question, answer = _edits(values, task["data"])
    full = None if answer is None else from_editable(answer, items.object_ids(pair.image_id))
    before = next((r for r in work.reviews.of_pair(pair.id) if r.reviewer == name), None)
    if before is not None:
        same = before.verdict == verdict and (verdict != "fix" or (before.question, before.answer) == (question, full))
        if same:
            return "known"
        raise InputError(f"expected the verdict {name} gave before ({before.verdict}), got another ({verdict})")
    if verdict == "accept" and (question, answer) != (None, None):
        raise InputError(f"expected fix where texts were edited, got accept by {name}")
    submit(
        work, pair.id, name, cast(Verdict, verdict), policy,  # submit checks it
        question=question, answer=full, note=values.get("note", ""), tries=task["data"].get("tries"),
    )  # fmt: skip
    return "taken"


def _edits(values: dict[str, str], data: Record) -> tuple[str | None, str | None]:
    """Question and answer, each None if it is as it was exported."""
    edited = []
    for name in ("question", "answer"):
        text = " ".join(values.get(name, "").split())
        edited.append(None if not text or text == " ".join(str(data.get(name)).split()) else text)
    return edited[0], edited[1]


def _values(annotation: Record) -> dict[str, str]:
    """The choices and texts by name of the control; of several texts the last."""
    values = {}
    for region in annotation.get("result") or []:
        value = region.get("value")
        for key in ("choices", "text"):
            content = value.get(key) if isinstance(value, dict) else None
            last = content[-1] if isinstance(content, list) and content else content
            if isinstance(last, str):
                values[str(region.get("from_name"))] = last
    return values


def _annotator(completed_by: Any) -> str:
    """Name of the annotator: the e-mail address, or the number that Label Studio gave them."""
    if isinstance(completed_by, dict):
        completed_by = completed_by.get("email") or completed_by.get("id")
    if completed_by is None:
        raise InputError("expected the name of the annotator, got no completed_by")
    return completed_by if isinstance(completed_by, str) else f"annotator {completed_by}"


def _add(parent: ElementTree.Element, tag: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, attributes)


def masks_changed(result: Sequence[Record], masks: dict[str, tuple[Mask, list[int]]]) -> bool:
    """Whether an annotation's brush regions differ from the masks of the image's objects.

    Args:
        result: regions of the annotation.
        masks: masks as returned by `labelled_masks`.
    """
    for region in result:
        value = region.get("value") or {}
        if region.get("type") != "brushlabels" or "rle" not in value:
            continue
        label = str((value.get("brushlabels") or [""])[0])
        if label not in masks:
            return True
        mask, encoded = masks[label]
        if value["rle"] == encoded:
            continue
        try:
            if not np.array_equal(decode_brush(value["rle"], (mask.shape[0], mask.shape[1])), mask):
                return True
        except InputError:
            return True
    return False


def labelled_masks(records: Sequence[Record]) -> dict[str, tuple[Mask, list[int]]]:
    """Both masks of every object, also as brush RLE, by label such as `2 visible`; empty masks are left out."""
    masks = {}
    for number, record in enumerate(records, start=1):
        for part, key in PARTS.items():
            mask = decode_mask(record[key])
            if mask.any():
                masks[f"{number} {part}"] = (mask, encode_brush(mask))
    return masks
