"""Prompts from COCO files and mask files, and the one line that each mistake gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amodal.errors import InputError
from amodal.inference.prompt_files import read_coco_file, read_masks
from amodal.ops.rle import decode_mask, encode_mask

SIZE = (40, 60)


def block(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    full = np.zeros(SIZE, bool)
    full[y0:y1, x0:x1] = True
    return full


def coco() -> dict[str, Any]:
    """Two images: a mask with a polygon beside it, a box, a crowd region; and an image without annotations."""
    polygon = [[10, 10, 20, 10, 20, 20, 10, 20]]
    return {
        "images": [
            {"id": 7, "file_name": "val/a.jpg", "height": 40, "width": 60},
            {"id": 3, "file_name": "b.jpg"},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 44, "name": "bottle"}],
        "annotations": [
            {"id": 901, "image_id": 7, "category_id": 18, "segmentation": encode_mask(block(5, 5, 25, 30))},
            {"id": 902, "image_id": 7, "category_id": 44, "segmentation": polygon, "bbox": [0, 0, 1, 1]},
            {"id": 903, "image_id": 7, "category_id": 44, "segmentation": [], "bbox": [30, 10, 20, 20]},
            {"id": 904, "image_id": 7, "category_id": 44, "bbox": [0, 0, 60, 40], "iscrowd": 1},
        ],
    }


def write(folder: Path, content: Any) -> Path:
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_masks_where_present_otherwise_boxes(tmp_path: Path) -> None:
    found = read_coco_file(write(tmp_path, coco()))
    image = found.image_of(Path("photos/a.jpg"))
    assert (image.id, image.size) == (7, SIZE) and found.image_of(Path("b.jpg")).size is None
    prompts = found.prompts(image, SIZE)
    assert [(p.source_id, p.name, p.class_id) for p in prompts] == [
        (901, "dog", 18), (902, "bottle", 44), (903, "bottle", 44)
    ]  # fmt: skip
    assert prompts[0].visible is not None and np.array_equal(decode_mask(prompts[0].visible), block(5, 5, 25, 30))
    assert prompts[1].visible is not None and prompts[1].box_xyxy is None
    assert prompts[2].visible is None and prompts[2].box_xyxy == (30, 10, 50, 30)
    assert found.prompts(found.image_of(Path("b.jpg")), SIZE) == []


def test_visible_masks_of_a_canonical_file_are_the_prompts(tmp_path: Path) -> None:
    content = coco()
    visible = encode_mask(block(1, 1, 4, 4))
    content["annotations"][0] |= {"visible_mask": visible, "occluders": []}
    found = read_coco_file(write(tmp_path, content))
    assert found.prompts(found.images[0], SIZE)[0].visible == visible


def test_folders_decide_between_images_of_one_name(tmp_path: Path) -> None:
    content = coco()
    content["images"][1]["file_name"] = "train/a.jpg"
    found = read_coco_file(write(tmp_path, content))
    assert found.image_of(Path("x/train/a.jpg")).id == 3
    with pytest.raises(InputError, match=r"expected one image of the name 'a.jpg', got 2 of them"):
        found.image_of(Path("a.jpg"))
    with pytest.raises(InputError, match="expected one image of the name 'c.jpg', got 2 images of other names"):
        found.image_of(Path("c.jpg"))
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.jpg").touch()
    assert found.path_of(found.images[1], tmp_path) == tmp_path / "train" / "a.jpg"
    assert found.path_of(found.images[0], tmp_path) == tmp_path / "val" / "a.jpg"  # another image has this last part


def test_a_fault_concerns_one_object(tmp_path: Path) -> None:
    content = coco()
    content["annotations"][2]["bbox"] = [90, 10, 5, 5]
    found = read_coco_file(write(tmp_path, content))
    faults: list[str] = []
    assert len(found.prompts(found.images[0], SIZE, lambda error: faults.append(str(error)))) == 2
    (fault,) = faults
    assert fault.startswith("annotation 903: box: expected a box inside the 60 x 40 image")
    with pytest.raises(InputError, match="annotation 903"):
        found.prompts(found.images[0], SIZE)
    with pytest.raises(InputError, match="expected 50 x 40 pixels for val/a.jpg, like the image, got 60 x 40 pixels"):
        found.prompts(found.images[0], (40, 50))


def without(section: str, index: int, key: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[section][index].pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("annotations", 1, "id"), "annotations: expected the id of each record to be an integer, got None in"),
        (
            without("annotations", 1, "image_id"),
            "annotations: expected the image_id of each record to be an integer, got None in",
        ),
        (
            without("annotations", 1, "category_id"),
            "annotations: expected the category_id of each record to be an integer, got None in",
        ),
        (without("images", 1, "id"), "images: expected the id of each record to be an integer, got None in"),
        (without("images", 1, "file_name"), "images: expected a file_name, got None"),
        (without("categories", 1, "id"), "categories: expected the id of each record to be an integer, got None in"),
        (without("categories", 1, "name"), "categories: expected a name, got None"),
        (lambda c: c["annotations"][0].update(image_id=5), "expected the image of each annotation, got none of id 5"),
        (lambda c: c["annotations"][0].update(category_id=5), "expected the category of each annotation, got none of"),
        (lambda c: c["images"][1].update(id=7), "expected one image per id, got a second one of id 7"),
        (lambda c: c["annotations"][0].update(inmodal_seg=[]), "got the key 'inmodal_seg' of another format"),
        (lambda c: c["annotations"].insert(0, 3), "expected records in annotations, got 3"),
        (lambda c: c.pop("categories"), "expected a COCO file, got a file without categories"),
        (lambda c: c.clear(), "expected a COCO file, got a file without images and annotations and categories"),
    ],
)
def test_broken_coco_files_are_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    content = coco()
    change(content)
    with pytest.raises(InputError, match=message) as error:
        read_coco_file(write(tmp_path, content))
    assert str(error.value).startswith(f"annotations {tmp_path}") and "\n" not in str(error.value)


def save(folder: Path, name: str, array: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(folder / name)
    return folder / name


def decoded(prompts: Any) -> list[np.ndarray]:
    return [decode_mask(p.visible) for p in prompts]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_a_png_file_with_one_mask(tmp_path: Path, mode: str) -> None:
    (found,) = read_masks(save(tmp_path, "m.png", block(3, 4, 9, 9), mode), tmp_path / "a.png", SIZE)
    assert found.visible is not None and found.source_id is None
    assert np.array_equal(decode_mask(found.visible), block(3, 4, 9, 9))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_label_map_has_one_object_per_value(tmp_path: Path, dtype: type) -> None:
    labels = np.zeros(SIZE, dtype)
    labels[:10], labels[10:15, :20], labels[30:] = 2, 9, 200
    prompts = read_masks(save(tmp_path, "labels.png", labels), tmp_path / "a.png", SIZE)
    assert [p.source_id for p in prompts] == [2, 9, 200]
    for value, found in zip((2, 9, 200), decoded(prompts), strict=True):
        assert np.array_equal(found, labels == value)


def test_a_folder_has_one_mask_per_file(tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    masks = [block(0, 0, 5, 5), block(20, 20, 30, 30)]
    save(folder, "1.png", masks[1])
    save(folder, "0.png", masks[0])
    (folder / "._0.png").write_text("hidden")
    assert all(map(np.array_equal, decoded(read_masks(folder, tmp_path / "a.png", SIZE)), masks))
    labels = block(0, 0, 5, 5).astype(np.uint8) + 3 * block(20, 20, 30, 30).astype(np.uint8)
    save(folder, "2.png", labels)
    with pytest.raises(InputError, match="expected one mask per file of a folder, got 2 values beside 0"):
        read_masks(folder, tmp_path / "a.png", SIZE)


def test_json_files_with_masks(tmp_path: Path) -> None:
    rle, polygon = encode_mask(block(3, 4, 9, 9)), [[10.0, 10.0, 20.0, 10.0, 20.0, 20.0]]
    path = tmp_path / "masks.json"
    for content, count in (
        (rle, 1),
        ([rle, polygon], 2),
        ([{"segmentation": rle, "bbox": [0, 0, 5, 5], "predicted_iou": 0.9}, {"bbox": [3, 3, 9, 9]}], 2),  # SAM
        (coco(), 3),
    ):
        path.write_text(json.dumps(content))
        assert len(read_masks(path, tmp_path / "a.jpg", SIZE)) == count
    path.write_text(json.dumps(coco() | {"annotations": []}))
    with pytest.raises(InputError, match=r"masks .*masks.json: expected objects in a.jpg, got none"):
        read_masks(path, tmp_path / "a.jpg", SIZE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected a COCO file or a list of RLEs, got \\[\\]"),
        ({"a": 1}, "expected a COCO file or a list of RLEs"),
        ([[0.5, 0.2]], "mask 0: segmentation: expected polygons"),
        ([0.5], "mask 0: expected an RLE, polygons or an annotation, got 0.5"),
        ([encode_mask(block(0, 0, 0, 0))], "mask 0: mask: expected at least one pixel, got an empty mask"),
        (
            [encode_mask(np.ones((3, 4), bool))],
            "mask 0: segmentation: expected an RLE of size \\[40, 60\\], got \\[3, 4\\]",
        ),
        (
            [encode_mask(block(0, 0, 5, 5)), {"size": [40, 60], "counts": "a!"}],
            "mask 1: segmentation: expected an RLE's",
        ),
        ([{"size": [40, 60], "counts": [5, 6]}], "mask 0: segmentation: expected runs over 2400 pixels, got 11"),
    ],
)
def test_broken_json_masks_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "masks.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_masks(path, tmp_path / "a.png", SIZE)


def test_broken_mask_files_are_refused(tmp_path: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises(InputError) as error:
            read_masks(path, tmp_path / "a.png", SIZE)
        return str(error.value)

    assert "which does not exist" in message(tmp_path / "none.png")
    assert "expected a folder with PNG files, got none" in message(tmp_path)
    assert "expected a JSON file, a PNG file or a folder" in message(Path(__file__))
    (tmp_path / "broken.json").write_text("{")
    assert "expected JSON, got broken text" in message(tmp_path / "broken.json")
    small = save(tmp_path, "small.png", np.ones((4, 6), bool))
    assert message(small) == f"masks {small}: expected 60 x 40 pixels, like the image, got 6 x 4 pixels"
    assert "got an empty mask" in message(save(tmp_path, "empty.png", np.zeros(SIZE, bool)))
    colour = np.zeros((*SIZE, 3), np.uint8)
    colour[:20, :, 0], colour[20:, :, 1] = 9, 9
    assert "expected one value per object, got several colours" in message(save(tmp_path, "colour.png", colour))
    assert "expected integers, got float32" in message(save(tmp_path, "float.tif", np.full(SIZE, 0.5, np.float32)))
    soft = block(5, 5, 30, 30).astype(np.uint8) * 255
    soft[5] = np.arange(60)
    assert "got shades of grey; compare the mask with a threshold first" in message(save(tmp_path, "soft.png", soft))
