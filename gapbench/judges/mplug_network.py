"""mPLUG's VQA network from transformers' modules, and its published files.

Shapes: P pictures, Q questions, I tokens of a picture, T tokens of a question, D width of BERT.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gapbench import hub
from gapbench.hub import fingerprint
from gapbench.judges.mplug_decoding import BEAMS, CLS, MAX_TOKENS, MIN_TOKENS, SEP
from gapbench.models.unified.files import read_json
from gapbench.models.unified.weights import finite, read_header
from gapbench.records import InputError

if TYPE_CHECKING:
    from transformers import BertConfig, BertTokenizer

REPO = "diffusion-bench/mplug_visual-question-answering_coco_large_en"
CONFIG, WEIGHTS, VOCABULARY = "config.yaml", "pytorch_model.bin", "vocab.txt"
BERT_CONFIG = "config_bert.json"  # unless config.yaml has another name for it
HEAD = 64  # width of an attention head of CLIP's, whatever the model's


class Network(nn.Module):
    """Fusion layers that `stride` divides, but for the first, are connected ones."""

    def __init__(
        self,
        visual: nn.Module,
        bridge: nn.Module,
        text: nn.Module,
        fusion: nn.ModuleList,
        decoder: nn.Module,
        stride: int,
    ) -> None:
        super().__init__()
        self.visual, self.bridge, self.text, self.fusion, self.decoder = visual, bridge, text, fusion, decoder
        self.stride = stride

    def see(self, pixels_P3SS: Tensor) -> Tensor:
        """Features (P,I,D). All tokens go through the last norm, not the class token alone."""
        features = self.visual(pixel_values=pixels_P3SS).last_hidden_state
        return self.bridge(getattr(self.visual, "vision_model", self.visual).post_layernorm(features))

    def fuse(self, image_QID: Tensor, ids_QT: Tensor, mask_QT: Tensor) -> tuple[Tensor, Tensor]:
        """The memory (Q,I+T,D), picture before question, and where there is something in it."""
        text_QTD = self.text(input_ids=ids_QT, attention_mask=mask_QT).last_hidden_state
        hidden = torch.zeros(mask_QT.shape, dtype=text_QTD.dtype, device=text_QTD.device)
        hidden = hidden.masked_fill(mask_QT == 0, torch.finfo(hidden.dtype).min)[:, None, None, :]
        pictures = image_QID.shape[1]
        for number, layer in enumerate(self.fusion):
            if number and number % self.stride == 0:
                # Connected: its cross-attention is not used; the picture is added to, the question replaced.
                both = torch.cat([image_QID, text_QTD], dim=1)
                both = layer.attention(both, attention_mask=nn.functional.pad(hidden, (pictures, 0)))[0]
                both = layer.output(layer.intermediate(both), both)
                image_QID, text_QTD = image_QID + both[:, :pictures], both[:, pictures:]
            else:
                text_QTD = layer.attention(text_QTD, attention_mask=hidden)[0]
                text_QTD = layer.crossattention(text_QTD, encoder_hidden_states=image_QID)[0]
                text_QTD = layer.output(layer.intermediate(text_QTD), text_QTD)
        mask = nn.functional.pad(mask_QT.bool(), (pictures, 0), value=True)
        return torch.cat([image_QID, text_QTD], dim=1), mask


# --- The published files ----------------------------------------------------------------------------------------------

_ADVICE = "Download it elsewhere and put its four files into mplug/ beside dpg_bench.csv"
_VISION = "visual_encoder.visual."
# What the file holds besides what answers need: momentum teachers, CLIP's text tower and projection, buffers.
_UNUSED = re.compile(
    r"(visual_encoder|text_encoder|fusion_encoder|text_decoder|visn_fc|visn_layer_norm)_m\."
    r"|visual_encoder\.(transformer\.|token_embedding\.|positional_embedding$|ln_final\.|text_projection$|logit_scale$)"
    r"|visual_encoder\.visual\.proj$"
    r"|.*\bposition_ids$"
)
_BERT_COUNTS = ("hidden_size", "text_encoder_layers", "fusion_layers", "text_decode_layers", "num_hidden_layers")
_NO_STRIDE = 100  # what the original takes where the config has none: no connected layer


@dataclass(frozen=True)
class Checkpoint:
    """The files, read. `state` has the file's names, unwrapped; pictures are squares of `side` pixels; `bert` is
    config_bert.json, `search` the numbers of the beam search.
    """

    file: Path
    vocabulary: Path
    state: Mapping[str, Tensor]
    bert: Mapping[str, Any]
    side: int
    search: Mapping[str, int]

    @cached_property
    def sha256(self) -> str:
        return fingerprint(self.file)["sha256"]

    @property
    def stride(self) -> int:
        return self.bert.get("stride_layer", _NO_STRIDE)

    @property
    def first_fusion(self) -> int:
        """The file's number of the first fusion layer that is used; those before it never are."""
        return max(0, self.bert["num_hidden_layers"] - self.bert["fusion_layers"])


