"""Loading a Show-o checkpoint: the published repositories', one trained further, or the miniature.

Source: the state-dict names and config keys of showlab/Show-o. Stock transformers' Phi is the same network once the
query and key norms are switched on, so weights are renamed and nothing is converted. Models are built without memory
and filled tensor by tensor, each going from the file straight to its device and dtype; every tensor is accounted for.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gapbench.hub import fingerprint, silent
from gapbench.models.show_o.files import CLIP, Files
from gapbench.models.show_o.layout import SPECIAL, Layout
from gapbench.models.show_o.magvit import Magvit, MagvitConfig
from gapbench.models.unified.files import read_json
from gapbench.models.unified.weights import and_more, first_line, open_weights, placed, read_header
from gapbench.records import InputError

if TYPE_CHECKING:
    from transformers import CLIPVisionModel, PhiForCausalLM, PreTrainedTokenizerBase

PREFIX, PROJECTOR = "showo.", "mm_projector."
END_OF_TEXT = "<|endoftext|>"
# microsoft/phi-1_5; published checkpoints name it and leave its sizes out.
PHI_1_5 = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "hidden_act": "gelu_new",
    "partial_rotary_factor": 0.5,
    "rope_theta": 10000.0,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 2048,
}
CLIP_L_336 = {"hidden_size": 1024, "image_size": 336, "patch_size": 14}  # openai/clip-vit-large-patch14-336


@dataclass(frozen=True)
class ShowOConfig:
    """config.json. `phi_config` and `clip_config` are ours, for checkpoints of other sizes than the published ones."""

    codebook_size: int
    llm_vocab_size: int
    mask_token_id: int
    num_vq_tokens: int
    vocab_size: int
    max_seq_length: int
    w_clip_vit: bool
    phi_config: Mapping[str, Any]
    clip_config: Mapping[str, Any]

    @classmethod
    def from_file(cls, path: Path) -> ShowOConfig:
        """Raises InputError for a config that is not Show-o's or contradicts itself; other keys are left alone."""
        values = {key: value for key, value in read_json(path).items() if value is not None}
        if (made_by := values.get("_class_name", "Showo")) != "Showo":
            raise InputError(f'{path}: _class_name is "{made_by}"; only Show-o version 1, "Showo", can be read')
        defaults = {"max_seq_length": 128, "w_clip_vit": False, "phi_config": PHI_1_5, "clip_config": CLIP_L_336}
        values = defaults | values
        kinds = {"w_clip_vit": bool, "phi_config": dict, "clip_config": dict}
        for name in (field.name for field in dataclasses.fields(cls)):
            if name not in values:
                raise InputError(f"{path}: {name} is missing")
            value, kind = values[name], kinds.get(name, int)
            if type(value) is not kind or (kind is int and value < 1):
                wanted = {bool: "true or false", dict: "an object"}.get(kind, "a positive whole number")
                raise InputError(f"{path}: {name} must be {wanted}, not {json.dumps(value)}")
        config = cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})

        text, codes, special = config.llm_vocab_size, config.codebook_size, len(SPECIAL)
        if config.vocab_size != (total := text + special + codes + 1):
            sum_ = f"llm_vocab_size {text} + {special} special tokens + codebook_size {codes} + 1 mask token"
            raise InputError(f"{path}: vocab_size is {config.vocab_size}, but {sum_} make {total}")
        if config.mask_token_id != total - 1:
            raise InputError(f"{path}: mask_token_id is {config.mask_token_id}, not the last of {total} tokens")
        if math.isqrt(config.num_vq_tokens) ** 2 != config.num_vq_tokens:
            raise InputError(f"{path}: num_vq_tokens is {config.num_vq_tokens}, not a square, as the grid of codes is")
        return config

    def layout(self, eot: int) -> Layout:
        return Layout(self.llm_vocab_size, self.codebook_size, self.num_vq_tokens, eot, self.max_seq_length)


@dataclass(frozen=True)
class Parts:
    """A loaded checkpoint. projector (CLIP's features to Phi's width) and clip are for the CLIP-ViT variant only."""

    phi: PhiForCausalLM
    projector: nn.Sequential | None
    clip: CLIPVisionModel | None
    magvit: Magvit
    tokenizer: PreTrainedTokenizerBase
    layout: Layout
    config: ShowOConfig
    provenance: Mapping[str, Any]


