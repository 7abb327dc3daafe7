"""DPG-Bench's table: prompts, and questions that depend on each other.

Source: dpg_bench/dpg_bench.csv of TencentQQGYLab/ELLA (Apache-2.0), a row a question.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gapbench.data.sources import check_count, given_folder
from gapbench.records import InputError

FILE = "dpg_bench.csv"
URL = "https://raw.githubusercontent.com/TencentQQGYLab/ELLA/main/dpg_bench/dpg_bench.csv"
OFFICIAL = "98457fc9901943f51ff9a30367250fc292533bed"  # git's name of the file, its blob's sha1
PROMPTS = 1065
COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")


class Node(NamedTuple):
    """A question's place in its prompt's graph. `category` is of level 2; `parents` are numbers of other questions."""

    number: int
    category: str
    parents: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DensePrompt:
    """A prompt and its questions in the order of the table; the official script skips the first `skipped` of them."""

    id: str
    text: str
    graph: tuple[Node, ...]
    questions: tuple[str, ...]
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Data:
    """The prompts in the order of the table, and its name for reports."""

    prompts: tuple[DensePrompt, ...]
    name: str


def read(path: Path, allow_partial: bool = False) -> Data:
    """Read dpg_bench.csv; a copy that is not the official one is named by its hash, and its graph is checked.

    Raises InputError, one line that names file and row.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    blob = _blob(content)
    found: dict[str, list[tuple[str, Node, str]]] = {}
    last, count = "", 0
    official = blob == OFFICIAL  # what it holds is the benchmark; only other copies are held to our rules
    for where, row in _table(path, text, strict=not official):
        name = row["item_id"]
        if name != last and name in found and not official:
            raise InputError(f"{where}: item {name} was there before; its rows must stand together")
        found.setdefault(name, []).append((row["text"], _node(row, where), row["question_natural_language"]))
        last, count = name, count + 1
    check_count(path, "prompts", len(found), PROMPTS, allow_partial)
    prompts = []
    for name, rows in found.items():
        texts, graph, questions = zip(*rows, strict=True)
        if not official:
            _check_graph(f"{path}: item {name}", texts, graph)
        prompts.append(DensePrompt(name, texts[0], graph, questions, skipped=int(not prompts)))
    known = "official" if official else "not the official file"
    return Data(tuple(prompts), f"{FILE} {blob} ({known}): {len(prompts)} prompts, {count} questions")


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _table(path: Path, text: str, strict: bool) -> list[tuple[str, dict[str, str]]]:
    """The rows, each with its place in words. With `strict` a file that is cut off inside quotes is an error."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=strict)
    try:
        header = next(reader, [])
        if lacking := [column for column in COLUMNS if column not in header]:
            raise InputError(f"{path}: no column {lacking[0]}; DPG-Bench's table has {', '.join(COLUMNS)}")
        rows = []
        for number, values in enumerate((row for row in reader if row), start=1):
            where = f"{path}: row {number} (line {reader.line_num})"
            if len(values) != len(header):
                raise InputError(f"{where}: {len(values)} columns, the first line has {len(header)}; download it again")
            rows.append((where, dict(zip(header, values, strict=True))))
        return rows
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: {error}; download it again") from error


def _node(row: Mapping[str, str], where: str) -> Node:
    for column in ("item_id", "tuple", "question_natural_language"):
        if not row[column].strip():
            raise InputError(f"{where}: {column} is empty")
    try:
        number = int(row["proposition_id"])
        parents = tuple(int(parent) for parent in row["dependency"].split(","))
    except ValueError as error:
        raise InputError(f"{where}: proposition_id and dependency are not numbers ({error})") from error
    return Node(number, row["tuple"].split("(")[0].strip(), tuple(parent for parent in parents if parent != 0))


def _check_graph(where: str, texts: Sequence[str], graph: Sequence[Node]) -> None:
    """The prompt may be told in the first row alone. A question may depend on a later one, and on itself."""
    numbers = [node.number for node in graph]
    if not texts[0].strip():
        raise InputError(f"{where}: its first row has no text")
    if other := next((text for text in texts if text not in ("", texts[0])), None):
        raise InputError(f"{where}: has two texts, the second {other[:40]!r}")
    if len(set(numbers)) < len(numbers):
        raise InputError(f"{where}: proposition {Counter(numbers).most_common(1)[0][0]} is there twice")
    if unknown := {parent for node in graph for parent in node.parents} - set(numbers):
        raise InputError(f"{where}: depends on proposition {min(unknown)}, which is not there")


def find(data: Path | None) -> Path:
    """The table in the user's folder, else in the cache, else fetched into it. Raises InputError where it is not."""
    if place := given_folder("dpg", data):
        if not (place.folder / FILE).is_file():
            raise InputError(f"{place.folder}: no {FILE} in it; download {URL}")
        return place.folder / FILE
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gapbench" / "dpg" / FILE
    if not cache.is_file():
        _fetch(cache)
    return cache


def _fetch(target: Path) -> None:
    advice = f"Download {URL} elsewhere and give its folder as --data DIR"
    try:
        with urllib.request.urlopen(URL, timeout=30) as answer:
            content = answer.read()
    except OSError as error:
        raise InputError(f"cannot fetch {FILE} ({getattr(error, 'reason', error)}). {advice}") from None
    if _blob(content) != OFFICIAL:
        raise InputError(f"{URL} has changed: its git hash is {_blob(content)}, not {OFFICIAL}. {advice}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        file.write(content)
    os.replace(file.name, target)
