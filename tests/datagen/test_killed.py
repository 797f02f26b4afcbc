"""Generation that is killed at any moment loses no pair, writes none twice and pays for none twice."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from amodal.datagen.check import check
from amodal.datagen.store.work_folder import WorkFolder, open_work
from tests.datagen.endpoint import FakeServer, random_faults, serving

Works = Callable[..., WorkFolder]
CONCURRENCY = 4


def start(work: Path, server: FakeServer) -> subprocess.Popen[str]:
    command = [
        *(sys.executable, "-m", "amodal", "reasonseg", "generate", "--out", str(work), "--json"),
        *("--backend", "openai", "--model", "toy", "--base-url", server.url, "--concurrency", str(CONCURRENCY)),
        *("--retry-wait", "0.02", "--timeout", "20", "--max-side", "64"),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def under_way(process: subprocess.Popen[str], server: FakeServer) -> bool:
    """Wait for the first request of a process; False if it ended before."""
    before = len(server.requests)
    while len(server.requests) == before:
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    return True


def kill_at_random(work: Path, server: FakeServer, kills: int, rng: random.Random, longest: float) -> int:
    """Start and kill the generator up to `kills` times, or until it is done; returns the number of kills."""
    num_kills = 0
    while num_kills < kills:
        process = start(work, server)
        if under_way(process, server):
            time.sleep(rng.uniform(0, longest))
        finished = process.poll() is not None
        process.kill()
        process.communicate()
        if finished:
            break
        num_kills += 1
    return num_kills


def check_records(work: Path, server: FakeServer, images: int, kills: int) -> None:
    """Check that the work folder and the server agree about the requests."""
    with open_work(work) as manifest:
        assert {image.state for image in manifest.images()} == {"answered"}
        pairs = list(manifest.pairs.find())
        assert len(pairs) == 10 * images, "none lost"
        assert len({(pair.image_id, pair.question) for pair in pairs}) == 10 * images, "none twice"
        assert all(len(manifest.pairs.history(pair.id)) == 1 for pair in pairs)
        counts = manifest.requests.counts()
        assert counts["answered"] == images
        assert counts.get("sent", 0) == 0
        lost = counts.get("lost", 0)
        assert lost <= kills * CONCURRENCY
        assert images <= len(server.requests) <= sum(counts.values()), "each request was recorded first"
        assert len(server.requests) >= sum(counts.values()) - lost, "only lost requests may not have been sent"
        assert set(server.billed.values()) == {1}, "a repeated request has the same key"
        assert len(server.billed) == images
        assert check(manifest, progress=False).checked == 10 * images


def test_three_kills(toy_work: Works) -> None:
    manifest = toy_work(24)
    manifest.close()
    with serving(delay=0.15) as server:
        assert kill_at_random(manifest.folder, server, 3, random.Random(1), 0.3) == 3
        assert 0 < len(server.billed) < 24, "killed before the end"
        process = start(manifest.folder, server)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert json.loads(out)["image_states"] == {"answered": 24}
        check_records(manifest.folder, server, 24, 3)


@pytest.mark.slow
def test_fifty_kills_and_faults(toy_work: Works) -> None:
    images = 300
    manifest = toy_work(images)
    manifest.close()
    with serving(delay=0.25, plan=random_faults(3, 0.15, ("429", "500", "cut"))) as server:
        assert kill_at_random(manifest.folder, server, 50, random.Random(2), 0.5) == 50
        process = start(manifest.folder, server)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        check_records(manifest.folder, server, images, 50)


def test_sigterm_lets_open_requests_finish(toy_work: Works) -> None:
    manifest = toy_work(12)
    manifest.close()
    with serving(delay=0.3) as server:
        process = start(manifest.folder, server)
        assert under_way(process, server)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
    result = json.loads(out)
    assert result["run"]["stopped"] == "interrupted"
    assert 1 <= len(server.requests) <= CONCURRENCY
    assert result["requests"] == {"answered": len(server.requests)}
    assert result["pairs"] == 10 * len(server.requests)
