"""Where the parts of a Show-o checkpoint lie: in a folder, or on the hub.

A checkpoint is a config, the weights of the language model, the image tokenizer (MAGVIT-v2), the text tokenizer
(Phi-1.5's) and, for one variant, CLIP's image encoder. The published repositories hold the first two only; the others
are repositories of their own. Nothing heavy is imported here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gapbench import hub
from gapbench.hub import cached_commit
from gapbench.models.unified.files import CONFIG, read_json
from gapbench.records import InputError

WEIGHTS = ("pytorch_model.safetensors", "model.safetensors", "pytorch_model.bin")
TOKENIZER = (("tokenizer.json",), ("tokenizer_config.json",))
CLIP = ((CONFIG,), WEIGHTS[1:])
MAGVIT_REPO, MAGVIT_FOLDER = "showlab/magvitv2", "magvitv2"
TOKENIZER_REPO, TOKENIZER_FOLDER = "microsoft/phi-1_5", "phi-1_5"
CLIP_REPO, CLIP_FOLDER = "openai/clip-vit-large-patch14-336", "clip-vit-large-patch14-336"


@dataclass(frozen=True)
class Files:
    """The parts of one checkpoint; `source` says in the manifest's words where it came from.

    magvit_config None stands for the published sizes; clip is None unless the config has w_clip_vit.
    """

    config: Path
    weights: Path
    magvit_config: Path | None
    magvit_weights: Path
    tokenizer: Path
    clip: Path | None
    source: Mapping[str, str]


def local_files(folder: Path) -> Files:
    """The checkpoint in `folder`; an image or text tokenizer that is not in it comes from the hub or its cache.

    Known layouts: the published one (weights beside config.json), one training step of it (`unwrapped_model/`), and a
    training run (`checkpoint-N/unwrapped_model/`, the highest N that has weights).
    """
    config, weights = find_config(folder), find_weights(folder)
    if config is None:
        raise InputError(f"{folder} has no {CONFIG}, so it is no Show-o checkpoint")
    if weights is None:
        raise InputError(f"{folder} has none of {', '.join(WEIGHTS)}, nor has checkpoint-N/unwrapped_model in it")

    magvit_config, magvit = None, folder / MAGVIT_FOLDER
    if magvit.is_dir():
        magvit_weights = _first(magvit, WEIGHTS)
        magvit_config = _first(magvit, (CONFIG,))
        if magvit_weights is None:
            raise InputError(f"{magvit} has none of {', '.join(WEIGHTS)}")
    else:
        (magvit_weights,) = hub.fetch(MAGVIT_REPO, (WEIGHTS,), "main", _put(MAGVIT_REPO, magvit))

    places = [place for place in (folder, folder / TOKENIZER_FOLDER, folder / "tokenizer") if _has_tokenizer(place)]
    if places:
        tokenizer = places[0]
    else:
        advice = _put(TOKENIZER_REPO, folder / TOKENIZER_FOLDER)
        tokenizer = hub.fetch(TOKENIZER_REPO, TOKENIZER, "main", advice)[0].parent

    clip = None
    if read_json(config).get("w_clip_vit"):
        clip = folder / CLIP_FOLDER
        if not clip.is_dir():
            clip = hub.fetch(CLIP_REPO, CLIP, "main", _put(CLIP_REPO, clip))[0].parent
    return Files(config, weights, magvit_config, magvit_weights, tokenizer, clip, {"folder": str(folder)})


def hub_files(repo: str, revision: str = "main") -> Files:
    """The checkpoint `repo` of the hub. What the cache has is taken from there without asking the hub."""
    advice = f"Download {repo} elsewhere and pass the folder: --model DIR (with {{}} inside)"
    inside = f"{MAGVIT_FOLDER}/ and {TOKENIZER_FOLDER}/"
    config, weights = hub.fetch(repo, ((CONFIG,), WEIGHTS), revision, advice.format(inside))
    clip = None
    if read_json(config).get("w_clip_vit"):
        inside = f"{MAGVIT_FOLDER}/, {TOKENIZER_FOLDER}/ and {CLIP_FOLDER}/"
        clip = hub.fetch(CLIP_REPO, CLIP, "main", advice.format(inside))[0].parent
    (magvit_weights,) = hub.fetch(MAGVIT_REPO, (WEIGHTS,), "main", advice.format(inside))
    tokenizer = hub.fetch(TOKENIZER_REPO, TOKENIZER, "main", advice.format(inside))[0].parent
    source = {"repo": repo, "revision": revision, "commit": cached_commit(config) or revision}
    return Files(config, weights, None, magvit_weights, tokenizer, clip, source)


def find_config(folder: Path) -> Path | None:
    """config.json of a checkpoint or a training run: beside the weights, or in a folder above them."""
    weights = find_weights(folder)
    place = weights.parent if weights else folder
    while not (place / CONFIG).is_file():
        if place == folder:
            return None
        place = place.parent
    return place / CONFIG


def find_weights(folder: Path) -> Path | None:
    steps = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    steps.sort(key=lambda path: int(path.name.partition("-")[2]), reverse=True)
    places = [folder, *(place / "unwrapped_model" for place in (folder, *steps))]
    return next((found for place in places if (found := _first(place, WEIGHTS))), None)


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _has_tokenizer(folder: Path) -> bool:
    return any(
        all((folder / name).is_file() for name in names) for names in (TOKENIZER[0], ("vocab.json", "merges.txt"))
    )


def _put(repo: str, place: Path) -> str:
    return f"Download {repo} elsewhere and put it into {place}"
