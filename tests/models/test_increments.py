"""What PLUG and AURA share on disk: explicit keywords, uploads, and bases that are found by their record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from amodal.errors import InputError, check_settings
from amodal.models import increments
from amodal.models.aura import AuraModel, AuraProcessor
from amodal.models.increments import INCREMENT, WHOLE, Origin, bundled_models, unshared_tensors
from amodal.models.plug import PlugConfig, PlugModel, PlugProcessor
from tests.models.aura import small_aura, small_config, small_mllm
from tests.models.conftest import small_sam_config


@pytest.mark.parametrize(
    "call",
    [
        lambda folder, **unknown: PlugModel.from_pretrained(folder, **unknown),
        lambda folder, **unknown: PlugModel.from_base(folder, **unknown),
        lambda folder, **unknown: PlugProcessor.from_pretrained(folder, **unknown),
        lambda folder, **unknown: PlugProcessor().save_pretrained(folder, **unknown),
        lambda folder, **unknown: AuraModel.from_pretrained(folder, **unknown),
        lambda folder, **unknown: AuraModel.from_base(folder, folder, **unknown),
        lambda folder, **unknown: AuraProcessor.from_pretrained(folder, **unknown),
    ],
)
def test_unknown_keywords_are_refused(call: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'torch_dtype'"):
        call(tmp_path, torch_dtype=torch.float16)


@pytest.mark.parametrize("method", ["save_pretrained", "gradient_checkpointing_enable", "forward"])
def test_methods_of_plug_refuse_unknown_keywords(method: str, small_plug: PlugConfig, tmp_path: Path) -> None:
    model = PlugModel.from_base(small_sam_config(), small_plug)
    with pytest.raises(TypeError, match="unexpected keyword argument 'use_reentrant'"):
        getattr(model, method)(**({"save_directory": tmp_path} if "save" in method else {}), use_reentrant=False)


@pytest.mark.parametrize("method", ["save_pretrained", "gradient_checkpointing_enable"])
def test_methods_of_aura_refuse_unknown_keywords(method: str, tmp_path: Path) -> None:
    model = AuraModel.from_base(small_mllm(), small_sam_config(), small_config())
    for owner in {"save_pretrained": (model, model.processor)}.get(method, (model,)):
        with pytest.raises(TypeError, match="unexpected keyword argument 'use_reentrant'"):
            getattr(owner, method)(**({"save_directory": tmp_path} if "save" in method else {}), use_reentrant=False)


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, set[str]]]:
    """Repositories and the files uploaded to them."""
    found: list[tuple[str, set[str]]] = []
    monkeypatch.setattr(increments, "create_repo", lambda name, exist_ok: SimpleNamespace(repo_id=f"me/{name}"))
    monkeypatch.setattr(
        increments,
        "upload_folder",
        lambda repo_id, folder_path: found.append((repo_id, {p.name for p in Path(folder_path).iterdir()})),
    )
    return found


@pytest.mark.parametrize(("merged", "weights"), [(False, INCREMENT), (True, WHOLE)])
def test_upload_holds_what_was_saved(
    merged: bool, weights: str, small_plug: PlugConfig, tmp_path: Path, uploads: list[tuple[str, set[str]]]
) -> None:
    model = PlugModel.from_base(small_sam_config(), small_plug)
    model.save_pretrained(tmp_path / "mine", merged=merged, push_to_hub=True)
    assert uploads == [("me/mine", {"config.json", "preprocessor_config.json", weights})]


def test_upload_to_a_named_repository(tmp_path: Path, uploads: list[tuple[str, set[str]]]) -> None:
    model = small_aura(tmp_path)
    assert model.processor is not None
    model.save_pretrained(tmp_path / "aura", push_to_hub=True, repo_id="other")
    model.processor.save_pretrained(tmp_path / "aura", push_to_hub=True, repo_id="other")
    PlugProcessor().save_pretrained(tmp_path / "plug", push_to_hub=True, repo_id="other")
    assert [name for name, _ in uploads] == ["me/other"] * 3
    assert uploads[0][1] == {"config.json", "aura_processor.json", "processor", INCREMENT}


def test_processor_of_a_bundled_model_and_of_none(tmp_path: Path) -> None:
    assert PlugProcessor.from_pretrained("plug-small").image_size == 192
    with pytest.raises(InputError, match="expected a processor in preprocessor_config.json, got none"):
        PlugProcessor.from_pretrained(tmp_path)


def test_origin_is_read_as_it_was_recorded() -> None:
    origin = Origin("me/sam", "abc", "123")
    assert Origin.from_record(origin.record()) == origin
    assert origin.location(None, "base") == ("me/sam", "abc")
    assert origin.location("here", "base") == ("here", None)  # the revision belongs to the recorded place


def test_package_without_bundled_models_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(increments, "WEIGHTS", tmp_path / "missing")
    assert bundled_models() == {}


def test_tensors_that_share_memory_are_copied() -> None:
    one = torch.zeros(3)
    unshared = unshared_tensors({"a": one, "b": one})
    assert unshared["a"].data_ptr() != unshared["b"].data_ptr()


def test_first_setting_that_does_not_hold_is_named() -> None:
    with pytest.raises(InputError, match="^rank: expected 1 or more, got 0$"):
        check_settings(SimpleNamespace(rank=0, size=-1), {"rank: expected 1 or more": False, "size: ...": False})
