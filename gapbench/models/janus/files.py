"""Where the parts of a Janus checkpoint lie: in a folder, or on the hub. Nothing heavy is imported here.

The layout is transformers': config.json, safetensors in one file or several, the tokenizer's two files, the image
processor's fields (in a file of their own or within the processor's), and a chat template in one of three places.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gapbench import hub
from gapbench.models.unified.files import CONFIG, read_json, shards, weights_in
from gapbench.records import InputError

ORIGINAL = "multi_modality"  # model_type of deepseek-ai's own layout, which only their package reads
CONVERTED = "deepseek-community/Janus-1.3B, Janus-Pro-1B or Janus-Pro-7B there"
INDEX = "model.safetensors.index.json"
WEIGHTS = ("model.safetensors", INDEX)
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
PROCESSOR, PREPROCESSOR, GENERATION = "processor_config.json", "preprocessor_config.json", "generation_config.json"
TEMPLATES = ("chat_template.jinja", "chat_template.json")


@dataclass(frozen=True)
class Files:
    """The parts of one checkpoint; `source` says in the manifest's words where it came from.

    template: None where the tokenizer's own config may have it. system_prompt: whether the processor puts its own
    before every question. guidance: what the checkpoint says that it is drawn with, if anything.
    """

    folder: Path
    config: Path
    weights: tuple[Path, ...]
    template: str | None
    system_prompt: bool
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    min_size: int
    guidance: float | None
    source: Mapping[str, str]


def local_files(folder: Path, source: Mapping[str, str] | None = None) -> Files:
    """The checkpoint in `folder`. Raises InputError naming all that is missing."""
    config = folder / CONFIG
    kind = read_json(config).get("model_type") if config.is_file() else None
    if kind == ORIGINAL:
        raise InputError(
            f"{folder} is in DeepSeek's own layout (model_type {ORIGINAL}), which only their package reads; take the "
            f"same weights in transformers' layout: {CONVERTED}"
        )
    missing = [name for name in (CONFIG, *TOKENIZER) if not (folder / name).is_file()]
    weights, lacking = weights_in(folder, WEIGHTS)
    missing += lacking
    processor = read_json(folder / PROCESSOR) if (folder / PROCESSOR).is_file() else {}
    images_file, images = folder / PROCESSOR, processor.get("image_processor")
    if (folder / PREPROCESSOR).is_file():
        images_file, images = folder / PREPROCESSOR, read_json(folder / PREPROCESSOR)
    if not isinstance(images, dict):
        missing.append(PREPROCESSOR)
    if missing:
        raise InputError(f"{folder} is no whole Janus checkpoint: {', '.join(missing)} missing; download it again")
    generation = read_json(folder / GENERATION) if (folder / GENERATION).is_file() else {}
    return Files(
        folder,
        config,
        tuple(weights),
        _template(folder),
        bool(processor.get("use_default_system_prompt", False)),
        _colour(images_file, images, "image_mean"),
        _colour(images_file, images, "image_std"),
        images.get("min_size", 14),
        generation.get("guidance_scale"),
        source or {"folder": str(folder)},
    )


def hub_files(repo: str, revision: str = "main") -> Files:
    """The checkpoint `repo` of the hub. What the cache has is taken from there without asking the hub."""
    advice = f"Download {repo} elsewhere and pass the folder: --model DIR"
    # What may stand in for another comes after it: once it is in the cache, the other would not be asked for.
    wanted = [(CONFIG,), (PREPROCESSOR, PROCESSOR), (PROCESSOR,), TEMPLATES, *((name,) for name in TOKENIZER), WEIGHTS]
    config, *_, weights = hub.fetch(repo, wanted, revision, advice)
    commit = hub.cached_commit(config) or revision
    if weights.name == INDEX:
        hub.fetch(repo, [(shard,) for shard in shards(weights)], commit, advice)
    return local_files(config.parent, {"repo": repo, "revision": revision, "commit": commit})


def _template(folder: Path) -> str | None:
    jinja, json = (folder / name for name in TEMPLATES)
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    if json.is_file():
        template = read_json(json).get("chat_template")
        if not isinstance(template, str):
            raise InputError(f'{json}: "chat_template" must be a text; download it again')
        return template
    return None


def _colour(file: Path, fields: Mapping[str, Any], name: str) -> tuple[float, ...]:
    values = fields.get(name)
    numbers = isinstance(values, list) and all(isinstance(value, int | float) for value in values)
    if not numbers or len(values) != 3 or not all(math.isfinite(value) for value in values):
        raise InputError(f"{file}: {name} must be three numbers, not {values}")
    return tuple(map(float, values))
