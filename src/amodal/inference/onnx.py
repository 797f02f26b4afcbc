"""PLUG in ONNX: the encoder and what follows it as two files, and a model that runs on them.

The encoder is a file of its own so that one encoding can serve many boxes (image mode).

Axes: B images (or crops), P boxes an image, S side of the input, C h w an embedding.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from amodal.errors import InputError
from amodal.io.files import appearing, no_file
from amodal.models.increments import read_config
from amodal.models.plug import PlugConfig, PlugModel, PlugOutput

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
EMBEDDINGS = ("visible_embeddings", "amodal_embeddings")
OUTPUTS = ("pred_masks", "coarse_amodal_logits", "visible_logits", "amodal_uncertainty", "iou_scores")
TOLERANCE = 3e-4  # of the largest answer; torch itself is 1.1e-4 off in float32 (plug-tiny, against float64)


class Exported(NamedTuple):
    """What an export wrote, and how far it is from torch on random inputs.

    Attributes:
        folder: with `encoder.onnx`, `decoder.onnx` and `config.json`.
        encoder_difference: largest difference of an embedding, relative to the largest where that is above one.
        decoder_difference: of a logit, uncertainty or score, likewise.
    """

    folder: Path
    encoder_difference: float
    decoder_difference: float


class _Encoder(nn.Module):
    def __init__(self, model: PlugModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.encode(pixel_values)


class _Decoder(nn.Module):
    """One image a box: the exporter loses the repetition inside transformers' decoder for free B and P."""

    def __init__(self, model: PlugModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, visible: Tensor, amodal: Tensor, boxes: Tensor) -> tuple[Tensor, ...]:
        B, P = boxes.shape[:2]
        pixel_values, visible, amodal = (
            x[:, None].expand(-1, P, -1, -1, -1).flatten(0, 1) for x in (pixel_values, visible, amodal)
        )
        output = self.model.predict(pixel_values, visible, amodal, boxes.flatten(0, 1)[:, None])
        return tuple(output[name].flatten(0, 1).unflatten(0, (B, P)) for name in output_names(self.model.config))


def output_names(config: PlugConfig) -> list[str]:
    """Outputs of the decoder file; a model without visible branch has no visible logits."""
    return [name for name in OUTPUTS if config.visible_branch or name != "visible_logits"]


def export_onnx(model: PlugModel, folder: Path) -> Exported:
    """Write a model as ONNX, after both files answered as torch does.

    Batch and number of boxes stay free; the input size is the model's.

    Args:
        model: float32 on the CPU.
        folder: new or with an earlier export, which is replaced.

    Raises:
        InputError: the `onnx` extra is missing, `folder` is a file, or onnxruntime's answers differ.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _extra(name)
    no_file(folder)
    model = model.float().cpu().eval()
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        temporary = Path(name)
        _write(model, temporary)
        exported = _compare(model, temporary, folder)
        for file in sorted(temporary.iterdir()):  # the encoder comes last: `is_export` looks for it
            with appearing(folder / file.name) as copy:
                shutil.copyfile(file, copy)
    return exported


def _write(model: PlugModel, folder: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of operators of torchvision, which is not used
    dynamic = torch.export.Dim.DYNAMIC
    pixels, boxes = _example(model.config, images=3, prompts=2)
    embeddings = model.encode(pixels)
    axes = {0: dynamic}
    calls = {
        ENCODER: (_Encoder(model), (pixels,), (axes,), ["pixel_values"], list(EMBEDDINGS)),
        DECODER: (
            _Decoder(model),
            (pixels, *embeddings, boxes),
            (axes, axes, axes, {0: dynamic, 1: dynamic}),
            ["pixel_values", *EMBEDDINGS, "input_boxes"],
            output_names(model.config),
        ),
    }
    for file, (module, inputs, shapes, names, outputs) in calls.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecations
            torch.onnx.export(
                module.eval(), inputs, folder / file, input_names=names, output_names=outputs,
                dynamic_shapes=shapes, dynamo=True, external_data=False, verbose=False, optimize=True,
            )  # fmt: skip
    model.config.save_pretrained(folder)


def _compare(model: PlugModel, written: Path, folder: Path) -> Exported:
    """Other numbers of images and boxes than the example's, answered by both."""
    ours, differences = OnnxPlug(written), [0.0, 0.0]
    for images, prompts in ((1, 1), (1, 5), (2, 3)):
        pixels, boxes = _example(model.config, images=images, prompts=prompts)
        embeddings = model.encode(pixels)
        expected = model.predict(pixels, *embeddings, boxes)
        got = ours.predict(pixels, *embeddings, boxes)
        pairs = [(a, b) for a, b in zip(ours.encode(pixels), embeddings, strict=True)]
        differences[0] = max(differences[0], *(_distance(a, b) for a, b in pairs))
        names = output_names(model.config)
        differences[1] = max(differences[1], *(_distance(got[name], expected[name]) for name in names))
    if not max(differences) < TOLERANCE:
        raise InputError(f"onnx: expected answers within {TOLERANCE} of torch's, got {max(differences):.2g} away")
    return Exported(folder, *differences)


