"""AURA's recipes: the constants of the paper, and two steps of each at small size."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from amodal.errors import InputError
from amodal.models.aura import AuraModel
from amodal.models.aura.mllm import LLAVA
from amodal.models.aura.trunk_mllm import BACKGROUND
from amodal.models.bases.sam import HUB_IDS
from amodal.training.build import build
from amodal.training.build_aura import sized_config
from amodal.training.datasets.sampling import UNNAMED
from amodal.training.loop import train
from amodal.training.plan import plan
from amodal.training.recipe import AuraDataRecipe, AuraModelRecipe, Recipe, load_recipe, parse_recipe
from tests.data.toy import write_toy
from tests.models.aura import small_trunk_mllm, small_trunk_recipe, write_mllm, write_sam
from tests.models.families import ROWS
from tests.training.datasets.test_conversations import write_questions
from tests.training.tiny import TRAINING

FOLDER = Path(__file__).parents[2] / "recipes" / "aura"
PAPER = sorted(FOLDER.glob("llava-*.yaml"))
FAST = ("llava-7b-vit-h", "small", "small-masks")  # the others differ in their language models
DATA = {"max_turns": 3, "max_tokens": 400}


def data_of(folder: Path) -> dict[str, Any]:
    annotations = folder / "toy" / "annotations.json"
    if not annotations.is_file():
        write_toy(folder / "toy")
    source = {"questions": str(write_questions(folder)), "annotations": str(annotations)}
    return {"train": [source], "validation": [source]} | DATA


def small_recipe(folder: Path, model: dict[str, Any] | None = None, **more: Any) -> Recipe:
    """A recipe with LoRA on a small language model in a folder."""
    if not (folder / "mllm").is_dir():
        write_mllm(folder / "mllm")
        write_sam(folder / "sam")
    settings = {"mllm": str(folder / "mllm"), "base": str(folder / "sam"), "image_size": 64, "lora_rank": 2}
    training = TRAINING | {"picture_objects": 0} | more
    content = {
        "task": "aura",
        "output": str(folder / "run"),
        "model": settings | (model or {}),
        "data": data_of(folder),
    }
    return parse_recipe(content | {"training": training})


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_recipes_of_the_paper_have_its_constants(path: Path) -> None:
    recipe = load_recipe(path)
    assert isinstance(recipe.model, AuraModelRecipe)
    config, training = recipe.model.config(), recipe.training
    assert recipe.model.mllm in LLAVA or "Weights: " in path.read_text()
    assert HUB_IDS[recipe.model.base] == path.stem[-5:]
    assert (training.learning_rate, training.warmup_steps, training.decay) == (1e-3, 100, "linear")
    assert (training.steps, training.batch_size, training.accumulation) == (5000, 2, 4)  # one per GPU, two GPUs
    assert (config.condition_encoder, config.spatial_encoder, config.train_vision) == (True, True, False)
    weights = (config.text_weight, config.bce_weight, config.dice_weight, config.rate_weight, config.map_weight)
    assert weights == (1, 1, 1, 1, 1)
    assert (config.iou_weight, config.naming_weight) == (0, 0)
    assert len(PAPER) == 5


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[] if p.stem == "llava-7b-vit-h" else pytest.mark.slow) for p in PAPER],
    ids=lambda path: path.stem,
)
def test_the_header_states_the_computed_plan(path: Path) -> None:
    header = " ".join(line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
    command = re.search(
        r"Memory in GiB per process .*?\(`amodal train recipes/aura/(\S+) --plan --processes 2(.*?)`\)", header
    )
    assert command is not None and command[1] == path.name
    changes = command[2].replace(" --set ", " ").split()
    assert [change.split("=")[0] for change in changes] == ([] if recipe_is_known(path) else ["model.mllm"])
    computed = plan(load_recipe(path, changes), processes=2)
    assert (
        f"of {computed['sequences_per_process']} sequence with at most {computed['tokens_per_sequence']:,} tokens"
        in header
    )
    assert f"and {computed['masks_per_sequence']} masks" in header
    parts = ("language_model", "lora", "backbone", "heads", "gradients", "optimizer", "activations_of_words")
    for name in (*parts, "activations_of_masks", "total"):
        stated = re.search(rf"\b{name} (\d+\.\d+)", header)
        assert stated is not None
        assert float(stated[1]) == pytest.approx(computed[name], rel=0.1, abs=0.011)
    checkpointed = re.search(r"\(([\d.]+) with gradient_checkpointing", header)
    assert checkpointed is not None
    assert float(checkpointed[1]) == pytest.approx(computed["activations_of_words_checkpointed"], rel=0.15)


def recipe_is_known(path: Path) -> bool:
    """Whether the sizes of the recipe's language model need no download."""
    model = load_recipe(path).model
    assert isinstance(model, AuraModelRecipe)
    return model.mllm in LLAVA


