"""A hundred thousand annotations: opened in seconds, in memory that the file's size does not dictate."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from amodal.data.datasets import read_dataset
from amodal.errors import InputError
from amodal.io import json_stream as jsonfile
from tests.data import written
from tests.data.written import write

NUM_IMAGES, NUM_OBJECTS = 7_500, 100_000

# prints CPU seconds of opening, MiB that opening and a look at all objects of some images added
MEASURE = """
import resource, sys, time
from amodal.data.datasets import read_dataset
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = peak(), time.process_time()
dataset = read_dataset("kins2020", sys.argv[1])
seconds, opened = time.process_time() - start, peak() - before
assert dataset.num_objects == int(sys.argv[2])
assert sum(1 for image in dataset.images[:600] for thing in image.objects) > 0
print(seconds, opened)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs the resource module")
def test_opening_is_quick_and_light(tmp_path: Path) -> None:
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
    assert seconds < 15, "about 3 on a laptop's core"
    assert mebibytes < 100, "about 50: the chunk being read and the index"


@pytest.mark.slow
def test_counts_larger_than_any_record_are_not_read(tmp_path: Path) -> None:
    content = json.dumps(written.coco())
    start, end = content.split('"counts": "', 1)
    path = tmp_path / "annotations.json"
    with path.open("w") as file:
        file.write(f'{start}"counts": "')
        for _ in range(2 * jsonfile.MAX_RECORD_BYTES >> 20):
            file.write("0" * (1 << 20))
        file.write(end)
    with pytest.raises(InputError, match="expected records of at most 64 MiB, got a longer one"):
        read_dataset("coco", path)
