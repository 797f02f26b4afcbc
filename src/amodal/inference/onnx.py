"""PLUG in ONNX: export to an encoder file and a decoder file, and a model that runs them.

The encoder is a separate file, so that one encoding can be used for many boxes (image mode). For a model with a
prompted encoder, such as `plug-small`, it holds the fine stages of the image encoder only, and the decoder file holds
the others.

Axes: B images (or crops), P boxes per image, S side of the input, (C, h, w) shape of an embedding.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from amodal.errors import InputError
from amodal.io.files import atomic_path, content_digest, one_writer, require_folder
from amodal.io.json_stream import read_json
from amodal.models.bases.protocol import ImageFeatures
from amodal.models.increments import read_config
from amodal.models.plug import PlugConfig, PlugModel, PlugOutput

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"
MANIFEST = "manifest.json"
"""File of an export with the fingerprints of its other files, so that files of two exports are not mixed."""

OUTPUTS = ("pred_masks", "coarse_amodal_logits", "visible_logits", "amodal_uncertainty", "iou_scores")
TOLERANCE = 3e-4  # relative to the largest output; of a small SAM, float32 in PyTorch differs by 1.1e-4 from float64


class OnnxExport(NamedTuple):
    """An export and its difference from PyTorch on random inputs.

    Attributes:
        folder: folder with `encoder.onnx`, `decoder.onnx`, `config.json` and `manifest.json`.
        encoder_difference: largest difference of an embedding value, relative to the largest value if that is above 1.
        decoder_difference: the same for logits, uncertainties and scores.
    """

    folder: Path
    encoder_difference: float
    decoder_difference: float


class _Encoder(nn.Module):
    def __init__(self, model: PlugModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        return tuple(x for features in self.model.encode(pixel_values) for x in _maps(features))


class _Decoder(nn.Module):
    """Repeats each image per box: the exporter loses the repetition in transformers' decoder for dynamic axes."""

    def __init__(self, model: PlugModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, pixel_values: Tensor, visible: tuple[Tensor, ...], amodal: tuple[Tensor, ...], boxes: Tensor
    ) -> tuple[Tensor, ...]:
        B, P = boxes.shape[:2]
        pixel_values, *maps = (
            x[:, None].expand(-1, P, -1, -1, -1).flatten(0, 1) for x in (pixel_values, *visible, *amodal)
        )
        output = self.model.predict(pixel_values, *_both_branches(maps), boxes.flatten(0, 1)[:, None])
        return tuple(output[name].flatten(0, 1).unflatten(0, (B, P)) for name in output_names(self.model.config))


def _maps(features: ImageFeatures) -> tuple[Tensor, ...]:
    """The embedding, and the maps of high resolution after it."""
    return (features.embedding, *features.high_resolution)


def _both_branches(maps: Sequence[Tensor]) -> tuple[ImageFeatures, ImageFeatures]:
    """The features of the visible branch from the first half of `maps`, those of the amodal branch from the second."""
    half = len(maps) // 2
    visible, amodal = (ImageFeatures(part[0], tuple(part[1:])) for part in (maps[:half], maps[half:]))
    return visible, amodal


def feature_names(num_maps: int) -> list[str]:
    """Names of the features between encoder and decoder, `num_maps` per branch, visible first."""
    extra = [f"_{index}" for index in range(1, num_maps)]
    return [f"{branch}_embeddings{number}" for branch in ("visible", "amodal") for number in ("", *extra)]


def output_names(config: PlugConfig) -> list[str]:
    """Names of the decoder's outputs; a model without visible branch has no visible logits."""
    return [name for name in OUTPUTS if config.visible_branch or name != "visible_logits"]


