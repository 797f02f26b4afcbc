"""The task `amodal-segmentation` of `transformers.pipeline`, which importing this module registers.

transformers' own task `mask-generation` removes boxes that overlap strongly, which is what occluded objects do. This
pipeline passes every prompt to `AmodalSegmenter` and removes nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from amodal.errors import InputError
from amodal.inference.everything import segment_everything
from amodal.inference.prompts import ObjectPrompt, collect_prompts
from amodal.inference.scene import Scene
from amodal.inference.segmenter import AmodalSegmenter
from amodal.io.images import ImageArray, ImageSource, load_image
from amodal.models.increments import bundled_models
from amodal.models.names import DEFAULT_SEGMENTER
from amodal.models.plug import PlugConfig, PlugModel

TASK = "amodal-segmentation"

_PROMPTS = {
    "input_boxes": "boxes_xyxy",
    "input_points": "points_xy",
    "input_labels": "point_labels",
    "input_masks": "masks",
    "detections": "detections",
}
"""transformers' names of the prompts, and those of `AmodalSegmenter`."""

_OPTIONS = ("threshold", "clean")


class AmodalSegmentationPipeline(Pipeline):
    """Segments the objects of an image, with a visible and an amodal mask per object.

    `pipeline("amodal-segmentation", model=...)` builds it. A call takes an image (path, PIL image or array) and as
    keywords the prompts of its objects: `input_boxes` (N, 4) xyxy in pixels, `input_points` and `input_labels`,
    `input_masks`, or `detections`, in the forms that `AmodalSegmenter` takes; besides, `threshold` and `clean`. Without
    prompts, it finds the objects itself. Images with prompts of their own are dictionaries with the key `image` and the
    same keywords. A list or a generator of images or dictionaries gives one result per image.

    The result is a list of dictionaries, one per object in the order of the prompts: `label`, `score` in [0, 1],
    `mask` (the amodal mask as a PIL image of mode `1`), `visible_mask` and `occluded_mask` likewise, `box` (tight box
    of the amodal mask, in pixels), `occlusion_rate` in [0, 1], and `occluders` (positions of the objects in front).
    """

    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, model: PlugModel, **options: Any) -> None:
        super().__init__(model, **options)
        self.segmenter = AmodalSegmenter(self.model, self.device, self.model.dtype)

    def save_pretrained(self, save_directory: str, **options: Any) -> None:
        """Write the model, and no code: the package registers the task."""
        self.model.save_pretrained(save_directory, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the model with a model card, see `PlugModel.push_to_hub`."""
        return str(self.model.push_to_hub(repo_id, **options))

    def _sanitize_parameters(self, **parameters: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        unknown = sorted(parameters.keys() - {*_PROMPTS, *_OPTIONS})
        if unknown:
            raise TypeError(f"expected the keywords {', '.join((*_PROMPTS, *_OPTIONS))}, got {', '.join(unknown)}")
        prompts = {name: value for name, value in parameters.items() if name in _PROMPTS}
        options = {name: value for name, value in parameters.items() if name in _OPTIONS}
        return prompts, options, {}

    def preprocess(self, input_: ImageSource | dict[str, Any], **prompts: Any) -> dict[str, Any]:
        """Load an image and check its prompts.

        Raises:
            InputError: an unreadable image, an unknown key, or an impossible prompt.
        """
        if isinstance(input_, dict):
            unknown = sorted(input_.keys() - {"image", *_PROMPTS})
            if unknown or "image" not in input_:
                keys = ", ".join(("image", *_PROMPTS))
                raise InputError(f"input: expected the keys {keys}, got {', '.join(input_)!r:.80}")
            prompts |= {name: value for name, value in input_.items() if name != "image"}
        image = load_image(input_["image"] if isinstance(input_, dict) else input_)
        given = {_PROMPTS[name]: value for name, value in prompts.items() if value is not None}
        size = (image.shape[0], image.shape[1])
        return {"image": image, "prompts": collect_prompts(size, **given) if given else None}

    def _forward(self, input_tensors: dict[str, Any], **options: Any) -> dict[str, Scene]:
        image: ImageArray = input_tensors["image"]
        prompts: list[ObjectPrompt] | None = input_tensors["prompts"]
        if prompts is None:
            return {"scene": segment_everything(self.segmenter, self.segmenter.finder, image, **options)}
        return {"scene": self.segmenter.segment_batch([image], [prompts], **options)[0]}

    def postprocess(self, model_outputs: dict[str, Scene], **_: Any) -> list[dict[str, Any]]:
        """Convert a scene to one dictionary per object, see the class."""
        scene = model_outputs["scene"]
        pairs = scene.occlusion_order()
        return [
            {
                "label": obj.label,
                "score": obj.score,
                "mask": Image.fromarray(obj.amodal_mask),
                "visible_mask": Image.fromarray(obj.visible_mask),
                "occluded_mask": Image.fromarray(obj.occluded_mask),
                "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), map(int, obj.amodal_box_xyxy), strict=True)),
                "occlusion_rate": obj.occlusion_rate,
                "occluders": [front for front, behind in pairs if behind == index],
            }
            for index, obj in enumerate(scene)
        ]


class _Loader:
    """Loads a `PlugModel` with the keywords that `transformers.pipeline` passes to every model."""

    @classmethod
    def from_pretrained(cls, name: str, *, revision: str | None = None, dtype: Any = None, **_: Any) -> PlugModel:
        return PlugModel.from_pretrained(
            name, revision=revision, dtype=dtype if isinstance(dtype, torch.dtype) else None
        )


def _register() -> None:
    AutoConfig.register(PlugConfig.model_type, PlugConfig, exist_ok=True)
    default = (str(bundled_models()[DEFAULT_SEGMENTER]), None) if DEFAULT_SEGMENTER in bundled_models() else None
    PIPELINE_REGISTRY.register_pipeline(
        TASK,
        pipeline_class=AmodalSegmentationPipeline,
        pt_model=_Loader,
        default=None if default is None else {"model": default},
        type="image",
    )


_register()