def _distance(got: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest answer where that is above one."""
    return float((got - expected).abs().max() / expected.abs().max().clamp_min(1))


def _example(config: PlugConfig, *, images: int, prompts: int) -> tuple[Tensor, Tensor]:
    size, generator = config.image_size, torch.Generator().manual_seed(0)
    corners = torch.rand(images, prompts, 2, 2, generator=generator).sort(dim=2).values
    pixels = torch.randn(images, 3, size, size, generator=generator)
    return pixels, (corners * (size - 2) + 1).flatten(2)


class OnnxPlug(nn.Module):
    """An exported PLUG that answers as `PlugModel` does, through onnxruntime on the CPU.

    Args:
        folder: by `export_onnx`.
        threads: of onnxruntime; torch's number if None.

    Raises:
        InputError: the `onnx` extra is missing, or the folder is not a readable export.
    """

    dtype = torch.float32

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        super().__init__()
        self.config = read_config(Path(folder), PlugConfig)
        runtime = _extra("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3
        self._sessions = {}
        for name in (ENCODER, DECODER):
            file = Path(folder) / name
            try:
                self._sessions[name] = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # onnxruntime raises a type of its own for each kind of damage
                raise InputError(f"model {folder}: expected a readable {name}, got {error!r:.120}") from error

    def encode(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """As `PlugModel.encode`."""
        visible, amodal = self._run(ENCODER, list(EMBEDDINGS), pixel_values)
        return visible, amodal

    def predict(self, pixel_values: Tensor, visible: Tensor, amodal: Tensor, input_boxes: Tensor) -> PlugOutput:
        """As `PlugModel.predict`, without the uncertainty of the visible mask."""
        names = output_names(self.config)
        answers = self._run(DECODER, names, pixel_values, visible, amodal, input_boxes)
        return PlugOutput(**dict(zip(names, answers, strict=True)))

    def forward(self, pixel_values: Tensor, input_boxes: Tensor, **_: Any) -> PlugOutput:
        """As `PlugModel.forward`."""
        return self.predict(pixel_values, *self.encode(pixel_values), input_boxes)

    def _run(self, file: str, outputs: list[str], *inputs: Tensor) -> list[Tensor]:
        session = self._sessions[file]
        arrays = [np.ascontiguousarray(x.detach().float().numpy()) for x in inputs]
        feed = {slot.name: array for slot, array in zip(session.get_inputs(), arrays, strict=True)}
        return [torch.from_numpy(answer) for answer in session.run(outputs, feed)]


def is_export(folder: str | Path) -> bool:
    """Whether a folder holds an export."""
    return (Path(folder) / ENCODER).is_file()


def _extra(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(f"onnx: expected {name} to be installed (pip install 'amodal[onnx]'), got none") from error