def shrunk(path: Path, folder: Path, steps: int) -> Recipe:
    """The recipe in `path` with small sizes and toy data."""
    recipe, small = load_recipe(path), small_recipe(folder)
    assert isinstance(recipe.model, AuraModelRecipe) and isinstance(recipe.data, AuraDataRecipe)
    sizes: dict[str, Any] = {"base": str(folder / "sam"), "image_size": 64}
    if recipe.model.trunk_mllm is not None:
        small_trunk_mllm(folder)
        sizes |= {"base": str(folder / "trunk"), "trunk_mllm": small_trunk_recipe(folder)}
    else:
        sizes["mllm"] = str(folder / "mllm")
    data = recipe.data.model_copy(update={"train": small.data.train, "validation": small.data.validation})
    if data.feature_cache:
        data.feature_cache = str(folder / "features")
    return recipe.model_copy(
        update={
            "output": str(folder / "run"),
            "init": None,
            "model": recipe.model.model_copy(update=sizes),
            "data": data,
            "training": recipe.training.model_copy(update=TRAINING | {"steps": steps, "accumulation": 1}),
        }
    )


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[] if p.stem in FAST else pytest.mark.slow) for p in sorted(FOLDER.glob("*.yaml"))],
    ids=lambda path: path.stem,
)
def test_every_recipe_trains_two_steps_at_small_size(path: Path, tmp_path: Path) -> None:
    model = AuraModel.from_pretrained(train(shrunk(path, tmp_path, steps=2), progress=False))
    assert model.processor is not None
    names = {name for line in log_of(tmp_path) for name in line}
    masks, words = {"visible_bce", "amodal_dice", "rate", "val_visible"}, {"text", "val_token"}
    learned = load_recipe(path).data
    assert isinstance(learned, AuraDataRecipe)
    masks |= set() if learned.max_masks == 0 else {"map"}  # without masks there is no map to learn
    named = {"naming", "val_naming"} if model.config.names_only else set()
    named = {"region_order", "val_order"} if model.config.order_only else named
    expected = named if model.config.without_words else words
    assert names >= expected | {"val_full"} | (set() if model.config.names_only else masks)
    assert ("decision" in names) == (model.config.decision_weight > 0)


def test_a_resumed_first_stage_has_the_same_weights(tmp_path: Path) -> None:
    straight, stopped = (shrunk(FOLDER / "small-names.yaml", tmp_path / name, steps=4) for name in "ab")
    one = train(straight, progress=False)
    train(stopped, progress=False, stop_after=2)
    other = train(stopped, progress=False)
    ours, theirs = (AuraModel.from_pretrained(folder).state_dict() for folder in (one, other))
    for name, tensor in ours.items():
        assert torch.equal(theirs[name], tensor), name


def test_a_resumed_run_gives_the_losses_of_an_uninterrupted_one(tmp_path: Path) -> None:
    straight, stopped = tmp_path / "a", tmp_path / "b"
    train(small_recipe(straight), progress=False)
    train(small_recipe(stopped), progress=False, stop_after=2)
    train(small_recipe(stopped), progress=False)
    a, b = ({x["step"]: x["text"] for x in log_of(folder) if "text" in x} for folder in (straight, stopped))
    assert a.keys() == b.keys()
    for step, value in a.items():
        assert b[step] == pytest.approx(value, rel=1e-4)


def test_a_training_starts_from_the_weights_of_init(tmp_path: Path) -> None:
    plain = {"condition_encoder": False}
    first = train(small_recipe(tmp_path, plain, steps=2), progress=False)
    again = small_recipe(tmp_path, plain, steps=0)
    again.init, again.output = str(first), str(tmp_path / "second")
    started = build(again).model
    for name, tensor in AuraModel.from_pretrained(first).state_dict().items():
        assert (started.state_dict()[name] == tensor).all(), name
    grown = small_recipe(tmp_path, steps=0)
    grown.init = str(first)
    assert any("condition_encoder" in name for name in build(grown).model.state_dict())
    other = small_recipe(tmp_path, plain | {"spatial_channels": 3}, steps=0)
    other.init = str(first)
    with pytest.raises(InputError, match="init: expected a model of the recipe's sizes"):
        build(other)


