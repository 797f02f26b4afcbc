"""Time from a click on the web page to the painted mask, for photographs of 1 and 12 megapixels.

`python benchmarks/click_to_mask.py`: one browser and one server on this machine. Each photograph is an example of the
page, enlarged. Every click makes a new object at another place; refining clicks add a point to the object of the click
before. The server's part is the time of the request that makes the mask. Needs Chromium and playwright.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import threading
import time
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from PIL import Image

from amodal.app.demo import make_app
from amodal.app.images import DemoModels
from amodal.app.server import server_config
from amodal.inference.segmenter import AmodalSegmenter

MEGAPIXELS = (1, 12)


def photograph(megapixels: float) -> tuple[bytes, tuple[int, int]]:
    """The page's first example, enlarged, as JPEG; and its width and height."""
    image = Image.open(io.BytesIO((resources.files("amodal.app") / "demo_page/examples/coffee.jpg").read_bytes()))
    scale = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
    large = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    large.save(buffer, format="JPEG", quality=90)
    return buffer.getvalue(), large.size


def serve(models: DemoModels) -> tuple[uvicorn.Server, int]:
    """Start the server in a thread; returns it with its port."""
    config: Any = server_config(make_app(models))
    config.port = 0
    server = uvicorn.Server(config)
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    return server, server.servers[0].sockets[0].getsockname()[1]


def idle(page: Any) -> None:
    """Wait until no request is on its way."""
    page.wait_for_timeout(60)
    page.wait_for_selector("#busy", state="hidden")


def measure(page: Any, content: bytes, size: tuple[int, int], clicks: int, refine: bool) -> dict[str, Any]:
    """Click on an image and read the times, in milliseconds, that the page has measured."""
    page.set_input_files("#file", {"name": "photograph.jpg", "mimeType": "image/jpeg", "buffer": content})
    page.wait_for_selector("#find:not([disabled])")
    idle(page)
    box = page.locator("#stage").bounding_box()
    scale = min(box["width"] / size[0], box["height"] / size[1])
    left, top = (box["x"] + (box["width"] - size[0] * scale) / 2, box["y"] + (box["height"] - size[1] * scale) / 2)
    rng = np.random.default_rng(0)
    page.click('[data-tool="point"]')
    page.evaluate("performance.clearMeasures(); performance.clearResourceTimings();"
                  "performance.setResourceTimingBufferSize(2000)")  # fmt: skip
    for number in range(clicks):
        if not refine or number % 4 == 0:
            page.keyboard.press("Escape")
        x, y = rng.uniform(0.2, 0.8, 2)
        page.mouse.click(left + x * size[0] * scale, top + y * size[1] * scale)
        idle(page)
    painted, requests = page.evaluate(
        """() => [performance.getEntriesByName("click to mask").map((one) => one.duration),
            performance.getEntriesByType("resource").filter((one) => one.name.endsWith("/segment"))
                .map((one) => one.duration)]"""
    )
    return {"clicks": len(painted), "page": summary(painted), "request": summary(requests)}


def summary(values: list[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    return {"median": round(float(np.median(values)), 1), "p95": round(float(np.percentile(values, 95)), 1)}


def main() -> None:
    """Measure and print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="plug-tiny")
    parser.add_argument("--visible-from")
    parser.add_argument("--clicks", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="few clicks, to see that it runs")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    segmenter = AmodalSegmenter.from_pretrained(options.model, device="cpu", visible_from=options.visible_from)
    server, port = serve(DemoModels(segmenter, segmenter.finder))
    clicks = 4 if options.quick else options.clicks
    rows = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"http://127.0.0.1:{port}")
        page.wait_for_selector("body[data-ready]")
        idle(page)
        for megapixels in MEGAPIXELS:
            content, size = photograph(megapixels)
            for refine in (False, True):
                found = measure(page, content, size, clicks, refine)
                rows.append({"megapixels": megapixels, "kind": "refining" if refine else "new object", **found})
        browser.close()
    server.should_exit = True
    print(f"{options.model}, {torch.get_num_threads()} threads, milliseconds\n")
    print("| megapixels | clicks | click to mask: median | p95 | of it request: median | p95 |\n|" + " --- |" * 6)
    for row in rows:
        numbers = [row[part][name] for part in ("page", "request") for name in ("median", "p95")]
        print(f"| {row['megapixels']} | {row['clicks']} ({row['kind']}) | " + " | ".join(map(str, numbers)) + " |")
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
