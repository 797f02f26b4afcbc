"""Configuration of AURA: every choice of the paper, with the paper's value as default if it states one."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig, SamConfig

from amodal.errors import InputError, check_settings
from amodal.models.bases.families import family_of
from amodal.models.bases.protocol import BaseFamily
from amodal.models.increments import Origin

TRUNK_TOWER = "amodal_trunk_tower"
"""`model_type` of the vision tower whose LLM reads words."""

_WORD_WEIGHTS = ("text_weight", "decision_weight")
_WEIGHTS = (
    *_WORD_WEIGHTS, "bce_weight", "dice_weight", "rate_weight", "map_weight", "iou_weight", "naming_weight",
    "box_weight",
)  # fmt: skip


class AuraConfig(PreTrainedConfig):
    """Settings of an `AuraModel`.

    The rows of AURA's table 2 are `condition_encoder` and `spatial_encoder` on and off; those of
    table 3 have `lora_rank=0`, those of tables 4 and 5 another `mllm` or `sam`. The paper only says
    that the LLM is "equipped with LoRA"; rank, alpha, dropout and targets are those of LISA, which
    its baselines build on.

    Args:
        mllm: configuration of the multi-modal LLM, any image-text model of transformers.
        mllm_base: where its weights came from: `name_or_path`, `revision`, `fingerprint`.
        sam: configuration of the vision backbone, a base of any family (transformers' configuration or its
            dictionary); one without `model_type` is a SAM's.
        base: where the backbone came from, likewise.
        image_size: side of the backbone's square input in pixels.
        seg_token: text of the token that stands for a mask; must be one token of the tokenizer.
        seg_token_id: id of this token, filled in by `AuraModel.from_base`.
        new_token_ids: ids of further tokens whose rows are trained (`LoadedMllm.new_tokens`), filled in likewise.
        lora_rank: rank of the adapters in the LLM; 0 for none.
        lora_alpha: LoRA scale numerator.
        lora_dropout: dropout before the adapters in training.
        lora_targets: names of the projections that get adapters.
        condition_encoder: predict e_oa and the occlusion rate; without it the amodal decoder gets e_r.
        spatial_encoder: predict the occlusion-aware spatial map from both masks.
        spatial_channels: width of the spatial encoder.
        text_weight: weight of Eq. 1.
        decision_weight: weight of the same loss on the tokens alone that only the image decides: those in which the
            training data continue the same question and the same begin of an answer in several ways (0 in the paper).
        bce_weight: weight of both cross-entropies of Eq. 2.
        dice_weight: weight of both Dice losses of Eq. 2.
        rate_weight: weight of the squared error of Eq. 3.
        map_weight: weight of the cross-entropy of Eq. 3.
        iou_weight: weight of SAM's mask-quality loss, which makes scores meaningful (0 in the
            paper, which reports no score).
        naming_weight: weight of the losses of the regions of an LLM that reads words; without effect on other LLMs (0
            in the paper, which has no regions). If no loss on words has a weight, the LLM itself is not run
            (`without_words`).
        box_weight: weight of the loss on the choice of a region for each `[SEG]`, likewise. Both decoders get the box
            of the region in any case.
        train_mllm: train the whole LLM instead of adapters and rows of tokens.
        train_tower: whether the training of the LLM includes its vision tower; LLaVA freezes a tower
            that is pretrained. In a training of regions, false learns the occlusion order alone.
        train_language: train what the LLM learns; false trains prompt encoder, decoders and occlusion encoders alone.
        train_vision: also train the vision backbone (the paper freezes it).
        mask_threshold: probability above which a pixel is foreground.
        max_new_tokens: maximum length of an answer in tokens.
    """

    model_type = "aura"

    def __init__(
        self,
        mllm: PreTrainedConfig | dict[str, Any] | None = None,
        mllm_base: dict[str, Any] | None = None,
        sam: PreTrainedConfig | dict[str, Any] | None = None,
        base: dict[str, Any] | None = None,
        image_size: int = 1024,
        seg_token: str = "[SEG]",
        seg_token_id: int | None = None,
        new_token_ids: list[int] | None = None,
        lora_rank: int = 8,
        lora_alpha: float = 16.0,
        lora_dropout: float = 0.05,
        lora_targets: list[str] | None = None,
        condition_encoder: bool = True,
        spatial_encoder: bool = True,
        spatial_channels: int = 32,
        text_weight: float = 1.0,
        decision_weight: float = 0.0,
        bce_weight: float = 1.0,
        dice_weight: float = 1.0,
        rate_weight: float = 1.0,
        map_weight: float = 1.0,
        iou_weight: float = 0.0,
        naming_weight: float = 0.0,
        box_weight: float = 0.0,
        train_mllm: bool = False,
        train_tower: bool = True,
        train_language: bool = True,
        train_vision: bool = False,
        mask_threshold: float = 0.5,
        max_new_tokens: int = 256,
        **kwargs: Any,
    ) -> None:
        self.mllm = mllm.to_dict() if isinstance(mllm, PreTrainedConfig) else (mllm or {"model_type": "llava"})
        self.mllm_base = mllm_base or Origin().record()
        self.sam = sam.to_dict() if isinstance(sam, PreTrainedConfig) else (sam or SamConfig().to_dict())
        self.base = base or Origin().record()
        self.image_size = image_size
        self.seg_token = seg_token
        self.seg_token_id = seg_token_id
        self.new_token_ids = new_token_ids or []
        self.lora_rank = lora_rank
        self.lora_alpha = lora_alpha
        self.lora_dropout = lora_dropout
        self.lora_targets = ["q_proj", "v_proj"] if lora_targets is None else lora_targets
        self.condition_encoder = condition_encoder
        self.spatial_encoder = spatial_encoder
        self.spatial_channels = spatial_channels
        self.text_weight = text_weight
        self.decision_weight = decision_weight
        self.bce_weight = bce_weight
        self.dice_weight = dice_weight
        self.rate_weight = rate_weight
        self.map_weight = map_weight
        self.iou_weight = iou_weight
        self.naming_weight = naming_weight
        self.box_weight = box_weight
        self.train_mllm = train_mllm
        self.train_tower = train_tower
        self.train_language = train_language
        self.train_vision = train_vision
        self.mask_threshold = mask_threshold
        self.max_new_tokens = max_new_tokens
        super().__init__(**kwargs)
        self._check()

    def mllm_config(self) -> Any:
        """Return the LLM's configuration as an object of its own class.

        Raises:
            InputError: transformers does not know the LLM, or a part of it.
        """
        settings = dict(self.mllm)
        try:
            return AutoConfig.for_model(settings.pop("model_type"), **settings)
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"mllm: expected a model of a type that transformers knows, got another ({reason:.80})"
            ) from error

    @property
    def without_words(self) -> bool:
        """Whether the training of an LLM that reads words needs no words, so that the LLM itself is not run.

        It trains the regions. If other losses have a weight, it trains the decoders on objects that are given by their
        boxes.
        """
        needs_words = any(getattr(self, name) for name in _WORD_WEIGHTS)
        return self.reads_words and self.naming_weight > 0 and not needs_words

    @property
    def names_only(self) -> bool:
        """Whether a training without words learns no masks."""
        return self.without_words and not any(getattr(self, name) for name in _WEIGHTS if name != "naming_weight")

    @property
    def order_only(self) -> bool:
        """Whether a training of regions learns their occlusion order alone, on all regions that the detector finds."""
        return self.names_only and not self.train_tower

    @property
    def reads_words(self) -> bool:
        """Whether the image tokens of the LLM are words that name regions of the image (`trunk_mllm.py`).

        Such a model gives the box of a region to its decoders with each `[SEG]`.
        """
        vision = self.mllm.get("vision_config") or {}
        return vision.get("model_type") == TRUNK_TOWER

    @property
    def family(self) -> BaseFamily:
        """Architecture of the vision backbone."""
        return family_of(self.sam)

    def base_config(self) -> Any:
        """Return the backbone's configuration at this model's input size."""
        return self.family.at_size(self.sam, self.image_size)

    def _check(self) -> None:
        stride = self.family.stride(self.sam)
        checks = {
            f"image_size: expected a positive multiple of {stride}, the backbone's stride": (
                self.image_size > 0 and self.image_size % stride == 0
            ),
            "seg_token: expected text without spaces": bool(self.seg_token) and not set(self.seg_token) & set(" \t\n"),
            "lora_rank: expected 0 or more": self.lora_rank >= 0,
            "lora_alpha: expected a positive number": self.lora_alpha > 0,
            "lora_dropout: expected a number in [0, 1)": 0 <= self.lora_dropout < 1,
            "lora_targets: expected names of projections": bool(self.lora_targets) or self.lora_rank == 0,
            "spatial_channels: expected 1 or more": self.spatial_channels >= 1,
            "mask_threshold: expected a number in (0, 1)": 0 < self.mask_threshold < 1,
            "max_new_tokens: expected 1 or more": self.max_new_tokens >= 1,
        } | {f"{name}: expected 0 or more": getattr(self, name) >= 0 for name in _WEIGHTS}
        check_settings(self, checks)
