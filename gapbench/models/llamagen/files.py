"""Where the parts of a LlamaGen checkpoint lie: in a folder, or on the hub.

Published are repositories of several language models (`t2i_XL_stage1_256.pt`, `c2i_B_256.pt`, ...) with the image
tokenizers of their kind (`vq_ds16_t2i.pt`, `vq_ds16_c2i.pt`); a folder holds one of the former with its tokenizer. The
text encoder of the text-conditional ones is a repository of its own. Nothing heavy is imported here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gapbench import hub
from gapbench.models.llamagen import config
from gapbench.models.unified.files import CONFIG, shards, weights_in
from gapbench.records import InputError

LANGUAGE_MODEL = re.compile(r"[tc]2i_.*\.(pt|safetensors)")
SUFFIXES = (".pt", ".safetensors")
T5_REPO, T5_FOLDER = "google/flan-t5-xl", "flan-t5-xl"
T5_PLACES = (T5_FOLDER, f"t5-ckpt/{T5_FOLDER}")  # the second is the reference's
T5_INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
T5_WEIGHTS = ("model.safetensors", T5_INDEX[0], "pytorch_model.bin", T5_INDEX[1])
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class TextEncoder:
    """A T5 as transformers stores it; weights are one file or several shards."""

    folder: Path
    weights: tuple[Path, ...]


@dataclass(frozen=True)
class Files:
    """The parts of one checkpoint; `source` says in the manifest's words where it came from.

    text_encoder: None of a class-conditional one.
    """

    sizes: config.Sizes
    gpt: Path
    vq: Path
    text_encoder: TextEncoder | None
    source: Mapping[str, str]


def language_models(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and LANGUAGE_MODEL.fullmatch(path.name))


def local_files(folder: Path) -> Files:
    """The checkpoint in `folder`; a text encoder that is not in it comes from the hub or its cache."""
    found = language_models(folder)
    if not found:
        raise InputError(
            f"{folder} is no whole LlamaGen checkpoint: the language model is missing, a .pt or .safetensors file with "
            "a name as t2i_XL_stage1_256 or c2i_B_256; download it too"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"{folder} holds several language models: {names}; give a folder with one, and its tokenizer")
    (gpt,) = found
    told = folder / CONFIG
    sizes = config.read(gpt.name, told if told.is_file() else None)
    if not gpt.name.startswith(sizes.gpt.model_type):
        raise InputError(f"{told}: gpt.model_type is {sizes.gpt.model_type}, but the language model is {gpt.name}")
    vq = next((path for suffix in SUFFIXES if (path := folder / f"{sizes.vq_name}{suffix}").is_file()), None)
    if vq is None:
        raise InputError(f"{folder} is no whole LlamaGen checkpoint: {sizes.vq_name}.pt is missing; download it too")
    encoder = None
    if sizes.gpt.model_type == config.TEXT:
        places = [folder / name for name in T5_PLACES if (folder / name).is_dir()]
        put = f"Download {T5_REPO} elsewhere and put it into {folder / T5_FOLDER}"
        encoder = _local_text_encoder(places[0]) if places else _hub_text_encoder(put)
    return Files(sizes, gpt, vq, encoder, {"folder": str(folder)})


def hub_files(repo: str, name: str, revision: str = "main") -> Files:
    """The checkpoint whose language model is the file `name` of `repo`. What the cache has is not asked for."""
    sizes = config.read(name, None)
    vq_name = f"{sizes.vq_name}.pt"
    advice = f"Download {name} and {vq_name} of {repo} elsewhere and pass their folder: --model DIR"
    if text := sizes.gpt.model_type == config.TEXT:
        advice += f" (with {T5_REPO} in {T5_FOLDER}/ inside)"
    gpt, vq = hub.fetch(repo, [(name,), (vq_name,)], revision, advice)
    encoder = _hub_text_encoder(advice) if text else None
    source = {"repo": repo, "revision": revision, "commit": hub.cached_commit(gpt) or revision}
    return Files(sizes, gpt, vq, encoder, source)


def _local_text_encoder(folder: Path) -> TextEncoder:
    missing = [name for name in (CONFIG, TOKENIZER) if not (folder / name).is_file()]
    weights, lacking = weights_in(folder, T5_WEIGHTS)
    missing += lacking
    if missing:
        raise InputError(f"{folder} is no whole text encoder: {', '.join(missing)} missing; download {T5_REPO} again")
    return TextEncoder(folder, tuple(weights))


def _hub_text_encoder(advice: str) -> TextEncoder:
    told, _, first = hub.fetch(T5_REPO, [(CONFIG,), (TOKENIZER,), T5_WEIGHTS], "main", advice)
    weights = [first]
    if first.name in T5_INDEX:
        commit = hub.cached_commit(first) or "main"
        weights = hub.fetch(T5_REPO, [(shard,) for shard in shards(first)], commit, advice)
    return TextEncoder(told.parent, tuple(weights))
