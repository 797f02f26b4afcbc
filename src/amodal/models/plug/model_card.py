"""The model card of a PLUG model on the Hugging Face hub, and the upload of a model with its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, ModelCardData

from amodal.models.hub import is_local_name
from amodal.models.increments import Origin
from amodal.models.plug.configuration import PlugConfig

CARD = "README.md"
"""Name of the model card in a repository."""

_TEXT = """---
{metadata}
---

# {title}

A PLUG model for amodal segmentation. For each object that a box, points or a visible mask describes, it predicts the
visible part and the complete shape, including the part that other objects hide.

## Use

With the package [amodal](https://github.com/amodal/amodal) installed:

```bash
amodal segment street.jpg --box 30,40,210,380 --model {repo_id} --out street
```

```python
from amodal import AmodalSegmenter

segmenter = AmodalSegmenter.from_pretrained("{repo_id}")
scene = segmenter("street.jpg", [[30, 40, 210, 380]])
print(scene[0].occlusion_rate, scene[0].visible_mask.shape, scene[0].amodal_mask.shape)
```

```python
import amodal.integrations.pipeline  # registers the task
from transformers import pipeline

segment = pipeline("amodal-segmentation", model="{repo_id}")
objects = segment("street.jpg", input_boxes=[[30, 40, 210, 380]])
```

## Model

{facts}

## Results

{results}

## Limits

- The occluded part of a mask is a prediction from what is visible. It does not show what is really there.
- Masks end at the border of the image.
- A category or kind of image that the training data lacks may work badly. Evaluate the model on your own data.
"""


def model_card(
    config: PlugConfig,
    repo_id: str,
    *,
    num_trained: int,
    is_whole: bool,
    license: str | None = None,
    datasets: Sequence[str] = (),
    results: Mapping[str, float] | None = None,
) -> ModelCard:
    """Describe a model from its configuration.

    Args:
        config: settings of the model.
        repo_id: repository that the examples name.
        num_trained: number of parameters that are trained.
        is_whole: whether the model is stored with its base.
        license: licence of the model, as the hub names it; none is stated if None.
        datasets: hub ids of the training data.
        results: measured numbers by metric.
    """
    origin = Origin.from_record(config.base)
    hub_base = origin.name_or_path is not None and "/" in origin.name_or_path and not is_local_name(origin.name_or_path)
    metadata = ModelCardData(
        base_model=origin.name_or_path if hub_base else None,
        datasets=list(datasets) or None,
        library_name="amodal",
        license=license,
        pipeline_tag="image-segmentation",
        tags=["amodal-segmentation", "occlusion", "plug"],
        **({"base_model_relation": "finetune" if is_whole else "adapter"} if hub_base else {}),
    )
    facts = _facts(config, origin, num_trained, is_whole) | {"licence": license or "not stated"}
    if results:
        measured = _table("metric", "value", {name: f"{value:.6g}" for name, value in results.items()})
    else:
        measured = f"None were stated. `amodal evaluate masks --model {repo_id} --annotations FILE` measures them."
    return ModelCard(
        _TEXT.format(
            metadata=metadata.to_yaml(),
            title=repo_id.rsplit("/", 1)[-1],
            repo_id=repo_id,
            facts=_table("", "", facts),
            results=measured,
        )
    )


def _table(left: str, right: str, rows: Mapping[str, str]) -> str:
    pairs = [(left, right), ("---", "---"), *rows.items()]
    return "\n".join(f"| {name} | {value} |" for name, value in pairs)


def _facts(config: PlugConfig, origin: Origin, num_trained: int, is_whole: bool) -> dict[str, str]:
    name = origin.name_or_path or "random weights"
    if "/" in name and is_local_name(name):
        name = "a local file"  # a path says something about its owner, and nothing to others
    side = config.image_size
    prompts = ["boxes", "points", *(["visible masks"] if config.mask_prompts else [])]
    return {
        "base": f"`{name}`, {'contained' if is_whole else 'loaded from its own place'}",
        "fingerprint of the base": f"`{origin.fingerprint}`",
        "trained parameters": f"{num_trained:,}",
        "input": f"crop of {config.crop_scale:g} times the visible box, {side} x {side} pixels",
        "prompts": ", ".join(prompts),
        "visible masks": "predicted by a branch of their own" if config.visible_branch else "not predicted",
        "threshold": f"{config.mask_threshold:g}",
        "scores": "predicted IoU" if config.iou_weight > 0 else "not trained, without meaning",
    }


def upload_with_card(
    folder: Path,
    card: ModelCard,
    repo_id: str,
    *,
    private: bool | None = None,
    token: bool | str | None = None,
    message: str | None = None,
) -> str:
    """Upload a saved model with its card. A card that the repository has already is kept.

    Args:
        folder: what `save_pretrained` wrote; the card is added to it.
        card: its card.
        repo_id: repository, created if needed.
        private: whether a new repository is private; the default of its owner if None.
        token: access token; the stored one if None.
        message: subject of the commit.

    Returns:
        Address of the commit.
    """
    api = HfApi(token=token)
    repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if not api.file_exists(repository, CARD):
        (folder / CARD).write_text(str(card), encoding="utf-8")
    commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message or "Upload a PLUG model")
    return str(commit.commit_url)
