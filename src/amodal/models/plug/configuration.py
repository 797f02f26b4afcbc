"""Configuration of PLUG: every constant of the paper, with the paper's value as default."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig, SamConfig

from amodal.errors import check_settings
from amodal.models.bases.families import family_of
from amodal.models.bases.protocol import Adapters, BaseFamily
from amodal.models.increments import Origin

_WEIGHTS = ("alpha", "beta", "dice_weight", "occluded_dice_weight", "iou_weight")


class PlugConfig(PreTrainedConfig):
    """Settings of a `PlugModel`.

    Paper defaults are those of PLUG section 4.2. The rows of its table 2 are: fine-tuning
    (`point_loss=False, refine=False, parallel_lora=False, visible_branch=False`), then
    `point_loss`, `refine` (with `visible_branch`, whose mask it fuses) and `parallel_lora` switched
    on one after the other. Its first row, pretrained SAM, is an untrained model with `lora_rank=0`
    that gets the amodal box.

    Args:
        sam: configuration of the base, of any family (transformers' configuration or its dictionary); one without
            `model_type` is a SAM's.
        base: where the base came from: `name_or_path`, `revision`, `fingerprint`.
        image_size: side of the square network input in pixels.
        lora_rank: rank of each adapter; 0 for an encoder without adapters.
        lora_alpha: LoRA scale numerator; None means the rank.
        parallel_lora: one adapter set per branch instead of one for both.
        visible_branch: predict the visible mask with its own decoder.
        point_loss: add Eq. 10 to the losses.
        refine: fuse both coarse masks in the refine module (Eq. 11).
        refine_blocks: number of ResNet blocks in the refine module.
        refine_channels: width of these blocks.
        epsilon: size of the neighbourhood of the uncertainty (Eq. 6-7).
        num_points: K, number of points per mask in the point loss.
        oversample: n; there are n * K candidates.
        importance: c, share of the K points that are the most uncertain candidates.
        alpha: weight of the extra BCE in Eq. 10.
        beta: weight of the uncertainty in Eq. 10.
        dice_weight: weight of an additional Dice loss (0 in the paper).
        occluded_dice_weight: weight of an additional Dice loss of the occluded part (0 in the paper), see
            `amodal.losses.occluded_dice`.
        iou_weight: weight of SAM's mask-quality loss, which makes `iou_scores` meaningful
            (0 in the paper, which reports no score).
        train_base: also train the image encoder (the paper freezes it).
        crop_scale: side of the crop relative to the visible box.
        crop_extra_pixel: let the crop reach one pixel further to the right and to the bottom, as in C2F-Seg's code.
        mask_threshold: probability above which a pixel is foreground.
        box_source: box that prompts the model, `"visible"` or `"amodal"` (table 2, row 1).
        prompted_encoder: add a prompt adapter, through which the prompts reach the coarse stages of the image encoder;
            these then run once per object instead of once per image. Only for a base whose prompts are maps (not in the
            paper).
        mask_prompts: also train with visible masks as prompts (not in the paper). False means that the model has
            never seen a mask prompt.
    """

    model_type = "plug"

    def __init__(
        self,
        sam: PreTrainedConfig | dict[str, Any] | None = None,
        base: dict[str, Any] | None = None,
        image_size: int = 512,
        lora_rank: int = 16,
        lora_alpha: float | None = None,
        parallel_lora: bool = True,
        visible_branch: bool = True,
        point_loss: bool = True,
        refine: bool = True,
        refine_blocks: int = 1,
        refine_channels: int = 64,
        epsilon: int = 3,
        num_points: int = 256,
        oversample: int = 4,
        importance: float = 0.75,
        alpha: float = 0.1,
        beta: float = 0.1,
        dice_weight: float = 0.0,
        occluded_dice_weight: float = 0.0,
        iou_weight: float = 0.0,
        train_base: bool = False,
        crop_scale: float = 2.0,
        crop_extra_pixel: bool = False,
        mask_threshold: float = 0.3,
        box_source: str = "visible",
        mask_prompts: bool = False,
        prompted_encoder: bool = False,
        **kwargs: Any,
    ) -> None:
        self.sam = sam.to_dict() if isinstance(sam, PreTrainedConfig) else (sam or SamConfig().to_dict())
        self.base = base or Origin().record()
        self.image_size = image_size
        self.lora_rank = lora_rank
        self.lora_alpha = lora_alpha
        self.parallel_lora = parallel_lora
        self.visible_branch = visible_branch
        self.point_loss = point_loss
        self.refine = refine
        self.refine_blocks = refine_blocks
        self.refine_channels = refine_channels
        self.epsilon = epsilon
        self.num_points = num_points
        self.oversample = oversample
        self.importance = importance
        self.alpha = alpha
        self.beta = beta
        self.dice_weight = dice_weight
        self.occluded_dice_weight = occluded_dice_weight
        self.iou_weight = iou_weight
        self.train_base = train_base
        self.crop_scale = crop_scale
        self.crop_extra_pixel = crop_extra_pixel
        self.mask_threshold = mask_threshold
        self.box_source = box_source
        self.mask_prompts = mask_prompts
        self.prompted_encoder = prompted_encoder
        super().__init__(**kwargs)
        self._check()

    @property
    def num_branches(self) -> int:
        """Number of adapter sets: 2 with parallel LoRA, otherwise 1."""
        return 2 if self.parallel_lora and self.visible_branch and self.lora_rank > 0 else 1

    @property
    def family(self) -> BaseFamily:
        """Architecture of the base."""
        return family_of(self.sam)

    def adapters(self) -> Adapters:
        """Return what is added to the encoder."""
        return Adapters(self.lora_rank, self.lora_alpha, self.num_branches, self.prompted_encoder)

    def base_config(self) -> PreTrainedConfig:
        """Return the base's configuration at this model's input size."""
        return self.family.at_size(self.sam, self.image_size)

    def _check(self) -> None:
        stride = self.family.stride(self.sam)
        checks = {
            f"image_size: expected a positive multiple of {stride}, the base's stride": (
                self.image_size > 0 and self.image_size % stride == 0
            ),
            "lora_rank: expected 0 or more": self.lora_rank >= 0,
            "epsilon: expected 1 or more": self.epsilon >= 1,
            "num_points: expected 1 or more": self.num_points >= 1,
            "oversample: expected 1 or more": self.oversample >= 1,
            "importance: expected a number in [0, 1]": 0 <= self.importance <= 1,
            "refine: expected False without visible_branch, because it fuses both masks": (
                self.visible_branch or not self.refine
            ),
            "crop_scale: expected 1 or more": self.crop_scale >= 1,
            "mask_threshold: expected a number in (0, 1)": 0 < self.mask_threshold < 1,
            "box_source: expected 'visible' or 'amodal'": self.box_source in ("visible", "amodal"),
        } | {f"{name}: expected 0 or more": getattr(self, name) >= 0 for name in _WEIGHTS}
        check_settings(self, checks)
