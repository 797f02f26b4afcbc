from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from amodal.models.plug import PlugConfig, PlugModel
from amodal.training.build import TrainingSetup, build
from amodal.training.datasets.crops import collate
from amodal.training.datasets.sampling import Batch
from amodal.training.loop import train
from amodal.training.plan import plan
from amodal.training.tasks.plug import PlugTask
from tests.training.tiny import tiny_recipe


def built(folder: Path, task: str, **model: object) -> tuple[TrainingSetup, Batch]:
    data = {"mask_prompt_share": 0.5} if model.get("mask_prompts") else {}
    setup = build(tiny_recipe(folder, task, model=model, data=data))
    return setup, collate([setup.train[(0, i, (i,))] for i in range(4)])


def losses(setup: TrainingSetup, batch: Batch, seed: int = 0) -> Batch:
    torch.manual_seed(99)
    return setup.task(setup.model, batch, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("model", "prompts"),
    [
        ({"points_share": 0.0}, {"input_boxes"}),
        ({"points_share": 1.0}, {"input_points", "input_labels"}),
        ({"points_share": 0.0, "both_share": 1.0}, {"input_boxes", "input_points", "input_labels"}),
    ],
)
def test_every_part_that_sam_trains_has_a_gradient_in_every_batch(
    tmp_path: Path, model: dict[str, object], prompts: set[str]
) -> None:
    """Whatever the prompts are: processes that sum their gradients wait for all of them."""
    setup, batch = built(tmp_path, "sam", **model)
    seen = set[str]()
    setup.model.register_forward_pre_hook(lambda _module, _inputs, given: seen.update(given), with_kwargs=True)
    sum(losses(setup, batch).values()).backward()
    assert {name for name in seen if name.startswith("input_")} == prompts
    trained = {name: p for name, p in setup.model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None] == []
    assert setup.model.vision_encoder.backbone.blocks[5].project.weight.grad.any()


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"iou_weight": 0.2},
        {"train_base": True, "iou_weight": 0.2, "dice_weight": 1.0, "occluded_dice_weight": 0.5},
        {"mask_prompts": True},
        {"base": "sam-small", "prompted_encoder": True, "mask_prompts": True},
    ],
)
def test_every_part_that_plug_trains_has_a_gradient_in_every_batch(tmp_path: Path, model: dict[str, object]) -> None:
    """Processes that sum their gradients wait for all of them."""
    setup, batch = built(tmp_path, "plug", **model)
    sum(losses(setup, batch).values()).backward()
    trained = {name: p for name, p in setup.model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None] == []


@pytest.mark.parametrize("refined_point_loss", [True, False])
def test_the_point_loss_of_the_refined_mask_is_a_choice(tmp_path: Path, refined_point_loss: bool) -> None:
    recipe = tiny_recipe(tmp_path, "plug", refined_point_loss=refined_point_loss)
    setup = build(recipe)
    names = set(losses(setup, collate([setup.train[(0, i, (i,))] for i in range(2)])))
    assert names >= {"amodal_bce", "visible_bce", "refined_bce", "amodal_point", "visible_point"}
    assert ("refined_point" in names) == refined_point_loss


def test_the_resolution_of_the_base_loss_is_a_choice(tmp_path: Path) -> None:
    setups = {where: build(tiny_recipe(tmp_path, "plug", bce_resolution=where)) for where in ("input", "decoder")}
    batch = collate([setups["input"].train[(0, i, (i,))] for i in range(4)])
    found = {where: losses(setup, batch) for where, setup in setups.items()}
    changed = {name for name, loss in found["input"].items() if not torch.equal(loss, found["decoder"][name])}
    assert changed == {"amodal_bce", "visible_bce"}
    output = setups["decoder"].model(batch["pixel_values"], batch["input_boxes"])
    for name, valid in (("amodal", batch["has_amodal"]), ("visible", torch.ones_like(batch["valid"]))):
        logits = getattr(output, f"{name}_decoder_logits")  # (B, P, 16, 16), from 32 pixels
        shares = batch[f"{name}_masks"].float().unflatten(-1, (16, 2)).unflatten(-3, (16, 2)).mean((-1, -3))
        each = F.binary_cross_entropy_with_logits(logits, shares, reduction="none").mean((-2, -1))
        counted = valid & batch["valid"]
        torch.testing.assert_close(found["decoder"][f"{name}_bce"], each[counted].mean())


