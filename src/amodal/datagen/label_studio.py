"""Reviews in Label Studio: pairs out as tasks with both masks of every object, verdicts back in.

Label Studio's brush RLE is not COCO's: a bit stream over the picture's red, green, blue and alpha
values, row by row. The SDK's converter writes and reads it, and masks come back bit by bit.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from amodal.datagen.manifest import Manifest
from amodal.datagen.records import Pair, Review, WorkImage
from amodal.datagen.review import Policy, reviewer_name, submit
from amodal.datagen.review_items import Items
from amodal.datagen.review_markup import from_editable, to_editable
from amodal.errors import InputError
from amodal.inference.draw import object_colour
from amodal.ops.rle import decode_mask

Mask = npt.NDArray[np.bool_]
Record = dict[str, Any]

PARTS = {"visible": "visible_mask", "whole": "segmentation"}
MODEL_VERSION = "amodal"
_NOTHING_YET = "None yet."


def export_label_studio(
    work: Manifest, policy: Policy, out: str | Path, *, picture_url: str, progress: bool = False
) -> dict[str, Any]:
    """Write the pairs that wait for people: `tasks.json`, `config.xml` and `images/`.

    Args:
        work: work folder.
        policy: says which pairs wait.
        out: new folder.
        picture_url: what stands before a picture's name in the tasks.
        progress: show how far it is.

    Returns:
        `tasks`, `images` and `objects` (the most on one picture).

    Raises:
        InputError: the folder exists, nothing waits, a picture is missing or outside the work
            folder, or the SDK is not installed.
    """
    _sdk()
    folder = Path(out)
    if folder.exists():
        raise InputError(f"out: expected a new folder, got {str(folder)!r}, which exists")
    images = {pair.image_id for pair in work.pairs(policy.states)}
    if not images:
        raise InputError(f"work {work.folder}: expected pairs that wait for people, got none")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        largest = max(len(work.object_records(image_id)) for image_id in images)
        (temporary / "config.xml").write_text(labeling_config(largest), encoding="utf-8")
        tasks = _write_tasks(work, policy, sorted(images), temporary, picture_url, progress)
        temporary.chmod(0o755)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return {"tasks": tasks, "images": len(images), "objects": largest}


def labeling_config(num_objects: int) -> str:
    """The labeling interface: picture and masks, the objects in words, editable texts, the verdict.

    Args:
        num_objects: most objects on one picture; each gets a label for either mask.

    Raises:
        InputError: the SDK is not installed.
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
    config = ElementTree.tostring(view, encoding="unicode")
    _sdk().label_interface.LabelInterface(config).validate()
    return config


def import_label_studio(work: Manifest, policy: Policy, annotated: str | Path) -> dict[str, Any]:
    """Take over the verdicts of a Label Studio export ("JSON").

    Masks are the dataset's: what people drew is compared and reported, not taken over.

    Args:
        work: work folder.
        policy: how verdicts add up.
        annotated: the exported file.

    Returns:
        Counts `taken`, `known` (imported before) and `empty` (skipped or without a verdict),
        `refused`: a line for each verdict not taken over and why, and `masks_changed`: ids of pairs
        whose masks were drawn over.

    Raises:
        InputError: the file is missing or of another form, or the SDK is not installed.
    """
    _sdk()
    counts, refused, changed = Counter[str](), list[str](), set[int]()
    items = Items(work)
    for task in _read_tasks(Path(annotated)):
        try:
            pair = _pair_of(work, task)
        except InputError as error:
            refused.append(str(error))
            continue
        for annotation in task["annotations"]:
            if masks_changed(annotation.get("result") or [], work.object_records(pair.image_id)):
                changed.add(pair.id)
            try:
                counts[_take(work, items, policy, task, annotation)] += 1
            except InputError as error:
                line = " ".join(str(error).split())
                refused.append(line if line.startswith("pair ") else f"pair {pair.id}: {line}")
    taken = {name: counts[name] for name in ("taken", "known", "empty")}
    return {**taken, "refused": refused, "masks_changed": sorted(changed)}


def brush_rle(mask: Mask) -> list[int]:
    """(H, W) bool to the bytes of Label Studio's brush RLE."""
    encoded: list[int] = _sdk().converter.brush.mask2rle(mask.astype(np.uint8) * np.uint8(255))
    return encoded


