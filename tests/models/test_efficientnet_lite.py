"""EfficientNet-Lite as a trunk: folded weights, padding, and where adapters begin."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.errors import InputError
from amodal.models.bases.conv_prompt import ConvPromptConfig
from amodal.models.bases.efficientnet_lite import (
    EfficientNetLite,
    EfficientNetLiteConfig,
    pretrained_weights,
)
from amodal.models.bases.families import family_of
from amodal.models.bases.protocol import IMAGE_MEAN, IMAGE_STD, Adapters

STAGES = [[1, 3, 1, 1, 4], [2, 3, 2, 2, 8], [1, 5, 2, 2, 8], [2, 3, 2, 2, 12], [1, 3, 2, 2, 16]]


def small_trunk_config() -> EfficientNetLiteConfig:
    """The layout of EfficientNet-Lite with few channels."""
    return EfficientNetLiteConfig(stem_channels=8, stages=STAGES, mixed_channels=16)


def small_config() -> ConvPromptConfig:
    """A segmenter on the small trunk."""
    return ConvPromptConfig(trunk={"stem_channels": 8, "stages": STAGES, "mixed_channels": 16}, image_size=64)


def published_state(config: EfficientNetLiteConfig) -> dict[str, Tensor]:
    """Random weights under the names of the published file."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}

    def layer(conv: str, norm: str, shape: tuple[int, ...]) -> None:
        state[f"{conv}.weight"] = torch.randn(shape, generator=generator) * 0.3
        for name, shift in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0)):
            state[f"{norm}.{name}"] = torch.randn(shape[0], generator=generator) * 0.2 + shift
        state[f"{norm}.running_var"] = torch.rand(shape[0], generator=generator) + 0.5

    layer("_conv_stem", "_bn0", (config.stem_channels, 3, 3, 3))
    width, index = config.stem_channels, 0
    for repeats, kernel, _, expansion, channels in config.stages:
        for _ in range(repeats):
            name, inner = f"_blocks.{index}.", width * expansion
            if expansion > 1:
                layer(f"{name}_expand_conv", f"{name}_bn0", (inner, width, 1, 1))
            layer(f"{name}_depthwise_conv", f"{name}_bn1", (inner, 1, kernel, kernel))
            layer(f"{name}_project_conv", f"{name}_bn2", (channels, inner, 1, 1))
            width, index = channels, index + 1
    return state


