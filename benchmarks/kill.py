"""Kill runs at random moments, resume them, and compare what they write with uninterrupted runs.

    python benchmarks/kill.py                        # 25 trainings, 50 generations, 20 of each of the others
    python benchmarks/kill.py --only batch convert --times 5

Each task runs once without interruption. Then runs of the same command are killed (SIGKILL) at random moments until a
given number of kills is reached. A run that ends before its kill is compared with the first one, and the next begins
with a new output. At the end, the last output is completed and compared as well. Outputs must be the same byte for
byte, except for these: the log of a training states times, and rows of `batch` and pairs of questions are compared as
values, because Parquet and SQLite files also depend on how often they were written. After each kill, an output of
`convert` or `export` is missing or complete.

Exit code 1 if an output differs. `batch` starts Ray each time, which takes most of its time. Linux only. Not a part of
`suite.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch is imported
sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.data.toy import write_toy
from tests.training.tiny import tiny_recipe

import amodal.inference.exports
import amodal.inference.folder
import amodal.training.loop  # noqa: F401  # so that the processes have the modules already
from amodal.cli.main import main as run_command

Content = dict[str, Any]
NUM_IMAGES = 24


@dataclass(frozen=True)
class Task:
    """A command that writes an output.

    Attributes:
        arguments: of `amodal`, for an output.
        content: what an output has to be compared by.
        kills: number of kills by default.
        resumes: whether an output of a killed run may be there in part.
    """

    arguments: Callable[[Path], list[str]]
    content: Callable[[Path], Content]
    kills: int
    resumes: bool = True


def prepare(folder: Path) -> int:
    """Write the data of all tasks."""
    annotations = write_toy(folder / "data", NUM_IMAGES, size=160)
    recipe = tiny_recipe(folder, "plug", ema=0.9, workers=1, picture_objects=1, steps=30, checkpoint_every=1)
    (folder / "recipe.yaml").write_text(recipe.model_dump_json())
    arguments = ["segment", str(folder / "data/images"), "--annotations", str(annotations), "--model", "plug-small"]
    return run_command([*arguments, "--out", str(folder / "scenes")])


def tasks(folder: Path) -> dict[str, Task]:
    """All tasks, on the data in `folder`."""
    annotations, scenes = str(folder / "data/annotations.json"), str(folder / "scenes")
    masks = ["--annotations", annotations, "--format", "canonical"]
    model = ["--model", "plug-small"]
    return {
        "training": Task(
            lambda out: ["train", str(folder / "recipe.yaml"), "--set", f"output={out}"], trained, kills=25
        ),
        "generation": Task(lambda out: ["reasonseg", "generate", *masks, "--out", str(out)], generated, kills=50),
        "convert": Task(
            lambda out: ["data", "convert", *masks, "--to", "parquet", "--out", str(out), "--shard-mb", "1"],
            files, kills=20, resumes=False,
        ),
        "convert to one file": Task(
            lambda out: ["data", "convert", *masks, "--to", "coco", "--out", f"{out}.json"], files, 20, resumes=False
        ),
        "export": Task(
            lambda out: ["export", "scenes", scenes, "--to", "yolo", "--out", str(out)], files, 20, resumes=False
        ),
        "label": Task(
            lambda out: [
                *("label", "predict", str(folder / "data/images"), "--annotations", annotations),
                *("--out", str(out / "tasks.json"), *model),
            ],
            files, kills=20,
        ),
        "batch": Task(
            lambda out: ["batch", annotations, "--format", "canonical", "--out", str(out), *model], predicted, kills=20
        ),
    }  # fmt: skip


def files(out: Path) -> Content:
    """Digests of a file or of all files of a folder, also of hidden ones, which no run may leave behind."""
    found = [*out.rglob("*"), *out.parent.glob(f"{out.name}.*"), *out.parent.glob(f".*{out.name}*")]
    return {
        str(path.relative_to(out.parent)).replace(out.name, "out", 1): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
        if path.is_file()
    }


def trained(out: Path) -> Content:
    """The weights of a training, its last checkpoint, and its log without times."""
    last = max(out.glob("checkpoints/step_*"), key=lambda path: int(path.name.removeprefix("step_")))
    weights = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.rglob("*.safetensors")}
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    log = [{k: v for k, v in line.items() if k not in ("time", "samples_per_s")} for line in lines]
    return {"last": last.name, "weights": weights, "log": log}


def generated(out: Path) -> Content:
    """The pairs of a work folder."""
    from amodal.datagen.store.work_folder import open_work

    with open_work(out) as work:
        pairs = [(pair.image_id, pair.question, pair.answer, pair.state) for pair in work.pairs.find()]
        return {"pairs": sorted(pairs), "states": sorted((image.id, image.state) for image in work.images())}


def predicted(out: Path) -> Content:
    """The rows of a run of `batch`."""
    from amodal.inference.batch import read_parts

    return {"rows": sorted(json.dumps(row, sort_keys=True) for row in read_parts(out))}


def start(work: Callable[[], int]) -> int:
    """Start a function in a process of its own, in which it prints nothing; returns the number of the process."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(error_file(os.getppid()), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    code = 70
    try:
        code = work()
    finally:
        os._exit(code)