def export_onnx(model: PlugModel, folder: Path) -> OnnxExport:
    """Write a model as ONNX files, after checking that they give the same outputs as PyTorch.

    Batch size and number of boxes are dynamic; the input size is that of the model.

    Args:
        model: model to export; it is converted to float32 on the CPU.
        folder: new folder, or one with an earlier export, which is replaced.

    Returns:
        The folder and the largest differences from PyTorch.

    Raises:
        InputError: the `onnx` extra is not installed, `folder` is a file, or the outputs differ too much.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _extra(name)
    require_folder(folder)
    model = model.float().cpu().eval()
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        temporary = Path(name)
        _write(model, temporary)
        exported = _compare(model, temporary, folder)
        files = sorted(temporary.iterdir())
        manifest = temporary / MANIFEST
        manifest.write_text(json.dumps({file.name: content_digest(file) for file in files}, indent=1))
        with one_writer(folder), ExitStack() as copies:  # all files are written before the first one is renamed
            for file in [*files, manifest]:
                shutil.copyfile(file, copies.enter_context(atomic_path(folder / file.name)))
    return exported


def _write(model: PlugModel, folder: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(
        logging.ERROR
    )  # it warns about operators of torchvision, which is not used
    dynamic = torch.export.Dim.DYNAMIC
    pixels, boxes = _example(model.config, images=3, prompts=2)
    visible, amodal = (_maps(features) for features in model.encode(pixels))
    names, axes = feature_names(len(visible)), {0: dynamic}
    map_axes = (axes,) * len(visible)
    calls = {
        ENCODER: (_Encoder(model), (pixels,), (axes,), ["pixel_values"], names),
        DECODER: (
            _Decoder(model),
            (pixels, visible, amodal, boxes),
            (axes, map_axes, map_axes, {0: dynamic, 1: dynamic}),
            ["pixel_values", *names, "input_boxes"],
            output_names(model.config),
        ),
    }
    for file, (module, inputs, shapes, input_names, outputs) in calls.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecation warnings inside the exporter
            torch.onnx.export(
                module.eval(), inputs, folder / file, input_names=input_names, output_names=outputs,
                dynamic_shapes=shapes, dynamo=True, external_data=False, verbose=False, optimize=True,
            )  # fmt: skip
    model.config.save_pretrained(folder)


def _compare(model: PlugModel, written: Path, folder: Path) -> OnnxExport:
    """Compare the outputs for other numbers of images and boxes than those of the export."""
    ours, differences = OnnxPlug(written, checked=False), [0.0, 0.0]
    for images, prompts in ((1, 1), (1, 5), (2, 3)):
        pixels, boxes = _example(model.config, images=images, prompts=prompts)
        features = model.encode(pixels)
        expected = model.predict(pixels, *features, boxes)
        got = ours.predict(pixels, *features, boxes)
        found = ours.encode(pixels)
        pairs = [pair for both in zip(found, features, strict=True) for pair in zip(*map(_maps, both), strict=True)]
        differences[0] = max(differences[0], *(_distance(a, b) for a, b in pairs))
        names = output_names(model.config)
        differences[1] = max(differences[1], *(_distance(got[name], expected[name]) for name in names))
    if not max(differences) < TOLERANCE:
        raise InputError(
            f"onnx: expected outputs within {TOLERANCE} of PyTorch's, got a difference of {max(differences):.2g}"
        )
    return OnnxExport(folder, *differences)


def _distance(got: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected value if that is above 1."""
    return float((got - expected).abs().max() / expected.abs().max().clamp_min(1))


def _example(config: PlugConfig, *, images: int, prompts: int) -> tuple[Tensor, Tensor]:
    size, generator = config.image_size, torch.Generator().manual_seed(0)
    corners = torch.rand(images, prompts, 2, 2, generator=generator).sort(dim=2).values
    pixels = torch.randn(images, 3, size, size, generator=generator)
    return pixels, (corners * (size - 2) + 1).flatten(2)


