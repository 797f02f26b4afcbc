"""The model card: what it says is true of the model, its examples run, and a card of the repository is kept."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from amodal.models.increments import INCREMENT, WHOLE
from amodal.models.plug import PlugConfig, PlugModel
from amodal.models.plug import model_card as cards
from amodal.models.plug.model_card import CARD, model_card
from amodal.models.plug.modeling import parameter_counts
from amodal.synthetic.scenes import render_scene
from tests.models.conftest import small_sam_config


class Hub:
    """Repositories in a folder, with the methods of `HfApi` that an upload calls."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, list[dict[str, Any]]()

    def __call__(self, token: object = None) -> Hub:
        self.token = token
        return self

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> SimpleNamespace:
        (self.folder / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        self.private = private
        return SimpleNamespace(repo_id=repo_id)

    def file_exists(self, repo_id: str, name: str) -> bool:
        return (self.folder / repo_id / name).is_file()

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> SimpleNamespace:
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)
        self.calls.append({"files": sorted(p.name for p in folder_path.iterdir()), "message": commit_message})
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(cards, "HfApi", hub)
    return hub


@pytest.mark.parametrize(("merged", "weights"), [(False, INCREMENT), (True, WHOLE)])
def test_an_uploaded_model_has_a_card_and_loads_again(
    merged: bool, weights: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = PlugModel.from_pretrained("plug-small")
    address = model.push_to_hub(
        "me/model", merged=merged, private=True, token="secret", commit_message="First", license="apache-2.0"
    )
    assert address == "https://hub/me/model/commit/1"
    files = [CARD, "config.json", "preprocessor_config.json", weights]
    assert hub.calls == [{"files": sorted(files), "message": "First"}]
    assert hub.private is True and hub.token == "secret"
    card = ModelCard.load(hub.folder / "me" / "model" / CARD)
    assert card.data.library_name == "amodal" and card.data.license == "apache-2.0"
    monkeypatch.chdir(hub.folder)
    loaded = PlugModel.from_pretrained("me/model")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


def test_a_card_that_the_repository_has_is_kept(hub: Hub) -> None:
    own = hub.folder / "me" / "model" / CARD
    own.parent.mkdir(parents=True)
    own.write_text("Written by hand.")
    PlugModel.from_pretrained("plug-small").push_to_hub("me/model")
    assert own.read_text() == "Written by hand."
    assert CARD not in hub.calls[0]["files"] and INCREMENT in hub.calls[0]["files"]


def test_unknown_keywords_of_an_upload_are_refused(hub: Hub) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_shard_size'"):
        PlugModel.from_pretrained("plug-small").push_to_hub("me/model", max_shard_size="5GB")
    assert not hub.calls


def card_of(repo_id: str = "me/model", is_whole: bool = False, **changes: Any) -> str:
    notes = {name: changes.pop(name) for name in ("license", "datasets", "results") if name in changes}
    config = PlugConfig(sam=small_sam_config(), **changes)
    return str(model_card(config, repo_id, num_trained=12345, is_whole=is_whole, **notes))


def test_the_card_states_what_the_model_is() -> None:
    model = PlugModel.from_pretrained("plug-small")
    trained = parameter_counts(model.config)["incremental"]
    assert trained == sum(p.numel() for name, p in model.named_parameters() if not model.is_base_tensor(name))
    card = str(model_card(model.config, "me/model", num_trained=trained, is_whole=False))
    for fact in (
        "| base | `sam-small`, loaded from its own place |",
        f"| trained parameters | {trained:,} |",
        "crop of 2 times the visible box, 192 x 192 pixels",
        "| threshold | 0.5 |",
    ):
        assert fact in card


@pytest.mark.parametrize(
    ("changes", "said", "unsaid"),
    [
        ({"visible_branch": False, "refine": False}, "| visible masks | not predicted |", "branch of their own"),
        ({"mask_prompts": True}, "| prompts | boxes, points, visible masks |", "base_model"),
        ({"mask_prompts": False}, "| prompts | boxes, points |", "boxes, points, visible masks |"),
        ({"iou_weight": 0.0}, "| scores | not trained, without meaning |", "predicted IoU"),
        ({"iou_weight": 0.5}, "| scores | predicted IoU |", "without meaning"),
        ({"is_whole": True}, "contained |", "loaded from its own place"),
        ({"license": "mit"}, "\nlicense: mit\n", "not stated"),
        ({}, "| licence | not stated |", "license:"),
        ({"results": {"mIoU": 81.234567}}, "| mIoU | 81.2346 |", "None were stated"),
        ({}, "`amodal evaluate masks --model me/model --annotations FILE`", "| metric |"),
        ({"datasets": ["me/kins"]}, "datasets:\n- me/kins\n", "base_model"),
        ({"base": {"name_or_path": "facebook/sam-vit-huge"}}, "\nbase_model: facebook/sam-vit-huge\n", "finetune"),
        ({"base": {"name_or_path": "facebook/sam-vit-huge"}}, "\nbase_model_relation: adapter\n", "local file"),
        ({"base": {"name_or_path": "/home/me/sam.pth"}}, "| base | `a local file`", "/home"),
        ({"base": {"name_or_path": "./weights/sam"}}, "| base | `a local file`", "weights/sam"),
        ({"base": {"name_or_path": "sam-small"}}, "| base | `sam-small`", "base_model"),
        ({"base": {}}, "| base | `random weights`", "base_model"),
    ],
)
def test_the_card_says_only_what_holds(changes: dict[str, Any], said: str, unsaid: str) -> None:
    card = card_of(**changes)
    assert said in card
    assert unsaid not in card


def test_the_examples_of_a_card_run(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("amodal.inference.devices.has_bfloat16", lambda: False)  # for equal rates
    PlugModel.from_pretrained("plug-small").push_to_hub("me/model")
    monkeypatch.chdir(hub.folder)  # where the name of the repository is a folder
    Image.fromarray(render_scene(3, size=(400, 400)).image).save("street.jpg")
    card = (hub.folder / "me" / "model" / CARD).read_text()
    blocks = re.findall(r"```python\n(.*?)```", card, re.S)
    assert len(blocks) == 2
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, CARD, "exec"), names)
    (found,) = names["objects"]
    assert found["occlusion_rate"] == names["scene"][0].occlusion_rate
