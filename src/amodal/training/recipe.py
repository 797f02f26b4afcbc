"""Recipes: strict YAML files that describe a training completely."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
)
from transformers import SamConfig

from amodal.data.splits import VALIDATION_SHARE, Split
from amodal.errors import InputError
from amodal.models.aura import AuraConfig
from amodal.models.aura.trunk_mllm import TrunkMllmRecipe
from amodal.models.detector import DetectorConfig
from amodal.models.plug import PlugConfig
from amodal.training.datasets.crops import AmodalTarget, Augmentation, Share
from amodal.training.recipe_file import read_recipe_file

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]

RECIPE_FILE = "recipe.yaml"
"""File of a run folder with the recipe that its run began with."""

MAY_CHANGE = frozenset(
    {
        "output",
        "training.checkpoint_every",
        "training.compile",
        "training.gradient_checkpointing",
        "training.log_every",
        "training.max_minutes",
        "training.picture_objects",
        "training.trackers",
        "training.workers",
    }
)
"""Keys that a resumed run may change, because its weights do not depend on them; docs/training.md has the reasons."""

NO_VALUE = "no value"
"""Stands for the value of a key that one of two compared recipes does not have, such as an entry of a shorter list."""


def _leaves(kind: Any) -> Iterator[Any]:
    """The types inside a type, or the type itself if there are none."""
    inner = get_args(kind)
    if not inner:
        yield kind
    for one in inner:
        yield from _leaves(one)


class Strict(BaseModel):
    """Base class of all sections: unknown keys and wrong types are errors, and texts are what the file has.

    A text that YAML reads as a number, such as the revision `1e10`, is still the text.
    """

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = set(_leaves(cls.model_fields[str(info.field_name)].annotation))
        if str in kinds and not kinds & {int, float}:
            entries = [getattr(entry, "text", entry) for entry in (value if isinstance(value, list) else [value])]
            return entries if isinstance(value, list) else entries[0]
        return value


def config_fields(init: Callable[..., Any], excluded: set[str]) -> dict[str, Any]:
    """Types and defaults of a configuration class, read from the class so that they have one definition.

    Args:
        init: `__init__` of the class.
        excluded: arguments that a recipe does not set.
    """
    types = get_type_hints(init)
    parameters = inspect.signature(init).parameters
    excluded = excluded | {"self", "kwargs"}
    return {name: (types[name], p.default) for name, p in parameters.items() if name not in excluded}


class SamModelRecipe(Strict):
    """A promptable segmenter that is trained on modal masks: a `ConvPromptModel` on an EfficientNet-Lite0.

    The trunk starts from the weights in `trunk_weights`: a PyTorch file, or the name of an installed Python package
    that contains one; without it, from random weights. Its first `frozen_blocks` blocks stay as they are, and its
    features are mixed in `output_channels` channels. Of the batches a `points_share` is prompted by points, a
    `both_share` by points and boxes, and the others by boxes. `init` may also name a PLUG model with a trunk of the
    same sizes: the training then starts from its visible branch.
    """

    trunk_weights: str | None = None
    frozen_blocks: Annotated[int, Field(ge=0)] = 0
    image_size: Positive = 192
    output_channels: Positive = 128
    points_share: Share = 0.2
    both_share: Share = 0.0
    dice_weight: NotNegative = 1.0
    quality_weight: NotNegative = 0.2
    crop_scale: Annotated[float, Field(ge=1)] = 2.0


class PlugModelRecipe(Strict):
    """The base of a PLUG model; `PLUG_MODEL` adds every field of `PlugConfig` under the same name.

    With `trunk_weights`, the trunk of a convolutional base starts from the weights of ImageNet instead of those of the
    base: a PyTorch file, or the name of an installed Python package that contains one. Where `init` names a model, all
    weights are those of this model.
    """

    base: str
    base_revision: str | None = None
    trunk_weights: str | None = None

    def config(self, *, sam: SamConfig | None = None) -> PlugConfig:
        """The model's configuration; `sam` is the configuration of the base, None leaves it open.

        Raises:
            InputError: `trunk_weights` would replace a frozen trunk, which belongs to the base.
        """
        config = PlugConfig(**self.model_dump(exclude={"base", "base_revision", "trunk_weights"}), sam=sam)
        if self.trunk_weights is not None and not config.train_base:
            raise InputError("trunk_weights: expected null with train_base=false, got a name")
        return config


PLUG_MODEL: type[PlugModelRecipe] = create_model(
    "PlugFields", __base__=PlugModelRecipe, **config_fields(PlugConfig.__init__, {"sam", "base"})
)


class AuraModelRecipe(Strict):
    """The bases of an AURA model; `AURA_MODEL` adds every field of `AuraConfig` under the same name.

    The language model is either `mllm`, the hub id or folder of an image-text model, or `trunk_mllm`, a language model
    that reads the names of regions. `base` is the SAM.
    """

    mllm: str | None = None
    mllm_revision: str | None = None
    trunk_mllm: TrunkMllmRecipe | None = None
    base: str
    base_revision: str | None = None

    def config(self, *, mllm: dict[str, Any] | None = None, sam: dict[str, Any] | None = None) -> AuraConfig:
        """The model's configuration; `mllm` and `sam` are the configurations of the bases, None leaves them open."""
        if (self.mllm is None) == (self.trunk_mllm is None):
            raise InputError("mllm: expected either 'mllm' or 'trunk_mllm', got both or none")
        for key in ("naming_weight", "box_weight"):
            if self.trunk_mllm is None and self.__dict__[key] > 0:
                raise InputError(f"{key}: expected 0 without 'trunk_mllm', got {self.__dict__[key]}")
        bases = {"mllm", "mllm_revision", "trunk_mllm", "base", "base_revision"}
        return AuraConfig(**self.model_dump(exclude=bases), mllm=mllm, sam=sam)


