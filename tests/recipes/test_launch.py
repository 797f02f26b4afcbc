"""Accelerate can read the launch files, and the layers that they name exist in the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy

from amodal.models.aura import AuraModel
from amodal.models.plug import PlugConfig, PlugModel
from amodal.training.checkpoint import name_sharded_layers
from tests.models.aura import small_config, small_mllm
from tests.models.families import ROWS

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
    known = {action.dest for action in launch_command_parser()._actions}
    for section in ("fsdp_config", "deepspeed_config"):
        assert content.get(section, {}).keys() <= known


@pytest.mark.parametrize("name", ROWS)
def test_fsdp2_shards_every_layer_of_every_base(name: str) -> None:
    row = ROWS[name]
    model = PlugModel.from_base(row.config(64), PlugConfig(image_size=64))
    assert wrapped(model) == row.family.layers(model.vision_encoder)
    assert model.get_input_embeddings() is None  # which FSDP2 requires


@pytest.mark.parametrize("name", ["sam", "sam2"])
def test_fsdp2_shards_every_layer_of_both_networks_of_aura(name: str) -> None:
    row = ROWS[name]
    model = AuraModel.from_base(small_mllm(), row.config(64), small_config())
    llm = model.mllm.model
    layers = [*row.family.layers(model.vision_encoder), *llm.vision_tower.encoder.layers, *llm.language_model.layers]
    assert len(layers) > 6 and {id(layer) for layer in wrapped(model)} == {id(layer) for layer in layers}


def wrapped(model: Any) -> list[torch.nn.Module]:
    """The modules that Accelerate shards one by one with the launch file."""
    settings = yaml.safe_load((FOLDER / "fsdp2.yaml").read_text())["fsdp_config"]
    assert settings["fsdp_version"] == 2
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy=settings["fsdp_auto_wrap_policy"].lower(),
        transformer_cls_names_to_wrap=settings.get("fsdp_transformer_layer_cls_to_wrap"),
    )
    name_sharded_layers(model)
    policy = fsdp2_prepare_auto_wrap_policy(plugin, model)
    return [module for module in model.modules() if policy(module)]


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_stages(stage: int) -> None:
    content = yaml.safe_load((FOLDER / f"zero{stage}.yaml").read_text())["deepspeed_config"]
    assert content["zero_stage"] == stage
    assert content.get("zero3_save_16bit_model", stage == 2)