def brush_mask(rle: Sequence[int], height: int, width: int) -> Mask:
    """Label Studio's brush RLE to (H, W) bool: where alpha is not 0.

    Raises:
        InputError: not bytes, broken off, or of a picture of another size.
    """
    try:
        data = bytes(rle)
    except (TypeError, ValueError) as error:
        raise InputError("mask: expected the bytes of a brush RLE, got other values") from error
    covered = int.from_bytes(data[:4], "big")  # checked first: the decoder makes room for any number
    if covered != height * width * 4:
        raise InputError(f"mask: expected a brush RLE of {height * width * 4} values, got one of {covered}")
    try:
        values = _sdk().converter.brush.decode_rle(data)
    except (ValueError, IndexError) as error:
        raise InputError("mask: expected a whole brush RLE, got a part") from error
    return np.asarray(values.reshape(height, width, 4)[..., 3] > 0)


def masks_changed(result: Sequence[Record], records: Sequence[Record]) -> bool:
    """Whether an annotation's brush regions are not the masks of the picture's objects, bit by bit."""
    for region in result:
        value = region.get("value") or {}
        if region.get("type") != "brushlabels" or "rle" not in value:
            continue
        number, _, part = str((value.get("brushlabels") or [""])[0]).partition(" ")
        if part not in PARTS or not number.isdecimal() or not 1 <= int(number) <= len(records):
            return True
        mask = decode_mask(records[int(number) - 1][PARTS[part]])
        try:
            if not np.array_equal(brush_mask(value["rle"], *mask.shape), mask):
                return True
        except InputError:
            return True
    return False


def _write_tasks(
    work: Manifest, policy: Policy, images: Sequence[int], folder: Path, picture_url: str, progress: bool
) -> int:
    """Stream tasks, an image after the other; returns how many there are."""
    from rich.progress import track

    (folder / "images").mkdir()
    count = 0
    with (folder / "tasks.json").open("w", encoding="utf-8") as file:
        for image_id in track(images, "Pictures", disable=not progress):
            image = work.image(image_id)
            name = _copy_picture(work, image, folder / "images")
            records = work.object_records(image_id)
            regions = list(_regions(records, image))
            data = {"image": picture_url + quote(name), "objects": _in_words(records, work.categories())}
            for pair in work.pairs(policy.states, image_id):
                file.write("[\n" if count == 0 else ",\n")
                json.dump(_task(work, pair, [record["id"] for record in records], data, regions), file)
                count += 1
        file.write("\n]\n")
    return count


def _copy_picture(work: Manifest, image: WorkImage, folder: Path) -> str:
    source = work.image_path(image).resolve()
    if not source.is_relative_to((work.folder / "images").resolve()):
        raise InputError(f"image {image.id}: expected a picture inside the work folder, got one outside it")
    if not source.is_file():
        raise InputError(f"image {image.id}: expected the picture {str(source)!r}, which does not exist")
    name = f"{image.id}{source.suffix.lower()}"
    shutil.copyfile(source, folder / name)
    return name


def _regions(records: Sequence[Record], image: WorkImage) -> Iterator[Record]:
    """Both masks of every object; a mask without a pixel has no region."""
    for number, record in enumerate(records, start=1):
        for part, key in PARTS.items():
            mask = decode_mask(record[key])
            if mask.any():
                yield {
                    "id": f"{number}-{part}",
                    "from_name": "masks",
                    "to_name": "image",
                    "type": "brushlabels",
                    "original_width": image.width,
                    "original_height": image.height,
                    "image_rotation": 0,
                    "readonly": True,
                    "value": {"format": "rle", "rle": brush_rle(mask), "brushlabels": [f"{number} {part}"]},
                }


def _task(work: Manifest, pair: Pair, ids: Sequence[int], data: Record, regions: Sequence[Record]) -> Record:
    answer = to_editable(pair.answer, ids)
    texts = [_text_region("question", pair.question), _text_region("answer", answer)]
    earlier = [_verdict_in_words(r, ids) for r in work.reviews(pair.id)] if pair.state == "cross_checked" else []
    if pair.state == "failed":
        earlier = [f"The automatic check: {pair.reason}"]
    return {
        "data": {
            **data,
            "pair": pair.id,
            "tries": pair.tries,
            "question": pair.question,
            "answer": answer,
            "earlier": "\n".join(earlier) or _NOTHING_YET,
        },
        "predictions": [{"model_version": MODEL_VERSION, "result": [*regions, *texts]}],
    }