def load(files: Files, device: torch.device, dtype: torch.dtype, name: str) -> Parts:
    """Read everything. The image tokenizer stays in float32, where alone its codes are exact."""
    config = ShowOConfig.from_file(files.config)
    tokenizer, eot = load_tokenizer(files.tokenizer, config.llm_vocab_size)
    phi, projector = build_transformer(config, files.config)
    modules = {"": phi} if projector is None else {"": phi, PROJECTOR: projector}
    fill(modules, files.weights, device, dtype)
    # Not in any file: computed from the config, in float32 whatever the dtype, as transformers keeps it.
    phi.model.rotary_emb = type(phi.model.rotary_emb)(config=phi.config).to(device)

    magvit = build_magvit(files.magvit_config, config.codebook_size, files.config)
    fill({"": magvit}, files.magvit_weights, device, torch.float32)
    clip = None if files.clip is None else load_clip(files.clip, config, device, dtype)

    weights = {"transformer": files.weights, "magvit": files.magvit_weights}
    if files.clip is not None:
        weights["clip"] = clip_weights(files.clip)
    provenance = {"name": name, **files.source, "weights": {part: fingerprint(path) for part, path in weights.items()}}
    return Parts(
        phi.eval(),
        None if projector is None else projector.eval(),
        clip,
        magvit.eval(),
        tokenizer,
        config.layout(eot),
        config,
        provenance,
    )


# ---------------------------------------------------------------------------------------------------------------------
# The parts, still without weights


def build_transformer(config: ShowOConfig, file: Path) -> tuple[PhiForCausalLM, nn.Sequential | None]:
    """The language model and, for the CLIP-ViT variant, the projector, on the meta device."""
    from transformers import PhiConfig, PhiForCausalLM

    sizes = {key: value for key, value in config.phi_config.items() if key not in ("model_type", "architectures")}
    sizes |= {"vocab_size": config.vocab_size, "qk_layernorm": True, "tie_word_embeddings": False}
    if sizes.get("hidden_act", "gelu_new") == "gelu_new":
        sizes["hidden_act"] = "gelu_pytorch_tanh"  # the same function in one kernel, not eight: a third of CPU time
    try:
        with torch.device("meta"), silent("transformers"):
            phi = PhiForCausalLM(PhiConfig(**sizes, attn_implementation="sdpa"))
    except Exception as error:  # whatever wrong sizes lead to
        raise InputError(f"{file}: phi_config describes no Phi model: {first_line(error)}") from None
    projector = None
    if config.w_clip_vit:
        ins, outs = config.clip_config.get("hidden_size", CLIP_L_336["hidden_size"]), phi.config.hidden_size
        with torch.device("meta"):
            projector = nn.Sequential(nn.Linear(ins, outs), nn.GELU(), nn.Linear(outs, outs))
    return phi, projector


def build_magvit(file: Path | None, codebook_size: int, config_file: Path) -> Magvit:
    """The image tokenizer on the meta device; no file means the published sizes."""
    try:
        config = MagvitConfig.from_dict(read_json(file)) if file else MagvitConfig()
    except (ValueError, TypeError) as error:
        raise error if isinstance(error, InputError) else InputError(f"{file}: {first_line(error)}") from None
    if 2**config.bits != codebook_size:
        where = f"the image tokenizer ({file or 'published sizes'})"
        raise InputError(f"{config_file}: codebook_size is {codebook_size}, but {where} has {2**config.bits} codes")
    with torch.device("meta"):
        return Magvit(config)


