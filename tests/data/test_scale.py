"""A file of a hundred thousand annotations is opened in seconds, in memory that does not grow with the file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from amodal.data.datasets import read_dataset
from amodal.errors import InputError
from amodal.io import json_stream
from tests.data import written
from tests.data.written import write

NUM_IMAGES, NUM_OBJECTS = 7_500, 100_000

# Prints the CPU seconds of opening, and the MiB that opening and reading the objects of some images need.
MEASURE = """
import resource, sys, time
from amodal.data.datasets import read_dataset
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = peak(), time.process_time()
dataset = read_dataset("kins2020", sys.argv[1])
seconds, opened = time.process_time() - start, peak() - before
assert dataset.num_objects == int(sys.argv[2])
assert sum(1 for image in dataset.images[:600] for obj in image.objects) > 0
print(seconds, opened)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs the resource module")
def test_opening_needs_little_time_and_memory(tmp_path: Path) -> None:
    back = written.kins2020()["annotations"][0]
    back["a_segm"] = [[v + 0.123 for v in written.BACK_POLYGON] * 15]  # 60 points, as outlines of cars have
    content = {
        "annotations": [back | {"id": i, "image_id": i * 31 % NUM_IMAGES} for i in range(NUM_OBJECTS)],
        "images": [written.IMAGE | {"id": i} for i in range(NUM_IMAGES)],
        "categories": written.CATEGORIES,
    }
    path = write(tmp_path, content)
    command = [sys.executable, "-c", MEASURE, str(path), str(NUM_OBJECTS)]
    seconds, mebibytes = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert path.stat().st_size > 60 << 20
    assert seconds < 15, "about 3 on a laptop"
    assert mebibytes < 100, "about 50 for the current chunk and the index"


@pytest.mark.slow
def test_a_record_of_more_than_the_limit_raises(tmp_path: Path) -> None:
    content = json.dumps(written.coco())
    start, end = content.split('"counts": "', 1)
    path = tmp_path / "annotations.json"
    with path.open("w") as file:
        file.write(f'{start}"counts": "')
        for _ in range(2 * json_stream.MAX_RECORD_BYTES >> 20):
            file.write("0" * (1 << 20))
        file.write(end)
    with pytest.raises(InputError, match="expected records of at most 64 MiB, got a longer one"):
        read_dataset("coco", path)
