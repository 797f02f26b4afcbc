"""Accelerate can read the launch files, and the layers that they name exist in the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

from amodal.models.plug import PlugConfig, PlugModel

FOLDER = Path(__file__).parents[2] / "recipes" / "launch"
FILES = sorted(FOLDER.glob("*.yaml"))
STRATEGIES = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}


def test_all_strategies_have_a_file() -> None:
    assert {path.stem for path in FILES} == STRATEGIES.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_reads_it(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert config.distributed_type.value == STRATEGIES[path.stem]
    assert (config.num_processes, config.mixed_precision) == (8, "bf16")
    assert f"--config_file recipes/launch/{path.name} -m amodal train recipes/plug/kins-vit-h.yaml" in path.read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_setting_is_an_option_of_accelerate(path: Path) -> None:
    """Accelerate silently ignores unknown settings of a strategy."""
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    known = {action.dest for action in launch_command_parser()._actions} | {"fsdp_transformer_layer_cls_to_wrap"}
    for section in ("fsdp_config", "deepspeed_config"):
        assert content.get(section, {}).keys() <= known


def test_the_wrapped_layers_exist() -> None:
    content = yaml.safe_load((FOLDER / "fsdp2.yaml").read_text())["fsdp_config"]
    assert content["fsdp_version"] == 2
    with torch.device("meta"):
        model = PlugModel(PlugConfig())
    assert content["fsdp_transformer_layer_cls_to_wrap"] in {
        type(layer).__name__ for layer in model.vision_encoder.layers
    }
    assert model.get_input_embeddings() is None  # which FSDP2 requires


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_stages(stage: int) -> None:
    content = yaml.safe_load((FOLDER / f"zero{stage}.yaml").read_text())["deepspeed_config"]
    assert content["zero_stage"] == stage
    assert content.get("zero3_save_16bit_model", stage == 2)
