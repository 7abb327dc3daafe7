"""The folder of a curation: what was asked of it, and its lines of candidates, whole whatever process was killed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gapbench.homologous import Homologous
from gapbench.records import InputError
from gapbench.store import write_json
from hermesflow.checkpoints import writing
from hermesflow.records import Candidates, candidates_from, to_json

FILE, ABOUT = "candidates.jsonl", "curation.json"


def read_candidates(path: Path) -> list[Candidates]:
    """All of a finished `candidates.jsonl`, or of its folder. Raises InputError naming the line that is none."""
    file = path / FILE if path.is_dir() else path
    found = []
    try:
        with file.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                found.append(_parsed(line, f"{file}:{number}"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); curate first") from None
    return found


def _parsed(line: str, where: str) -> Candidates:
    try:
        return candidates_from(line)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{where}: no line of candidates ({error}); remove the folder and curate anew") from None


def model_of(path: Path) -> dict[str, Any]:
    """The model that made the candidates in a folder, or in its file, as it described itself but for its name.

    Empty where the file lies alone.
    """
    file = (path if path.is_dir() else path.parent) / ABOUT
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))["request"]["model"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{file}: cannot be read ({error}); curate anew") from None


def open_folder(folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    """curation.json as it is from now on. Raises InputError where the folder is not free for this request."""
    file = folder / ABOUT
    if not file.exists():
        if folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise InputError(f"{folder}: holds files but no candidates; give an empty or a new folder")
        write_about(folder, about)
        return about
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        before, now = found["request"], about["request"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{file}: cannot be read ({error}); remove the folder and curate anew") from None
    if before != now:
        other = next(key for key in (*now, *before) if before.get(key) != now.get(key))
        raise InputError(f"{folder}: holds candidates with another {other}; give another folder")
    return found


def write_about(folder: Path, about: dict[str, Any]) -> None:
    """Raises InputError where the folder cannot be written."""
    with writing(folder / ABOUT):
        write_json(folder / ABOUT, about)


class _Place(NamedTuple):
    file: Path
    offset: int


def index(folder: Path) -> dict[str, _Place]:
    """Where each item's candidates lie, the first of each; what a kill tore behind the last line end is none."""
    found: dict[str, _Place] = {}
    for file in sorted(folder.glob("candidates.*.jsonl")):
        offset = 0
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.endswith(b"\n"):
                    found.setdefault(_parsed(line.decode(), f"{file}:{number}").id, _Place(file, offset))
                offset += len(line)
    return found


def append(file: Path, candidates: Iterable[Candidates]) -> None:
    """Append and flush; a torn line that an earlier process left is cut off first.

    Raises InputError where the file cannot be written.
    """
    whole = "".join(to_json(each) + "\n" for each in candidates).encode()
    with writing(file), file.open("ab+") as lines:
        end = lines.seek(0, os.SEEK_END)
        if end:
            lines.seek(end - 1)
            if lines.read(1) != b"\n":
                lines.truncate(file.read_bytes().rfind(b"\n") + 1)
                lines.seek(0, os.SEEK_END)
        lines.write(whole)
        lines.flush()
        os.fsync(lines.fileno())


def merge(folder: Path, items: Sequence[Homologous]) -> None:
    """One file in the items' order in place of one a process."""
    places = index(folder)
    aside = folder / f".{FILE}.part"
    with writing(folder / FILE), aside.open("wb") as merged:
        for item in items:
            place = places[item.id]
            with place.file.open("rb") as lines:
                lines.seek(place.offset)
                merged.write(lines.readline())
    aside.replace(folder / FILE)
    for file in folder.glob("candidates.*.jsonl"):
        file.unlink()
