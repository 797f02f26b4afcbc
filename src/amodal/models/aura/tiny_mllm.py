"""A small LLaVA with random weights and its own tokenizer, for training from scratch.

It is transformers' LLaVA: a CLIP vision tower, a projector and a Llama. Only the sizes are small, and
the tokenizer is trained on the texts that the model will read.

The vision tower can also be a residual network. A vision transformer needs hundreds of millions of
images to learn from; with some ten thousand, convolutions reach the same accuracy in a tenth of the
time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetModel,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from amodal.models.aura.mllm import LoadedMllm

WEIGHT_STD = 0.02
"""Standard deviation of new weights."""

_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
_MARKUP = ("<p>", "</p>")
_CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% for c in m['content'] if c['type'] == 'image' %}<image>{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}"
    "{{ ('Q: ' if m['role'] == 'user' else '') + c['text'] + ('\nA:' if m['role'] == 'user' else '</s>') }}"
    "{% endfor %}{% endfor %}"
)


class ResNetTowerConfig(PreTrainedConfig):
    """Settings of a `ResNetTower`.

    Args:
        image_size: side of the square input in pixels.
        widths: channels of each stage; the first stage has a quarter of the input's resolution, each
            further one half of the previous stage's.
        depth: number of residual blocks per stage.
    """

    model_type = "amodal_resnet_tower"

    def __init__(
        self, image_size: int = 128, widths: tuple[int, ...] = (48, 96, 192), depth: int = 2, **kwargs: Any
    ) -> None:
        self.image_size = image_size
        self.widths = list(widths)
        self.depth = depth
        super().__init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Width of a token."""
        return self.widths[-1]

    @property
    def patch_size(self) -> int:
        """Pixels of the input along each side of a token."""
        return int(2 ** (len(self.widths) + 1))