def error_file(process: int) -> Path:
    """The file with what the latest process wrote to stderr."""
    return Path(tempfile.gettempdir()) / f"amodal-kill-{process}.log"


def require_success(status: int) -> None:
    """End this script if a process ended with an error."""
    if status:
        raise SystemExit(f"kill: expected a run to work, got {error_file(os.getpid()).read_text()[-2000:]}")


def finish(work: Callable[[], int]) -> None:
    """Run a function in a process of its own to its end."""
    require_success(os.waitpid(start(work), 0)[1])


def kill_after(process: int, seconds: float) -> bool:
    """Kill a process and its children after some time; False if it ended before, which must be without an error."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            require_success(status)
            return False
        time.sleep(0.002)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return True


def remove(out: Path) -> None:
    """Remove an output."""
    shutil.rmtree(out, ignore_errors=True)
    out.with_name(f"{out.name}.json").unlink(missing_ok=True)


def test(name: str, task: Task, folder: Path, kills: int, rng: random.Random) -> int:
    """Kill the runs of a task, print what came of them, and return the number of outputs that differ."""
    straight, out = folder / name / "straight", folder / name / "killed"
    straight.parent.mkdir()
    began = time.monotonic()
    finish(partial(run_command, task.arguments(straight)))
    longest = time.monotonic() - began
    expected, outputs, num_killed = task.content(straight), list[Content](), 0
    if not expected:
        raise SystemExit(f"kill: expected an output of {name}, got none")
    while num_killed < kills:
        if kill_after(start(partial(run_command, task.arguments(out))), rng.uniform(0, longest)):
            num_killed += 1
            if task.resumes or not (found := without_hidden(files(out))):
                continue
            outputs.append(found)  # a run that ended at the moment of the kill
        else:
            outputs.append(task.content(out))
        remove(out)
    finish(partial(run_command, task.arguments(out)))
    outputs.append(task.content(out))
    different = [content for content in outputs if content != expected]
    for content in different[:3]:
        print(f"  {name}: expected {str(expected)[:300]}, got {str(content)[:300]}", file=sys.stderr)
    print(
        f"{name}: {num_killed} kills within {longest:.1f} s, {len(outputs)} outputs, {len(different)} differ",
        flush=True,
    )
    return len(different)


def without_hidden(found: Content) -> Content:
    """Files without those that a run has not finished."""
    return {key: value for key, value in found.items() if not any(part.startswith(".") for part in Path(key).parts)}


def main() -> int:
    """Run the tasks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", help="names of tasks; default: all")
    parser.add_argument("--times", type=int, help="number of kills per task; default: 25, 50 or 20, by task")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, different = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as name:
        finish(partial(prepare, Path(name)))
        for title, task in tasks(Path(name)).items():
            if not options.only or title in options.only:
                different += test(title, task, Path(name), options.times or task.kills, rng)
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