class OnnxPlug(nn.Module):
    """An exported PLUG model with the interface of `PlugModel`, run by onnxruntime on the CPU.

    Args:
        folder: folder from `export_onnx`.
        threads: number of threads of onnxruntime; that of PyTorch if None.
        checked: whether the files must be those of the manifest.

    Raises:
        InputError: the `onnx` extra is not installed, or the folder is not a readable export, or its files are not
            those of one export.
    """

    dtype = torch.float32

    def __init__(self, folder: str | Path, threads: int | None = None, *, checked: bool = True) -> None:
        super().__init__()
        if checked:
            _check_manifest(Path(folder))
        self.config = read_config(Path(folder), PlugConfig)
        self.config.mask_prompts = False  # the exported decoder takes boxes only
        runtime = _extra("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3
        self._sessions = {}
        for name in (ENCODER, DECODER):
            file = Path(folder) / name
            try:
                self._sessions[name] = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # onnxruntime raises many types here
                raise InputError(f"model {folder}: expected a readable {name}, got {error!r:.120}") from error

    def encode(self, pixel_values: Tensor) -> tuple[ImageFeatures, ImageFeatures]:
        """See `PlugModel.encode`."""
        names = [output.name for output in self._sessions[ENCODER].get_outputs()]
        return _both_branches(self._run(ENCODER, names, pixel_values))

    def predict(
        self,
        pixel_values: Tensor,
        visible: ImageFeatures,
        amodal: ImageFeatures,
        input_boxes: Tensor | None = None,
        *,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_masks: Tensor | None = None,
        mask_given: Tensor | None = None,
    ) -> PlugOutput:
        """See `PlugModel.predict`; the uncertainty of the visible mask is not computed.

        Raises:
            InputError: the prompts are not boxes alone.
        """
        prompts = {"boxes": input_boxes, "points": input_points, "point labels": input_labels}
        prompts |= {"masks": input_masks, "mask_given": mask_given}
        given = [kind for kind, tensor in prompts.items() if tensor is not None]
        if input_boxes is None or len(given) > 1:
            raise InputError(f"prompts: expected boxes alone for an ONNX model, got {' and '.join(given) or 'none'}")
        names = output_names(self.config)
        outputs = self._run(DECODER, names, pixel_values, *_maps(visible), *_maps(amodal), input_boxes)
        return PlugOutput(**dict(zip(names, outputs, strict=True)))

    def forward(
        self,
        pixel_values: Tensor,
        input_boxes: Tensor | None = None,
        *,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_masks: Tensor | None = None,
        mask_given: Tensor | None = None,
    ) -> PlugOutput:
        """See `PlugModel.forward` and `predict`."""
        return self.predict(
            pixel_values,
            *self.encode(pixel_values),
            input_boxes,
            input_points=input_points,
            input_labels=input_labels,
            input_masks=input_masks,
            mask_given=mask_given,
        )

    def _run(self, file: str, outputs: list[str], *inputs: Tensor) -> list[Tensor]:
        session = self._sessions[file]
        arrays = [np.ascontiguousarray(x.detach().float().numpy()) for x in inputs]
        feed = {slot.name: array for slot, array in zip(session.get_inputs(), arrays, strict=True)}
        return [torch.from_numpy(array) for array in session.run(outputs, feed)]


def is_export(folder: str | Path) -> bool:
    """Whether a folder contains an ONNX export."""
    return (Path(folder) / ENCODER).is_file()


def _check_manifest(folder: Path) -> None:
    """Ensure that the files of an export belong together.

    Raises:
        InputError: they do not, or the manifest is missing or cannot be read.
    """
    try:
        stated = read_json(folder / MANIFEST, "model")
        other = [name for name in (ENCODER, DECODER, "config.json") if stated[name] != content_digest(folder / name)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"model {folder}: expected a whole export with {MANIFEST}, got {error!r:.120}") from error
    if other:
        raise InputError(
            f"model {folder}: expected the files of one export, got another {' and '.join(other)} than {MANIFEST} "
            "states; export the model again"
        )


def _extra(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(f"onnx: expected {name} to be installed (pip install 'amodal[onnx]'), got none") from error