def read_checkpoint(place: str | Path) -> Checkpoint:
    """Raises InputError, one line, where a file is missing or not what mPLUG publishes."""
    folder = Path(place)
    if folder.is_dir():
        if lacking := [name for name in (CONFIG, WEIGHTS, VOCABULARY) if not (folder / name).is_file()]:
            raise InputError(f"{folder}: no {lacking[0]} in it; mPLUG's files are those of {REPO}")
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", str(place)):
        wanted = ((CONFIG,), (BERT_CONFIG,), (WEIGHTS,), (VOCABULARY,))
        folder = hub.fetch(str(place), wanted, "main", _ADVICE)[0].parent
    else:
        raise InputError(f"{place}: no such folder, nor a repository of the hub such as {REPO}")
    config = _read_yaml(folder / CONFIG)
    bert_file = folder / config.get("bert_config", BERT_CONFIG)
    bert = read_json(bert_file)
    for name in _BERT_COUNTS:
        if not isinstance(bert.get(name), int):
            raise InputError(f"{bert_file}: {name} is missing or no number")
    stride = bert.get("stride_layer", _NO_STRIDE)
    if not isinstance(stride, int) or stride < 1:
        raise InputError(f"{bert_file}: stride_layer {stride!r} is no number of layers")
    search = {
        "beams": config.get("beam_size", BEAMS),
        "max_tokens": config.get("max_length", MAX_TOKENS),
        "min_tokens": config.get("min_length", MIN_TOKENS),
    }
    state = _read_state(folder / WEIGHTS)
    try:
        rows, patch = len(state[_VISION + "positional_embedding"]), state[_VISION + "conv1.weight"].shape[-1]
    except KeyError as error:
        raise InputError(f"{folder / WEIGHTS}: tensor {error.args[0]} is missing") from None
    # The config may tell another size; the rows are those that the weights were trained with.
    side = math.isqrt(rows - 1)
    if side**2 != rows - 1:
        raise InputError(f"{folder / WEIGHTS}: {rows} position embeddings are no square of patches and a class token")
    return Checkpoint(folder / WEIGHTS, folder / VOCABULARY, state, bert, side * patch, search)


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no settings by name")
    return values


def _read_state(path: Path) -> dict[str, Tensor]:
    """Tensors by name: out of "model" and "module", and without any "model." in their names."""
    read_header(path)
    try:
        state = torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except Exception:  # torch raises a dozen kinds
        raise InputError(f"{path}: cannot be read with weights_only=True: damaged, or not only tensors") from None
    for wrapper in ("model", "module"):
        if isinstance(state, Mapping) and wrapper in state:
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"{path}: holds something other than tensors by name")
    return {name.replace("model.", ""): tensor for name, tensor in state.items()}


def load_tokenizer(vocabulary: Path) -> BertTokenizer:
    from transformers import BertTokenizer

    # Lower case has to be asked for: transformers 5 does not guess it from the vocabulary.
    tokenizer = BertTokenizer(vocab=str(vocabulary), do_lower_case=True)
    if (tokenizer.cls_token_id, tokenizer.sep_token_id) != (CLS, SEP):
        raise InputError(f"{vocabulary}: [CLS] and [SEP] are not {CLS} and {SEP}, so it is not bert-base-uncased's")
    return tokenizer


