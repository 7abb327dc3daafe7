"""Responses made elsewhere: reading answer files, and saying exactly what is wrong with them.

Read are JSON lines {"id": ..., "response": ...}, and the benchmarks' own answer files by what stands beside each task.
Nothing is repaired in silence: missing, extra, duplicate and unreadable answers are counted and named, and refused
unless a partial score is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gapbench.records import InputError, Judgement, Record

KINDS = ("missing", "extra", "duplicate", "unreadable")
OURS = ("id", "response")
RECORDED = ("item", "response")  # a run's records
MANIFEST = "run.json"  # in a run's folder
_NAMED = 3  # how many of a kind an error names


@dataclass(frozen=True, slots=True)
class Answers:
    """Responses by id, in the order of the expected ids, and what was wrong: the names under each of KINDS.

    Of duplicates the first counts; extra ones do not.
    """

    given: Mapping[str, str]
    expected: int
    wrong: Mapping[str, Sequence[str]]

    @property
    def whole(self) -> bool:
        return not any(self.wrong.values())

    def faults(self) -> str:
        """One line: "2 missing (random/7, random/9), 1 unreadable (answers.jsonl:7: not JSON)"; empty when whole."""
        parts = []
        for kind in KINDS:
            names = self.wrong[kind]
            if names:
                parts.append(f"{len(names)} {kind} ({few(names)})")
        return ", ".join(parts)


def few(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


@dataclass(frozen=True, slots=True)
class Saved:
    """A benchmark's answers as read from files. `judge` takes a variant, and makes records of those that are given."""

    answers: Answers
    judge: Callable[[str], list[Record]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One answer of a file: `where` is file and line; `value` is None where it was `unreadable`, which says why."""

    where: str
    value: Any
    unreadable: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A response and the id that it is for."""

    id: str
    response: str


# --- Rows -------------------------------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[Row]:
    """The rows of a file of JSON lines, or of a JSON list; a file that is one JSON object is one row.

    Raises InputError where the file cannot be read at all; a single bad line becomes an unreadable row.
    """
    text = read_text(path)
    # Only "\n" ends a line: answers may hold the other separators that str.splitlines knows.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise InputError(f"{path}: empty, no answers in it")
    try:
        document = _parse(text)
    except ValueError as error:
        rows = [_row(f"{path}:{number}", line) for number, line in lines]
        # Of a broken list nothing is kept, for what follows the break may have lost its place.
        if lines[0][1].lstrip().startswith("[") or all(row.unreadable for row in rows):
            raise InputError(f"{path}: neither JSON nor JSON lines ({error})") from error
        return rows
    if isinstance(document, list):
        return [Row(f"{path}: entry {position}", value) for position, value in enumerate(document, start=1)]
    return [Row(f"{path}:1", document)]


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def read_manifest(run: Path) -> dict[str, Any]:
    """What a run's folder says of it. Raises InputError where the folder holds no readable run."""
    try:
        return json.loads((run / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{run}: not a run folder, it has no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{run / MANIFEST}: cannot be read ({error})") from error


def _row(where: str, line: str) -> Row:
    try:
        return Row(where, _parse(line))
    except ValueError as error:
        return Row(where, None, f"not JSON: {error}")


def _parse(text: str) -> Any:
    """JSON, refusing what the json module lets pass: the same key twice, of which it keeps the last."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = dict(pairs)
        if len(keys) < len(pairs):
            twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
            raise ValueError(f"{twice!r} is there twice")
        return keys

    try:
        return json.loads(text, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None


# --- Answers ----------------------------------------------------------------------------------------------------------


def found(value: Any, keys: tuple[str, str] = OURS) -> Found | None:
    """The answer of a row that has these keys of an id and a response, or None where it has not. Ids may be numbers.

    A record of a response that the model failed to give is no answer.
    """
    if not isinstance(value, dict) or (keys == RECORDED and value.get("error")):
        return None
    name, response = (value.get(key) for key in keys)
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    return Found(name, response) if isinstance(name, str) and isinstance(response, str) else None


def unreadable(row: Row) -> str:
    return f"{row.where}: {row.unreadable or 'no text to score'}"


def match(expected: Iterable[str], found: Iterable[Found], unreadable: Sequence[str]) -> Answers:
    wanted = dict.fromkeys(expected)
    given: dict[str, str] = {}
    extra, duplicate = [], []
    for answer in found:
        if answer.id not in wanted:
            extra.append(answer.id)
        elif answer.id in given:
            duplicate.append(answer.id)
        else:
            given[answer.id] = answer.response
    wrong = {
        "missing": [name for name in wanted if name not in given],
        "extra": extra,
        "duplicate": duplicate,
        "unreadable": list(unreadable),
    }
    return Answers({name: given[name] for name in wanted if name in given}, len(wanted), wrong)


def read_answers(path: Path, expected: Iterable[str], keys: tuple[str, str] = OURS) -> Answers:
    """Answers of one file with an object a row: {"id", "response"}, a run's records, or the benchmark's own `keys`."""
    answers, bad = [], []
    for row in read_rows(path):
        answer = found(row.value) or found(row.value, keys) or found(row.value, RECORDED)
        if answer is None:
            bad.append(unreadable(row))
        else:
            answers.append(answer)
    return match(expected, answers, bad)


def records_of(
    task: str, answers: Answers, judge: Callable[[str, str], tuple[str, tuple[str, ...], Judgement]]
) -> list[Record]:
    """A record for each answer given; `judge` makes cluster, skills and judgement of an id and its response."""
    records = []
    for name, response in answers.given.items():
        cluster, skills, judged = judge(name, response)
        records.append(Record(task, name, cluster, skills, 0, response, judged.score, details=judged.details))
    return records


def refuse_faults(path: Path, answers: Answers, allow_partial: bool) -> None:
    """Raises InputError where no expected answer is there, and for any fault unless `allow_partial`."""
    if not answers.given:
        raise InputError(f"{path}: none of the {answers.expected} expected answers: {answers.faults()}")
    if not answers.whole and not allow_partial:
        raise InputError(
            f"{path}: of {answers.expected} expected answers {answers.faults()}; "
            "complete the file, or score what is there with --allow-partial"
        )
