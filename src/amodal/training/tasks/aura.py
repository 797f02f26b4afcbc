"""The losses of AURA: text, masks and occlusion (AURA Eq. 1-4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.losses import IGNORE_INDEX, mask_bce, mask_dice, mask_ious, object_mean
from amodal.models.aura import AuraConfig, AuraOutput
from amodal.models.aura.heads import labelled_columns
from amodal.models.aura.regions import LearnedRegions, longer_sides, neighbours
from amodal.nn.occlusion_encoders import occlusion_map, occlusion_rates
from amodal.training.datasets.sampling import UNNAMED, Batch
from amodal.training.tasks.detector import paired_ious

TARGETS = {
    "visible_masks",
    "amodal_masks",
    "has_amodal",
    "visible_boxes_xyxy_sam",
    "families",
    "deciding",
    "true_boxes_xyxy_mllm",
    "true_names",
    "true_rates",
    "true_hides",
}
"""Entries of a batch that are targets of losses and no inputs of the model."""

OBJECT_IOU, BACKGROUND_IOU = 0.5, 0.35
"""A region whose box overlaps a true box at least so much shows its object; one that overlaps all less shows none."""

EDGE_BETA = 0.05
"""Error of an edge, relative to the longer side, below which its loss is quadratic."""

REGION_WEIGHTS = {"naming": 1.0, "region_rate": 1.0, "region_box": 2.0, "region_quality": 0.5}
"""Weights of the losses of regions relative to each other."""

ANY_OBJECT = UNNAMED - 1
"""Target of a region whose object has no known name."""

NAME_SMOOTHING = 0.03
"""Of the names of regions."""


class AuraTask:
    """L = L_text + L_mask + L_occ (Eq. 4).

    L_text is the cross-entropy of the answers' tokens (Eq. 1). L_mask is the binary cross-entropy and the
    Dice loss of visible and amodal masks (Eq. 2). L_occ is the squared error of the occlusion rate and the
    cross-entropy of the spatial map (Eq. 3). A training without words (`AuraConfig.without_words`)
    has no L_text.

    Differs from the paper where the configuration says so: `decision_weight` adds the cross-entropy of the
    tokens that only the image decides, `iou_weight` trains the mask-quality head. Of an LLM that reads words,
    `naming_weight` trains the regions, and `box_weight` the choice of a region for each mask token.

    Args:
        config: the model's configuration.
        families: names of the families of questions that the validation batches number.
    """

    def __init__(self, config: AuraConfig, families: Sequence[str] = ()) -> None:
        self.config = config
        self.families = list(families)

    @staticmethod
    def prepare(model: nn.Module) -> nn.Module:
        """Return the model unchanged; AURA needs no preparation."""
        return model

    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Named losses of one batch in the form of `collate_conversations` or of `NamedImages.collate`."""
        config = self.config
        output: AuraOutput = model(**{name: value for name, value in batch.items() if name not in TARGETS})
        if output.regions is not None:
            return self._region_losses(output.regions, batch)
        losses: dict[str, Tensor] = {}
        if output.logits is not None and output.targets is not None:
            losses["text"] = config.text_weight * text_loss(output.logits, output.targets)
            if "deciding" in batch:
                losses["decision"] = config.decision_weight * text_loss(output.logits, _decided(output, batch))
        if output.masks is not None:
            losses |= self.mask_losses(output.masks, batch)
        if output.pointing_boxes_xyxy_sam is not None and output.pointing_logits is not None:
            boxes = output.pointing_boxes_xyxy_sam, batch["visible_boxes_xyxy_sam"]
            losses["pointing"] = config.box_weight * region_pointing_loss(output.pointing_logits, *boxes)
        return losses

    def _region_losses(self, learned: LearnedRegions, batch: Batch) -> dict[str, Tensor]:
        """Losses of the names, occlusion rates, corrected boxes and qualities of regions, or of their occlusion order.

        The names of regions between object and background are not learned, nor are those of unnamed objects, which only
        learn that there is an object.
        """
        logits, boxes = learned.logits, learned.boxes_xyxy_mllm.flatten(0, 1)
        names, rates, truth, hides = matched_regions(learned, batch)
        if self.config.order_only:
            pairs = ~hides.isnan()
            order = F.binary_cross_entropy_with_logits(learned.order[pairs], hides[pairs], reduction="sum")
            return {"region_order": self.config.naming_weight * order / pairs.sum().clamp_min(1)}
        count, is_object = len(boxes), ~truth.isnan().any(-1)
        learned_names = names.where(names >= 0, UNNAMED)
        naming = F.cross_entropy(
            logits.words, learned_names, ignore_index=UNNAMED, label_smoothing=NAME_SMOOTHING, reduction="sum"
        )
        unnamed = logits.words[names == ANY_OBJECT].log_softmax(-1)[:, 0]
        naming = naming - torch.log1p(-unnamed.exp().clamp(max=0.999)).sum()
        known = ~rates.isnan()
        rate = F.binary_cross_entropy_with_logits(logits.rates[known], rates[known], reduction="sum")
        sides = longer_sides(boxes[is_object])
        corrected = boxes[is_object] + logits.edges[is_object] * sides
        errors = (corrected - truth[is_object]) / sides
        edges = F.smooth_l1_loss(errors, torch.zeros_like(errors), beta=EDGE_BETA, reduction="sum")
        quality = torch.zeros_like(logits.quality)
        quality[is_object] = paired_ious(corrected.detach(), truth[is_object])[0].clamp(0, 1)
        overlap = F.binary_cross_entropy_with_logits(logits.quality, quality, reduction="sum")
        sums = {"naming": naming, "region_rate": rate, "region_box": edges, "region_quality": overlap}
        means = {name: value / max(count, 1) for name, value in sums.items()}
        return {name: self.config.naming_weight * REGION_WEIGHTS[name] * value for name, value in means.items()}

    def mask_losses(self, masks: Any, batch: Batch) -> dict[str, Tensor]:
        """The losses of the decoded masks (Eq. 2 and 3) against `visible_masks`, `amodal_masks` and `has_amodal`."""
        return self._mask_losses(masks, batch) | self._occlusion_losses(masks, batch)

    def _mask_losses(self, masks: Any, batch: Batch) -> dict[str, Tensor]:
        """The losses of Eq. 2 and of the mask-quality head."""
        config, valid = self.config, batch["has_amodal"]
        visible, amodal = batch["visible_masks"], batch["amodal_masks"]
        all_objects = torch.ones_like(valid)
        losses = {
            "visible_bce": config.bce_weight * mask_bce(masks.visible_logits, visible, all_objects),
            "amodal_bce": config.bce_weight * mask_bce(masks.amodal_logits, amodal, valid),
            "visible_dice": config.dice_weight * mask_dice(masks.visible_logits, visible, all_objects),
            "amodal_dice": config.dice_weight * mask_dice(masks.amodal_logits, amodal, valid),
        }
        if config.iou_weight > 0:
            predicted = masks.amodal_logits.detach().float().sigmoid() > config.mask_threshold
            error = (masks.iou_scores.float() - mask_ious(predicted, amodal)) ** 2
            losses["quality"] = config.iou_weight * object_mean(error, valid)
        return losses

    def _occlusion_losses(self, masks: Any, batch: Batch) -> dict[str, Tensor]:
        """The losses of Eq. 3, for the occlusion encoders that the model has."""
        config, valid = self.config, batch["has_amodal"]
        visible, amodal = batch["visible_masks"], batch["amodal_masks"]
        losses = {}
        if masks.rates is not None:
            error = (masks.rates - occlusion_rates(visible, amodal)) ** 2
            losses["rate"] = config.rate_weight * object_mean(error, valid)
        if masks.map_logits is not None:
            truth = occlusion_map(visible, amodal)
            map_error = F.cross_entropy(masks.map_logits.float(), truth, reduction="none").mean((-2, -1))
            losses["map"] = config.map_weight * object_mean(map_error, valid)
        return losses

    @torch.no_grad()
    def scores(self, model: nn.Module, batch: Batch, threshold: float) -> dict[str, tuple[float, int]]:
        """Sums and counts of quick scores, with the true answers as input (teacher forcing).

        Returns:
            `visible`, `full` and `occ`: IoUs of visible, amodal and occluded masks. `token`: share of
            answer tokens predicted correctly, and `decision` the same of the tokens that only the image decides,
            if the batch marks them. `rate_error`: absolute error of the occlusion rate, if the model
            predicts it. `image_gain` and `image_gain_FAMILY`: nats per answer by which its own image makes the true
            answer more probable than the image of another sample does, if the batch numbers families. `naming`: share
            of the regions on objects whose name is predicted correctly, if the model learns names; this is also the
            `full` of a model that learns no masks. `order`: share of the pairs of regions of which one
            object hides the other for which the object in front is predicted correctly; the `full` of a model that
            learns the order alone.
        """
        output: AuraOutput = model(**{name: value for name, value in batch.items() if name not in TARGETS})
        sums = {} if output.masks is None else self._mask_scores(output.masks, batch, threshold)
        if output.regions is not None:
            names, _, _, hides = matched_regions(output.regions, batch)
            is_correct = (output.regions.logits.words.argmax(-1) == names)[names > 0]
            sums["naming"] = sums["full"] = (float(is_correct.sum()), len(is_correct))
            order, one_way = output.regions.order, (hides == 1) & (hides.transpose(1, 2) != 1)
            in_front = (order > order.transpose(1, 2))[one_way]
            sums["order"] = (float(in_front.sum()), len(in_front))
            if self.config.order_only:
                sums["full"] = sums["order"]
        if output.logits is None or output.targets is None:
            return sums
        counted = output.targets != IGNORE_INDEX
        is_correct = (output.logits.argmax(-1) == output.targets) & counted
        sums["token"] = (float(is_correct.sum()), int(counted.sum()))
        if "deciding" in batch:
            decided = _decided(output, batch) != IGNORE_INDEX
            sums["decision"] = (float(is_correct[decided].sum()), int(decided.sum()))
        return sums | (self._image_gains(model, batch, output) if "families" in batch else {})

    @staticmethod
    def _mask_scores(masks: Any, batch: Batch, threshold: float) -> dict[str, tuple[float, int]]:
        visible, amodal = (x.float().sigmoid() > threshold for x in (masks.visible_logits, masks.amodal_logits))
        amodal = amodal | visible
        true_visible, true_amodal, has_amodal = batch["visible_masks"], batch["amodal_masks"], batch["has_amodal"]
        occluded = true_amodal & ~true_visible
        is_occluded = has_amodal & occluded.flatten(1).any(1)
        values = {
            "visible": mask_ious(visible, true_visible),
            "full": mask_ious(amodal, true_amodal)[has_amodal],
            "occ": mask_ious(amodal & ~true_visible, occluded)[is_occluded],
        }
        if masks.rates is not None:
            values["rate_error"] = (masks.rates - occlusion_rates(true_visible, true_amodal)).abs()[has_amodal]
        return {name: (float(each.sum()), len(each)) for name, each in values.items()}

    def _image_gains(self, model: nn.Module, batch: Batch, right: AuraOutput) -> dict[str, tuple[float, int]]:
        """How much less probable the true answers are with the image of the next sample of the batch.

        A model whose gain stays near 0 answers from what is usual, without looking.
        """
        size = len(batch["input_ids"])
        if size < 2 or len(batch["pixel_values"]) != size:
            return {}
        inputs = {name: value for name, value in batch.items() if name not in TARGETS}
        inputs["pixel_values"] = batch["pixel_values"].roll(1, 0)
        assert self.config.seg_token_id is not None
        mask_tokens = batch["labels"].eq(self.config.seg_token_id)
        inputs["chosen"] = torch.zeros_like(batch["labels"][mask_tokens], dtype=torch.bool)  # no masks
        inputs.pop("box_hints_xyxy_sam", None)
        wrong: AuraOutput = model(**inputs)
        gains = _nats(wrong) - _nats(right)
        families = batch["families"]
        starts = families.ne(families.roll(1, 1))  # a question stands before each answer
        columns = labelled_columns(batch["labels"])
        families, starts = families[:, columns], starts[:, columns]
        found = {}
        for number, name in enumerate(self.families, 1):
            tokens = families.eq(number)
            found[f"image_gain_{name}"] = (float(gains[tokens].sum()), int((tokens & starts).sum()))
        totals = [sum(values) for values in zip(*found.values(), strict=True)]
        return {"image_gain": (totals[0], int(totals[1]))} | found


