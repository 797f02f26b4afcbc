"""Many visitors at the same time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.app.browser import serving
from tests.app.test_demo import png

pytestmark = pytest.mark.slow
LOAD_SECONDS = float(os.environ.get("AMODAL_LOAD_SECONDS", "20"))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving() as place:
        yield place


def memory() -> int:
    """Resident memory in bytes of this process, in which the server runs."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs /proc")
def test_twenty_clients_at_once(address: str) -> None:
    """No request fails, every client gets a fair share and memory does not grow; set AMODAL_LOAD_SECONDS for longer."""
    content = png((256, 256))
    deadline = time.monotonic() + LOAD_SECONDS

    def visit(_: int) -> int:
        served = 0
        with httpx.Client(base_url=address, timeout=120) as client:
            while time.monotonic() < deadline:
                files = {"image": ("a.png", content)}
                answer = client.post("/api/segment", files=files, data={"prompts": '{"boxes": [[40, 40, 200, 200]]}'})
                assert answer.status_code == 200, answer.text
                key = client.post("/api/images", files=files).json()["key"]
                prompts = {"boxes": [[60, 60, 180, 180]]}
                assert client.post(f"/api/images/{key}/segment", json=prompts).status_code == 200
                assert client.get(f"/api/images/{key}/view").status_code == 200
                served += 1
        return served

    visit(99)  # fills caches and memory pools
    before = memory()
    deadline = time.monotonic() + LOAD_SECONDS
    with ThreadPoolExecutor(20) as pool:
        served = list(pool.map(visit, range(20)))
    grown = memory() - before
    print(f"{sum(served)} rounds in {LOAD_SECONDS:g} s, {min(served)} to {max(served)} each, {grown / 2**20:+.0f} MiB")
    assert min(served) >= 1 and max(served) <= 2 * min(served) + 2
    assert grown < 200 * 2**20
