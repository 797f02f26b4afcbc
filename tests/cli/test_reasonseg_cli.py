"""`amodal reasonseg` from annotated images to a dataset, without a network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from amodal.cli.main import main
from amodal.data.reason_seg import read_reason_seg
from amodal.datagen.store.work_folder import open_work
from amodal.synthetic.generate import synthesize
from tests.datagen.endpoint import serving
from tests.datagen.toy_work import execute_sql, write_many


def amodal(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> Any:
    """Run `amodal reasonseg`; returns its JSON or text, or its line on stderr if it should fail."""
    got = main(["reasonseg", *map(str, arguments)])
    captured = capsys.readouterr()
    assert got == code, captured
    if code:
        assert captured.err.count("\n") == 1 and captured.out == "", captured
        return captured.err
    return json.loads(captured.out) if "--json" in arguments else captured.out


def end_to_end(capsys: pytest.CaptureFixture[str], annotations: Path, images: int, folder: Path) -> None:
    work, out = folder / "work", folder / "out"
    first = (
        *("generate", "--format", "canonical", "--annotations", annotations, "--backend", "template", "--out", work),
        *("--min-objects", 4, "--max-images", images),
    )
    made = amodal(capsys, *first, "--json")
    assert (made["images"], made["pairs"], made["run"]["stopped"]) == (images, 10 * images, None)
    again = amodal(capsys, *first, "--json")
    assert (again["pairs"], again["requests"]) == (10 * images, made["requests"]), "nothing is written twice"
    report = amodal(capsys, "check", work, "--json")
    assert (report["checked"], report["failed"], report["again"]) == (10 * images, 0, 0)
    numbers = amodal(capsys, "stats", work, "--json")
    assert (numbers["images"], numbers["pairs"], numbers["pairs_per_image"]) == (images, 10 * images, 10.0)
    assert numbers["states"]["checked"] == 10 * images
    with open_work(work) as opened:
        for pair in list(opened.pairs.find()):
            opened.pairs.set_state(pair.id, "accepted", "ada")
    written = amodal(capsys, "export", work, "--to", "canonical", "--out", out, "--json")
    assert written["pairs"] == 10 * images
    dataset = read_reason_seg(out / "questions.json", out / "annotations.json")
    assert (len(dataset.conversations), dataset.num_turns) == (10 * images, 10 * images)


def test_end_to_end(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    annotations = synthesize("scenes", 24, 5, tmp_path / "scenes", progress=False)
    end_to_end(capsys, annotations, 12, tmp_path)


@pytest.mark.slow
def test_end_to_end_with_two_hundred_scenes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    annotations = synthesize("scenes", 400, 1, tmp_path / "scenes", progress=False)
    end_to_end(capsys, annotations, 200, tmp_path)


def test_text_output(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    annotations, work = write_many(tmp_path / "many", 3), tmp_path / "work"
    assert "9 pairs about 3 images (3 answered)" in amodal(
        capsys, "generate", "--annotations", annotations, "--out", work
    )
    with open_work(work) as opened:
        execute_sql(opened, "UPDATE pairs SET question = 'Which mug is the best of them?' WHERE id = 1")
        answer = "It is <p>the mug</p> {seg:1} or <p>the book</p> {seg:2} here."
        execute_sql(opened, f"UPDATE pairs SET answer = '{answer}' WHERE id = 1")
    text = amodal(capsys, "check", work)
    assert (
        "9 pairs: 8 checked, 1 failed, 0 unclear (for people)" in text
        and "giveaway: 1" in text
        and "pair 1: expected a question" in text
    )
    assert "1 images wait for a retry" in text
    assert "9 pairs about 3 images (1 answered, 2 done)" in amodal(capsys, "generate", "--out", work)
    assert "9 pairs: 9 checked, 0 failed" in amodal(capsys, "check", work)
    text = amodal(capsys, "stats", work)
    assert "3 images, 9 pairs, 3.0 per image" in text and "requests: 4 answered" in text
    assert "Written: 9 pairs" in amodal(capsys, "export", work, "--out", tmp_path / "out", "--states", "checked")


def test_failed_pairs_for_people(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    annotations, work = write_many(tmp_path / "many", 1), tmp_path / "work"
    amodal(capsys, "generate", "--annotations", annotations, "--out", work)
    (tmp_path / "more.json").write_text('{"mug": ["what"], "book": ["what"]}')
    report = amodal(capsys, "check", work, "--failed", "people", "--synonyms", tmp_path / "more.json", "--json")
    assert report["failed"] > 0 and report["again"] == 0
    assert report["rules"]["giveaway"]["failed"] == report["failed"]
    looser = amodal(capsys, "check", work, "--skip", "giveaway", "--synonyms", tmp_path / "more.json", "--json")
    assert looser["failed"] == 0


def test_prompt(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    annotations = write_many(tmp_path / "many", 2)
    text = amodal(capsys, "prompt", "--annotations", annotations, "--image-id", "2", "--image-out", tmp_path / "p.jpg")
    assert "[3] mug; visible box (4, 4, 20, 20)" in text and "Write 10 question-answer pairs" in text
    assert (tmp_path / "p.jpg").read_bytes().startswith(b"\xff\xd8")
    with serving() as server:
        options = ("--backend", "openai", "--model", "toy", "--base-url", server.url)
        amodal(capsys, "generate", "--annotations", annotations, "--out", tmp_path / "work", *options, "--json")
    shown = amodal(capsys, "prompt", "--annotations", annotations, "--image-id", "2", "--json")
    sent = next(request.body for request in server.requests if "[3] mug" in request.prompt)
    assert shown["system"] == sent["messages"][0]["content"]
    assert shown["user"] == sent["messages"][1]["content"][0]["text"]
    assert shown["response_format"] == sent["response_format"]


def test_bad_input(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    annotations, work = write_many(tmp_path / "many", 2), tmp_path / "work"
    start = ("generate", "--annotations", annotations, "--out", work)
    openai = (*start, "--backend", "openai")
    for arguments, message in (
        (("generate", "--out", work), "annotations: expected a file to start"),
        ((*start, "--backend", "magic"), "backend: expected template or openai, got 'magic'"),
        (
            ("prompt", "--annotations", annotations, "--image-out", tmp_path / "p.txt"),
            "image-out: expected a .jpg file",
        ),
        ((*start, "--model", "gpt-4o"), "model, base-url: expected with --backend openai only"),
        ((*start, "--base-url", "http://127.0.0.1:1/v1"), "model, base-url: expected with --backend openai only"),
        ((*start, "--format", "nonsense"), "format: expected one of"),
        ((*start, "--split", "val"), "split: expected auto, train or test, got 'val'"),
        ((*start, "--split", "train", "--split", "test"), "split: expected one for each of 1 annotation files, got 2"),
        ((*start, "--test-share", "2"), "test-share: expected a share in [0, 1]"),
        ((*start, "--max-money", "1"), "max-money: expected prices"),
        ((*start, "--pairs", "0"), "--pairs"),
        (openai, "model: expected the name of a model"),
        ((*openai, "--model", "m", "--structured", "xml"), "structured: expected one of schema, json, none, got 'xml'"),
        ((*openai, "--model", "m", "--key-variable", "NO_SUCH_KEY"), "expected a key in NO_SUCH_KEY"),
        (("check", work), "expected a folder made by `amodal reasonseg generate`"),
        (("stats", work), "expected a folder made by"),
        (("export", work, "--out", tmp_path / "out"), "expected a folder made by"),
    ):
        before = sorted(tmp_path.rglob("*"))
        assert message in amodal(capsys, *arguments, code=2)
        assert sorted(tmp_path.rglob("*")) == before, "nothing is written"
    amodal(capsys, *start)
    assert "expected the sources and selection it was made of" in amodal(capsys, *start, "--seed", "5", code=2)
    assert "failed: expected retry or people" in amodal(capsys, "check", work, "--failed", "away", code=2)
    assert "skip: expected rules among" in amodal(capsys, "check", work, "--skip", "all", code=2)
    assert "got 6 generated" in amodal(capsys, "export", work, "--out", tmp_path / "out", code=2)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """Peak memory of a complete `generate`, including the reading of the annotations."""
    code = (
        "import resource, sys; from amodal.cli.main import main; assert main(sys.argv[1:]) == 0; "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)"
    )
    peaks = []
    for count in (100, 3_000):
        annotations = write_many(tmp_path / str(count), count)
        arguments = [
            "reasonseg",
            "generate",
            "--annotations",
            annotations,
            "--out",
            tmp_path / f"work{count}",
            "--json",
        ]
        run = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        peaks.append(int(run.stderr.split()[-1]))
    assert peaks[1] < peaks[0] + 25, f"MiB for 100 and 3,000 images: {peaks}"
