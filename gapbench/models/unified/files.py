"""Files of checkpoints, whatever is in them. Nothing heavy is imported here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gapbench.records import InputError

CONFIG = "config.json"
INDEX = ".index.json"  # how the name of a file ends that says in which files the tensors are


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises InputError where there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a JSON {type(values).__name__}, no object")
    return values


def shards(index: Path) -> list[str]:
    """Names of the files that an index spreads the tensors over."""
    where = read_json(index).get("weight_map")
    names = sorted(set(where.values())) if isinstance(where, dict) and where else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise InputError(f"{index}: weight_map does not name the files of tensors; download it again")
    return names


def weights_in(folder: Path, names: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The first of the files `names` that is there, or all that it is an index of; and what is missing."""
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        return [], [" or ".join(names)]
    files = [folder / name for name in shards(found)] if found.name.endswith(INDEX) else [found]
    return files, [file.name for file in files if not file.is_file()]
