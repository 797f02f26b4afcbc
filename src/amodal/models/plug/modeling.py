"""PLUG: visible and amodal masks of the objects that boxes, points or visible masks prompt for (PLUG section 3).

The order is that of the paper: image encoder with parallel LoRA (3.3), prompt encoder, two mask decoders
(Eq. 5), refine module guided by uncertainty (Eq. 6-8, 11).

Axes: B images (or crops), P prompts (objects) per image, C channels, H W input pixels,
h w feature cells.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from amodal.errors import InputError
from amodal.models.bases.families import family_of, load_base
from amodal.models.bases.promptable import refuse_base
from amodal.models.bases.protocol import ImageFeatures, LoadedBase, PromptEmbeddings, Prompts, is_adapter
from amodal.models.increments import (
    Origin,
    SavedModel,
    count_parameters,
    increment_state,
    resolve_folder,
    save_model,
    upload,
)
from amodal.models.plug.configuration import PlugConfig
from amodal.models.plug.model_card import model_card, upload_with_card
from amodal.models.plug.processing import PlugProcessor
from amodal.nn.lora import ParallelLora
from amodal.nn.refine import RefineModule
from amodal.nn.uncertainty import uncertainty_map


@dataclass
class PlugOutput(ModelOutput):
    """What `PlugModel` predicts, at the full resolution of its input.

    Attributes:
        pred_masks: (B, P, H, W) final amodal logits; refined if the model has a refine module.
        coarse_amodal_logits: (B, P, H, W) from the amodal decoder.
        visible_logits: (B, P, H, W) from the visible decoder; None without visible branch.
        amodal_uncertainty: (B, P, H, W) in [0, ln 2] of the coarse amodal mask (Eq. 6).
        visible_uncertainty: (B, P, H, W) of the visible mask likewise; None without visible branch.
        iou_scores: (B, P) predicted quality of the amodal mask, about [0, 1].
        amodal_decoder_logits: (B, P, h', w') coarse amodal logits before upsampling, at the decoder's resolution.
        visible_decoder_logits: (B, P, h', w') likewise; None without visible branch.
    """

    pred_masks: Tensor | None = None
    coarse_amodal_logits: Tensor | None = None
    visible_logits: Tensor | None = None
    amodal_uncertainty: Tensor | None = None
    visible_uncertainty: Tensor | None = None
    iou_scores: Tensor | None = None
    amodal_decoder_logits: Tensor | None = None
    visible_decoder_logits: Tensor | None = None


class PlugModel(PreTrainedModel):
    """A promptable segmenter such as SAM with parallel LoRA, two mask decoders and a refine module.

    Build it from a base with `from_base`, or load a trained one with `from_pretrained`. A new
    model predicts exactly what the base does: adapters start at zero, both decoders from the base's
    decoder weights, the refine module from no correction.
    """

    config_class = PlugConfig
    base_model_prefix = "plug"
    main_input_name = "pixel_values"
    _supports_sdpa = True
    supports_gradient_checkpointing = True

    def __init__(self, config: PlugConfig) -> None:
        super().__init__(config)
        family, base = config.family, config.base_config()
        if config.prompted_encoder and not family.has_prompt_adapter:  # a recipe's configuration has no base yet
            raise InputError(f"prompted_encoder: expected False for a {family.title}, got True")
        self.vision_encoder = family.build_encoder(base, config.adapters())
        self.prompt_encoder: Any = family.build_prompt_encoder(base)
        self.amodal_decoder: Any = family.build_decoder(base)
        self.visible_decoder: Any = family.build_decoder(base) if config.visible_branch else None
        self.refine_module = (
            RefineModule(num_blocks=config.refine_blocks, channels=config.refine_channels) if config.refine else None
        )
        self.gradient_checkpointing = False
        self.post_init()
        self.set_trainable()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """All parts initialise themselves; `from_base` then loads the base."""
        if isinstance(module, ParallelLora):
            module.reset_parameters()

    def set_trainable(self) -> None:
        """Freeze the base; train adapters, prompt encoder, decoders and refine module.

        The Fourier features are fixed, as in SAM, and so are the parts of the prompt encoder that serve only
        points, and without `config.mask_prompts` also those that serve masks.
        """
        self.requires_grad_(True)
        for name, parameter in self.vision_encoder.named_parameters():
            parameter.requires_grad_(self.config.train_base or is_adapter(name))
        prompts = self.prompt_encoder
        for fixed in (*prompts.shared_embedding.parameters(), *self.config.family.point_parameters(prompts)):
            fixed.requires_grad_(False)
        prompts.mask_embed.requires_grad_(self.config.mask_prompts)
        for decoder in self.decoders():  # the quality of the visible mask is not used
            scored = self.config.iou_weight > 0 and decoder is self.amodal_decoder
            decoder.iou_prediction_head.requires_grad_(scored)
            for unused in self.config.family.token_parameters(decoder):
                unused.requires_grad_(False)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Compute activations a second time in the backward pass instead of keeping them in memory.

        Args:
            gradient_checkpointing_kwargs: keywords of `torch.utils.checkpoint.checkpoint`.
        """
        super().gradient_checkpointing_enable(gradient_checkpointing_kwargs=gradient_checkpointing_kwargs)

    def get_input_embeddings(self) -> None:
        """Return None: there are no word embeddings, which FSDP2 asks every transformers model for."""
        return None

    def decoders(self) -> list[nn.Module]:
        """Return the mask decoders of this model, visible first."""
        return [d for d in (self.visible_decoder, self.amodal_decoder) if d is not None]

    def encode(self, pixel_values: Tensor) -> tuple[ImageFeatures, ImageFeatures]:
        """Encode images for both branches in one pass over a doubled batch.

        With `config.prompted_encoder` only the fine stages run here, and `predict` runs the others.

        Args:
            pixel_values: (B, 3, H, W) normalised.

        Returns:
            Visible and amodal features E_v, E_a of B images; the same features twice if one adapter set
            serves both.
        """
        branches = self.config.family.encode(self.vision_encoder, pixel_values, self.config.num_branches)
        return branches[0], branches[-1]

    def embed_prompts(
        self,
        input_boxes: Tensor | None,
        input_points: Tensor | None,
        input_labels: Tensor | None,
        input_masks: Tensor | None,
        mask_given: Tensor | None,
        dtype: torch.dtype,
    ) -> PromptEmbeddings:
        """Embed boxes, points and masks for both decoders; see `forward` for the prompts.

        Args:
            input_boxes: (B, P, 4); this and the other prompts are those of `forward`.
            dtype: that of the image embeddings.
        """
        if input_points is not None and input_labels is None:
            input_labels = torch.ones(input_points.shape[:3], dtype=torch.long, device=input_points.device)
        _check_prompts(input_boxes, input_points, input_labels, input_masks, mask_given)
        prompts = Prompts(input_boxes, input_points, input_labels, input_masks, mask_given)
        embedded = self.config.family.embed_prompts(self.prompt_encoder, prompts)
        return PromptEmbeddings(*(x.to(dtype) for x in (embedded.sparse, embedded.dense, embedded.positions)))

    def decode(
        self, decoder: nn.Module, features: ImageFeatures, prompts: PromptEmbeddings
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode all prompts of all images in one call (Eq. 5).

        Args:
            decoder: visible or amodal decoder.
            features: of B images.
            prompts: of P objects per image.

        Returns:
            Logits (B, P, H, W) at input resolution, predicted quality (B, P), and the logits (B, P, h', w') before they
            are upsampled.
        """
        logits, quality = self.config.family.decode(decoder, features, prompts)
        size = (self.config.image_size, self.config.image_size)
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False), quality, logits

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
        """Predict visible and amodal masks of P objects per image.

        Boxes, points and masks can be combined. PLUG is trained with boxes, and with masks if
        `config.mask_prompts`; points use what SAM has learned about them.

        Args:
            pixel_values: (B, 3, H, W), H = W = `config.image_size`, normalised by the processor.
            input_boxes: (B, P, 4) xyxy boxes of the visible parts in pixels of the same input.
            input_points: (B, P, K, 2) points (x, y) in the same pixels, K per object.
            input_labels: (B, P, K) integers: 1 on the object's visible part, 0 not on it, -1 not a point, -10
                padding, as in transformers' SAM; all 1 if None. Padding stays a (zero) token, as it does there.
            input_masks: (B, P, H', W') visible masks that cover the same input at any resolution: bool, or float
                logits of an earlier prediction.
            mask_given: (B, P) bool, which objects have a mask; the masks of the others are ignored. All if None.

        Returns:
            `PlugOutput`; all maps (B, P, H, W).

        Raises:
            InputError: there is no prompt, or the prompts do not fit each other.
        """
        pixel_values = pixel_values.to(self.dtype)
        return self.predict(
            pixel_values,
            *self.encode(pixel_values),
            input_boxes,
            input_points=input_points,
            input_labels=input_labels,
            input_masks=input_masks,
            mask_given=mask_given,
        )

    def predict(
        self,
        pixel_values: Tensor,
        visible_features: ImageFeatures,
        amodal_features: ImageFeatures,
        input_boxes: Tensor | None = None,
        *,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_masks: Tensor | None = None,
        mask_given: Tensor | None = None,
    ) -> PlugOutput:
        """Run what follows the encoder: both decoders, uncertainty, refine module.

        Several calls can share one encoding. With `config.prompted_encoder` the coarse stages of the encoder run
        here, for each object.

        Args:
            pixel_values: (B, 3, H, W) in the model's precision.
            visible_features: of `encode`; `amodal_features` likewise.
            input_boxes: (B, P, 4); this and the other prompts are those of `forward`.

        Returns:
            `PlugOutput`; all maps (B, P, H, W).

        Raises:
            InputError: as in `forward`.
        """
        prompts = self.embed_prompts(
            input_boxes, input_points, input_labels, input_masks, mask_given, amodal_features.embedding.dtype
        )
        branches = self.config.family.encode_objects(self.vision_encoder, (visible_features, amodal_features), prompts)
        visible_features, amodal_features = branches[0], branches[-1]
        amodal_logits, quality, amodal_decoder_logits = self.decode(self.amodal_decoder, amodal_features, prompts)
        visible_logits, visible_decoder_logits = None, None
        if self.visible_decoder is not None:
            visible_logits, _, visible_decoder_logits = self.decode(self.visible_decoder, visible_features, prompts)
        output = PlugOutput(
            pred_masks=amodal_logits,
            coarse_amodal_logits=amodal_logits,
            visible_logits=visible_logits,
            amodal_uncertainty=self._uncertainty(amodal_logits),
            visible_uncertainty=None if visible_logits is None else self._uncertainty(visible_logits),
            iou_scores=quality,
            amodal_decoder_logits=amodal_decoder_logits,
            visible_decoder_logits=visible_decoder_logits,
        )
        if self.refine_module is not None:
            output.pred_masks = amodal_logits + self._refine(self.refine_module, pixel_values, output)
        return output

    def _refine(self, module: RefineModule, image: Tensor, output: PlugOutput) -> Tensor:
        """Predict the correction of the coarse amodal logits (Eq. 11)."""
        assert output.visible_logits is not None and output.coarse_amodal_logits is not None
        assert output.visible_uncertainty is not None and output.amodal_uncertainty is not None
        B, P, H, W = output.visible_logits.shape
        maps = (
            output.visible_logits.sigmoid(),
            output.coarse_amodal_logits.sigmoid(),
            output.visible_uncertainty,
            output.amodal_uncertainty,
        )
        flat = [x.reshape(B * P, 1, H, W).to(image.dtype) for x in maps]
        correction = self._recomputed(module, image.repeat_interleave(P, dim=0), *flat)
        return correction.reshape(B, P, H, W)

    def _recomputed(self, function: Callable[..., Tensor], *inputs: Any) -> Tensor:
        """Call a function; with gradient checkpointing the backward pass computes it a second time.

        The encoder's layers do this themselves, as transformers' layers do.
        """
        if not (self.gradient_checkpointing and self.training):
            return function(*inputs)
        return checkpoint(function, *inputs, use_reentrant=False)

    def _uncertainty(self, logits: Tensor) -> Tensor:
        return uncertainty_map(logits.float().sigmoid(), self.config.epsilon)

    def is_base_tensor(self, name: str) -> bool:
        """Whether a tensor comes with the frozen base: the encoder without adapters, and the Fourier features."""
        if name == "prompt_encoder.shared_embedding.positional_embedding":
            return True
        return name.startswith("vision_encoder.") and not is_adapter(name) and not self.config.train_base

    @classmethod
    def from_base(
        cls,
        base: str | Path | PreTrainedConfig | LoadedBase,
        config: PlugConfig | None = None,
        *,
        revision: str | None = None,
    ) -> PlugModel:
        """Make a new, untrained PLUG whose encoder, prompt encoder and decoders start from a base (Eq. 5).

        Args:
            base: bundled name, hub id or folder of a transformers model of any family, a checkpoint file, a
                transformers configuration for random weights, or a base in memory.
            config: settings; its `sam` and `base` are filled in from the base.
            revision: commit of the hub repository.

        Raises:
            InputError: the base cannot be found or read.
        """
        loaded = load_base(base, revision)
        family = family_of(loaded.model.config)
        settings = (config or PlugConfig()).to_dict()
        settings |= {"sam": family.sizes(loaded.model.config), "base": loaded.origin.record()}
        model = cls(PlugConfig.from_dict(settings))
        family.load_encoder(model.vision_encoder, loaded.model)
        family.load_prompt_encoder(model.prompt_encoder, loaded.model)
        for decoder in model.decoders():
            family.load_decoder(decoder, loaded.model)
        return model.eval()

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        merged: bool = False,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        max_shard_size: int | str | None = None,
    ) -> None:
        """Write the increment: the trained tensors and the name of the base they belong to.

        Args:
            save_directory: folder to create or fill.
            merged: write base and increment together, so that the model loads without the base.
            push_to_hub: upload the folder as well.
            repo_id: hub repository to upload to; named as the folder if None.
            max_shard_size: passed by transformers' `push_to_hub`; has no effect, weights are one file.
        """
        folder = Path(save_directory)
        tensors = self.state_dict() if merged else increment_state(self)
        save_model(folder, tensors, self.config, PlugProcessor.from_config(self.config), is_whole=merged)
        if push_to_hub:
            upload(folder, repo_id)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        merged: bool = False,
        private: bool | None = None,
        token: bool | str | None = None,
        commit_message: str | None = None,
        **card: Any,
    ) -> str:
        """Upload the model with a model card; a card that the repository has already is kept.

        Args:
            repo_id: hub repository, created if needed.
            merged: as for `save_pretrained`.
            private: whether a new repository is private; the default of its owner if None.
            token: access token; the stored one if None.
            commit_message: subject of the commit.
            card: `license`, `datasets` and `results` for the card, see `amodal.models.plug.model_card.model_card`.

        Returns:
            Address of the commit.
        """
        trained = parameter_counts(self.config)["incremental"]
        text = model_card(self.config, repo_id, num_trained=trained, is_whole=merged, **card)
        with tempfile.TemporaryDirectory() as name:
            self.save_pretrained(name, merged=merged)
            return upload_with_card(Path(name), text, repo_id, private=private, token=token, message=commit_message)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        base: str | Path | None = None,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> PlugModel:
        """Load an increment or a merged model.

        Args:
            pretrained_model_name_or_path: bundled name, folder or hub id.
            base: another place of the same base (folder, checkpoint file); its weights must have the
                fingerprint that the increment was trained on.
            revision: commit of the hub repository.
            dtype: of the weights; float32 if None.

        Raises:
            InputError: there is no such model, it is a base, tensors are missing or foreign, or the base is another
                one.
        """
        refuse_base(pretrained_model_name_or_path)
        folder = resolve_folder(pretrained_model_name_or_path, revision)
        refuse_base(folder)  # of a hub id that was not known
        saved = SavedModel.find(folder, PlugConfig)
        if saved.is_whole:
            model = cls(saved.config)
        else:
            origin = Origin.from_record(saved.config.base)
            loaded = load_base(*origin.location(base, "base"))
            origin.check(loaded.origin, "base")
            model = cls.from_base(loaded, saved.config)
        saved.load_into(model)
        return (model if dtype is None else model.to(dtype)).eval()


def _check_prompts(
    boxes: Tensor | None, points: Tensor | None, labels: Tensor | None, masks: Tensor | None, mask_given: Tensor | None
) -> None:
    """Raise `InputError` if no prompt is given, or if prompts do not describe the same (B, P) objects."""
    if masks is not None and not (masks.dim() == 4 and (masks.dtype == torch.bool or masks.is_floating_point())):
        kind = f"{str(masks.dtype).removeprefix('torch.')} of shape {tuple(masks.shape)}"
        raise InputError(f"input_masks: expected bool or float logits of shape (B, P, H, W), got {kind}")
    prompts = {"input_boxes": boxes, "input_points": points, "input_masks": masks}
    given = {name: tensor for name, tensor in prompts.items() if tensor is not None}
    if not given:
        raise InputError("prompts: expected input_boxes, input_points or input_masks, got none")
    first, *others = given
    for name in others:
        if given[name].shape[:2] != given[first].shape[:2]:
            expected, got = tuple(given[first].shape[:2]), tuple(given[name].shape[:2])
            raise InputError(f"{name}: expected (B, P) = {expected} as in {first}, got {got}")
    for name, tensor, reference, axes in (("input_labels", labels, points, 3), ("mask_given", mask_given, masks, 2)):
        if tensor is None:
            continue
        if reference is None:
            raise InputError(f"{name}: expected together with input_{'points' if axes == 3 else 'masks'}, got it alone")
        if tensor.shape != reference.shape[:axes]:
            raise InputError(f"{name}: expected shape {tuple(reference.shape[:axes])}, got {tuple(tensor.shape)}")


def parameter_counts(config: PlugConfig) -> dict[str, int]:
    """Count parameters by part, on the meta device.

    Returns:
        `lora` (all adapters of the encoder), `prompt_encoder`, `mask_decoders`, `refine`; `base` (the encoder without
        adapters); `total`, the sum of these; `incremental`, the number that an increment stores: all but the base, or
        all of it if the base is trained along; `trainable`, those that training changes.
    """
    with torch.device("meta"):
        model = PlugModel(config)
    encoder = dict(model.vision_encoder.named_parameters())
    lora = sum(p.numel() for name, p in encoder.items() if is_adapter(name))
    base = sum(p.numel() for p in encoder.values()) - lora
    features = count_parameters(model.prompt_encoder.shared_embedding)
    counts = {
        "lora": lora,
        "prompt_encoder": count_parameters(model.prompt_encoder) - features,
        "mask_decoders": sum(count_parameters(decoder) for decoder in model.decoders()),
        "refine": count_parameters(model.refine_module),
    }
    trained = sum(counts.values())
    incremental = trained + (base if config.train_base else 0)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return counts | {"incremental": incremental, "base": base, "total": trained + base, "trainable": trainable}