class ResNetTower(PreTrainedModel):
    """transformers' ResNet; the cells of its last feature map are the tokens, normalised, with learned positions.

    A tower without trainable parameters stays in evaluation mode, so that its batch statistics do not
    change either.
    """

    config_class = ResNetTowerConfig
    main_input_name = "pixel_values"

    def __init__(self, config: ResNetTowerConfig) -> None:
        super().__init__(config)
        self.resnet = ResNetModel(
            ResNetConfig(
                embedding_size=config.widths[0],
                hidden_sizes=config.widths,
                depths=[config.depth] * len(config.widths),
                layer_type="basic",
            )
        )
        cells = config.image_size // config.patch_size
        self.norm = nn.LayerNorm(config.hidden_size)
        self.position_embedding = nn.Embedding(cells * cells, config.hidden_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the positions; the layers that compute the map initialise themselves."""
        if module is getattr(self, "position_embedding", None):
            nn.init.normal_(self.position_embedding.weight, std=WEIGHT_STD)

    def train(self, mode: bool = True) -> ResNetTower:
        """Set the mode; evaluation mode if no parameter is trainable."""
        super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))
        return self

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutput:
        """Images (B, 3, S_mllm, S_mllm) to tokens (B, cells * cells, D), also the only entry of `hidden_states`."""
        dtype = self.norm.weight.dtype
        pixels = pixel_values.contiguous(memory_format=torch.channels_last).to(dtype)
        cells: Tensor = self.resnet(pixels).last_hidden_state
        tokens = self.norm(cells.flatten(2).transpose(1, 2).to(dtype)) + self.position_embedding.weight
        return BaseModelOutput(last_hidden_state=tokens, hidden_states=(tokens,))


AutoConfig.register(ResNetTowerConfig.model_type, ResNetTowerConfig)
AutoModel.register(ResNetTowerConfig, ResNetTower)


class TinyMllmSizes(BaseModel):
    """Sizes of a small multi-modal LLM (names as in transformers).

    With `vision_stages`, the widths of a residual network's stages, the tower is a `ResNetTower`
    instead of a ViT. It has the width of the last stage, and one token per cell of it.
    """

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    vision_image_size: int = Field(128, gt=0)
    vision_patch_size: int = Field(8, gt=0)
    vision_hidden_size: int = Field(192, gt=0)
    vision_layers: int = Field(6, gt=0)
    vision_heads: int = Field(3, gt=0)
    vision_stages: list[int] = []
    text_hidden_size: int = Field(192, gt=0)
    text_layers: int = Field(4, gt=0)
    text_heads: int = Field(3, gt=0)
    vocabulary: int = Field(1500, gt=300)
    max_length: int = Field(2048, gt=0)

    @property
    def tower(self) -> ResNetTowerConfig | CLIPVisionConfig:
        """The configuration of the vision tower."""
        if self.vision_stages:
            return ResNetTowerConfig(image_size=self.vision_image_size, widths=tuple(self.vision_stages))
        return CLIPVisionConfig(
            hidden_size=self.vision_hidden_size,
            intermediate_size=4 * self.vision_hidden_size,
            num_hidden_layers=self.vision_layers,
            num_attention_heads=self.vision_heads,
            image_size=self.vision_image_size,
            patch_size=self.vision_patch_size,
        )


def new_tiny_mllm(sizes: TinyMllmSizes, texts: Iterable[str], seed: int = 0, processor: Any = None) -> LoadedMllm:
    """Make a small LLaVA with random weights that can be trained from scratch, and its processor.

    Differs from transformers' initialisation: because that one only prepares for loading weights. Here
    linear layers of tower and projector are truncated normals of 0.02, the tower's positions start as
    sines along both axes, and the LLM reads the tower's last layer, not the one before it.

    Args:
        sizes: of tower, language model and vocabulary.
        texts: questions and answers to train the tokenizer on.
        seed: of the weights.
        processor: of an earlier model, instead of a new tokenizer.
    """
    processor = processor or tiny_processor(sizes, texts)
    tokenizer = processor.tokenizer
    config = tiny_llava_config(sizes, len(tokenizer), tokenizer)
    torch.manual_seed(seed)
    model: Any = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    for module in (*tower.modules(), *projector.modules()):
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and not sizes.vision_stages):
            nn.init.trunc_normal_(module.weight, std=WEIGHT_STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    with torch.no_grad():
        positions = next(m for name, m in tower.named_modules() if name.endswith("position_embedding")).weight
        sines = _sines(sizes.tower.image_size // sizes.tower.patch_size, sizes.tower.hidden_size)
        positions[len(positions) - len(sines) :] = sines
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return LoadedMllm(model, processor)


def _sines(cells: int, width: int) -> torch.Tensor:
    """(cells * cells, width) sines and cosines of column and row, scaled to the size of patch embeddings."""
    quarter = -(-width // 4)
    rates = torch.pi * torch.logspace(0, 1, quarter, base=max(cells / 4, 2)) / cells
    angles = torch.arange(cells)[:, None] * rates  # (cells, quarter)
    one = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = one[:, None].expand(-1, cells, -1), one[None].expand(cells, -1, -1)
    return 0.2 * torch.cat([columns, rows], dim=-1).flatten(0, 1)[:, :width]


def tiny_llava_config(sizes: TinyMllmSizes, vocabulary: int, tokenizer: Any = None) -> LlavaConfig:
    """Return transformers' configuration of a LLaVA with these sizes.

    Args:
        sizes: of tower and language model.
        vocabulary: number of tokens.
        tokenizer: gives the ids of the special tokens; those of a new tokenizer if None.
    """
    special = {name: index for index, name in enumerate(_SPECIAL)}
    number = special.get if tokenizer is None else tokenizer.convert_tokens_to_ids
    text = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=sizes.text_hidden_size,
        intermediate_size=-(-sizes.text_hidden_size * 8 // 3 // 32) * 32,  # Llama's two thirds of 4 D
        num_hidden_layers=sizes.text_layers,
        num_attention_heads=sizes.text_heads,
        num_key_value_heads=sizes.text_heads,
        max_position_embeddings=sizes.max_length,
        bos_token_id=number("<s>"),
        eos_token_id=number("</s>"),
        pad_token_id=number("<pad>"),
    )
    return LlavaConfig(
        vision_config=sizes.tower,
        text_config=text,
        image_token_index=number("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy=_selection(sizes),
        tie_word_embeddings=False,
    )


def tiny_processor(sizes: TinyMllmSizes, texts: Iterable[str]) -> Any:
    """Make LLaVA's processor with a byte-pair tokenizer trained on `texts`.

    The phrase markup `<p>` and `</p>` are two tokens of the vocabulary. They are not special tokens,
    so that decoding keeps them.
    """
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=sizes.vocabulary,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    plain = (text.replace("<p>", " ").replace("</p>", " ") for text in texts)
    core.train_from_iterator(plain, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.add_tokens(list(_MARKUP))
    side = sizes.vision_image_size
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=sizes.tower.patch_size,
        vision_feature_select_strategy=_selection(sizes),
        num_additional_image_tokens=0 if sizes.vision_stages else 1,
        chat_template=_CHAT_TEMPLATE,
    )


def _selection(sizes: TinyMllmSizes) -> str:
    """Which tokens of the tower the LLM reads: a ViT has an additional one for the whole image."""
    return "full" if sizes.vision_stages else "default"