_AURA_EXCLUDED = {"mllm", "mllm_base", "sam", "base", "seg_token_id", "new_token_ids"}
AURA_MODEL: type[AuraModelRecipe] = create_model(
    "AuraFields", __base__=AuraModelRecipe, **config_fields(AuraConfig.__init__, _AURA_EXCLUDED)
)


class DetectorModelRecipe(Strict):
    """A detection head on the frozen trunk of a base; the fields are those of `DetectorConfig`.

    `classes` are the names of the kinds that it tells apart; all other kinds are one class without a name. Before a
    training from another head (`init`), the base may have changed.
    """

    base: str
    base_revision: str | None = None
    classes: list[str] = []
    image_size: Positive = 256
    channels: Positive = 64
    min_score: Share = 0.35
    min_class_prob: Share = 0.5

    def config(self, base_fingerprint: str | None = None) -> DetectorConfig:
        """The detector's configuration."""
        return DetectorConfig(**self.model_dump(exclude={"base", "base_revision"}), base_fingerprint=base_fingerprint)


class SourceRecipe(Strict):
    """One annotated dataset, or the images of one side of a split of it.

    `split` "validation" is a `validation_share` of the images, chosen by their names and `split_seed`, and "train" is
    all others. The same file, share and seed therefore give two sides without a common image.
    """

    format: str
    annotations: str
    images: str | None = None
    split: Split = "all"
    validation_share: Share = VALIDATION_SHARE
    split_seed: Annotated[int, Field(ge=0)] = 0
    weight: NotNegative = 1.0
    exclude_categories: list[str] = []
    min_visible_pixels: Positive = 1


class DataRecipe(Strict):
    """Datasets of a SAM or PLUG training, and the augmentation of the training crops.

    `amodal_target` says what PLUG's amodal masks learn: the annotated amodal mask united with the visible one
    ("union"), or the mask as it is annotated ("annotated"), which may lack visible pixels.
    `mask_prompt_share` of the prompts of a PLUG model with `mask_prompts` are a box and the visible mask, the others a
    box only. The outline of these masks is moved by up to `mask_prompt_noise` times the square root of the mask's area.
    Validation prompts in the same way. In `own_mask_share` of the training crops, the masks are those that the model
    itself predicts for the boxes.
    """

    train: list[SourceRecipe]
    validation: list[SourceRecipe]
    augmentation: Augmentation = Augmentation()
    num_prompts: Positive = 1
    amodal_target: AmodalTarget = "union"
    mask_prompt_share: Share = 0.0
    mask_prompt_noise: Share = 0.05
    own_mask_share: Share = 0.0


class DetectionSourceRecipe(SourceRecipe):
    """A dataset for a detector; with `all_annotated` false, unannotated objects may be anywhere in its images."""

    all_annotated: bool = True


class DetectionDataRecipe(Strict):
    """Datasets of a detector's training, and the changes of colour and flips of the training images."""

    train: list[DetectionSourceRecipe]
    validation: list[DetectionSourceRecipe]
    augmentation: Augmentation = Augmentation()


class ReasonSourceRecipe(Strict):
    """One file of questions and the annotation file that it refers to; the split is that of `SourceRecipe`."""

    questions: str
    annotations: str
    images: str | None = None
    split: Split = "all"
    validation_share: Share = VALIDATION_SHARE
    split_seed: Annotated[int, Field(ge=0)] = 0
    weight: NotNegative = 1.0


