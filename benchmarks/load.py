"""Load on the server: many clients at once, images of mixed sizes, and some bad requests; every answer is checked.

    python benchmarks/load.py                            # 50 clients for five minutes
    python benchmarks/load.py --clients 10 --seconds 20

The script starts `amodal serve` on this machine. Each client has its own loopback address, so that the server takes it
for a visitor of its own, and waits for each answer before it sends the next request. A segmentation is checked for
the number of objects and the size of its masks, and must be the same each time; a bad request must get its documented
status. A good request that gets status 503 is sent again after the time that the server states.

One client sends each request several times before the others begin, so that the caches of the server are filled.

Exit code 1 after any wrong answer, or where the memory of the server without its stored images grew by more than
200 MiB after the first minute (or the first half of a shorter run). Linux only. Not a part of `suite.py`.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import io
import json
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

SIZES = ((64, 96), (480, 640), (1080, 1920), (3000, 4000))  # (H, W)
SHARES = (0.4, 0.35, 0.2, 0.05)
MAX_GROWTH = 200 * 2**20
WARM_ROUNDS = 5


class WrongAnswerError(Exception):
    """An answer that the server must not give."""


@dataclass(frozen=True)
class Photograph:
    """An image file and two boxes in it."""

    size: tuple[int, int]
    content: bytes
    boxes: list[list[float]]


@dataclass
class Record:
    """What the clients saw."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: collections.defaultdict(list))
    statuses: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)
    answers: dict[tuple[int, int], Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def check_same(self, key: tuple[int, int], answer: Any) -> None:
        """Compare an answer with the first one to the same request."""
        with self.lock:
            first = self.answers.setdefault(key, answer)
        _expect(answer == first, f"the same answer to request {key} each time, got another one")


def photographs() -> list[Photograph]:
    """One photograph per size."""
    rng, found = np.random.default_rng(0), []
    for number, (H, W) in enumerate(SIZES):
        noise = rng.integers(0, 255, (max(H // 16, 4), max(W // 16, 4), 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((W, H), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        image.save(buffer, ("PNG", "JPEG")[number % 2], quality=90)
        boxes = [[0.2 * W, 0.2 * H, 0.7 * W, 0.8 * H], [0.5 * W, 0.1 * H, 0.9 * W, 0.6 * H]]
        found.append(Photograph((H, W), buffer.getvalue(), boxes))
    return found


class Visitor:
    """One client, which sends requests until a time.

    Args:
        address: of the server.
        number: of the client; also of its loopback address and of its random numbers.
        photos: what it sends.
        record: where it writes what it saw.
        bad_share: share of bad requests.
    """

    def __init__(self, address: str, number: int, photos: list[Photograph], record: Record, bad_share: float) -> None:
        transport = httpx.HTTPTransport(local_address=f"127.0.{1 + number // 250}.{1 + number % 250}")
        self.client = httpx.Client(base_url=address, transport=transport, timeout=180)
        self.rng, self.photos, self.record, self.bad_share = random.Random(number), photos, record, bad_share

    def run(self, deadline: float) -> None:
        """Send requests until the deadline, and one at least."""
        first = True
        while first or time.monotonic() < deadline:
            first = False
            bad = self.rng.random() < self.bad_share
            visit = self.send_bad if bad else self.visit_once if self.rng.random() > 0.2 else self.visit_often
            try:
                visit(self.pick())
            except (WrongAnswerError, httpx.HTTPError, ValueError, KeyError) as error:
                with self.record.lock:
                    self.record.wrong.append(f"{visit.__name__}: {type(error).__name__}: {error}"[:300])
        self.client.close()

    def warm_up(self) -> None:
        """Fill the caches of the server: the images that stay decoded, the features, and the memory pools."""
        for _ in range(WARM_ROUNDS):
            for number in range(len(self.photos)):
                self.visit_once(number)
                self.visit_often(number)

    def send(self, what: str, expected: int, request: Callable[[], httpx.Response]) -> httpx.Response:
        """Send a request until the queue has a place for it, and check its status."""
        while True:
            began = time.monotonic()
            answer = request()
            with self.record.lock:
                self.record.seconds[what].append(time.monotonic() - began)
                self.record.statuses[f"{what}: {answer.status_code}"] += 1
            if answer.status_code != 503:
                break
            time.sleep(float(answer.headers["retry-after"]))
        _expect(
            answer.status_code == expected, f"{what} with status {expected}, got {answer.status_code} {answer.text:.99}"
        )
        return answer

    def post(self, what: str, expected: int, path: str, **content: Any) -> httpx.Response:
        """Send a POST request."""
        return self.send(what, expected, lambda: self.client.post(path, **content))

    def pick(self) -> int:
        """The number of a photograph."""
        return self.rng.choices(range(len(self.photos)), SHARES)[0]

    def visit_once(self, number: int) -> None:
        """Segment one or two boxes of an image that is sent along."""
        photo = self.photos[number]
        count = self.rng.randint(1, 2)
        answer = self.post(
            "segment", 200, "/api/segment", files={"image": ("a", photo.content)},
            data={"prompts": json.dumps({"boxes": photo.boxes[:count]})},
        ).json()  # fmt: skip
        _check_scene(answer, photo, count)
        self.record.check_same((number, count), answer)

    def visit_often(self, number: int) -> None:
        """Upload an image, segment it, complete and export the scene, and look at the image."""
        photo = self.photos[number]
        stored = self.post("upload", 200, "/api/images", files={"image": ("../a", photo.content)}).json()
        _expect(tuple(stored["size"]) == photo.size, f"an image of size {photo.size}, got {stored['size']}")
        path = f"/api/images/{stored['key']}"
        scene = self.post("segment stored", 200, f"{path}/segment", json={"boxes": photo.boxes}).json()
        _check_scene(scene, photo, len(photo.boxes))
        self.record.check_same((number, -1), scene)
        body = {
            "objects": [
                {key: obj[key] for key in ("visible", "amodal", "visible_box_xyxy")} for obj in scene["objects"]
            ]
        }
        complete = self.post("scene", 200, f"{path}/scene", json=body).json()
        _check_scene(complete, photo, len(photo.boxes))
        content = self.post("export", 200, f"{path}/export/coco", json=body).content
        _expect(bool(zipfile.ZipFile(io.BytesIO(content)).namelist()), "a ZIP file with files, got an empty one")
        view = self.send("view", 200, lambda: self.client.get(f"{path}/view")).content
        _expect(max(Image.open(io.BytesIO(view)).size) <= 2048, "a view of at most 2048 pixels")

    def send_bad(self, _number: int) -> None:
        """Send a request that must be refused."""
        photo = self.photos[0]
        files, box = {"image": ("a.png", photo.content)}, {"prompts": '{"boxes": [[5, 5, 30, 30]]}'}
        kinds: list[tuple[int, Callable[[], httpx.Response]]] = [
            (422, lambda: self.client.post("/api/segment", files={"image": ("a.png", photo.content[:99])}, data=box)),
            (422, lambda: self.client.post("/api/segment", files={"image": ("a.jpg", b"%!PS-Adobe-3.0")}, data=box)),
            (422, lambda: self.client.post("/api/segment", files=files, data={"prompts": "{"})),
            (422, lambda: self.client.post("/api/segment", files=files, data={"prompts": '{"boxes": [[9, 9, 1, 1]]}'})),
            (422, lambda: self.client.post("/api/segment", files=files, data={"prompts": "[" * 5000})),
            (415, lambda: self.client.post("/api/segment", data=box)),
            (404, lambda: self.client.post("/api/images/unknown/segment", json={})),
            (404, lambda: self.client.get("/../../etc/passwd")),
            (405, lambda: self.client.request("DELETE", "/api/images/unknown")),
            (415, lambda: self.client.post("/api/segment", content=b"{}", headers={"content-type": "text/plain"})),
            (403, lambda: self.client.post("/api/images", files=files, headers={"origin": "http://other.example"})),
            (421, lambda: self.client.get("/", headers={"host": "other.example"})),
            (413, lambda: _announced(self.client.base_url, 2**40)),
        ]  # fmt: skip
        expected, request = self.rng.choice(kinds)
        try:
            self.send("bad", expected, request)
        except httpx.ReadError:  # refused and closed before the body was read, so that the answer can be lost
            with self.record.lock:
                self.record.statuses["bad: reset"] += 1


def _announced(server: httpx.URL, length: int) -> httpx.Response:
    """Announce an upload of a length, without sending it; httpx would send nothing."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    connection.putrequest("POST", "/api/images")
    connection.putheader("Content-Type", "multipart/form-data; boundary=b")
    connection.putheader("Content-Length", str(length))
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return httpx.Response(answer.status, headers=dict(answer.getheaders()), content=content)


def _check_scene(scene: Any, photo: Photograph, count: int) -> None:
    """Check the number of objects and the size of each mask."""
    _expect(len(scene["objects"]) == count, f"{count} objects, got {len(scene['objects'])}")
    for obj in scene["objects"]:
        for key in ("visible", "amodal"):
            _expect(tuple(obj[key]["size"]) == photo.size, f"masks of size {photo.size}, got {obj[key]['size']}")


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise WrongAnswerError(f"expected {what}")


class Memory(threading.Thread):
    """Samples the memory of the server each second, without its stored images.

    Args:
        process: number of the process of the server.
        address: of the server.
    """

    def __init__(self, process: int, address: str) -> None:
        super().__init__(daemon=True)
        self.process, self.address, self.began, self.ended = process, address, time.monotonic(), threading.Event()
        self.samples: list[tuple[float, float, float]] = []

    def run(self) -> None:
        """Take samples until `ended` is set."""
        while not self.ended.wait(1):
            pages = int(Path(f"/proc/{self.process}/statm").read_text().split()[1])
            text = httpx.get(f"{self.address}/metrics", timeout=60).text
            stored = float(re.findall(r"^amodal_stored_bytes (\S+)", text, re.MULTILINE)[0])
            self.samples.append((time.monotonic() - self.began, pages * os.sysconf("SC_PAGE_SIZE"), stored))

    def peaks(self, until: float) -> tuple[float, float]:
        """The largest sample before and after a time, without the stored images."""
        early = [total - stored for seconds, total, stored in self.samples if seconds <= until]
        late = [total - stored for seconds, total, stored in self.samples if seconds > until]
        return max(early, default=0), max(late, default=0)


def main() -> int:
    """Run the clients, and print what they saw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--bad", type=float, default=0.05, help="share of bad requests")
    parser.add_argument("--model", default="plug-small")
    options = parser.parse_args()
    command = [sys.executable, "-m", "amodal", "serve", "--port", "0", "--model", options.model, "--assistant", "none"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = next(line for line in server.stdout if line.startswith("http://")).strip().rstrip("/")
            photos = photographs()
            Visitor(address, options.clients, photos, Record(), 0).warm_up()
            record, memory = Record(), Memory(server.pid, address)
            memory.start()
            deadline = time.monotonic() + options.seconds
            visitors = [Visitor(address, number, photos, record, options.bad) for number in range(options.clients)]
            threads = [threading.Thread(target=visitor.run, args=(deadline,)) for visitor in visitors]
            began = time.monotonic()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            elapsed = time.monotonic() - began
            memory.ended.set()
            memory.join()
        finally:
            server.terminate()
    if server.returncode not in (0, -15, 130, 143):
        record.wrong.append(f"expected the server to end, got exit code {server.returncode}")
    return report(record, memory, elapsed, min(60.0, options.seconds / 2))


def report(record: Record, memory: Memory, elapsed: float, warm: float) -> int:
    """Print the numbers, and return the exit code."""
    total = sum(record.statuses.values())
    print(f"{total} answers in {elapsed:.0f} s, {total / elapsed:.1f} per second, {len(record.wrong)} wrong")
    for what, seconds in sorted(record.seconds.items()):
        p50, p95 = statistics.median(seconds), float(np.percentile(seconds, 95))
        codes = ", ".join(
            f"{key[len(what) + 2 :]}: {n}" for key, n in sorted(record.statuses.items()) if key.startswith(f"{what}: ")
        )
        print(f"  {what:15} p50 {p50:6.2f} s  p95 {p95:6.2f} s   {codes}")
    every = [value for seconds in record.seconds.values() for value in seconds]
    print(f"  {'all':15} p50 {statistics.median(every):6.2f} s  p95 {float(np.percentile(every, 95)):6.2f} s")
    early, late = memory.peaks(warm)
    _, resident, stored = memory.samples[-1]
    print(f"memory at the end: {resident / 2**20:.0f} MiB, of which {stored / 2**20:.0f} MiB are stored images")
    print(
        f"peak without stored images: {early / 2**20:.0f} MiB in the first {warm:.0f} s, {late / 2**20:.0f} MiB later"
    )
    minutes = collections.defaultdict(list)
    for seconds, total, kept in memory.samples:
        minutes[int(seconds // 60)].append((total - kept) / 2**20)
    print("peaks by minute:", ", ".join(f"{max(values):.0f} MiB" for values in minutes.values()))
    for line in record.wrong[:20]:
        print(f"wrong: {line}", file=sys.stderr)
    grew = late - early > MAX_GROWTH
    if grew:
        print(f"memory: expected at most {MAX_GROWTH / 2**20:.0f} MiB more after {warm:.0f} s", file=sys.stderr)
    return int(bool(record.wrong) or grew)


if __name__ == "__main__":
    sys.exit(main())
