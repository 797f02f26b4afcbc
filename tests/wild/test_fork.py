"""A process that is forked after a model was used can use it too, and does not wait forever for lost threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.models.aura import needs_language_model

PROGRAM = """
import os, sys
import numpy as np, torch
from amodal import AmodalAssistant, AmodalSegmenter

torch.set_num_threads(2)
image = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
if sys.argv[1] == "segmenter":
    segmenter = AmodalSegmenter.from_pretrained("plug-small")
    use = lambda: len(segmenter(image, [[20, 10, 90, 80]]).objects)
else:
    assistant = AmodalAssistant.from_pretrained("aura-small")
    use = lambda: assistant.ask(image, "Where is the mug?").text
before = use()
children = []
for _ in range(2):
    child = os.fork()
    if child == 0:
        os._exit(0 if use() == before else 1)
    children.append(child)
print([os.waitpid(child, 0)[1] for child in children], flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
@pytest.mark.parametrize(
    "what", ["segmenter", pytest.param("assistant", marks=[pytest.mark.slow, needs_language_model])]
)
def test_forked_processes_use_a_model_that_was_used_before(what: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, what], env=environment, capture_output=True, text=True, timeout=300
    )
    assert ended.stdout.strip() == "[0, 0]", ended.stderr