class AuraDataRecipe(Strict):
    """Datasets of an AURA training.

    Each sequence holds up to `max_conversations` conversations about one image (all by default), up to `max_turns`
    turns and `max_tokens` tokens. With `separate_conversations` they do not see each other, so that no earlier answer
    tells what is in the image; this needs an LLM of LLaVA's class. The masks of up to `max_masks` of its mask tokens
    are learned (all by default). `feature_cache` is a folder for the features of the frozen backbone. With a
    `trunk_mllm`, the decoders get the true visible box of `hint_share` of the objects during training. `augmentation`
    is only allowed for a first stage without words (`AuraConfig.without_words`), because words about left and right are
    wrong in a flipped image.
    """

    train: list[ReasonSourceRecipe]
    validation: list[ReasonSourceRecipe]
    max_turns: Positive = 1
    max_conversations: Positive | None = None
    separate_conversations: bool = False
    max_tokens: Positive = 2048
    max_masks: Annotated[int, Field(ge=0)] | None = None
    feature_cache: str | None = None
    hint_share: Share = 0.5
    augmentation: Augmentation | None = None


class TrainingRecipe(Strict):
    """The optimisation. Defaults are PLUG's (section 4.2) where the paper states a value.

    `batch_size` counts crops over all processes; one step uses `accumulation` batches. `trunk_rate` scales the
    learning rate of the stem and the blocks of an EfficientNet-Lite. The factor of a tensor is `trunk_rate` times
    the root mean square of its initial values (at least 0.01), and at most 1, so that a step changes small and
    large weights by about the same percentage; adapters follow the size of their convolution. With null, these
    layers learn at the full `learning_rate`, which suits a trunk of random weights. `clip_grad_norm` 0 disables
    clipping. `ema` is the decay of a moving average of the weights, which is then validated and saved instead of
    the weights themselves; 0 disables it. `select` says which weights become the run's `model`: those with the
    `best` validation score, or the `last`. `max_minutes` ends a call with a checkpoint; the schedule depends on
    steps only. `steps` 0 saves the untrained model. `gradient_checkpointing` recomputes activations in the backward
    pass instead of storing them. `refined_point_loss` gives the refined mask of PLUG the point loss, too; Eq. 9
    states it for the two decoders only. `bce_resolution` says where the BCE of PLUG's decoders is computed: at the
    resolution of the `input`, after upsampling, or of the `decoder`, against the share of each cell that the mask
    covers. Each validation draws `picture_objects` validation objects.
    """

    steps: Annotated[int, Field(ge=0)] | None = None
    epochs: Positive | None = None
    batch_size: Positive = 8
    accumulation: Positive = 1
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    trunk_rate: Annotated[float, Field(gt=0)] | None = 1.0
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: NotNegative = 0.1
    warmup_steps: Annotated[int, Field(ge=0)] = 250
    decay: Literal["linear", "cosine"] = "cosine"
    precision: Literal["no", "bf16", "fp16"] = "bf16"
    clip_grad_norm: NotNegative = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    refined_point_loss: bool = True
    bce_resolution: Literal["input", "decoder"] = "input"
    select: Literal["best", "last"] = "best"
    compile: bool = False
    gradient_checkpointing: bool = False
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    workers: Annotated[int, Field(ge=0)] = 1
    log_every: Positive = 20
    validate_every: Positive = 500
    validation_objects: Positive = 512
    checkpoint_every: Positive = 250
    picture_objects: Annotated[int, Field(ge=0)] = 6
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = ["tensorboard"]


