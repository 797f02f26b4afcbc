"""Show what `plug-small` says about ten photographs: python docs/make_photographs.py.

The photographs ship with scikit-image, scikit-learn and matplotlib and may be published. The prompts are boxes that a
person drew around the objects: those of the web page's examples, and `BOXES`. One more image shows what the model finds
without a prompt.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from skimage import data
from sklearn.datasets import load_sample_image

from amodal import AmodalSegmenter

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "src/amodal/app/demo_page"
WIDTH = 480

BOXES = {
    "flower": {"flower": (165, 82, 448, 372), "flower below": (285, 372, 462, 427)},
    "pagoda": {"pagoda": (72, 28, 368, 402), "bushes": (350, 308, 572, 427)},
    "coins": {"coin": (304, 14, 367, 74), "worn coin": (22, 34, 69, 74), "large coin": (313, 154, 382, 219)},
    "moon": {"crater": (90, 58, 148, 116)},
}
"""Boxes (x0, y0, x1, y1) of the photographs that are not on the web page."""

FAILURES = (
    ("coffee", "saucer"),
    ("coffee", "spoon"),
    ("rocket", "tower"),
    ("officer", "flag"),
    ("astronaut", "astronaut"),
    ("officer", "officer"),
    ("officer", "cap"),
    ("rocket", "pad"),
    ("cat", "blanket"),
    ("pagoda", "pagoda"),
)
"""Photograph and object of the image of failures, row by row."""
TILE, COLUMNS = 240, 5


def photographs() -> dict[str, tuple[np.ndarray, dict[str, tuple[float, ...]]]]:
    """Return the ten photographs (H, W, 3) uint8 RGB and the boxes of their named objects, in pixels."""
    found = {}
    for example in json.loads((EXAMPLES / "examples.json").read_text()):
        pixels = np.asarray(Image.open(EXAMPLES / f"examples/{example['name']}.jpg").convert("RGB"))
        found[example["name"]] = (pixels, {o["name"]: tuple(o["box"]) for o in example["objects"]})
    others = {
        "flower": load_sample_image("flower.jpg"),
        "pagoda": load_sample_image("china.jpg"),
        "coins": data.coins(),
        "moon": data.moon(),
    }
    for name, pixels in others.items():
        rgb = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
        found[name] = (rgb, BOXES[name])
    return found


def failures(segmenter: AmodalSegmenter) -> Image.Image:
    """Draw the objects of `FAILURES`, each alone with some of its surroundings."""
    known, tiles = photographs(), []
    for name, label in FAILURES:
        pixels, boxes = known[name]
        drawn = Image.fromarray(segmenter(pixels, [list(boxes[label])]).draw())
        x0, y0, x1, y1 = (value * drawn.width / pixels.shape[1] for value in boxes[label])
        side = 1.25 * max(x1 - x0, y1 - y0)
        left, top = (x0 + x1 - side) / 2, (y0 + y1 - side) / 2
        window = (max(left, 0), max(top, 0), min(left + side, drawn.width), min(top + side, drawn.height))
        tiles.append(drawn.crop(tuple(round(v) for v in window)))
    return sheet_of(tiles)


def found_alone(segmenter: AmodalSegmenter) -> Image.Image:
    """Draw what the model finds in each photograph without a prompt."""
    return sheet_of([Image.fromarray(segmenter.find(pixels).draw()) for pixels, _ in photographs().values()])


def sheet_of(tiles: list[Image.Image]) -> Image.Image:
    """Place images in rows of tiles of the same size."""
    sheet = Image.new("RGB", (COLUMNS * TILE, -(-len(tiles) // COLUMNS) * TILE), "white")
    for index, image in enumerate(tiles):
        tile = ImageOps.contain(image, (TILE - 4, TILE - 4))
        row, column = divmod(index, COLUMNS)
        sheet.paste(tile, (column * TILE + (TILE - tile.width) // 2, row * TILE + (TILE - tile.height) // 2))
    return sheet


def main() -> None:
    """Write one image per photograph, the failures, and what is found without a prompt; print the occlusion rates."""
    folder = ROOT / "docs/images/photographs"
    folder.mkdir(parents=True, exist_ok=True)
    segmenter = AmodalSegmenter.from_pretrained("plug-small", device="cpu")
    for name, (pixels, boxes) in photographs().items():
        scene = segmenter(pixels, [list(box) for box in boxes.values()])
        rates = [f"{label} {obj.occlusion_rate:.0%}" for label, obj in zip(boxes, scene.objects, strict=True)]
        print(f"{name}: {', '.join(rates)}")
        drawn = Image.fromarray(scene.draw())
        drawn.thumbnail((WIDTH, WIDTH))
        drawn.save(folder / f"{name}.jpg", quality=82)
    failures(segmenter).save(ROOT / "docs/images/failures.jpg", quality=82)
    found_alone(segmenter).save(ROOT / "docs/images/found.jpg", quality=82)


if __name__ == "__main__":
    main()