def _text_region(name: str, text: str) -> Record:
    return {"id": name, "from_name": name, "to_name": "image", "type": "textarea", "value": {"text": [text]}}


def _in_words(records: Sequence[Record], categories: dict[int, str]) -> str:
    """`#1 lamp, 19% hidden behind #2`, a line an object."""
    number = {record["id"]: i + 1 for i, record in enumerate(records)}
    lines = []
    for record in records:
        name = categories.get(record["category_id"], f"category {record['category_id']}")
        front = ", ".join(f"#{number[i]}" for i in record["occluders"] if i in number)
        hidden = f", {record['occlude_rate']:.0%} hidden" if record["occlude_rate"] else ", not hidden"
        lines.append(f"#{number[record['id']]} {name}{hidden}{f' behind {front}' if front else ''}")
    return "\n".join(lines)


def _verdict_in_words(review: Review, ids: Sequence[int]) -> str:
    texts = [review.question, None if review.answer is None else to_editable(review.answer, ids), review.note]
    return ": ".join([review.verdict, *(text for text in texts if text)])


def _read_tasks(path: Path) -> list[Record]:
    if not path.is_file():
        raise InputError(f"annotated: expected a file, got {str(path)!r}, which is none")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"annotated {path}: expected JSON, got broken text ({error})") from error
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


def _pair_of(work: Manifest, task: Record) -> Pair:
    """The pair a task was made of; it must ask what the task asked."""
    number, question = task["data"].get("pair"), task["data"].get("question")
    if not isinstance(number, int):
        raise InputError(f"task {task.get('id')}: expected the number of a pair, got {number!r}")
    pair = work.pair(number)
    if question not in {event.question for event in work.history(number)}:
        raise InputError(f"pair {number}: expected a task of this work folder, got another question")
    return pair


def _take(work: Manifest, items: Items, policy: Policy, task: Record, annotation: Record) -> str:
    """Take one annotation over: `taken`, `known` or `empty`."""
    values = _values(annotation)
    verdict = values.get("verdict")
    if annotation.get("was_cancelled") or verdict is None:
        return "empty"
    pair = work.pair(task["data"]["pair"])
    name = reviewer_name(work, _annotator(annotation.get("completed_by")))
    question, answer = _edits(values, task["data"])
    full = None if answer is None else from_editable(answer, items.object_ids(pair.image_id))
    before = next((r for r in work.reviews(pair.id) if r.reviewer == name), None)
    if before is not None:
        same = before.verdict == verdict and (verdict != "fix" or (before.question, before.answer) == (question, full))
        if same:
            return "known"
        raise InputError(f"expected the verdict {name} gave before ({before.verdict}), got another ({verdict})")
    if verdict == "accept" and (question, answer) != (None, None):
        raise InputError(f"expected fix where texts were edited, got accept by {name}")
    submit(
        work, pair.id, name, verdict, policy,  # type: ignore[arg-type]  # submit checks it
        question=question, answer=full, note=values.get("note", ""), tries=task["data"].get("tries"),
    )  # fmt: skip
    return "taken"


def _edits(values: dict[str, str], data: Record) -> tuple[str | None, str | None]:
    """Question and answer where they differ from what was exported."""
    edited = []
    for name in ("question", "answer"):
        text = " ".join(values.get(name, "").split())
        edited.append(None if not text or text == " ".join(str(data.get(name)).split()) else text)
    return edited[0], edited[1]


def _values(annotation: Record) -> dict[str, str]:
    """What was chosen and written, by control; of several texts the last."""
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
    """A name for who made an annotation: e-mail address, or the number Label Studio gave them."""
    if isinstance(completed_by, dict):
        completed_by = completed_by.get("email") or completed_by.get("id")
    if completed_by is None:
        raise InputError("expected to know who annotated, got no completed_by")
    return completed_by if isinstance(completed_by, str) else f"annotator {completed_by}"


def _add(parent: ElementTree.Element, tag: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, attributes)


def _sdk() -> Any:
    try:
        import label_studio_sdk
        import label_studio_sdk.converter.brush
        import label_studio_sdk.label_interface
    except ImportError as error:
        raise InputError(
            "review: expected the Label Studio SDK, got none: pip install 'amodal[label-studio]'"
        ) from error
    return label_studio_sdk
