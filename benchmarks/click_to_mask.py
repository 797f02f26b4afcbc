"""Time from a click on the web page to the painted mask, for photographs of 1 and 12 megapixels.

Command: python benchmarks/click_to_mask.py [--model plug-small] [--visible-from sam-small]

One browser and one server on this machine. Each photograph is an example of the page, enlarged. `new object`: every
click makes a new object at another place. `refining`: three of four clicks add a point to the object of the click
before. `page` is the time until the mask is painted, `request` the part of it that the request takes; both in
milliseconds. Not a part of `suite.py`, because it needs Chromium and playwright.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.app.browser import chromium, idle, opened, place, serving

from amodal import AmodalSegmenter
from amodal.models.names import DEFAULT_SEGMENTER

MEGAPIXELS = (1, 12)


def photograph(megapixels: float) -> tuple[bytes, tuple[int, int]]:
    """The page's first example, enlarged, as JPEG; and its width and height."""
    image = Image.open(io.BytesIO((resources.files("amodal.app") / "demo_page/examples/coffee.jpg").read_bytes()))
    scale = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
    large = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    large.save(buffer, format="JPEG", quality=90)
    return buffer.getvalue(), large.size


def measure(page: Any, content: bytes, size: tuple[int, int], clicks: int, refine: bool) -> dict[str, Any]:
    """Click on an image and read the times, in milliseconds, that the page has measured."""
    page.set_input_files("#file", {"name": "photograph.jpg", "mimeType": "image/jpeg", "buffer": content})
    page.wait_for_selector("#find:not([disabled])")
    idle(page)
    rng = np.random.default_rng(0)
    page.click('[data-tool="point"]')
    page.evaluate("performance.clearMeasures(); performance.clearResourceTimings();"
                  "performance.setResourceTimingBufferSize(2000)")  # fmt: skip
    for number in range(clicks):
        if not refine or number % 4 == 0:
            page.keyboard.press("Escape")
        x, y = rng.uniform(0.2, 0.8, 2)
        page.mouse.click(*place(page, x * size[0], y * size[1], size))
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
    """Measure, print each row of a table when it is measured, and write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_SEGMENTER)
    parser.add_argument("--visible-from", help="second model, for the visible masks")
    parser.add_argument("--clicks", type=int, default=20, help="number for each row")
    parser.add_argument("--quick", action="store_true", help="few clicks, to see that it runs")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    options = parser.parse_args()
    clicks = 4 if options.quick else options.clicks
    segmenter = AmodalSegmenter.from_pretrained(options.model, device="cpu", visible_from=options.visible_from)
    print(f"{options.model}, {torch.get_num_threads()} threads, milliseconds\n")
    print("| megapixels | clicks | page: median | p95 | request: median | p95 |\n|" + " --- |" * 6, flush=True)
    rows = []
    with (
        serving(segmenter=segmenter) as address,
        chromium() as browser,
        opened(browser, address, (1280, 900)) as page,
    ):
        for megapixels in MEGAPIXELS:
            content, size = photograph(megapixels)
            for kind in ("new object", "refining"):
                row = {
                    "megapixels": megapixels,
                    "kind": kind,
                    **measure(page, content, size, clicks, kind == "refining"),
                }
                rows.append(row)
                numbers = [str(row[part][name]) for part in ("page", "request") for name in ("median", "p95")]
                print(f"| {megapixels} | {row['clicks']} ({kind}) | {' | '.join(numbers)} |", flush=True)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
