"""Where the parts of a Show-o checkpoint lie: in a folder, or on the hub.

A checkpoint is a config, the weights of the language model, the image tokenizer (MAGVIT-v2), the text tokenizer
(Phi-1.5's) and, for one variant, CLIP's image encoder. The published repositories hold the first two only; the others
are repositories of their own. Nothing heavy is imported here.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gapbench.records import InputError

CONFIG = "config.json"
WEIGHTS = ("pytorch_model.safetensors", "model.safetensors", "pytorch_model.bin")
TOKENIZER = (("tokenizer.json",), ("tokenizer_config.json",))
CLIP = ((CONFIG,), WEIGHTS[1:])
MAGVIT_REPO, MAGVIT_FOLDER = "showlab/magvitv2", "magvitv2"
TOKENIZER_REPO, TOKENIZER_FOLDER = "microsoft/phi-1_5", "phi-1_5"
CLIP_REPO, CLIP_FOLDER = "openai/clip-vit-large-patch14-336", "clip-vit-large-patch14-336"

PROBE_SECONDS = 8.0
"""How long the hub may take to say whether it has a file. Its client, left alone, retries for 23 seconds and more."""


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
        (magvit_weights,) = _fetch(MAGVIT_REPO, (WEIGHTS,), "main", _put(MAGVIT_REPO, magvit))

    places = [place for place in (folder, folder / TOKENIZER_FOLDER, folder / "tokenizer") if _has_tokenizer(place)]
    if places:
        tokenizer = places[0]
    else:
        advice = _put(TOKENIZER_REPO, folder / TOKENIZER_FOLDER)
        tokenizer = _fetch(TOKENIZER_REPO, TOKENIZER, "main", advice)[0].parent

    clip = None
    if read_json(config).get("w_clip_vit"):
        clip = folder / CLIP_FOLDER
        if not clip.is_dir():
            clip = _fetch(CLIP_REPO, CLIP, "main", _put(CLIP_REPO, clip))[0].parent
    return Files(config, weights, magvit_config, magvit_weights, tokenizer, clip, {"folder": str(folder)})


def hub_files(repo: str, revision: str = "main") -> Files:
    """The checkpoint `repo` of the hub. What the cache has is taken from there without asking the hub."""
    advice = f"Download {repo} elsewhere and pass the folder: --model DIR (with {{}} inside)"
    inside = f"{MAGVIT_FOLDER}/ and {TOKENIZER_FOLDER}/"
    config, weights = _fetch(repo, ((CONFIG,), WEIGHTS), revision, advice.format(inside))
    clip = None
    if read_json(config).get("w_clip_vit"):
        inside = f"{MAGVIT_FOLDER}/, {TOKENIZER_FOLDER}/ and {CLIP_FOLDER}/"
        clip = _fetch(CLIP_REPO, CLIP, "main", advice.format(inside))[0].parent
    (magvit_weights,) = _fetch(MAGVIT_REPO, (WEIGHTS,), "main", advice.format(inside))
    tokenizer = _fetch(TOKENIZER_REPO, TOKENIZER, "main", advice.format(inside))[0].parent
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


def read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a JSON {type(values).__name__}, no object")
    return values


def cached_commit(path: Path) -> str | None:
    """The commit of a file in the hub's cache, `.../snapshots/COMMIT/FILE`."""
    return path.parent.name if path.parent.parent.name == "snapshots" else None


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _has_tokenizer(folder: Path) -> bool:
    return any(
        all((folder / name).is_file() for name in names) for names in (TOKENIZER[0], ("vocab.json", "merges.txt"))
    )


def _put(repo: str, place: Path) -> str:
    return f"Download {repo} elsewhere and put it into {place}"


# ---------------------------------------------------------------------------------------------------------------------
# The hub


def _fetch(repo: str, wanted: Sequence[Sequence[str]], revision: str, advice: str) -> list[Path]:
    """One file for each entry of `wanted`, all of one commit, whatever happens to a branch in between."""
    paths: list[Path] = []
    for names in wanted:
        paths.append(_fetch_one(repo, names, revision, advice))
        revision = cached_commit(paths[0]) or revision
    return paths


def _fetch_one(repo: str, names: Sequence[str], revision: str, advice: str) -> Path:
    """The first of `names` that the cache or else the repository has."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    for name in names:
        if isinstance(cached := try_to_load_from_cache(repo, name, revision=revision), str):
            return Path(cached)
    for name in names:
        try:
            with silent("huggingface_hub"):
                url = hf_hub_url(repo, name, revision=revision)
                _within(PROBE_SECONDS, lambda url=url: get_hf_file_metadata(url, timeout=PROBE_SECONDS / 2))
                return Path(hf_hub_download(repo, name, revision=revision))
        except errors.RemoteEntryNotFoundError:
            continue
        except Exception as error:
            raise InputError(f"cannot fetch {name} of {repo} from the hub ({_reason(error)}). {advice}") from None
    raise InputError(f"{repo} has none of {', '.join(names)} at revision {revision}. {advice}")


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

    match error:
        case errors.OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set and the cache does not have it"
        case errors.GatedRepoError():
            return "access is granted on its page there, then log in with `hf auth login`"
        case errors.RepositoryNotFoundError():
            return "no such repository, or it is private"
        case errors.RevisionNotFoundError():
            return "no such revision"
        case errors.HfHubHTTPError():
            return f"it answers with status {error.response.status_code}"
        case OSError() if error.strerror:
            return error.strerror  # such as a full disk
        case _:
            return "no connection"


def _within(seconds: float, call: Callable[[], object]) -> None:
    """Run `call`, or give up with TimeoutError: a connection's own limit counts anew for every address it tries."""
    outcome: list[Exception | None] = []

    def work() -> None:
        try:
            call()
            outcome.append(None)
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError
    if outcome[0] is not None:
        raise outcome[0]


@contextmanager
def silent(library: str) -> Iterator[None]:
    """Keep a library's warnings off the terminal; what is wrong is said in our one line."""
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
