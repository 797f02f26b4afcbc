"""C2F-Seg's released network with random weights, for `objects.py --c2f-seg CHECKOUT`.

The code is imported from a checkout made by `git clone https://github.com/amazon-science/c2f-seg`. The sizes are those
of its KINS configuration: 256 pixels, a codebook of 256 entries, 12 layers of width 768, and three rounds of filling
in masked tokens. Its image encoder is torchvision's ResNet-50; the same layers of transformers are used here.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ResNetConfig, ResNetModel

SIDE, CODES, ROUNDS = 256, 256, 3
AUTOENCODER = {
    "double_z": False, "z_channels": 256, "resolution_h": SIDE, "resolution_w": SIDE, "in_channels": 1, "out_ch": 1,
    "ch": 128, "ch_mult": [1, 1, 2, 2, 4], "num_res_blocks": 2, "attn_resolutions": [6, 10], "dropout": 0.0,
}  # fmt: skip
FILLER = {
    "sequence_length": 256, "n_embd": 768, "n_head": 12, "n_layer": 12, "vocab_size": CODES,
    "attn_pdrop": 0.01, "resid_pdrop": 0.01, "embd_pdrop": 0.01,
}  # fmt: skip


def released_network(checkout: Path) -> Callable[[Tensor, Tensor], Tensor]:
    """Build a function from crops (B, 3, 256, 256) and visible masks (B, 1, 256, 256) to amodal logits.

    It calls everything that C2F-Seg's test script calls, except that the most confident tokens are filled in first
    where the script samples: the number of calls is the same, and the result is deterministic.

    Args:
        checkout: folder of the repository.
    """
    with _imports(checkout):
        layers, components, codes = (
            importlib.import_module(name)
            for name in ("taming_src.taming_layers", "src.image_component", "src.quantize")
        )
    encoder, decoder = layers.Encoder(AUTOENCODER).eval(), layers.Decoder(AUTOENCODER).eval()
    before, after = torch.nn.Conv2d(256, 256, 1), torch.nn.Conv2d(256, 256, 1)
    codebook = codes.VectorQuantizer(CODES, 256, beta=0.25).eval()
    filler = components.MaskedTransformer(types.SimpleNamespace(**FILLER)).eval()
    refine = components.Refine_Module().eval()
    resnet = _resnet().eval()

    def amodal_logits(pixels: Tensor, visible: Tensor) -> Tensor:
        features = resnet(pixels, output_hidden_states=True).hidden_states[1:]
        quantised, _, info = codebook(before(encoder(visible)))
        B, C, h, w = quantised.shape
        visible_codes = info[2].view(B, -1)
        filled = torch.full_like(visible_codes, CODES)  # all tokens are masked
        for turn in range(ROUNDS):
            with _on_the_cpu():
                probs = filler(features[-1], visible_codes, filled, mask=None)[..., :-1].softmax(-1)
            confidence, best = probs.max(-1)
            unknown = filled == CODES
            keep = confidence.where(unknown, confidence.new_tensor(2.0)).argsort(1, descending=True)
            count = h * w * (turn + 1) // ROUNDS
            known = torch.zeros_like(unknown).scatter(1, keep[:, :count], True)
            filled = torch.where(unknown & known, best, filled)
        entries = codebook.get_codebook_entry(filled.reshape(-1), shape=(B, h, w, C))
        coarse = decoder(after(entries)).mean(1, keepdim=True).clamp(0, 1)
        _, amodal = refine(features, coarse)
        return F.interpolate(amodal, size=(SIDE, SIDE))

    return amodal_logits


def _resnet() -> ResNetModel:
    """Build a ResNet-50 whose last stage keeps its resolution: 2,048 channels of 16 x 16."""
    model = ResNetModel(ResNetConfig())
    first: Any = model.encoder.stages[3].layers[0]
    for convolution in (first.shortcut.convolution, first.layer[1].convolution):
        convolution.stride = (1, 1)
    return model


@contextmanager
def _imports(checkout: Path) -> Iterator[None]:
    """Make the checkout importable, with a stand-in for torchvision, whose ResNets it only imports by name."""
    stand_in: Any = types.ModuleType("torchvision.models")
    stand_in.resnet18 = stand_in.resnet50 = None
    names = {"torchvision": types.ModuleType("torchvision"), "torchvision.models": stand_in}
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(names)
    sys.path.insert(0, str(checkout))
    try:
        yield
    finally:
        sys.path.remove(str(checkout))
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


@contextmanager
def _on_the_cpu() -> Iterator[None]:
    """Keep tensors on the CPU: C2F-Seg's transformer sends a mask to a GPU on every device."""
    before = torch.Tensor.cuda
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.cuda = before  # type: ignore[method-assign]
