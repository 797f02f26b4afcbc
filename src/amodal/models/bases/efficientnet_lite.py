"""EfficientNet-Lite with a light top-down path, as the trunk of convolutional segmenters.

EfficientNet-Lite (Tan and Le, "EfficientNet", 2019; the Lite variants of 2020) is MobileNet's inverted bottleneck
without squeeze-and-excitation, with ReLU6. Its coarse maps know what an object is, its fine maps where the outline
runs. The top-down path mixes the maps of stride 32 and 16 into that of stride 8, so that a segmenter can use an
embedding of stride 8 with small inputs.

Batch norm is folded into the convolutions: its statistics stay those of ImageNet, so it is a constant scale and shift.

Axes: B images, C channels, H W cells of a map.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from amodal.errors import InputError
from amodal.models.bases.protocol import IMAGE_MEAN, IMAGE_STD
from amodal.nn.convolutions import DepthwiseConv

BATCH_NORM_EPS = 1e-3
"""Of the published weights."""

LITE0_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
                (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))  # fmt: skip


class EfficientNetLiteConfig(PreTrainedConfig):
    """Sizes of the trunk; the defaults are those of EfficientNet-Lite0.

    Args:
        stem_channels: output channels of the first convolution (stride 2).
        stages: per stage the number of blocks, the kernel size, the stride, the expansion and the output channels.
        mixed_channels: channels of the top-down path; 0 for a trunk without one, which only has `maps`.
    """

    model_type = "efficientnet_lite"
    coarsest_stride = 32

    def __init__(
        self,
        stem_channels: int = 32,
        stages: list[list[int]] | None = None,
        mixed_channels: int = 128,
        **kwargs: Any,
    ) -> None:
        self.stem_channels = stem_channels
        self.stages = [list(stage) for stage in (stages or LITE0_STAGES)]
        self.mixed_channels = mixed_channels
        super().__init__(**kwargs)

    def channels(self, stride: int) -> int:
        """Channels of the last map of this stride, before the top-down path."""
        widths, reached = {2: self.stem_channels}, 2
        for stage in self.stages:
            reached *= stage[2]
            widths[reached] = stage[4]
        return widths[stride]


class EfficientNetLite(PreTrainedModel):
    """The trunk: (B, 3, H, W) to maps of stride 2, 4 and 8, the last one mixed with those of stride 16 and 32.

    Attributes:
        coarse_start: name of the first module that works on stride 16; adapters begin there.
    """

    config_class = EfficientNetLiteConfig
    base_model_prefix = "trunk"
    main_input_name = "pixel_values"

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        self.stem = nn.Conv2d(3, config.stem_channels, 3, stride=2)
        self.blocks = nn.ModuleList()
        self._ends: dict[int, int] = {}  # stride of a map -> index of the block that makes it
        width, stride = config.stem_channels, 2
        for repeats, kernel, stage_stride, expansion, channels in config.stages:
            for repeat in range(repeats):
                step = stage_stride if repeat == 0 else 1
                self.blocks.append(InvertedBottleneck(width, channels, kernel, step, expansion))
                width, stride = channels, stride * step
                self._ends[stride] = len(self.blocks) - 1
        if sorted(self._ends) != [2, 4, 8, 16, 32]:
            raise InputError(f"stages: expected maps of stride 2, 4, 8, 16 and 32, got {sorted(self._ends)}")
        self.coarse_start = f"blocks.{self._ends[8] + 1}"
        widths: dict[int, Any] = {s: self.blocks[end].width for s, end in self._ends.items()}
        mixed = config.mixed_channels
        if mixed:
            self.lateral = nn.ModuleDict({str(s): nn.Conv2d(widths[s], mixed, 1) for s in (8, 16, 32)})
            self.mix = nn.ModuleDict({str(s): InvertedBottleneck(mixed, mixed, 5, 1, 2) for s in (8, 16)})
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Layers initialise themselves."""

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutput:
        """(B, 3, H, W) to `last_hidden_state`, the list of maps (B, C, H', W'), finest first."""
        maps = self.maps(pixel_values)
        return BaseModelOutput(last_hidden_state=[maps[2], maps[4], self.mixed(maps)])

    def maps(self, pixel_values: Tensor) -> dict[int, Tensor]:
        """(B, 3, H, W) to the last map (B, C, H / stride, W / stride) of each stride, before the top-down path."""
        maps = self.fine_maps(pixel_values)
        return maps | self.coarse_maps(maps[8])

    def fine_maps(self, pixel_values: Tensor) -> dict[int, Tensor]:
        """(B, 3, H, W) to the maps of stride 2, 4 and 8, as `maps`.

        The map of stride 2 is computed in the precision of the weights, also under autocast: in bfloat16 it loses
        details of the image that masks need, and saves no time on a CPU (docs/log/plug-models.md).
        """
        pixel_values = pixel_values.contiguous(
            memory_format=torch.channels_last
        )  # faster on a CPU, in bfloat16 about twice
        kind = pixel_values.device.type
        if kind != "meta" and torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                finest = self._finest_map(pixel_values.to(self.stem.weight.dtype))
        else:
            finest = self._finest_map(pixel_values)
        return {2: finest} | self._run_blocks(finest, range(self._ends[2] + 1, self._ends[8] + 1))

    def _finest_map(self, pixel_values: Tensor) -> Tensor:
        x = F.relu6(self.stem(_pad_same(pixel_values, 3, 2)))
        return self._run_blocks(x, range(self._ends[2] + 1))[2]

    def coarse_maps(self, x: Tensor) -> dict[int, Tensor]:
        """The map of stride 8, (B, C, h, w), to those of stride 16 and 32, as `maps`."""
        return self._run_blocks(x, range(self._ends[8] + 1, len(self.blocks)))

    def _run_blocks(self, x: Tensor, indices: range) -> dict[int, Tensor]:
        """The last map of each stride that these blocks make."""
        maps: dict[int, Tensor] = {}
        strides = {end: stride for stride, end in self._ends.items()}
        for index in indices:
            x = self.blocks[index](x)
            if index in strides:
                maps[strides[index]] = x
        return maps

    def mixed(self, maps: Mapping[int, Tensor]) -> Tensor:
        """The map of stride 8 after the top-down path, from those of stride 8, 16 and 32 of `maps`."""
        top: Tensor = self.lateral["32"](maps[32])
        for stride in (16, 8):
            level = maps[stride]
            if level.shape[0] != top.shape[0]:  # the branches of an adapted trunk separate at stride 16
                level = level.repeat(top.shape[0] // level.shape[0], 1, 1, 1)
            level = self.lateral[str(stride)](level)
            top = F.interpolate(top, scale_factor=2.0, mode="bilinear", align_corners=False)
            top = self.mix[str(stride)](level + top)
        return top


class InvertedBottleneck(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection; a residual where the sizes allow it."""

    def __init__(self, in_width: int, width: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_width * expansion
        self.width, self.kernel, self.stride = width, kernel, stride
        self.expand = nn.Conv2d(in_width, inner, 1) if expansion > 1 else None
        padding = kernel // 2 if stride == 1 else 0
        self.depthwise = DepthwiseConv(inner, inner, kernel, stride=stride, padding=padding, groups=inner)
        self.project = nn.Conv2d(inner, width, 1)
        self.residual = stride == 1 and in_width == width

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        inner = x if self.expand is None else F.relu6(self.expand(x))
        if self.stride > 1:
            inner = _pad_same(inner, self.kernel, self.stride)
        out: Tensor = self.project(F.relu6(self.depthwise(inner)))
        return x + out if self.residual else out


def _pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zero padding of TensorFlow's `SAME`, in which the weights were trained: the odd pixel goes right and below."""
    height, width = x.shape[-2:]
    pads = []
    for size in (width, height):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


def weights_file(name: str) -> Path:
    """The file of this name, or the one `.pth` file in an installed package of this name, which is not imported.

    Raises:
        InputError: there is no such file or package, or the package has none or several.
    """
    path = Path(name)
    if path.is_file():
        return path
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    files = [] if found is None or found.origin is None else sorted(Path(found.origin).parent.rglob("*.pth"))
    if len(files) != 1:
        raise InputError(
            f"trunk_weights: expected a file, or an installed package with one .pth file, got {name!r}; "
            "docs/models/plug-small.md says how to install it"
        )
    return files[0]


def pretrained_weights(path: Path, config: EfficientNetLiteConfig) -> dict[str, Tensor]:
    """Read ImageNet's weights of EfficientNet-Lite and fold their batch norm.

    Args:
        path: PyTorch file with the names of the common port (`_conv_stem`, `_blocks.0._depthwise_conv`, ...).
        config: sizes of the trunk.

    Returns:
        Tensors by their names in `EfficientNetLite`; those of the top-down path are missing.

    Raises:
        InputError: the file lacks a tensor.
    """
    try:
        state: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        found = _folded(state, "_conv_stem", "_bn0", "stem")
        blocks = [stage[3] for stage in config.stages for _ in range(stage[0])]
        for index, expansion in enumerate(blocks):
            old, new = f"_blocks.{index}.", f"blocks.{index}."
            if expansion > 1:
                found |= _folded(state, f"{old}_expand_conv", f"{old}_bn0", f"{new}expand")
            found |= _folded(state, f"{old}_depthwise_conv", f"{old}_bn1", f"{new}depthwise")
            found |= _folded(state, f"{old}_project_conv", f"{old}_bn2", f"{new}project")
    except KeyError as error:
        raise InputError(
            f"trunk_weights: expected the weights of EfficientNet-Lite, got {str(path)!r} without {error}"
        ) from None
    except (AttributeError, EOFError, OSError, RuntimeError, TypeError, UnpicklingError):
        raise InputError(f"trunk_weights: expected the weights of EfficientNet-Lite, got {str(path)!r}") from None
    # The weights expect (x - 0.5) / 0.5; every base of the family gets ImageNet's statistics instead.
    weight, mean, std = found["stem.weight"], torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
    found["stem.bias"] = found["stem.bias"] + (weight.sum((2, 3)) * (2 * mean - 1)).sum(1)
    found["stem.weight"] = weight * (2 * std)[:, None, None]
    return found


def _folded(state: Mapping[str, Tensor], convolution: str, norm: str, name: str) -> dict[str, Tensor]:
    scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + BATCH_NORM_EPS)
    return {
        f"{name}.weight": state[f"{convolution}.weight"] * scale[:, None, None, None],
        f"{name}.bias": state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale,
    }
