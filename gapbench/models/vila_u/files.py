"""Where the parts of a VILA-U checkpoint lie: in a folder, or on the hub. Nothing heavy is imported here.

The published layout is one repository: config.json, and a folder each for the language model with its text tokenizer
(`llm`), the vision tower with the depth transformer (`vision_tower`) and the projector (`mm_projector`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gapbench import hub
from gapbench.models.unified.files import CONFIG, shards
from gapbench.records import InputError

MODEL_TYPE = "vila_u_llama"  # in config.json
LLM, VISION, PROJECTOR = PARTS = ("llm", "vision_tower", "mm_projector")
INDEX = "model.safetensors.index.json"
WEIGHTS = ("model.safetensors", INDEX, "pytorch_model.bin")
TOKENIZER = ("tokenizer.model", "tokenizer.json")


@dataclass(frozen=True)
class Part:
    """One of the three folders; weights: one file, or several shards."""

    config: Path
    weights: tuple[Path, ...]


@dataclass(frozen=True)
class Files:
    """The parts of one checkpoint; `source` says in the manifest's words where it came from."""

    config: Path
    llm: Part
    vision: Part
    projector: Part
    tokenizer: Path
    source: Mapping[str, str]


def local_files(folder: Path) -> Files:
    """The checkpoint in `folder`. Raises InputError naming all that is missing."""
    missing: list[str] = []

    def first(place: str, names: tuple[str, ...]) -> Path:
        found = [folder / place / name for name in names if (folder / place / name).is_file()]
        if not found:
            missing.append(" or ".join(f"{place}/{name}" if place else name for name in names))
        return found[0] if found else folder / place / names[0]

    config = first("", (CONFIG,))
    configs = {part: first(part, (CONFIG,)) for part in PARTS}
    tokenizer = first(LLM, TOKENIZER)
    weights: dict[str, tuple[Path, ...]] = {}
    for part in PARTS:
        file = first(part, WEIGHTS)
        weights[part] = (file,)
        if file.name == INDEX and file.is_file():
            weights[part] = tuple(first(part, (name,)) for name in shards(file))
    if missing:
        raise InputError(f"{folder} is no whole VILA-U checkpoint: {', '.join(missing)} missing; download it again")
    llm, vision, projector = (Part(configs[part], weights[part]) for part in PARTS)
    return Files(config, llm, vision, projector, tokenizer, {"folder": str(folder)})


def hub_files(repo: str, revision: str = "main") -> Files:
    """The checkpoint `repo` of the hub. What the cache has is taken from there without asking the hub."""
    inside = ", ".join(f"{part}/" for part in PARTS)
    advice = f"Download {repo} elsewhere and pass the folder: --model DIR (with {inside} inside)"
    wanted = [(CONFIG,), *((f"{part}/{CONFIG}",) for part in PARTS)]
    wanted += [tuple(f"{LLM}/{name}" for name in TOKENIZER)]
    wanted += [tuple(f"{part}/{name}" for name in WEIGHTS) for part in PARTS]
    config, *configs, tokenizer, llm, vision, projector = hub.fetch(repo, wanted, revision, advice)
    commit = hub.cached_commit(config) or revision
    parts = []
    for name, part_config, file in zip(PARTS, configs, (llm, vision, projector), strict=True):
        weights = [file]
        if file.name == INDEX:
            weights = hub.fetch(repo, [(f"{name}/{shard}",) for shard in shards(file)], commit, advice)
        parts.append(Part(part_config, tuple(weights)))
    return Files(config, *parts, tokenizer, {"repo": repo, "revision": revision, "commit": commit})