def build(checkpoint: Checkpoint) -> Network:
    """The network in float32 on the CPU. Raises InputError naming tensors that are missing, unexpected or misshapen."""
    network = _empty(checkpoint)
    state, file, first = checkpoint.state, checkpoint.file, checkpoint.first_fusion
    never_run = tuple(f"fusion_encoder.encoder.layer.{number}." for number in range(first))
    unused = {name for name in state if _UNUSED.match(name) or name.startswith(never_run)}
    filled, taken, missing = {}, set(), {}  # a dict, for one tensor of the file may be three of ours
    for name, wanted in network.state_dict().items():
        source, part = published(name, first)
        if source not in state and source.endswith("predictions.decoder.bias"):
            source = source.replace("decoder.bias", "bias")  # one tensor by two names, of which a file may have one
        if source not in state:
            missing[source] = None
            continue
        taken.add(source)
        tensor = state[source] if part is None else state[source].chunk(3)[part]
        if tensor.shape != wanted.shape:
            shapes = f"has shape {tuple(tensor.shape)}, wanted {tuple(wanted.shape)}"
            raise InputError(f"{file}: tensor {source} {shapes}; it does not fit {BERT_CONFIG}")
        if not finite(tensor):
            raise InputError(f"{file}: tensor {source} has values that are not finite")
        filled[name] = tensor.float().clone()  # what is read is a view of the file
    for names, what in ((list(missing), "missing"), (sorted(state.keys() - taken - unused), "unexpected")):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise InputError(f"{file}: tensor {names[0]} is {what}{more}")
    network.load_state_dict(filled, assign=True)
    return network


def _empty(checkpoint: Checkpoint) -> Network:
    from transformers import BertConfig, BertLMHeadModel, BertModel, CLIPVisionConfig, CLIPVisionModel
    from transformers.models.bert.modeling_bert import BertLayer

    state, bert = checkpoint.state, checkpoint.bert
    width, _, _, patch = state[_VISION + "conv1.weight"].shape
    blocks = [
        int(n) for n in re.findall(rf"{re.escape(_VISION)}transformer\.resblocks\.(\d+)\.ln_1\.bias", " ".join(state))
    ]
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=max(blocks, default=-1) + 1,
        num_attention_heads=width // HEAD,
        image_size=checkpoint.side,
        patch_size=patch,
        hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
    )
    known = {key: value for key, value in bert.items() if key not in ("model_type", "architectures")}

    def config(layers: int, **more: bool) -> BertConfig:
        usual = {"tie_word_embeddings": False, "is_decoder": False, "add_cross_attention": False}
        return BertConfig(**(known | usual | {"num_hidden_layers": layers} | more))

    looks = {"is_decoder": True, "add_cross_attention": True}
    hidden = bert["hidden_size"]
    fusion = config(bert["fusion_layers"], **looks, attn_implementation="sdpa")
    bridge = nn.Identity()
    if hidden != width:
        bridge = nn.Sequential(nn.Linear(width, hidden), nn.LayerNorm(hidden, eps=1e-12))
    return Network(
        CLIPVisionModel(vision),
        bridge,
        BertModel(config(bert["text_encoder_layers"]), add_pooling_layer=False),
        nn.ModuleList(BertLayer(fusion) for _ in range(bert["fusion_layers"])),
        BertLMHeadModel(config(bert["text_decode_layers"], **looks)),
        checkpoint.stride,
    )


_VISION_NAMES = {
    "vision_model.": "",  # transformers before 5
    "embeddings.class_embedding": "class_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.patch_embedding.": "conv1.",
    "pre_layrnorm.": "ln_pre.",
    "post_layernorm.": "ln_post.",
    "encoder.layers.": "transformer.resblocks.",
    "self_attn.": "attn.",
    "layer_norm1.": "ln_1.",
    "layer_norm2.": "ln_2.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
}
_PREFIXES = {
    "bridge.0.": "visn_fc.",
    "bridge.1.": "visn_layer_norm.",
    "text.": "text_encoder.",
    "decoder.": "text_decoder.",
}


def published(name: str, first_fusion: int) -> tuple[str, int | None]:
    """The file's name of a tensor of `Network`; and which third of it, where queries, keys and values are one there."""
    if name.startswith("visual."):
        name = name.removeprefix("visual.")
        for ours, theirs in _VISION_NAMES.items():
            name = name.replace(ours, theirs)
        if match := re.fullmatch(r"(.*\.attn\.)([qkv])_proj\.(weight|bias)", name):
            return f"{_VISION}{match[1]}in_proj_{match[3]}", "qkv".index(match[2])
        return _VISION + name, None
    if match := re.match(r"fusion\.(\d+)\.", name):
        return f"fusion_encoder.encoder.layer.{int(match[1]) + first_fusion}.{name[match.end() :]}", None
    prefix = next(prefix for prefix in _PREFIXES if name.startswith(prefix))
    return _PREFIXES[prefix] + name.removeprefix(prefix), None
