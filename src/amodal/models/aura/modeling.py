"""AURA: a question about an image, answered in words with a visible and an amodal mask per object.

Reads as the paper's section 3.2: the multi-modal LLM here, and what makes masks of its `[SEG]` states in
`segmentation.py`.

Two square frames meet here. `_sam` marks the vision backbone's input, `S_sam` pixels wide: the image at the top left,
padding below and to the right. `_mllm` marks the LLM's input, `S_mllm` pixels wide: the image in the middle.

Axes: B conversations (one image each), T tokens, K positions whose logits are kept, N `[SEG]`s of the whole batch,
D width of the LLM, C channels, h w feature cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from amodal.errors import InputError
from amodal.models.aura.configuration import AuraConfig
from amodal.models.aura.heads import AuraOutput, labelled_columns, seg_states
from amodal.models.aura.mllm import (
    LoadedMllm,
    add_adapters,
    add_seg_token,
    is_adapter,
    is_replaced_row,
    load_mllm,
    merged_state,
    plain_settings,
)
from amodal.models.aura.pointing import Pointed, phrase_means
from amodal.models.aura.processing import AuraProcessor
from amodal.models.aura.prompts import seg_token_id
from amodal.models.aura.regions import Regions
from amodal.models.aura.segmentation import AuraSegmenter
from amodal.models.aura.trunk_mllm import (
    TowerOutput,
    build_configured_mllm,
    is_joint,
    is_occlusion_order,
    load_finder,
    load_recorded_mllm,
)
from amodal.models.bases.families import family_of, load_base
from amodal.models.bases.protocol import ImageFeatures, LoadedBase
from amodal.models.increments import Origin, SavedModel, count_parameters, increment_state, save_model, upload

_TOWERS = ("model.vision_tower.", "model.visual.")  # of LLaVA's and Qwen's classes


class AuraModel(AuraSegmenter):
    """Multi-modal LLM, and what makes masks of its `[SEG]` states.

    Build it from bases with `from_base`, or load a trained one with `from_pretrained`.

    Args:
        config: settings.
        mllm: the LLM, if it is in memory already; built from the configuration otherwise.

    Attributes:
        processor: prepares the inputs; None for a model made from a configuration alone.
    """

    config_class = AuraConfig
    base_model_prefix = "aura"
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, config: AuraConfig, mllm: PreTrainedModel | None = None) -> None:
        llm: Any = build_configured_mllm(config) if mllm is None else mllm
        add_adapters(llm, config)
        width = llm.config.get_text_config().hidden_size
        super().__init__(config, width)
        self.mllm = llm
        self.processor: AuraProcessor | None = None
        self.set_trainable()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """All parts initialise themselves; `from_base` then loads the bases."""

    def set_trainable(self) -> None:
        """Freeze both bases; train adapters, token rows, prompt encoder, decoders and occlusion encoders."""
        config = self.config
        self.requires_grad_(True)
        self.vision_encoder.requires_grad_(config.train_vision)
        for part in self.prompt_encoder.fixed_parts():
            part.requires_grad_(False)
        for name, parameter in self.mllm.named_parameters():
            whole = config.train_mllm or self._joins_trunk(name)
            is_fixed = (name.startswith(_TOWERS) or self._joins_trunk(name)) and not config.train_tower
            is_order = config.order_only and is_occlusion_order(name)
            learns = (whole and not is_fixed) or is_order or is_adapter(name)
            parameter.requires_grad_(config.train_language and learns)
        for decoder in self.decoders():  # the quality of the visible mask is not used
            scored = config.iou_weight > 0 and decoder is self.amodal_decoder
            decoder.iou_prediction_head.requires_grad_(scored)

    def _joins_trunk(self, name: str) -> bool:
        """Whether a tensor of the LLM belongs to its trunk or joins the two."""
        return self.config.reads_words and is_joint(name)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Let the LLM compute activations a second time in the backward pass instead of keeping them in memory.

        Args:
            gradient_checkpointing_kwargs: keywords of `torch.utils.checkpoint.checkpoint`.
        """
        self.mllm.gradient_checkpointing_enable(gradient_checkpointing_kwargs=gradient_checkpointing_kwargs)

    def get_input_embeddings(self) -> None:
        """Return None: FSDP2 asks for word embeddings to shard them alone; these are used in several places."""
        return None

    @torch.no_grad()
    def phrases(self, tokens: Tensor) -> Tensor | None:
        """What the words for each object mean: the probability (N, K) of each word that a region can have.

        None for an LLM that does not read words; zeros for an object without words. No gradient flows into the words,
        whose dense matrix would need one.

        Args:
            tokens: (B, T) with N `[SEG]`s; negative where there is no token.
        """
        config = self.config
        if not config.reads_words:
            return None
        assert config.seg_token_id is not None
        embeddings = self.mllm.get_input_embeddings()(tokens.clamp(min=0))
        means = phrase_means(embeddings, tokens, config.seg_token_id, config.new_token_ids)
        return self.mllm.model.multi_modal_projector.meaning(means)

    def point(
        self,
        states: Tensor,
        image_index: Tensor,
        mllm_to_sam: Tensor | None = None,
        *,
        regions: Regions | None = None,
        phrases: Tensor | None = None,
    ) -> Pointed | None:
        """Where each `[SEG]` is; None for an LLM that does not read words.

        Args:
            states: (N, D) of the `[SEG]`s.
            image_index: (N,) index of each `[SEG]`'s image.
            mllm_to_sam: (B, 4) of `AuraProcessor.mllm_to_sam`.
            regions: of the images.
            phrases: (N, K) of `phrases`.
        """
        reader = self.box_reader
        if reader is None:
            return None
        assert regions is not None and phrases is not None
        names = self.mllm.model.multi_modal_projector.names
        pointed: Pointed = reader(states, regions, names, image_index, phrases, mllm_to_sam)
        return pointed

    def forward(
        self,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        pixel_values_sam: Tensor | None = None,
        image_embeddings: Tensor | None = None,
        chosen: Tensor | None = None,
        box_hints_xyxy_sam: Tensor | None = None,
        mllm_to_sam: Tensor | None = None,
        image_index: Tensor | None = None,
        proposals_xyxy_mllm: Tensor | None = None,
        ranks: Tensor | None = None,
        **mllm_inputs: Any,
    ) -> AuraOutput:
        """Read whole conversations with the true answers in them (teacher forcing).

        Args:
            input_ids: (B, T) conversations, padded at the end; None reads no words, and learns regions or the masks of
                objects in boxes.
            labels: (B, T) the same tokens where an answer stands, `IGNORE_INDEX` elsewhere.
            pixel_values_sam: (B, 3, S_sam, S_sam) for the vision backbone; None with `image_embeddings`.
            image_embeddings: (B, C, h, w) features of the backbone, if they are known; its decoder reads no finer maps.
            chosen: (number of `[SEG]`s,) bool, those whose masks are decoded, in reading order; all if None.
            box_hints_xyxy_sam: (number of the chosen, 4) boxes that the decoders get instead of the
                predicted ones, NaN where there is none; in training.
            mllm_to_sam: (B, 4) of `AuraProcessor.mllm_to_sam`.
            image_index: (N,) image of each object, for objects in boxes.
            proposals_xyxy_mllm: (B, P, 4) and `ranks` (B, Q) of `TrunkTower.learn`, in a training of regions.
            ranks: see there.
            mllm_inputs: what the LLM's processor made of image and text (attention mask, pixels).

        Returns:
            `AuraOutput`.
        """
        if input_ids is None and proposals_xyxy_mllm is not None:
            tower = self.mllm.model.vision_tower
            return AuraOutput(regions=tower.learn(mllm_inputs["pixel_values"], proposals_xyxy_mllm, ranks))
        if input_ids is None:
            assert pixel_values_sam is not None and image_index is not None and box_hints_xyxy_sam is not None
            return AuraOutput(masks=self.decode_boxes(pixel_values_sam, image_index, box_hints_xyxy_sam))
        assert labels is not None
        if image_embeddings is None:
            assert pixel_values_sam is not None
            features = self.encode_image(pixel_values_sam)
        else:
            features = ImageFeatures(image_embeddings)
        columns = labelled_columns(labels)
        with self.recorded_states() as recorded, self.recorded_regions() as seen:
            # each position predicts the token after it
            read = self.mllm(input_ids=input_ids, logits_to_keep=columns - 1, use_cache=False, **mllm_inputs)
        targets = labels[:, columns]
        states, rows = seg_states(recorded[0], targets, self.config.seg_token_id)
        output = AuraOutput(logits=read.logits, targets=targets)
        regions = seen[0] if seen else None
        pointed = self.point(states, rows, mllm_to_sam, regions=regions, phrases=self.phrases(labels))
        if pointed is not None:
            output.point(pointed)
        output.masks = self.decode_chosen(states, features, rows, pointed, chosen, box_hints_xyxy_sam)
        return output

    @contextmanager
    def recorded_regions(self) -> Iterator[list[Regions]]:
        """Collect the regions that the tower of an LLM that reads words sees, one entry per call."""
        recorded: list[Regions] = []
        if not self.config.reads_words:
            yield recorded
            return

        def record(_: nn.Module, inputs: Any, output: TowerOutput) -> None:
            assert output.regions is not None
            recorded.append(output.regions)

        handle = self.mllm.model.vision_tower.register_forward_hook(record)
        try:
            yield recorded
        finally:
            handle.remove()

    @contextmanager
    def recorded_states(self) -> Iterator[list[Tensor]]:
        """Collect the LLM's last hidden states as its output layer gets them, one tensor per call.

        Training and generation both take their `[SEG]` states from here.
        """
        recorded: list[Tensor] = []
        layer = self.mllm.get_output_embeddings()
        handle = layer.register_forward_pre_hook(lambda _, inputs: recorded.append(inputs[0]))
        try:
            yield recorded
        finally:
            handle.remove()

    def is_base_tensor(self, name: str) -> bool:
        """Whether a tensor comes with one of the frozen bases."""
        if name == "prompt_encoder.positions.positional_embedding" or is_replaced_row(name):
            return True
        if self.config.reads_words and name.startswith("mllm.model.vision_tower.finder."):
            return True
        if name.startswith("vision_encoder."):
            return not self.config.train_vision
        is_trained = self.config.train_mllm or is_adapter(name) or self._joins_trunk(name.removeprefix("mllm."))
        return name.startswith("mllm.") and not is_trained

    @classmethod
    def from_base(
        cls,
        mllm: LoadedMllm | str | Path,
        sam: str | Path | PreTrainedConfig | LoadedBase,
        config: AuraConfig | None = None,
        *,
        revision: str | None = None,
        mllm_revision: str | None = None,
        mllm_dtype: torch.dtype | None = None,
    ) -> AuraModel:
        """Make a new, untrained AURA: the LLM with `[SEG]` and adapters, backbone and decoders from the base.

        Args:
            mllm: hub id or folder of an image-text model of transformers, or one in memory.
            sam: bundled name, hub id or folder of a SAM or another base of any family, a checkpoint file, a
                transformers configuration for random weights, or a base in memory.
            config: settings; the fields that depend on the bases are filled in.
            revision: commit of that base's hub repository.
            mllm_revision: commit of the LLM's hub repository.
            mllm_dtype: of the LLM's frozen weights; their own if None.

        Returns:
            The model; its `processor` has the new token.

        Raises:
            InputError: a base cannot be found or read, or the new token is not one token.
        """
        base = load_base(sam, revision)
        llm = mllm if isinstance(mllm, LoadedMllm) else load_mllm(mllm, mllm_revision, mllm_dtype)
        settings = (config or AuraConfig()).to_dict()
        number = add_seg_token(llm.model, llm.processor, settings["seg_token"])  # before the LLM's sizes are read
        settings |= {
            "seg_token_id": number,
            "new_token_ids": list(llm.new_tokens),
            "mllm": plain_settings(llm.model.config),
            "mllm_base": llm.origin.record(),
            "sam": family_of(base.model.config).sizes(base.model.config),
            "base": base.origin.record(),
        }
        model = cls(AuraConfig.from_dict(settings), mllm=llm.model)
        model.load_base(base)
        model.processor = AuraProcessor.from_config(model.config, llm.processor)
        return model.eval()

    def load_base(self, base: LoadedBase) -> None:
        """Copy the encoder, the decoders and a part of the prompt encoder from a base of the configured family.

        Of a base for an LLM that reads words, also the detector.

        Raises:
            InputError: such a base has no detector, or another one than the configuration says.
        """
        family = self.config.family
        family.load_encoder(self.vision_encoder, base.model)
        prompts = family.build_prompt_encoder(self.config.base_config())
        family.load_prompt_encoder(prompts, base.model)
        self.prompt_encoder.load_base(prompts)
        for decoder in self.decoders():
            family.load_decoder(decoder, base.model)
        if self.config.reads_words:
            load_finder(self.mllm.model.vision_tower, base)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        merged: bool = False,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        max_shard_size: int | str | None = None,
    ) -> None:
        """Write the increment: the trained tensors, the processor, and the names of both bases.

        Args:
            save_directory: folder to create or fill.
            merged: write bases and increment together, with the adapters folded into the LLM.
            push_to_hub: upload the folder as well.
            repo_id: hub repository to upload to; named as the folder if None.
            max_shard_size: passed by transformers' `push_to_hub`; has no effect, weights are one file.
        """
        folder, config, tensors = Path(save_directory), self.config, increment_state(self)
        if merged:
            config = AuraConfig.from_dict(config.to_dict() | {"train_mllm": True, "lora_rank": 0})
            tensors = {k: v for k, v in self.state_dict().items() if not k.startswith("mllm.")}
            tensors |= {f"mllm.{name}": tensor for name, tensor in merged_state(self.mllm).items()}
        save_model(folder, tensors, config, self.processor, is_whole=merged)
        if push_to_hub:
            upload(folder, repo_id)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        mllm: str | Path | None = None,
        base: str | Path | None = None,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        mllm_dtype: torch.dtype | None = None,
    ) -> AuraModel:
        """Load an increment or a merged model.

        Args:
            pretrained_model_name_or_path: bundled name, folder or hub id.
            mllm: another place of the same LLM; its weights must have the fingerprint that the
                increment was trained on.
            base: another place of the same vision backbone, likewise.
            revision: commit of the hub repository.
            dtype: of all weights; as stored if None.
            mllm_dtype: of the frozen LLM; `dtype` if None.

        Raises:
            InputError: there is no such model, tensors are missing or foreign, a base is another one,
                or the processor lacks the `[SEG]` token.
        """
        saved = SavedModel.find(pretrained_model_name_or_path, AuraConfig, revision)
        config = saved.config
        processor = AuraProcessor.from_pretrained(saved.folder)
        number = seg_token_id(processor.tokenizer, config.seg_token)
        if number != config.seg_token_id:
            raise InputError(
                f"model {saved.folder}: expected {config.seg_token!r} as token {config.seg_token_id}, got {number}"
            )
        if saved.is_whole:
            model = cls(config)
        else:
            llm = None if config.train_mllm else load_recorded_mllm(config, mllm, mllm_dtype or dtype)
            model = cls(config, mllm=llm)
            origin = Origin.from_record(config.base)
            loaded = load_base(*origin.location(base, "base"))
            origin.check(loaded.origin, "base")
            model.load_base(loaded)
        saved.load_into(model)
        model.processor = processor
        return (model if dtype is None else model.to(dtype)).eval()


