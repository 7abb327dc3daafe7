"""Any image-text-to-text model of transformers, from the hub or a folder: see hf_model.py.

`hf:ORG/NAME`, `hf:DIR`, or a folder whose config.json names a model_type that AutoModelForImageTextToText knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapbench import hub
from gapbench.models.unified.files import CONFIG, read_json
from gapbench.records import InputError

if TYPE_CHECKING:
    import torch

    from gapbench.models.hf_model import ImageTextToText
    from gapbench.models.zoo import Entry

AUTO_CLASS = "AutoModelForImageTextToText"
INDEX = ".index.json"
WEIGHTS = ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}")
SETTINGS = ("*.json", "*.jinja", "*.model", "*.txt", "*.py")  # what is beside the weights and changes numbers
BRINGS_CODE = "it needs Python files that come with it; if you trust who wrote them, add --trust-remote-code"
SHOWN = 3  # how many missing weights an error names


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint's files. transformers is asked for `place` and `revision`; `source` is what the manifest says."""

    place: str
    config: Path
    weights: tuple[Path, ...]
    source: Mapping[str, Any]
    revision: str | None = None


def knows(config: Mapping[str, Any]) -> bool:
    """Whether transformers has an image-text-to-text model of the kind that a config.json names."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return config.get("model_type") in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def load(entry: Entry, device: str | None, dtype: str | None) -> ImageTextToText:
    """The checkpoint in a folder or on the hub. Raises InputError where a part of it is missing or wrong."""
    from gapbench.models import zoo

    place = zoo.device_of(device)
    kind = zoo.dtype_of(dtype, place)
    folder = entry.folder or (Path(entry.target) if entry.target and Path(entry.target).is_dir() else None)
    try:
        found = local_files(folder, entry) if folder else hub_files(entry.repo or entry.target, entry)
        return _built(found, entry, place, kind)
    except InputError as error:
        raise InputError(f"--model {entry.name}: {error}") from None


def local_files(folder: Path, entry: Entry) -> Found:
    config = folder / CONFIG
    if not config.is_file():
        raise InputError(f"{folder} has no {CONFIG}, so it is no model of transformers")
    _check(config, entry)
    first = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if first is None:
        raise InputError(f"{folder} has none of {', '.join(WEIGHTS)}")
    weights = [folder / name for name in _shards(first)]
    if lacking := [path.name for path in weights if not path.is_file()]:
        raise InputError(f"{folder} lacks {lacking[0]}, which {first.name} names; download it again")
    settings = sorted({path for pattern in SETTINGS for path in folder.glob(pattern)} - {first})
    told = {path.name: hub.fingerprint(path)["sha256"] for path in settings}
    return Found(str(folder), config, tuple(weights), {"folder": str(folder), "files": told})


def hub_files(repo: str, entry: Entry) -> Found:
    """Config and weights are fetched here, all of one commit; the processor's files are transformers' to fetch."""
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise InputError(f"{repo} is neither a folder nor ORG/NAME of the hub")
    advice = f"Download {repo} elsewhere and pass the folder: --model hf:DIR"
    (config,) = hub.fetch(repo, ((CONFIG,),), entry.revision, advice)
    _check(config, entry)
    commit = hub.cached_commit(config) or entry.revision
    (first,) = hub.fetch(repo, (WEIGHTS,), commit, advice)
    names = _shards(first)
    weights = (first,) if names == [first.name] else tuple(hub.fetch(repo, [(name,) for name in names], commit, advice))
    return Found(repo, config, weights, {"repo": repo, "revision": entry.revision, "commit": commit}, commit)


def _shards(first: Path) -> list[str]:
    """The names of the weights' files: the file itself, or those that an index names."""
    if not first.name.endswith(INDEX):
        return [first.name]
    named = read_json(first).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise InputError(f"{first} has no weight_map, so it is no index of weights")
    return sorted(set(named.values()))


def _check(file: Path, entry: Entry) -> None:
    """Raises InputError where the model is none of transformers', and none that may bring its own code."""
    config = read_json(file)
    if knows(config):
        return
    if AUTO_CLASS in (config.get("auto_map") or {}):
        if entry.trust_remote_code:
            return
        raise InputError(BRINGS_CODE)
    kind = config.get("model_type", "unknown")
    raise InputError(
        f"{file.name} is of model_type {kind}, no image-text-to-text model of transformers {version('transformers')}"
    )


def _built(found: Found, entry: Entry, place: torch.device, kind: torch.dtype) -> ImageTextToText:
    # Only now: these take seconds to import, and what is missing should be said at once.
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from gapbench.models.hf_model import ImageTextToText

    origin = {"revision": found.revision, "trust_remote_code": entry.trust_remote_code}
    try:
        with hub.silent("transformers"):
            processor = AutoProcessor.from_pretrained(found.place, **origin)
            model, loading = AutoModelForImageTextToText.from_pretrained(
                found.place,
                **origin,
                dtype=kind,
                device_map={"": place},
                use_safetensors=found.weights[0].suffix == ".safetensors",
                weights_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # the library, or a stranger's code, which say what is wrong in many ways
        said = " ".join(str(error).split())
        if "trust_remote_code" in said:
            raise InputError(BRINGS_CODE) from None
        raise InputError(f"transformers cannot load it: {type(error).__name__}: {said[:300]}") from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise InputError(f"{found.place} has no processor of pictures and texts, such as preprocessor_config.json says")
    if missing := sorted(loading["missing_keys"]):
        named = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
        raise InputError(f"{len(missing)} weights are missing ({named}); the files are partial, or another model's")
    libraries = ("transformers", "tokenizers", "torchvision", "pillow")  # they make of pictures and texts what is read
    provenance = {
        **found.source,
        "weights": {path.name: hub.fingerprint(path) for path in found.weights},
        "unused_weights": len(loading["unexpected_keys"]),
        "remote_code": not type(model).__module__.startswith("transformers."),
        "versions": {name: version(name) for name in libraries},
    }
    return ImageTextToText(model.eval(), processor, entry.name, provenance)
