"""The hub: files of models and data sets, from its cache or else its servers, and one line where that fails."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gapbench.records import InputError

PROBE_SECONDS = 8.0
"""How long the hub may take to say whether it has a file. Its client, left alone, retries for 23 seconds and more."""


def fetch(repo: str, wanted: Sequence[Sequence[str]], revision: str, advice: str) -> list[Path]:
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


def fetch_dataset(repo: str, revision: str, patterns: Sequence[str], advice: str) -> Path:
    """The folder of a data set's files that match `patterns`, all of one commit, with a progress bar.

    What the cache lacks is fetched. Raises InputError, one line with `advice`, where that fails.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        with silent("huggingface_hub"):
            _within(PROBE_SECONDS, lambda: HfApi().dataset_info(repo, revision=revision, timeout=PROBE_SECONDS / 2))
            return Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=list(patterns)))
    except Exception as error:
        raise InputError(f"cannot fetch the data set {repo} from the hub ({_reason(error)}). {advice}") from None


def cached_dataset(repo: str, revision: str, patterns: Sequence[str]) -> Path | None:
    """The folder in the hub's cache if it holds files for each of `patterns`; else None."""
    from huggingface_hub import snapshot_download

    try:
        with silent("huggingface_hub"):
            folder = Path(
                snapshot_download(
                    repo, repo_type="dataset", revision=revision, allow_patterns=list(patterns), local_files_only=True
                )
            )
    except Exception:  # what is not in the cache, it says in several ways
        return None
    return folder if all(any(folder.glob(pattern)) for pattern in patterns) else None


def cached_commit(path: Path) -> str | None:
    """The commit of a file in the hub's cache, `models--ORG--NAME/snapshots/COMMIT/...`."""
    snapshot = _snapshot(path)
    return snapshot and snapshot.name


def _snapshot(path: Path) -> Path | None:
    return next((folder for folder in path.parents if folder.parent.name == "snapshots"), None)


def fingerprint(file: Path) -> dict[str, str]:
    """What the manifest says of a file: its name, its sha256 and, from the hub's cache, repository and commit."""
    told = {"file": file.name}
    if snapshot := _snapshot(file):
        repo = snapshot.parents[1].name.removeprefix("models--").replace("--", "/")
        told |= {"repo": repo, "commit": snapshot.name}
        # The cache names a large file by its sha256, so 6 GB need not be read again. One link only: a blob may itself
        # be a link to a store with other names.
        blob = Path(os.readlink(file)).name if file.is_symlink() else ""
        if re.fullmatch(r"[0-9a-f]{64}", blob):
            return told | {"sha256": blob}
    with file.open("rb") as stream:
        return told | {"sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


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