class Recipe(Strict):
    """A training: task, model, data and optimisation.

    `init` is a saved model (folder or bundled name) of the same sizes. Training starts from its weights instead of
    random weights or the weights of the base.
    """

    task: Literal["sam", "plug", "aura", "detector"]
    init: str | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    output: str
    model: SamModelRecipe | SerializeAsAny[PlugModelRecipe] | SerializeAsAny[AuraModelRecipe] | DetectorModelRecipe
    data: DataRecipe | AuraDataRecipe | DetectionDataRecipe
    training: TrainingRecipe


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe and apply `key.inner=value` overrides, whose values are YAML.

    Raises:
        InputError: the file does not exist, is not valid YAML, or has an unknown key, a wrong type or a value
            that the model does not support; the message names the key. Overrides that are no list.
    """
    if isinstance(overrides, str):
        raise InputError(f"overrides: expected a list such as ['training.steps=10'], got the text {overrides!r:.80}")
    path = Path(path)
    return parse_recipe(read_recipe_file(path, overrides or []), str(path))


def parse_recipe(content: dict[str, Any], name: str = "recipe") -> Recipe:
    """Validate the content of a recipe.

    Raises:
        InputError: unknown key, wrong type or unsupported value; the message names the first wrong key.
    """
    task = content.get("task")
    kinds: dict[str, tuple[type[Strict], type[Strict]]] = {
        "sam": (SamModelRecipe, DataRecipe),
        "plug": (PLUG_MODEL, DataRecipe),
        "aura": (AURA_MODEL, AuraDataRecipe),
        "detector": (DetectorModelRecipe, DetectionDataRecipe),
    }
    if not isinstance(task, str) or task not in kinds:
        raise InputError(f"recipe {name}: task: expected 'sam', 'plug', 'aura' or 'detector', got {task!r}")
    sections = dict(zip(("model", "data"), kinds[task], strict=True))
    parsed = {}
    for section, section_class in sections.items():
        try:
            parsed[section] = section_class.model_validate(_with_tuples(content.get(section) or {}))
        except ValidationError as error:
            raise InputError(f"recipe {name}: {_first_problem(error, (section,))}") from error
    try:
        recipe = Recipe.model_validate(_with_tuples(content) | parsed)
    except ValidationError as error:
        raise InputError(f"recipe {name}: {_first_problem(error, ())}") from error
    if (recipe.training.steps is None) == (recipe.training.epochs is None):
        raise InputError(f"recipe {name}: training: expected either 'steps' or 'epochs', got both or none")
    if isinstance(recipe.model, PlugModelRecipe | AuraModelRecipe | DetectorModelRecipe):
        try:
            recipe.model.config()
        except InputError as error:
            raise InputError(f"recipe {name}: model.{error}") from error
    _check_mask_prompts(recipe, name)
    return recipe


def differences(begun: Recipe, given: Recipe) -> dict[str, tuple[Any, Any]]:
    """Compare two recipes in the keys on which the result of a training depends.

    Args:
        begun: recipe of a run folder; defaults stand for keys that were added to recipes later.
        given: recipe of the call.

    Returns:
        The values in `begun` and in `given` by dotted key (`data.train.0.weight`), without the keys of `MAY_CHANGE`.
        `NO_VALUE` stands for the value of a key that one of them does not have.
    """
    found = _differences("", begun.model_dump(mode="json"), given.model_dump(mode="json"))
    return {key: values for key, values in found.items() if key not in MAY_CHANGE}


def _differences(key: str, begun: Any, given: Any) -> dict[str, tuple[Any, Any]]:
    if begun == given:
        return {}
    sections = [_section(value) for value in (begun, given)]
    if sections[0] is None or sections[1] is None:
        return {key: (begun, given)}
    found: dict[str, tuple[Any, Any]] = {}
    for name in sections[0] | sections[1]:
        inner = f"{key}.{name}" if key else name
        found |= _differences(inner, *(section.get(name, NO_VALUE) for section in sections if section is not None))
    return found


def _section(value: Any) -> dict[str, Any] | None:
    """A mapping, or a list of mappings by index; None for other values, which are compared as a whole."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        return {str(index): entry for index, entry in enumerate(value)}
    return None


def _check_mask_prompts(recipe: Recipe, name: str) -> None:
    """Raise `InputError` unless the mask prompts of the data are those that the model can be trained with."""
    if not isinstance(recipe.data, DataRecipe):
        return
    share, own = recipe.data.mask_prompt_share, recipe.data.own_mask_share
    asks_itself = False
    if isinstance(recipe.model, PlugModelRecipe):
        config = recipe.model.config()
        trained = config.mask_prompts
        expected = "above 0 with model.mask_prompts true" if trained else "0 with model.mask_prompts false"
        if trained != (share > 0):
            raise InputError(f"recipe {name}: data.mask_prompt_share: expected {expected}, got {share}")
        asks_itself = trained and config.visible_branch
    if own > 0 and not asks_itself:
        expected = "0 unless task is plug and model.mask_prompts and model.visible_branch are true"
        raise InputError(f"recipe {name}: data.own_mask_share: expected {expected}, got {own}")


def _with_tuples(value: Any) -> Any:
    """Turn the lists that strict types expect as tuples into tuples, which YAML does not have."""
    if isinstance(value, dict):
        return {
            k: tuple(v) if k in ("betas", "scale", "wide_scale") and isinstance(v, list) else _with_tuples(v)
            for k, v in value.items()
        }
    return [_with_tuples(v) for v in value] if isinstance(value, list) else value


def _first_problem(error: ValidationError, prefix: tuple[str, ...]) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in (*prefix, *problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key{_suggestion(str(problem['loc'][-1]))}"
    if problem["type"] == "missing":
        return f"{where}: expected a value, got none"
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"{where}: expected keys with values, got {problem['input']!r:.80}"
    expected = problem["msg"].removeprefix("Input should be ").removeprefix("Value should be ")
    return f"{where}: expected {expected}, got {problem['input']!r:.80}"


def _suggestion(key: str) -> str:
    sections = (
        Recipe, DataRecipe, SourceRecipe, AuraDataRecipe, ReasonSourceRecipe, TrainingRecipe, Augmentation,
        DetectionSourceRecipe, SamModelRecipe, PLUG_MODEL, AURA_MODEL, DetectorModelRecipe,
    )  # fmt: skip
    known = {name for section in sections for name in section.model_fields}
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