def parameter_counts(config: AuraConfig) -> dict[str, int]:
    """Count parameters by part, on the meta device.

    Returns:
        `mllm` (without adapters), `vision_encoder`, `lora`, `token_rows`, `prompt_encoder`,
        `mask_decoders`, `condition_encoder`, `spatial_encoder`; `total`, the sum of these; `incremental`, the number
        that an increment stores; `trainable`, those that training changes.
    """
    if config.seg_token_id is None:  # a recipe, whose tokenizer has not been seen: the next free row
        vocabulary = config.mllm_config().get_text_config().vocab_size
        config = AuraConfig.from_dict(config.to_dict() | {"seg_token_id": vocabulary - 1})
    with torch.device("meta"):
        model = AuraModel(config)
    llm = list(model.mllm.named_parameters())
    lora = sum(p.numel() for name, p in llm if ".lora_" in name)
    adapters = sum(p.numel() for name, p in llm if is_adapter(name))
    counts = {
        "mllm": sum(p.numel() for _, p in llm) - adapters,
        "vision_encoder": count_parameters(model.vision_encoder),
        "lora": lora,
        "token_rows": adapters - lora,
        "prompt_encoder": count_parameters(model.prompt_encoder),
        "mask_decoders": sum(count_parameters(decoder) for decoder in model.decoders()),
        "condition_encoder": count_parameters(model.condition_encoder),
        "spatial_encoder": count_parameters(model.spatial_encoder),
    }
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    incremental = sum(p.numel() for name, p in model.named_parameters() if not model.is_base_tensor(name))
    return counts | {"total": sum(counts.values()), "incremental": incremental, "trainable": trainable}
