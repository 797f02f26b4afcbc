"""AURA's contracts: it reads as its LLM does, trains what it declares, is saved exactly, and batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from amodal.errors import InputError
from amodal.inference.assistant import AmodalAssistant
from amodal.losses import IGNORE_INDEX
from amodal.models.aura import AuraConfig, AuraModel, AuraProcessor
from amodal.models.aura.generation import Dialogue
from amodal.models.aura.heads import labelled_columns, seg_states
from amodal.models.aura.mllm import merge_adapters
from amodal.models.aura.modeling import parameter_counts
from amodal.models.aura.pointing import boxes_in_sam
from amodal.models.increments import INCREMENT, increment_state
from amodal.ops.masks import resize_probs
from tests.models.aura import (
    ANSWER,
    random_image,
    small_aura,
    small_config,
    small_mllm,
    small_trunk_aura,
    training_batch,
    with_changed_weights,
    write_mllm,
    write_sam,
)
from tests.models.conftest import small_sam_config

QUESTION = "What could I drink from?"


def test_generates_the_same_tokens_as_its_llm_alone(tmp_path: Path) -> None:
    folder = write_mllm(tmp_path / "mllm")
    model = AuraModel.from_base(folder, small_sam_config(), small_config())
    assert model.processor is not None
    bare = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    bare.resize_token_embeddings(len(model.processor.tokenizer), mean_resizing=False)
    with torch.no_grad():  # the new row as `add_seg_token` makes it
        for layer in (bare.get_input_embeddings(), bare.get_output_embeddings()):
            layer.weight[-1] = layer.weight[:-1].mean(0)
    inputs = model.processor([random_image()], [QUESTION]).mllm
    theirs = bare.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :].tolist()
    dialogue = Dialogue(model, model.processor)
    dialogue.begin(dict(inputs))
    ours = dialogue.answer(12).tokens[0]
    assert len(set(ours)) > 2
    assert ours == [t for t in theirs if t not in model.processor.end_token_ids]


def test_seg_states_of_cached_generation_equal_a_full_forward(tmp_path: Path) -> None:
    """Over two turns; the second continues from the cache of the first."""
    model = small_aura(tmp_path)
    processor = model.processor
    assert processor is not None
    inputs = processor([random_image()], [QUESTION])
    dialogue = Dialogue(model, processor)
    dialogue.begin(dict(inputs.mllm))
    turns = [dialogue.answer(40, given=[ANSWER])]
    dialogue.follow(["What is behind it?"])
    turns.append(dialogue.answer(40, given=["It is <p>the mug</p> [SEG]."]))
    with model.recorded_states() as recorded, torch.no_grad():
        model.mllm(
            input_ids=dialogue.tokens,
            attention_mask=dialogue.attention,
            pixel_values=inputs.mllm["pixel_values"],
            use_cache=False,
        )
    full, _ = seg_states(recorded[0][:, :-1], dialogue.tokens[:, 1:], processor.seg_token_id)
    cached = torch.cat([turn.states for turn in turns])
    assert cached.shape == (4, 24)
    torch.testing.assert_close(cached, full, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(40, 80), (80, 40), (64, 64)])
@pytest.mark.parametrize("crops", [True, False])
def test_a_point_of_the_llms_frame_is_found_in_the_backbones_frame(
    tmp_path: Path, size: tuple[int, int], crops: bool
) -> None:
    """A bright spot is searched in both inputs; an LLM whose processor does not crop sees the image stretched."""
    processor: Any = small_aura(tmp_path).processor
    settings = processor.mllm.image_processor
    if not crops:
        settings.do_center_crop = False
        settings.size = {"height": 32, "width": 32}
    image = np.zeros((*size, 3), np.uint8)
    image[size[0] // 8 : size[0] // 4, size[1] // 2 : size[1] * 3 // 4] = 255

    def spot(pixels: Any) -> Any:
        light = np.asarray(pixels, np.float64).sum(-1)
        rows, columns = np.nonzero(light > light.max() * 0.8)
        return np.array([(columns.mean() + 0.5) / light.shape[1], (rows.mean() + 0.5) / light.shape[0]])

    factors, shift = processor.mllm_to_sam([image.shape])[0].numpy().reshape(2, 2)
    in_sam = spot(processor.pixels_sam(image)[0].permute(1, 2, 0))
    assert spot(processor.pixels_mllm(image)) * factors + shift == pytest.approx(in_sam, abs=0.03)


def test_boxes_are_moved_to_the_backbones_frame() -> None:
    square, rows = torch.rand(3, 4), torch.tensor([0, 0, 1])
    frames = torch.tensor([[1.0, 1.0, 0.0, -0.125], [0.5, 1.0, 0.0, 0.0]])
    assert boxes_in_sam(square, None) is square
    moved = boxes_in_sam(square, frames[rows])
    torch.testing.assert_close(boxes_in_sam(square[:, None].repeat(1, 2, 1), frames[rows])[:, 1], moved)
    torch.testing.assert_close(moved[:2, 1::2], (square[:2, 1::2] - 0.125).clamp(0, 1))
    torch.testing.assert_close(moved[:2, ::2], square[:2, ::2])
    torch.testing.assert_close(moved[2], square[2] * torch.tensor([0.5, 1.0, 0.5, 1.0]))


def test_training_and_an_answer_move_boxes_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an image that is no square."""
    model = small_trunk_aura(tmp_path)
    processor: Any = model.processor
    frames = processor.mllm_to_sam([random_image().shape])
    assert frames.tolist() != [[1, 1, 0, 0]]
    with torch.no_grad():
        trained = model(**training_batch(model, (ANSWER,)), mllm_to_sam=frames).boxes_xyxy_sam
        unmoved = model(**training_batch(model, (ANSWER,))).boxes_xyxy_sam
    decoded: list[Any] = []
    inner = model.decode
    monkeypatch.setattr(model, "decode", lambda *args: (decoded.append(args[-1]), inner(*args))[1])
    AmodalAssistant(model).ask(random_image(), QUESTION, answer=ANSWER)
    torch.testing.assert_close(decoded[0].boxes_xyxy_sam, trained, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(decoded[0].boxes_xyxy_sam, unmoved, atol=1e-3)


@pytest.mark.parametrize("reads_words", [False, True])
def test_training_and_generation_use_the_same_states(tmp_path: Path, reads_words: bool) -> None:
    model = small_trunk_aura(tmp_path) if reads_words else small_aura(tmp_path)
    processor = model.processor
    assert processor is not None
    batch = training_batch(model, (ANSWER,))
    with torch.no_grad():
        output = model(**batch)
    dialogue = Dialogue(model, processor)
    dialogue.begin(dict(processor([random_image()], [QUESTION]).mllm))
    made = dialogue.answer(40, given=[ANSWER])
    with torch.no_grad():
        features = model.encode_image(batch["pixel_values_sam"])
        read = model.point(made.states, made.rows, regions=made.regions, phrases=made.phrases)
        masks = model.decode(made.states, features, made.rows, read)
    assert (read is not None) == reads_words
    if read is not None:
        torch.testing.assert_close(read.boxes_xyxy_sam, output.boxes_xyxy_sam, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(masks.amodal_logits, output.masks.amodal_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(masks.rates, output.masks.rates, atol=1e-5, rtol=1e-5)


def test_all_masks_of_a_batch_take_one_decoder_call(tmp_path: Path) -> None:
    model = small_aura(tmp_path)
    calls = {"visible": 0, "amodal": 0}
    model.visible_decoder.register_forward_hook(lambda *_: calls.update(visible=calls["visible"] + 1))
    model.amodal_decoder.register_forward_hook(lambda *_: calls.update(amodal=calls["amodal"] + 1))
    with torch.no_grad():
        output = model(**training_batch(model, (ANSWER, "There is none.", "I see <p>a mug</p> [SEG].")))
    assert calls == {"visible": 1, "amodal": 1}
    assert output.masks.visible_logits.shape == (4, 64, 64)
    assert output.masks.rates.shape == (4,)


def test_batched_equals_single(tmp_path: Path) -> None:
    model = small_aura(tmp_path)
    answers = (ANSWER, "There is none.", "I see <p>a mug</p> [SEG].")
    batch = training_batch(model, answers)
    with torch.no_grad():
        together = model(**batch)
        alone = model(**training_batch(model, answers[:1]))
    torch.testing.assert_close(together.masks.amodal_logits[:3], alone.masks.amodal_logits, atol=1e-4, rtol=1e-4)
    kept = alone.logits.shape[1]
    torch.testing.assert_close(together.logits[:1, :kept], alone.logits, atol=1e-4, rtol=1e-4)


def test_chosen_masks_equal_those_of_all_and_every_seg_points(tmp_path: Path) -> None:
    model = small_trunk_aura(tmp_path)
    batch = training_batch(model)
    with torch.no_grad():
        everything = model(**batch)
        some = model(**batch, chosen=torch.tensor([True, False, True]))
    torch.testing.assert_close(some.masks.visible_logits, everything.masks.visible_logits[[0, 2]], atol=1e-5, rtol=1e-5)
    assert torch.equal(some.pointing_logits, everything.pointing_logits) and len(some.pointing_logits) == 3


def test_hinted_box_replaces_the_predicted_one(tmp_path: Path) -> None:
    model = small_trunk_aura(tmp_path)
    batch = training_batch(model)
    with torch.no_grad():
        out = model(**batch)
        free = out.masks
        hints = torch.full((3, 4), torch.nan)
        torch.testing.assert_close(model(**batch, box_hints_xyxy_sam=hints).masks.amodal_logits, free.amodal_logits)
        same = model(**batch, box_hints_xyxy_sam=out.boxes_xyxy_sam).masks
        hints[1] = torch.tensor([0.2, 0.2, 0.4, 0.4])
        hinted = model(**batch, box_hints_xyxy_sam=hints)
        other = hinted.masks
    torch.testing.assert_close(same.amodal_logits, free.amodal_logits)
    changed = (other.visible_logits - free.visible_logits).abs().amax((1, 2)) > 1e-4
    assert changed.tolist() == [False, True, False]
    assert torch.equal(hinted.boxes_xyxy_sam, out.boxes_xyxy_sam)
    assert out.boxes_xyxy_sam.shape == (3, 4) and (out.boxes_xyxy_sam[:, :2] <= out.boxes_xyxy_sam[:, 2:]).all()


@pytest.mark.parametrize("train_vision", [False, True])
def test_batch_without_an_object_has_no_masks_and_gradients_of_zero(tmp_path: Path, train_vision: bool) -> None:
    """Other processes may have objects in theirs; FSDP2 needs the same gradients everywhere."""
    model = small_aura(tmp_path, train_vision=train_vision).train()
    output = model(**training_batch(model, ("There is none.", "Nothing.")))
    assert output.masks.visible_logits.shape == (0, 64, 64)
    (output.logits.sum() + output.masks.amodal_logits.sum()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert not [name for name, gradient in gradients.items() if gradient is None]
    assert not any(g.any() for name, g in gradients.items() if g is not None and not name.startswith("mllm."))


def test_only_declared_parameters_move(tmp_path: Path) -> None:
    model = small_aura(tmp_path).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    output = model(**training_batch(model))
    masks = output.masks
    total = sum(x.square().mean() for x in (masks.visible_logits, masks.amodal_logits, masks.rates, masks.map_logits))
    (total + output.logits.square().mean()).backward()
    optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed <= increment_state(model).keys()
    for part in (
        "lora_A", "lora_B", "embed_tokens.token_adapter.trainable_tokens_delta", "lm_head.token_adapter.trainable",
        "prompt_encoder.projection", "visible_decoder", "amodal_decoder", "condition_encoder", "spatial_encoder",
    ):  # fmt: skip
        assert any(part in name for name in changed), part
    assert not any("vision_tower" in name for name in changed)


@pytest.mark.parametrize("rank", [2, 0])
@pytest.mark.parametrize("merged", [False, True])
def test_save_and_load_is_bitwise(tmp_path: Path, merged: bool, rank: int) -> None:
    model = small_aura(tmp_path, lora_rank=rank)
    model.save_pretrained(tmp_path / "aura", merged=merged)
    again = AuraModel.from_pretrained(tmp_path / "aura")
    batch = training_batch(model)
    with torch.no_grad():
        ours, theirs = model(**batch), again(**batch)
    if merged:
        torch.testing.assert_close(theirs.logits, ours.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(theirs.masks.amodal_logits, ours.masks.amodal_logits, atol=1e-4, rtol=1e-4)
        assert not any("lora" in name or "token_adapter" in name for name in again.state_dict())
    else:
        assert again.state_dict().keys() == model.state_dict().keys()
        for name, tensor in model.state_dict().items():
            assert torch.equal(again.state_dict()[name], tensor), name
        assert torch.equal(theirs.logits, ours.logits)


def test_increment_has_the_trained_tensors_and_names_both_bases(tmp_path: Path) -> None:
    model = small_aura(tmp_path)
    model.save_pretrained(tmp_path / "aura")
    settings = json.loads((tmp_path / "aura" / "config.json").read_text())
    assert settings["mllm_base"]["name_or_path"] == str(tmp_path / "mllm")
    assert settings["base"]["name_or_path"] == str(tmp_path / "sam")
    names = increment_state(model)
    assert not any("vision_tower" in name or "base_layer" in name or "patch_embed" in name for name in names)
    counts = parameter_counts(model.config)
    assert counts["trainable"] == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert counts["incremental"] == sum(tensor.numel() for tensor in names.values())
    assert counts["token_rows"] == 2 * 24  # a row of the input and of the output embedding
    assert counts["total"] == sum(p.numel() for p in model.parameters())


def test_merging_in_place_changes_no_answer(tmp_path: Path) -> None:
    model = small_aura(tmp_path)
    batch = training_batch(model)
    with torch.no_grad():
        before = model(**batch).logits
        merge_adapters(model.mllm)
        torch.testing.assert_close(model(**batch).logits, before, atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path / "aura", merged=True)
    with torch.no_grad():
        again = AuraModel.from_pretrained(tmp_path / "aura")
        torch.testing.assert_close(again(**batch).logits, before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("train_vision", [False, True])
def test_llm_trained_whole_needs_no_base(tmp_path: Path, train_vision: bool) -> None:
    sam, config = write_sam(tmp_path / "sam"), small_config(train_mllm=True, lora_rank=0, train_vision=train_vision)
    model = with_changed_weights(AuraModel.from_base(small_mllm(), sam, config))
    output = model.train()(**training_batch(model))
    (output.logits.mean() + output.masks.amodal_logits.mean()).backward()
    moving = [p.grad is not None for p in model.vision_encoder.parameters()]
    assert all(moving) if train_vision else not any(moving)
    model.save_pretrained(tmp_path / "aura")
    again = AuraModel.from_pretrained(tmp_path / "aura")
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert (tmp_path / "aura" / INCREMENT).is_file()


def test_vision_tower_can_be_frozen(tmp_path: Path) -> None:
    sam, config = write_sam(tmp_path / "sam"), small_config(train_mllm=True, lora_rank=0, train_tower=False)
    model = with_changed_weights(AuraModel.from_base(small_mllm(), sam, config))
    frozen = {name for name, parameter in model.mllm.named_parameters() if not parameter.requires_grad}
    assert frozen and all("vision_tower" in name for name in frozen)
    model.save_pretrained(tmp_path / "aura")
    again = AuraModel.from_pretrained(tmp_path / "aura")
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_frozen_llm_may_be_in_half_precision(tmp_path: Path) -> None:
    write_mllm(tmp_path / "mllm")
    sam = write_sam(tmp_path / "sam")
    model = AuraModel.from_base(tmp_path / "mllm", sam, small_config(), mllm_dtype=torch.bfloat16).train()
    precisions = {name: p.dtype for name, p in model.mllm.named_parameters()}
    assert {d for n, d in precisions.items() if "lora_" in n or "tokens_delta" in n} == {torch.float32}
    assert {d for n, d in precisions.items() if "base_layer" in n} == {torch.bfloat16}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**training_batch(model))
    (output.logits.float().square().mean() + output.masks.amodal_logits.float().square().mean()).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is None or p.grad.isfinite().all() for p in trained)
    model.save_pretrained(tmp_path / "aura")
    again = AuraModel.from_pretrained(tmp_path / "aura", mllm_dtype=torch.bfloat16)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_other_bases_are_refused(tmp_path: Path) -> None:
    small_aura(tmp_path).save_pretrained(tmp_path / "aura")
    with pytest.raises(InputError, match=r"mllm .*: expected weights with fingerprint"):
        AuraModel.from_pretrained(tmp_path / "aura", mllm=write_mllm(tmp_path / "other", seed=5))
    with pytest.raises(InputError, match="expected a file or folder, got none at this path"):
        AuraModel.from_pretrained(tmp_path / "aura", base=tmp_path / "nothing")
    with pytest.raises(InputError, match="mllm .*: expected a file or folder, got none at this path"):
        AuraModel.from_base(tmp_path / "nothing", small_sam_config())


def test_tokenizer_that_splits_the_mask_token_is_refused(tmp_path: Path) -> None:
    model = small_aura(tmp_path)
    model.save_pretrained(tmp_path / "aura")
    small_mllm().processor.save_pretrained(tmp_path / "aura" / "processor")  # its tokenizer does not know the token
    with pytest.raises(InputError, match=r"expected '\[SEG\]' to be one token, got \d+"):
        AuraModel.from_pretrained(tmp_path / "aura")


def test_damaged_models_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "aura"
    small_aura(tmp_path).save_pretrained(folder)
    (folder / INCREMENT).write_bytes(b"not tensors")
    with pytest.raises(InputError, match="expected a safetensors file"):
        AuraModel.from_pretrained(folder)
    (folder / "aura_processor.json").unlink()
    with pytest.raises(InputError, match="expected an AURA processor"):
        AuraModel.from_pretrained(folder)
    (folder / INCREMENT).unlink()
    with pytest.raises(InputError, match="got neither"):
        AuraModel.from_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "plug"}')
    with pytest.raises(InputError, match="expected a model that answers questions .*, got a segmenter"):
        AuraModel.from_pretrained(folder)


@pytest.mark.parametrize("condition", [True, False])
@pytest.mark.parametrize("spatial", [True, False])
def test_rows_of_table_2_are_configurations(tmp_path: Path, condition: bool, spatial: bool) -> None:
    model = small_aura(tmp_path, condition_encoder=condition, spatial_encoder=spatial).train()
    masks = model(**training_batch(model)).masks
    assert (masks.rates is not None, masks.map_logits is not None) == (condition, spatial)
    assert masks.amodal_logits.shape == (3, 64, 64)
    assert not torch.equal(masks.amodal_logits, masks.visible_logits)


def test_new_model_decodes_both_masks_from_one_embedding(tmp_path: Path) -> None:
    write_mllm(tmp_path / "mllm")
    model = AuraModel.from_base(tmp_path / "mllm", write_sam(tmp_path / "sam"), small_config())
    with torch.no_grad():
        masks = model(**training_batch(model)).masks
    torch.testing.assert_close(masks.amodal_logits, masks.visible_logits)


def test_llm_sees_the_whole_image(tmp_path: Path) -> None:
    """The LLM's processor alone would cut a wide image to its centre."""
    processor = small_aura(tmp_path).processor
    assert processor is not None
    image = random_image(height=20, width=80)
    seen = processor.first_turn(image, QUESTION)["pixel_values"]
    for column in (0, 79):
        changed = image.copy()
        changed[:, column - 3 if column else 0 : column + 3] = 255
        assert not torch.equal(processor.first_turn(changed, QUESTION)["pixel_values"], seen)


def test_masks_convert_to_the_sam_frame_and_back(tmp_path: Path) -> None:
    processor = small_aura(tmp_path).processor
    assert isinstance(processor, AuraProcessor)
    mask = np.zeros((40, 80), bool)
    mask[10:30, 20:60] = True
    framed = processor.mask_sam(mask)
    assert framed.shape == (64, 64)
    assert not framed[32:].any()  # padding below
    back = resize_probs(processor.unpadded(framed.astype(np.float32), (40, 80)), (0, 0, 80, 40)) > 0.5
    assert (back & mask).sum() / (back | mask).sum() > 0.95


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", 100), ("lora_rank", -1), ("lora_alpha", 0), ("lora_dropout", 1.0), ("spatial_channels", 0),
        ("mask_threshold", 1.0), ("text_weight", -1.0), ("seg_token", "a b"),
        ("max_new_tokens", 0), ("naming_weight", -1.0), ("lora_targets", []),
    ],
)  # fmt: skip
def test_configuration_refuses_impossible_values(field: str, value: object) -> None:
    with pytest.raises(InputError, match=f"{field}: expected "):
        AuraConfig(**{field: value})


@pytest.mark.parametrize(
    "settings", [{"model_type": "x"}, {"model_type": "llava", "vision_config": {"model_type": "x"}}]
)
def test_a_language_model_of_unknown_type_is_refused(settings: dict[str, Any]) -> None:
    config = AuraConfig(mllm=settings)
    with pytest.raises(InputError, match="mllm: expected a model of a type that transformers knows, got another"):
        AuraModel(config)


def test_lora_targets_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lora_targets: expected names of projections in the language model"):
        small_aura(tmp_path, lora_targets=["no_such_proj"])


def test_logits_are_computed_for_the_columns_with_a_label_in_any_row() -> None:
    labels = torch.full((2, 6), IGNORE_INDEX)
    assert labelled_columns(labels).tolist() == [5]
    labels[0, 2], labels[1, 4], labels[0, 0] = 7, 8, 9  # nothing predicts the first token
    assert labelled_columns(labels).tolist() == [2, 4]
