"""Sizes of a LlamaGen: by the published name of its file, or from a config.json beside it.

Source: `ModelArgs` of FoundationVision/LlamaGen, whose names the config's keys are. Published checkpoints have no
config.json; one of other sizes needs it: {"model_type": "llamagen", "gpt": {...}, "vq": {...}}. Sizes are never taken
from the tensors, since a checkpoint that lacks its last layer would then pass for a smaller model.
Nothing heavy is imported here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from gapbench.models.unified.files import read_json
from gapbench.records import InputError

MODEL_TYPE = "llamagen"  # in config.json
TEXT, CLASS = KINDS = ("t2i", "c2i")
PUBLISHED = re.compile(r"(t2i|c2i)_(B|L|XL|XXL|3B)(?:_stage[12])?_(256|384|512)")
LAYERS_HEADS_WIDTH = {
    "B": (12, 12, 768),
    "L": (24, 16, 1024),
    "XL": (36, 20, 1280),
    "XXL": (48, 24, 1536),
    "3B": (24, 32, 3200),
}
SLOTS = {TEXT: 120, CLASS: 1}
T = TypeVar("T")


@dataclass(frozen=True)
class GptConfig:
    """The language model: model_type is "t2i" or "c2i", block_size the number N of an image's codes.

    cls_token_num: positions of the condition before the image; 0 stands for the published number of the kind.
    """

    model_type: str
    n_layer: int
    n_head: int
    dim: int
    block_size: int
    vocab_size: int = 16_384
    cls_token_num: int = 0
    caption_dim: int = 2048
    num_classes: int = 1000
    multiple_of: int = 256
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5

    @property
    def slots(self) -> int:
        return self.cls_token_num or SLOTS[self.model_type]

    @property
    def side(self) -> int:
        """Codes along one side of an image."""
        return math.isqrt(self.block_size)

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_head

    @property
    def ffn_hidden(self) -> int:
        return math.ceil(int(8 * self.dim / 3) / self.multiple_of) * self.multiple_of


@dataclass(frozen=True)
class VqConfig:
    """The image tokenizer; the defaults are the published VQ-16."""

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    z_channels: int = 256
    codebook_size: int = 16_384
    codebook_embed_dim: int = 8

    @property
    def downsampling(self) -> int:
        """Pixels per code along one side."""
        return 2 ** (len(self.ch_mult) - 1)


class Sizes(NamedTuple):
    gpt: GptConfig
    vq: VqConfig

    @property
    def vq_name(self) -> str:
        """The image tokenizer's file, without its suffix; the two kinds' tokenizers are not interchangeable."""
        return f"vq_ds{self.vq.downsampling}_{self.gpt.model_type}"


def read(gpt_file: str, config: Path | None) -> Sizes:
    """The sizes of the checkpoint whose language model is in the file of that name."""
    if config is not None:
        return _from_config(config)
    if not (found := PUBLISHED.match(gpt_file)):
        raise InputError(
            f"{gpt_file}: the name does not tell the sizes, as t2i_XL_stage1_256.pt and c2i_B_256.pt do: name it so or "
            f'put a config.json beside it: {{"model_type": "{MODEL_TYPE}", "gpt": {{...}}, "vq": {{...}}}}'
        )
    kind, size, pixels = found.groups()
    layers, heads, width = LAYERS_HEADS_WIDTH[size]
    vq = VqConfig()
    return Sizes(GptConfig(kind, layers, heads, width, (int(pixels) // vq.downsampling) ** 2), vq)


def _from_config(file: Path) -> Sizes:
    """Keys that are not sizes are left alone."""
    told = read_json(file)
    if told.get("model_type") != MODEL_TYPE:
        raise InputError(f'{file}: model_type is {json.dumps(told.get("model_type"))}, not "{MODEL_TYPE}"')
    gpt = _checked(GptConfig, told.get("gpt"), f"{file}: gpt")
    vq = _checked(VqConfig, told.get("vq", {}), f"{file}: vq")
    if gpt.side**2 != gpt.block_size:
        raise InputError(f"{file}: gpt.block_size is {gpt.block_size}, not a square, as the grid of codes is")
    if gpt.dim % gpt.n_head or gpt.head_dim % 4:
        why = "heads of a multiple of 4 values, a quarter of them for each of row and column, twice"
        raise InputError(f"{file}: gpt.dim {gpt.dim} over gpt.n_head {gpt.n_head} does not make {why}")
    if gpt.vocab_size != vq.codebook_size:
        raise InputError(f"{file}: gpt.vocab_size is {gpt.vocab_size}, but vq.codebook_size {vq.codebook_size}")
    if odd := [width for width in (vq.ch, *(vq.ch * mult for mult in vq.ch_mult)) if width % 32]:
        raise InputError(f"{file}: vq.ch and vq.ch_mult make levels of {odd[0]} channels, no multiple of 32")
    return Sizes(gpt, vq)


def _checked(kind: type[T], told: Any, where: str) -> T:
    if not isinstance(told, Mapping):
        raise InputError(f"{where} must be an object with the sizes")
    values: dict[str, Any] = {}
    for field in fields(kind):
        if field.name not in told:
            if field.default is MISSING:
                raise InputError(f"{where}.{field.name} is missing")
            continue
        value, name = told[field.name], f"{where}.{field.name}"
        if field.name == "model_type":
            if value not in KINDS:
                raise InputError(f"{name} must be one of {', '.join(KINDS)}, not {json.dumps(value)}")
        elif field.name == "ch_mult":
            if not isinstance(value, list) or not value or not all(_positive(each, whole=True) for each in value):
                raise InputError(f"{name} must be a list of positive whole numbers, not {json.dumps(value)}")
            value = tuple(value)
        elif not _positive(value, whole=field.name not in ("rope_base", "norm_eps")):
            raise InputError(f"{name} must be a positive number, not {json.dumps(value)}")
        values[field.name] = value
    return kind(**values)


def _positive(value: Any, whole: bool) -> bool:
    return type(value) in ((int,) if whole else (int, float)) and 0 < value < math.inf