def _decided(output: AuraOutput, batch: Batch) -> Tensor:
    """The targets (B, K) that only the image decides, `IGNORE_INDEX` elsewhere."""
    assert output.targets is not None
    deciding = batch["deciding"][:, labelled_columns(batch["labels"])]
    return output.targets.masked_fill(~deciding, IGNORE_INDEX)


def _nats(output: AuraOutput) -> Tensor:
    """(B, K) cross-entropy of each target in float32, 0 where it does not count."""
    assert output.logits is not None and output.targets is not None
    losses = F.cross_entropy(
        output.logits.flatten(0, 1).float(), output.targets.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )
    return losses.view_as(output.targets)


def text_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the answers' tokens (Eq. 1).

    Args:
        logits: (B, K, vocabulary).
        targets: (B, K) token ids, `IGNORE_INDEX` outside the answers.
    """
    counted = targets != IGNORE_INDEX
    if not counted.any():
        return logits.float().sum() * 0
    return F.cross_entropy(logits[counted].float(), targets[counted])


def matched_regions(learned: LearnedRegions, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What each of M = B * R regions learns.

    Args:
        learned: of B images.
        batch: `true_boxes_xyxy_mllm` (N, 4), `true_names` (N,), `true_rates` (N,), `true_hides` (N, N) and
            `image_index` (N,).

    Returns:
        Names (M,): 0 for the background, `UNNAMED` for what is not learned, `ANY_OBJECT` for an object without a known
        name. Rates (M,), NaN where there is none, and true boxes (M, 4), NaN for regions that show no object. Whether
        the first region's object hides a part of the second's (B, R, R); NaN for a second region without an object, for
        two regions that are not `neighbours`, and where it is unknown.
    """
    boxes = learned.boxes_xyxy_mllm
    flat, truth = boxes.flatten(0, 1), batch["true_boxes_xyxy_mllm"]
    names = torch.zeros(len(flat), dtype=torch.long, device=flat.device)
    rates, targets = flat.new_full((len(flat),), torch.nan), torch.full_like(flat, torch.nan)
    B, R, _ = boxes.shape
    hides = flat.new_full((B, R, R), torch.nan)
    if not len(truth):
        return names, rates, targets, hides
    pairs = flat.repeat_interleave(len(truth), 0), truth.repeat(len(flat), 1)
    overlaps = paired_ious(*pairs)[0].view(len(flat), len(truth))
    images = torch.arange(len(boxes), device=flat.device).repeat_interleave(boxes.shape[1])
    overlaps = overlaps * (images[:, None] == batch["image_index"])
    best, owner = overlaps.max(1)
    is_object = best >= OBJECT_IOU
    kinds = batch["true_names"][owner]
    names[best >= BACKGROUND_IOU] = UNNAMED
    names = torch.where(is_object, torch.where(kinds > 0, kinds, ANY_OBJECT), names)
    rates[is_object], targets[is_object] = batch["true_rates"][owner[is_object]], truth[owner[is_object]]
    owners, objects = owner.view(B, R), is_object.view(B, R)
    related: Tensor = batch["true_hides"][owners[:, :, None], owners[:, None]]
    related = torch.where(objects[:, :, None], related, related * 0)  # the background hides nothing
    first = objects | (names == 0).view(B, R)
    learned_pairs = first[:, :, None] & objects[:, None] & neighbours(learned.corrected_xyxy_mllm)
    return names, rates, targets, related.where(learned_pairs, hides)


def region_pointing_loss(logits: Tensor, regions_xyxy: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Mean cross-entropy of the choice of a region; a region that overlaps the object more is a better choice.

    Args:
        logits: (N, R).
        regions_xyxy: (N, R, 4).
        boxes_xyxy: (N, 4) true visible boxes. An object that no region overlaps by `OBJECT_IOU` does not count.
    """
    truth = boxes_xyxy[:, None].expand_as(regions_xyxy)
    overlaps = paired_ious(regions_xyxy.flatten(0, 1), truth.flatten(0, 1))[0].view(logits.shape)
    fitting = overlaps * (overlaps >= OBJECT_IOU)
    shares = fitting / fitting.sum(-1, keepdim=True).clamp_min(1e-6)
    return object_mean(-(shares * logits.log_softmax(-1)).sum(-1), fitting.any(-1))