def test_sources_with_other_numbers_of_categories_share_the_classes_of_their_names(tmp_path: Path) -> None:
    recipe = shrunk(FOLDER / "small-names.yaml", tmp_path, steps=0)
    assert isinstance(recipe.data, AuraDataRecipe)
    first = recipe.data.train[0]
    record = json.loads(Path(first.annotations).read_text())
    for entry in (*record["categories"], *record["annotations"]):
        key = "id" if "name" in entry else "category_id"
        entry[key] += 40
    shifted = Path(first.annotations).with_name("shifted.json")
    shifted.write_text(json.dumps(record))
    recipe.data.train.append(first.model_copy(update={"annotations": str(shifted)}))
    setup = build(recipe)
    model: Any = setup.model
    assert len(model.mllm.config.vision_config.words) == 1 + len(record["categories"])
    original, moved = (setup.train[(source, 0, (0,))] for source in (0, 1))
    assert original["true_names"].tolist() == moved["true_names"].tolist() and original["true_names"].min() > 0


def test_no_name_is_learned_from_objects_that_are_only_called_object(tmp_path: Path) -> None:
    recipe = shrunk(FOLDER / "small-names.yaml", tmp_path, steps=0)
    assert isinstance(recipe.data, AuraDataRecipe)
    recipe.data.augmentation = None  # so that both objects are in the image
    before = build(recipe).train[(0, 0, (0,))]["true_names"]
    file = Path(recipe.data.train[0].annotations)
    record = json.loads(file.read_text())
    record["categories"][0]["name"] = "object"
    file.write_text(json.dumps(record))
    after = build(recipe).train[(0, 0, (0,))]["true_names"]
    assert before.tolist() == [2, 1] and after.tolist() == [UNNAMED, 1]  # "red" is "object" now, and "green" as before


def test_stage_1_of_aura_small_names_regions_with_words(tmp_path: Path) -> None:
    recipe = shrunk(FOLDER / "small-names.yaml", tmp_path, steps=2)
    setup = build(recipe)
    model: Any = setup.model
    projector = model.mllm.model.multi_modal_projector
    kinds = sorted(set(setup.train.sources[0].dataset.categories.values()))  # type: ignore[union-attr]
    assert model.mllm.config.vision_config.words == [BACKGROUND, *kinds]
    embeddings = model.mllm.get_input_embeddings().weight
    tokens = model.processor.tokenizer(f" {kinds[0]}", add_special_tokens=False)["input_ids"]
    torch.testing.assert_close(projector.words[1], embeddings[tokens].mean(0))
    trained: Any = AuraModel.from_pretrained(train(recipe, progress=False))
    learned = trained.mllm.model
    assert torch.equal(learned.multi_modal_projector.words, projector.words)
    before, after = model.state_dict(), trained.state_dict()
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved and all(name.startswith("mllm.model.vision_tower.reader.") for name in moved)
    lines = log_of(tmp_path)
    assert {"naming", "region_rate", "region_box", "region_quality"} <= lines[0].keys() and "text" not in lines[0]
    assert 0 <= lines[-1]["val_full"] <= 1


def test_later_stages_of_aura_small_keep_what_earlier_ones_learned(tmp_path: Path) -> None:
    first = shrunk(FOLDER / "small-names.yaml", tmp_path, steps=1)
    models: list[Any] = [AuraModel.from_pretrained(train(first, progress=False))]
    folder = tmp_path
    for name in ("small-order.yaml", "small-masks.yaml", "small-drill.yaml", "small-words.yaml", "small.yaml"):
        later = shrunk(FOLDER / name, tmp_path / name, steps=1)
        later.init = str(folder / "run" / "final")
        folder = tmp_path / name
        later.model = later.model.model_copy(update={"trunk_mllm": first.model.trunk_mllm, "base": first.model.base})  # type: ignore[union-attr]
        models.append(AuraModel.from_pretrained(train(later, progress=False)))
    names, order, _, _, words, heads = models
    assert words.mllm.config.vision_config.words == names.mllm.config.vision_config.words
    states = [model.mllm.model.state_dict() for model in (names, order, words)]
    joints = [key for key in states[0] if "vision_tower" in key or "projector" in key]
    moved, later = ({k for k in joints if not torch.equal(a[k], b[k])} for a, b in pairwise(states))
    assert moved and all(key.startswith("vision_tower.reader.order.") for key in moved) and not later
    last = heads.state_dict()
    changed = {key for key, tensor in words.state_dict().items() if not torch.equal(last[key], tensor)}
    assert any("amodal_decoder" in key for key in changed) and not any(key.startswith("mllm.") for key in changed)