@pytest.mark.parametrize("task", ["sam", "plug"])
def test_losses_depend_only_on_batch_and_generator(tmp_path: Path, task: str) -> None:
    setup, batch = built(tmp_path, task)
    first, again, other = (losses(setup, batch, seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    if task == "plug":
        assert not torch.equal(first["amodal_point"], other["amodal_point"])
        assert torch.equal(first["amodal_bce"], other["amodal_bce"])


@pytest.mark.parametrize("task", ["sam", "plug"])
def test_preparing_a_model_does_not_change_its_predictions(tmp_path: Path, task: str) -> None:
    setup, batch = built(tmp_path, task)
    if task == "plug":
        torch.nn.init.normal_(setup.model.refine_module.head.weight)
    prepared = setup.task.predict(setup.model, batch)
    for module in setup.model.modules():
        module._forward_pre_hooks.clear()
        module._forward_hooks.clear()
        if type(module).__name__ == "SamAttention":
            module.config._attn_implementation = "sdpa"
    plain = setup.task.predict(setup.model, batch)
    for a, b in zip(prepared, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        assert a.shape == batch["visible_masks"].shape


def test_preparing_plug_on_a_convolutional_base_changes_only_the_layout_of_its_weights(tmp_path: Path) -> None:
    _, batch = built(tmp_path, "plug")
    model = PlugModel.from_base("sam-small", PlugConfig(image_size=32, lora_rank=2, refine_channels=8)).eval()
    torch.nn.init.normal_(model.refine_module.head.weight)
    plain = PlugTask.predict(model, batch)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    convolutions = [m.weight for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size[0] > 1]
    assert not all(w.is_contiguous(memory_format=torch.channels_last) for w in convolutions)
    assert PlugTask.prepare(model) is model
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in convolutions)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    for a, b in zip(PlugTask.predict(model, batch), plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path / "saved", merged=True)
    for a, b in zip(PlugTask.predict(PlugModel.from_pretrained(tmp_path / "saved"), batch), plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("channels", "contiguous"), [(8, True), (64, False)])
def test_group_norms_of_few_channels_get_contiguous_inputs(tmp_path: Path, channels: int, contiguous: bool) -> None:
    """In channels last their gradients take ten times as long; with many channels the other layers lose more."""
    setup, batch = built(tmp_path, "plug", refine_channels=channels)
    seen = set[bool]()
    for norm in (m for m in setup.model.refine_module.modules() if isinstance(m, torch.nn.GroupNorm)):
        norm.register_forward_pre_hook(lambda _module, inputs: seen.add(inputs[0].is_contiguous()))
    losses(setup, batch)
    assert seen == {contiguous}


def test_plug_losses_follow_the_switches(tmp_path: Path) -> None:
    full, batch = built(tmp_path, "plug")
    assert set(losses(full, batch)) == {
        f"{mask}_{kind}" for mask in ("visible", "amodal", "refined") for kind in ("bce", "point")
    }
    plain, batch = built(tmp_path, "plug", point_loss=False, refine=False, visible_branch=False, parallel_lora=False)
    assert set(losses(plain, batch)) == {"amodal_bce"}
    for refine in (True, False):
        added, batch = built(tmp_path, "plug", occluded_dice_weight=0.5, refine=refine)
        assert 0 < losses(added, batch)["occluded_dice"] < 0.5


def test_unknown_amodal_masks_count_for_the_visible_mask_only(tmp_path: Path) -> None:
    setup, batch = built(tmp_path, "plug", dice_weight=1.0, occluded_dice_weight=1.0, iou_weight=1.0)
    batch["has_amodal"] = torch.zeros_like(batch["has_amodal"])
    for name, loss in losses(setup, batch).items():
        assert (loss > 0) == name.startswith("visible"), name


@pytest.mark.parametrize("task", ["sam", "plug"])
def test_padding_prompts_do_not_count(tmp_path: Path, task: str) -> None:
    setup, batch = built(tmp_path, task, **({"point_loss": False} if task == "plug" else {"points_share": 0.0}))
    batch["valid"][:, 1] = False
    before = losses(setup, batch)
    batch["visible_masks"][:, 1] ^= True
    batch["amodal_masks"][:, 1] ^= True
    assert all(torch.equal(before[name], loss) for name, loss in losses(setup, batch).items())


def test_plug_uses_the_mask_prompts_of_a_batch(tmp_path: Path) -> None:
    setup, batch = built(tmp_path, "plug", mask_prompts=True)
    assert batch["mask_given"].any() and not batch["mask_given"].all()
    visible, _ = setup.task.predict(setup.model, batch)
    exact = setup.model(
        batch["pixel_values"],
        batch["input_boxes"],
        input_masks=batch["input_masks"],
        mask_given=batch["mask_given"],
    )
    assert torch.equal(visible, exact.visible_logits.sigmoid())
    boxes_alone = {name: tensor for name, tensor in batch.items() if name not in ("input_masks", "mask_given")}
    changed = (setup.task.predict(setup.model, boxes_alone)[0] - visible).abs().amax((-2, -1)) > 1e-3
    assert torch.equal(changed & batch["valid"], batch["mask_given"] & batch["valid"])
    batch["mask_given"][:] = False  # the mask embedding still has a gradient, for processes that sum theirs
    sum(losses(setup, batch).values()).backward()
    assert setup.model.prompt_encoder.mask_embed.conv1.weight.grad is not None


def test_some_mask_prompts_are_the_models_own_visible_masks(tmp_path: Path) -> None:
    data = {"mask_prompt_share": 0.5, "own_mask_share": 0.3}
    setup = build(tiny_recipe(tmp_path, "plug", model={"mask_prompts": True, "mask_threshold": 0.5}, data=data))
    batch = collate([setup.train[(0, i, (i,))] for i in range(4)])
    before = {name: tensor.clone() for name, tensor in batch.items()}
    changed = setup.task.with_own_masks(setup.model, batch)
    assert all(torch.equal(before[name], tensor) for name, tensor in batch.items())
    assert {name for name in batch if not torch.equal(batch[name], changed[name])} == {"input_masks"}
    given = batch["mask_given"][:2]  # 0.3 of 4 crops, rounded up
    own = setup.model(batch["pixel_values"][:2], batch["input_boxes"][:2]).visible_logits > 0
    assert given.any() and own[given].flatten(1).any(1).all() and not torch.equal(own, batch["input_masks"][:2])
    assert torch.equal(changed["input_masks"][:2][given], own[given])
    assert not changed["input_masks"][:2][~given].any()
    assert torch.equal(changed["input_masks"][2:], batch["input_masks"][2:])
    trained_on = losses(setup, batch)
    setup.task.own_mask_share = 0.0
    assert all(torch.equal(trained_on[name], loss) for name, loss in losses(setup, changed).items())
    assert not torch.equal(trained_on["amodal_bce"], losses(setup, batch)["amodal_bce"])


def test_an_object_whose_own_mask_is_empty_keeps_its_box_alone(tmp_path: Path) -> None:
    data = {"mask_prompt_share": 1.0, "own_mask_share": 0.5}
    setup = build(tiny_recipe(tmp_path, "plug", model={"mask_prompts": True, "mask_threshold": 0.999}, data=data))
    batch = collate([setup.train[(0, i, (i,))] for i in range(4)])
    changed = setup.task.with_own_masks(setup.model, batch)
    assert batch["mask_given"][:2].any() and not changed["mask_given"][:2].any()
    assert torch.equal(changed["mask_given"][2:], batch["mask_given"][2:])


def test_training_with_mask_prompts_resumes_to_the_result_of_an_uninterrupted_run(tmp_path: Path) -> None:
    recipe = tiny_recipe(
        tmp_path,
        "plug",
        model={"mask_prompts": True},
        data={"mask_prompt_share": 0.5, "own_mask_share": 0.5},
        steps=2,
        checkpoint_every=1,
    )
    straight, resumed = (recipe.model_copy(update={"output": str(tmp_path / name)}) for name in ("a", "b"))
    folder = train(straight, progress=False)
    train(resumed, progress=False, stop_after=1)
    train(resumed, progress=False)
    a, b = (load_file(tmp_path / name / "checkpoints/step_0000002/model.safetensors") for name in ("a", "b"))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    base = build(recipe).model.state_dict()
    assert not torch.equal(a["prompt_encoder.mask_embed.conv1.weight"], base["prompt_encoder.mask_embed.conv1.weight"])
    assert PlugModel.from_pretrained(folder).config.mask_prompts
    assert plan(recipe)["trained"] > plan(tiny_recipe(tmp_path, "plug"))["trained"]