def reference_maps(state: dict[str, Tensor], config: EfficientNetLiteConfig, image: Tensor) -> list[Tensor]:
    """The last map of every stage, with batch norm and TensorFlow's padding written out."""

    def normed(x: Tensor, norm: str) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{norm}.{name}"] for name in names), training=False, eps=1e-3)

    def convolved(x: Tensor, conv: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = state[f"{conv}.weight"]
        pads = []
        for size in (x.shape[-1], x.shape[-2]):
            total = max((-(-size // stride) - 1) * stride + weight.shape[-1] - size, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)

    x = F.relu6(normed(convolved(image, "_conv_stem", 2), "_bn0"))
    maps, index = [], 0
    for repeats, _, stage_stride, expansion, _ in config.stages:
        for repeat in range(repeats):
            name, before = f"_blocks.{index}.", x
            stride = stage_stride if repeat == 0 else 1
            if expansion > 1:
                x = F.relu6(normed(convolved(x, f"{name}_expand_conv"), f"{name}_bn0"))
            x = F.relu6(normed(convolved(x, f"{name}_depthwise_conv", stride, x.shape[1]), f"{name}_bn1"))
            x = normed(convolved(x, f"{name}_project_conv"), f"{name}_bn2")
            if stride == 1 and x.shape == before.shape:
                x = x + before
            index += 1
        maps.append(x)
    return maps


def test_folded_weights_give_the_maps_of_the_network_with_batch_norm(tmp_path: Path) -> None:
    config = small_trunk_config()
    state = published_state(config)
    torch.save(state, tmp_path / "lite.pth")
    trunk = EfficientNetLite(config).double().eval()
    missing = trunk.load_state_dict(pretrained_weights(tmp_path / "lite.pth", config), strict=False)
    assert not missing.unexpected_keys
    assert {name.split(".")[0] for name in missing.missing_keys} == {"lateral", "mix"}
    image = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    mean, std = (torch.tensor(x, dtype=torch.float64)[:, None, None] for x in (IMAGE_MEAN, IMAGE_STD))
    expected = reference_maps({k: v.double() for k, v in state.items()}, config, image * 2 - 1)
    fine, middle, _ = trunk((image - mean) / std).last_hidden_state
    inner = (..., slice(8, -8), slice(8, -8))  # the zeros around the image stand for another colour
    torch.testing.assert_close(fine[inner], expected[0][inner], atol=1e-5, rtol=0)
    torch.testing.assert_close(middle[inner][..., :-4, :-4], expected[1][inner][..., :-4, :-4], atol=1e-5, rtol=0)


def test_a_file_without_a_tensor_is_refused(tmp_path: Path) -> None:
    config = small_trunk_config()
    state = published_state(config)
    del state["_blocks.3._project_conv.weight"]
    torch.save(state, tmp_path / "lite.pth")
    with pytest.raises(InputError, match=r"without '_blocks\.3\._project_conv\.weight'"):
        pretrained_weights(tmp_path / "lite.pth", config)


@pytest.mark.parametrize("content", [b"", b"no weights", [1, 2], {"_conv_stem.weight": 3}])
def test_what_is_no_file_of_weights_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "lite.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match="trunk_weights: expected the weights of EfficientNet-Lite, got '.*lite.pth'"):
        pretrained_weights(path, small_trunk_config())


def test_stages_without_all_strides_are_refused() -> None:
    with pytest.raises(InputError, match="stride 2, 4, 8, 16 and 32"):
        EfficientNetLite(EfficientNetLiteConfig(stages=STAGES[:-1]))


def test_adapters_begin_at_stride_16() -> None:
    config = small_config()
    encoder = family_of(config).build_encoder(config, Adapters(2, None, 2))
    adapted = {name.split(".lora")[0] for name, _ in encoder.named_parameters() if ".lora." in name}
    assert "backbone.blocks.4.expand" in adapted  # the first block of stride 16
    assert not any(name.startswith(("backbone.blocks.3.", "backbone.stem")) for name in adapted)
    assert "backbone.mix.8.project" in adapted
    assert all(isinstance(encoder.get_submodule(name), nn.Conv2d) for name in adapted)


def test_the_input_has_to_be_a_multiple_of_the_coarsest_stride() -> None:
    config = small_config()
    family = family_of(config)
    assert family.stride(family.sizes(config)) == 32


def test_maps_have_the_memory_order_that_is_fast_on_a_cpu() -> None:
    trunk = EfficientNetLite(small_trunk_config())
    with torch.no_grad():
        maps = trunk.maps(torch.randn(2, 3, 64, 64))
    assert all(level.is_contiguous(memory_format=torch.channels_last) for level in maps.values())


def test_the_map_of_stride_2_keeps_its_precision_under_autocast() -> None:
    """In bfloat16 it would round the pixels, and the masks of a bundled model would change at their outlines."""
    trunk = EfficientNetLite(small_trunk_config()).eval()
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = trunk.fine_maps(pixels)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = trunk.fine_maps(pixels)
            rounded = trunk.fine_maps(pixels.bfloat16())
        halved = trunk.bfloat16().fine_maps(pixels.bfloat16())
    assert torch.equal(mixed[2], exact[2]) and not torch.equal(rounded[2], exact[2])
    assert [mixed[stride].dtype for stride in (2, 4, 8)] == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert halved[2].dtype == torch.bfloat16