def test_stage_1_from_a_model_of_other_kinds_is_refused(tmp_path: Path) -> None:
    first = shrunk(FOLDER / "small-names.yaml", tmp_path, steps=1)
    train(first, progress=False)
    other = shrunk(FOLDER / "small-names.yaml", tmp_path / "second", steps=1)
    other.init = str(tmp_path / "run" / "final")
    assert isinstance(other.data, AuraDataRecipe)
    other.model = other.model.model_copy(update={"trunk_mllm": first.model.trunk_mllm, "base": first.model.base})  # type: ignore[union-attr]
    file = Path(other.data.train[0].annotations)
    record = json.loads(file.read_text())
    record["categories"][0]["name"] = "zebra"
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match="init: expected a model that names the kinds of the data, .*zebra"):
        build(other)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"mllm": None}, "model.mllm: expected either 'mllm' or 'trunk_mllm', got both or none"),
        ({"trunk_mllm": {"language_model": "x"}}, "model.mllm: expected either 'mllm' or 'trunk_mllm', got both"),
        ({"mllm": None, "tiny": {}}, "model.tiny: unknown key"),
        ({"naming_weight": 1.0}, "model.naming_weight: expected 0 without 'trunk_mllm', got 1.0"),
        ({"box_weight": 0.5}, "model.box_weight: expected 0 without 'trunk_mllm', got 0.5"),
        ({"lora_rank": -1}, "model.lora_rank: expected 0 or more"),
        ({"lora_ranks": 1}, "model.lora_ranks: unknown key; did you mean 'lora_rank'"),
    ],
)
def test_errors_name_the_key(tmp_path: Path, model: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small_recipe(tmp_path, model)


def test_a_feature_cache_of_a_trained_backbone_is_rejected(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, {"train_vision": True})
    assert isinstance(recipe.data, AuraDataRecipe)
    recipe.data.feature_cache = str(tmp_path / "features")
    with pytest.raises(InputError, match="feature_cache: expected none for a backbone that is trained"):
        build(recipe)


def test_separate_conversations_train_and_need_llava(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe(tmp_path, steps=2)
    assert isinstance(recipe.data, AuraDataRecipe)
    recipe.data.separate_conversations, recipe.data.max_turns = True, 8
    train(recipe, progress=False)
    losses = [line["text"] for line in log_of(tmp_path) if "text" in line]
    assert losses and all(0 < loss < float("inf") for loss in losses)
    make = AuraModel.from_base

    def other(*args: Any, **options: Any) -> AuraModel:
        model = make(*args, **options)
        model.config.mllm["model_type"] = "qwen2_vl"
        return model

    monkeypatch.setattr(AuraModel, "from_base", other)
    with pytest.raises(InputError, match="separate_conversations: expected false for an LLM that is not"):
        build(recipe)


def test_sam_2_as_backbone_trains_and_refuses_a_feature_cache(tmp_path: Path) -> None:
    ROWS["sam2"].model().save_pretrained(tmp_path / "sam2")
    recipe = small_recipe(tmp_path, {"base": str(tmp_path / "sam2")}, steps=2)
    model = AuraModel.from_pretrained(train(recipe, progress=False))
    assert model.config.family.model_type == "sam2"
    assert all(line["loss"] > 0 for line in log_of(tmp_path) if "loss" in line)
    assert isinstance(recipe.data, AuraDataRecipe)
    recipe.data.feature_cache = str(tmp_path / "features")
    with pytest.raises(InputError, match="feature_cache: expected none for a backbone with maps of high resolution"):
        build(recipe)
    assert not [path for path in (tmp_path / "features").rglob("*") if path.is_file()]


def test_the_paper_on_another_backbone_is_one_setting() -> None:
    recipe = load_recipe(FOLDER / "llava-7b-vit-h.yaml")
    assert isinstance(recipe.model, AuraModelRecipe)
    config = sized_config(recipe.model.model_copy(update={"base": "facebook/sam2.1-hiera-base-plus"}))
    assert config.family.model_type == "sam2"
    assert config.base_config().prompt_encoder_config.image_size == config.image_size == 1024


def test_a_placeholder_without_annotation_is_rejected(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    questions = [{"id": 1, "image_id": 1, "question": "What?", "answer": "It is <p>this</p> {seg:99}."}]
    (tmp_path / "questions.json").write_text(json.dumps(questions))
    with pytest.raises(InputError, match=r"\{seg:99\}, which names none"):
        build(recipe)


@pytest.mark.parametrize(
    ("name", "llm", "lora", "trainable"),
    [
        ("llava-7b-vit-h", 7_063_427_072, 4_194_304, 29_385_444),
        ("llava-13b-vit-h", 13_351_494_656, 6_553_600, 41_447_140),
    ],
)
def test_full_size_builds_on_the_meta_device(name: str, llm: int, lora: int, trainable: int) -> None:
    from amodal.models.aura.modeling import parameter_counts

    settings = load_recipe(FOLDER / f"{name}.yaml").model
    assert isinstance(settings, AuraModelRecipe)
    counts = parameter_counts(sized_config(settings))
    assert (counts["mllm"], counts["lora"], counts["trainable"]) == (llm, lora, trainable)
    assert counts["vision_encoder"] == 637_026_048
    assert counts["total"] == sum(v for k, v in counts.items() if k not in ("total", "incremental", "trainable"))
