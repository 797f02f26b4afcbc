"""Pairs of the offline writer are true, implicit and explained: judged by masks alone, from three sources."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from amodal.datagen.backends.template import TemplateBackend
from amodal.datagen.check import check
from amodal.datagen.generate import generate
from amodal.datagen.rules import object_ids
from amodal.datagen.select import DatasetSource, ImageSelection, select
from amodal.datagen.stats import statistics
from amodal.datagen.store.work_folder import WorkFolder
from amodal.questions.wording import named_in, naming_words
from amodal.synthetic.generate import synthesize
from tests.datagen.judge import Judge, JudgedObject

DATA = Path(os.environ.get("AMODAL_SAMPLE_DATA", Path(__file__).parents[2] / "data" / "photos"))
PHOTOS = DATA / "coco" / "instances.json"


def written(work: WorkFolder) -> WorkFolder:
    outcome = generate(work, TemplateBackend(seed=3), progress=False)
    assert outcome.unreadable == 0
    report = check(work, policy="paper", progress=False)
    assert (report.failed, report.unclear) == (0, 0), report.to_json()
    return work


def judged(work: WorkFolder) -> tuple[list[str], Counter[str]]:
    """Faults and counts of statements of all pairs of a work folder."""
    faults, counts = list[str](), Counter[str]()
    categories = work.categories()
    for image in work.images():
        sample = work.sample(image)
        objects = {}
        for obj in sample.objects:
            unknown = obj.attributes.get("amodal_unknown")
            whole = None if unknown else obj.amodal_mask()
            kind = categories[obj.category_id].lower()
            objects[obj.id] = JudgedObject(kind, obj.visible_mask(), whole, obj.attributes.get("truncated"))
        judge = Judge(objects)
        for pair in work.pairs.find(image_id=image.id):
            judge.judge(pair.question, pair.answer)
        faults += [f"image {image.id}: {fault}" for fault in judge.faults]
        counts += judge.counts
    return faults, counts


def assert_paper_shares(work: WorkFolder) -> None:
    """Point by point, without the code of the policy: several objects, implicit, reasons, no answer set thrice."""
    categories, numbers = work.categories(), Counter[str]()
    for image in work.images():
        sample = work.sample(image)
        kinds = {obj.id: categories[obj.category_id] for obj in sample.objects}
        sets = Counter[frozenset[int]]()
        for pair in work.pairs.find(image_id=image.id):
            ids = object_ids(pair.answer)
            sets[frozenset(ids)] += 1
            numbers["pairs"] += 1
            numbers["several"] += len(ids) > 1
            numbers["implicit"] += not any(named_in(pair.question, naming_words(kinds[n])) for n in ids)
            numbers["reasons"] += "because" in pair.answer
        assert max(sets.values(), default=0) <= 2, image.id
    assert numbers["several"] >= 0.6 * numbers["pairs"]
    assert numbers["implicit"] >= 0.9 * numbers["pairs"]
    assert numbers["reasons"] >= 0.6 * numbers["pairs"]
    shares = statistics(work)["shares"]
    assert shares["several"] == pytest.approx(numbers["several"] / numbers["pairs"], abs=1e-3)


def scenes(folder: Path, drawn: int, selected: int, seed: int) -> WorkFolder:
    annotations = synthesize("scenes", drawn, seed, folder / "scenes", progress=False)
    selection = ImageSelection(max_images=selected, min_objects=4)
    return select([DatasetSource("canonical", annotations)], selection, folder / "work")


def test_a_few_scenes(tmp_path: Path) -> None:
    work = written(scenes(tmp_path, 12, 6, seed=41))
    faults, counts = judged(work)
    assert faults == []
    assert counts["comparison"] >= 5 and counts["occlusion"] >= 5 and counts["use"] >= 5
    assert_paper_shares(work)


@pytest.mark.slow
def test_six_hundred_pairs_about_sixty_scenes(tmp_path: Path) -> None:
    work = written(scenes(tmp_path, 110, 60, seed=2026))
    faults, counts = judged(work)
    print(dict(counts))
    assert faults == []
    assert sum(1 for _ in work.pairs.find()) == 600
    assert counts["fullness"] > 0
    assert_paper_shares(work)


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_file(), reason="no sample data")
def test_photographs_whose_wholes_are_unknown(tmp_path: Path) -> None:
    selection = ImageSelection(max_images=40, allow_modal=True, min_objects=3, max_objects=16)
    work = written(select([DatasetSource("coco", PHOTOS)], selection, tmp_path / "work"))
    faults, counts = judged(work)
    print(dict(counts), sum(1 for _ in work.pairs.find()))
    assert faults == []
    assert counts["fullness"] == counts["unhidden"] == counts["occlusion"] == 0, "nothing is known of the wholes"
    assert_paper_shares(work)


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_file(), reason="no sample data")
def test_pasted_photographs_with_known_truth(tmp_path: Path) -> None:
    pasted = synthesize("paste", 40, 8, tmp_path / "pasted", sources=[(PHOTOS, None)], progress=False)
    work = written(select([DatasetSource("canonical", pasted)], ImageSelection(min_objects=2), tmp_path / "work"))
    faults, counts = judged(work)
    print(dict(counts), sum(1 for _ in work.pairs.find()))
    assert faults == []
    assert counts["occlusion"] > 0
    assert_paper_shares(work)


def test_the_judge_finds_false_sentences() -> None:
    """A judge that accepts everything would prove nothing."""
    mug, book = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    mug[10:20, 5:15] = True
    book[10:30, 10:40] = True
    judge = Judge({1: JudgedObject("mug", mug, mug, False), 2: JudgedObject("book", book & ~mug, book, True)})
    a, b = "<p>the mug</p> {seg:1}", "<p>the book</p> {seg:2}"
    true = [
        f"{a}, because it is fully visible.",
        f"{a}, because it reaches farther to the left than anything else, and next comes {b}.",
        f"It is {b}, because {a} stands in front of it.",
        f"{b}, because it reaches beyond the edge of the image.",
    ]
    for answer in true:
        judge.judge("?", answer.replace(answer[0], answer[0].upper(), 1))
    assert judge.faults == []
    false = [
        f"{b}, because it is fully visible.",
        f"{b}, because it reaches farther to the left than anything else, and next comes {a}.",
        f"It is {a}, because {b} stands in front of it.",
        f"{a}, because it reaches beyond the edge of the image.",
        f"{a} might be anything.",
        "<p>the left mug</p> {seg:1}, because it is fully visible.",
    ]
    for answer in false:
        judge.judge("?", answer)
    assert len(judge.faults) == len(false)
