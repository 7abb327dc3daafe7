"""Sizes of a VILA-U checkpoint, read from its config files. Nothing heavy is imported here.

Source: the configuration classes of mit-han-lab/vila-u. The sizes of SigLIP are in no published file (the reference
takes them from SigLIP's own repository), so they are here, by width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gapbench.models.unified.files import read_json
from gapbench.models.vila_u.files import MODEL_TYPE, Files
from gapbench.records import InputError

SIGLIP = {  # hidden_size -> the others
    1024: {  # google/siglip-large-patch16-256
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 256,
        "patch_size": 16,
    },
    1152: {  # google/siglip-so400m-patch14-384
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    },
}
LLAMA = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "vocab_size",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "attention_bias",
    "mlp_bias",
)
LLAMA_NEEDS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


@dataclass(frozen=True)
class Siglip:
    """Of the image encoder; all of its layers, of which the last is not run."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int

    @property
    def side(self) -> int:
        """Patches along one side of a picture."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class Decoder:
    """`ddconfig`: of the convolutional decoder; level 0 is the finest. resolution only tells where attention is."""

    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    attn_resolutions: tuple[int, ...]
    resolution: int
    z_channels: int
    out_ch: int = 3


@dataclass(frozen=True)
class Vision:
    """codes: of a code book, K. depth: codes of a position, D. latent: the decoder's grid, where it is another."""

    siglip: Siglip
    depth: int
    codes: int
    shared_codebook: bool
    decoder: Decoder
    latent: tuple[int, int] | None


@dataclass(frozen=True)
class Depth:
    """Of the depth transformer: widths of a code's vector, of the language model and its own."""

    vision_width: int
    text_width: int
    width: int
    heads: int
    layers: int
    depth: int
    codes: int


@dataclass(frozen=True)
class Config:
    """projector_layers: linear ones. llama: what transformers' LlamaConfig takes. positions: that it is used with."""

    vision: Vision
    depth: Depth
    llama: Mapping[str, Any]
    projector_layers: int
    positions: int


def read(files: Files) -> Config:
    """Raises InputError, naming the file, for configs that are not VILA-U's or contradict each other."""
    root = read_json(files.config)
    if (made_by := root.get("model_type", MODEL_TYPE)) != MODEL_TYPE:
        raise InputError(f'{files.config}: model_type is "{made_by}"; only "{MODEL_TYPE}" can be read')
    if (aspect := root.get("image_aspect_ratio") or "resize") != "resize":
        raise InputError(f'{files.config}: image_aspect_ratio is "{aspect}"; only "resize" can be read')
    llama, positions = _llama(files.llm.config)
    told = _Told(files.vision.config)
    vision = _vision(told)
    depth = _depth(told, vision, llama["hidden_size"])
    return Config(vision, depth, llama, _projector(files.projector.config), positions)


class _Told:
    """A config file's values by their path in it; what is missing or of a wrong kind is an InputError."""

    def __init__(self, file: Path) -> None:
        self.file, self.values = file, read_json(file)

    def get(self, path: str, default: Any = None) -> Any:
        value: Any = self.values
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return default if value is None else value

    def number(self, path: str) -> int:
        value = self.get(path)
        if type(value) is not int or value < 1:
            raise InputError(f"{self.file}: {path} must be a positive whole number, not {value!r}")
        return value

    def numbers(self, path: str) -> tuple[int, ...]:
        value = self.get(path)
        if not isinstance(value, list) or not all(type(item) is int and item > 0 for item in value):
            raise InputError(f"{self.file}: {path} must be a list of positive whole numbers, not {value!r}")
        return tuple(value)