def load_tokenizer(folder: Path, limit: int) -> tuple[PreTrainedTokenizerBase, int]:
    """The text tokenizer as it is, nothing added, and its end-of-text id, which is Show-o's [sot] and [eot]."""
    from transformers import AutoTokenizer, CodeGenTokenizer

    # Phi's tokenizer is CodeGen's; its bare files do not say so.
    bare = not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    reader = CodeGenTokenizer if bare else AutoTokenizer
    try:
        with silent("transformers"):
            # Tidying would take spaces away from decoded text that the model wrote.
            tokenizer = reader.from_pretrained(folder, local_files_only=True, clean_up_tokenization_spaces=False)
    except Exception as error:  # broken files raise what their parsers raise
        raise InputError(f"{folder}: the tokenizer cannot be read: {first_line(error)}") from None
    eot = tokenizer.eos_token_id
    if eot is None:
        eot = tokenizer.get_vocab().get(END_OF_TEXT)
    if eot is None:
        raise InputError(f"{folder}: the tokenizer has no end-of-text token")
    if len(tokenizer) > limit:
        raise InputError(f"{folder}: the tokenizer has {len(tokenizer)} tokens, but llm_vocab_size is {limit}")
    return tokenizer, eot


def clip_weights(folder: Path) -> Path:
    found = [folder / name for name in CLIP[1] if (folder / name).is_file()]
    if not found:
        raise InputError(f"{folder} has none of {', '.join(CLIP[1])}")
    return found[0]


def load_clip(folder: Path, config: ShowOConfig, device: torch.device, dtype: torch.dtype) -> CLIPVisionModel:
    """CLIP's image encoder; transformers itself leaves the text encoder of a whole CLIP aside."""
    from transformers import CLIPVisionModel
    from transformers.utils import logging

    file = clip_weights(folder)
    read_header(file)
    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with silent("transformers"):
            clip, report = CLIPVisionModel.from_pretrained(
                folder,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=file.suffix == ".safetensors",
                weights_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # as above
        raise InputError(f"{folder}: CLIP cannot be read: {first_line(error)}") from None
    finally:
        if bar:
            logging.enable_progress_bar()
    if report["missing_keys"]:
        raise InputError(f"{file}: tensor {min(report['missing_keys'])} is missing")
    for size in CLIP_L_336:  # the projector's input, and with it the number of image features
        wanted, found = config.clip_config.get(size), getattr(clip.config, size)
        if wanted not in (None, found):
            raise InputError(f"{folder}: CLIP's {size} is {found}, but the checkpoint wants {wanted}")
    return clip.to(device).eval()


# ---------------------------------------------------------------------------------------------------------------------
# Weights


def fill(modules: Mapping[str, nn.Module], file: Path, device: torch.device, dtype: torch.dtype) -> None:
    """Fill modules that are on the meta device from one file; keys say which prefix a module's tensors have there.

    Exactly the wanted tensors must be there, in their shapes and with finite values. Floating ones become `dtype`.
    """
    shapes, read = open_weights(file, device)
    names = {key.removeprefix(PREFIX): key for key in shapes if not key.endswith("rotary_emb.inv_freq")}
    prefix = PREFIX if any(key.startswith(PREFIX) for key in shapes) else ""
    wanted = {start + key: value for start, module in modules.items() for key, value in module.state_dict().items()}
    if missing := [key for key in wanted if key not in names]:
        shown = missing[0] if missing[0].startswith(PROJECTOR) else prefix + missing[0]
        raise InputError(f"{file}: tensor {shown} is missing{and_more(missing)}")
    if unexpected := [names[key] for key in names if key not in wanted]:
        raise InputError(f"{file}: tensor {unexpected[0]} is unexpected{and_more(unexpected)}")
    for key, value in wanted.items():
        if (shape := shapes[names[key]]) != tuple(value.shape):
            rows = key in ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias")
            why = "; the vocabulary differs from the config's" if rows and shape[:1] != value.shape[:1] else ""
            raise InputError(f"{file}: tensor {names[key]} has shape {shape}, wanted {tuple(value.shape)}{why}")

    for start, module in modules.items():
        state = {}
        for key, value in module.state_dict().items():
            source = read(names[start + key])
            if source.is_floating_point() != value.is_floating_point():
                raise InputError(f"{file}: tensor {names[start + key]} has dtype {source.dtype}, wanted {value.dtype}")
            kind = dtype if value.is_floating_point() else value.dtype
            state[key] = placed(source, device, kind, f"{file}: tensor {names[start + key]}")
        module.load_state_dict(state, assign=True)
