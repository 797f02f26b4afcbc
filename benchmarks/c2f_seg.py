"""C2F-Seg's released network for `objects.py --c2f-seg CHECKOUT`, random weights; its code stays where it is.

`git clone https://github.com/amazon-science/c2f-seg` makes the checkout. Sizes are those of its KINS
configuration: 256 px, a codebook of 256, 12 layers of 768, three rounds of filling in. Its image
encoder is torchvision's ResNet-50, here transformers' of the same layers.
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
    """Crops (B, 3, 256, 256) and visible masks (B, 1, 256, 256) to amodal logits, by all that its test script calls.

    The surest codes are filled in first, where it samples: as many calls, the same answer each time.

    Args:
        checkout: of the repository.
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

    def answer(pixels: Tensor, visible: Tensor) -> Tensor:
        features = resnet(pixels, output_hidden_states=True).hidden_states[1:]
        quantised, _, info = codebook(before(encoder(visible)))
        B, C, h, w = quantised.shape
        seen = info[2].view(B, -1)
        filled = torch.full_like(seen, CODES)  # nothing is known
        for turn in range(ROUNDS):
            with _on_a_processor():
                probs = filler(features[-1], seen, filled, mask=None)[..., :-1].softmax(-1)
            sure, best = probs.max(-1)
            unknown = filled == CODES
            keep = sure.where(unknown, sure.new_tensor(2.0)).argsort(1, descending=True)
            count = h * w * (turn + 1) // ROUNDS
            known = torch.zeros_like(unknown).scatter(1, keep[:, :count], True)
            filled = torch.where(unknown & known, best, filled)
        entries = codebook.get_codebook_entry(filled.reshape(-1), shape=(B, h, w, C))
        coarse = decoder(after(entries)).mean(1, keepdim=True).clamp(0, 1)
        _, amodal = refine(features, coarse)
        return F.interpolate(amodal, size=(SIDE, SIDE))

    return answer


def _resnet() -> ResNetModel:
    """ResNet-50 whose last stage keeps its resolution: 2,048 channels of 16 x 16."""
    model = ResNetModel(ResNetConfig())
    first: Any = model.encoder.stages[3].layers[0]
    for convolution in (first.shortcut.convolution, first.layer[1].convolution):
        convolution.stride = (1, 1)
    return model


@contextmanager
def _imports(checkout: Path) -> Iterator[None]:
    """The checkout on the path; a stand-in for torchvision, of which only the ResNet's name is imported."""
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
def _on_a_processor() -> Iterator[None]:
    """Its transformer sends a mask to a GPU, wherever it runs itself."""
    before = torch.Tensor.cuda
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.cuda = before  # type: ignore[method-assign]