def _vision(told: _Told) -> Vision:
    width = told.number("rqvaesiglip.embed_dim")
    if told.get("rqvaesiglip.siglip_config") is not None:  # ours, for checkpoints of other sizes
        names = [field.name for field in fields(Siglip)]
        siglip = Siglip(**{name: told.number(f"rqvaesiglip.siglip_config.{name}") for name in names})
    elif width in SIGLIP:
        siglip = Siglip(width, **SIGLIP[width])
    else:
        known = " and ".join(map(str, SIGLIP))
        raise InputError(f"{told.file}: rqvaesiglip.embed_dim is {width}; published towers have {known}")
    if siglip.hidden_size != width or siglip.num_hidden_layers < 2:
        raise InputError(f"{told.file}: rqvaesiglip.siglip_config is of another width than embed_dim, or of one layer")

    latent, code = (told.numbers(f"rqvaesiglip.{name}") for name in ("latent_shape", "code_shape"))
    if len(code) != 3 or latent != (*code[:2], width) or code[:2] != (siglip.side, siglip.side):
        wanted = [siglip.side, siglip.side, width]
        raise InputError(
            f"{told.file}: rqvaesiglip.latent_shape is {list(latent)} and code_shape {list(code)}; "
            f"wanted {wanted} and {wanted[:2]} with a depth"
        )
    codes = told.get("rqvaesiglip.n_embed")
    if isinstance(codes, list) and len(codes) == code[2] and len(set(codes)) == 1:
        codes = codes[0]
    if type(codes) is not int or codes < 1:
        raise InputError(f"{told.file}: rqvaesiglip.n_embed must be one number of codes for all depths, not {codes!r}")

    of = "rqvaesiglip.ddconfig"
    sizes = {name: told.number(f"{of}.{name}") for name in ("ch", "num_res_blocks", "resolution", "z_channels")}
    lists = {name: told.numbers(f"{of}.{name}") for name in ("ch_mult", "attn_resolutions")}
    decoder = Decoder(**sizes, **lists, out_ch=told.get(f"{of}.out_ch", 3))
    if decoder.out_ch != 3 or not decoder.ch_mult:
        raise InputError(f"{told.file}: {of} must have levels in ch_mult, and 3 channels out")
    resized = None
    if told.get("rqvaesiglip.decoder_latent_shape") is not None:
        resized = told.numbers("rqvaesiglip.decoder_latent_shape")
        if len(resized) != 2:
            raise InputError(f"{told.file}: rqvaesiglip.decoder_latent_shape must be height and width")
    shared = bool(told.get("rqvaesiglip.shared_codebook", False))
    return Vision(siglip, code[2], codes, shared, decoder, resized)


def _depth(told: _Told, vision: Vision, text_width: int) -> Depth:
    of = "rqtransformer"
    block = told.numbers(f"{of}.block_size")
    depth = Depth(
        vision_width=told.number(f"{of}.input_embed_dim_1"),
        text_width=told.number(f"{of}.input_embed_dim_2"),
        width=told.number(f"{of}.embed_dim"),
        heads=told.number(f"{of}.head.block.n_head"),
        layers=told.number(f"{of}.head.n_layer"),
        depth=block[-1] if block else 0,
        codes=told.number(f"{of}.vocab_size"),
    )
    if depth.width % depth.heads:
        raise InputError(f"{told.file}: {of}.embed_dim {depth.width} is no multiple of n_head {depth.heads}")
    agree = {
        "input_embed_dim_1": (depth.vision_width, vision.siglip.hidden_size),
        "input_embed_dim_2": (depth.text_width, text_width),
        "block_size": (depth.depth, vision.depth),
        "vocab_size": (depth.codes, vision.codes),
    }
    for name, (found, wanted) in agree.items():
        if found != wanted:
            raise InputError(f"{told.file}: {of}.{name} says {found}, but the other parts {wanted}")
    return depth


def _llama(file: Path) -> tuple[dict[str, Any], int]:
    told = _Told(file)
    if (made_by := told.get("model_type", "llama")) != "llama":
        raise InputError(f'{file}: model_type is "{made_by}"; VILA-U\'s language model is a "llama"')
    for name in LLAMA_NEEDS:
        told.number(name)
    values = {name: told.get(name) for name in LLAMA if told.get(name) is not None}
    # Trained on longer rows than Llama 2's, with positions scaled to fit (`rope_scaling`, which LlamaConfig honours).
    lengths = (told.get("max_position_embeddings"), told.get("model_max_length"))
    positions = max((length for length in lengths if type(length) is int), default=2048)
    scaling = told.get("rope_scaling") or told.get("rope_parameters") or {}
    factor = scaling.get("factor") if isinstance(scaling, dict) else None
    stretched = values.get("max_position_embeddings", positions) * (factor or 1)
    return values, max(positions, math.floor(stretched))


def _projector(file: Path) -> int:
    kind = read_json(file).get("mm_projector_type")
    if found := re.fullmatch(r"mlp([1-9])x_gelu", str(kind)):
        return int(found[1])
    raise InputError(f'{file}: mm_projector_type is "{kind}"; only mlpNx_gelu can be read')
