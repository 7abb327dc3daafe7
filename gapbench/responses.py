"""Responses made elsewhere: reading answer files, and saying exactly what is wrong with them.

Read are JSON lines {"id": ..., "response": ...} and the benchmarks' own answer files. Nothing is repaired in silence:
missing, extra, duplicate and unreadable answers are counted and named, and refused unless a partial score is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gapbench.records import InputError, Item
from gapbench.tasks import mmmu, pope
from gapbench.tasks.prompts import SHORT_ANSWER

KINDS = ("missing", "extra", "duplicate", "unreadable")
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
                parts.append(f"{len(names)} {kind} ({_few(names)})")
        return ", ".join(parts)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


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


# --- Files ------------------------------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[Row]:
    """The rows of a file of JSON lines, or of a JSON list; a file that is one JSON object is one row.

    Raises InputError where the file cannot be read at all; a single bad line becomes an unreadable row.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from error
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


def _found(value: Any) -> Found | None:
    """The answer of a row {"id", "response"}, or None where it is not one."""
    if isinstance(value, dict) and isinstance(value.get("id"), str) and isinstance(value.get("response"), str):
        return Found(value["id"], value["response"])
    return None


def _match(expected: Iterable[str], found: Iterable[Found], unreadable: Sequence[str]) -> Answers:
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


# --- POPE -------------------------------------------------------------------------------------------------------------


def pope_answers(path: Path, items: Sequence[Item]) -> Answers:
    """Answers to POPE's items: one file, or a folder with one file per split, told by the split in the file's name.

    A file has rows with `id` ("random/1") and `response`, or else is in the order of the split's annotation file: rows
    with `answer` or `text` (POPE's and LLaVA's answer files; their `question` or `prompt` is checked), or plain texts.
    """
    by_split: dict[str, list[Item]] = {}
    for item in items:
        by_split.setdefault(item.truth["split"], []).append(item)
    found: list[Found] = []
    unreadable: list[str] = []
    asked: list[tuple[str, str, str]] = []
    for file in _pope_files(path):
        rows = read_rows(file)
        by_id = any(isinstance(row.value, dict) and "id" in row.value for row in rows)
        split = "" if by_id else _split_of(file, by_split)
        for position, row in enumerate(rows, start=1):
            answer = _found(row.value) if by_id else _found_at(f"{split}/{position}", row.value)
            if answer is None:
                unreadable.append(f"{row.where}: {row.unreadable or 'no text to score'}")
                continue
            found.append(answer)
            question = row.value.get("question", row.value.get("prompt")) if isinstance(row.value, dict) else None
            if isinstance(question, str) and not by_id:
                asked.append((answer.id, question, row.where))
    answers = _match((item.id for item in items), found, unreadable)
    _refuse_other_random_file(path, answers, len(by_split.get("random", ())))
    _refuse_misaligned(asked, items)
    return answers


def _pope_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = [file for file in sorted(path.iterdir()) if file.suffix in (".json", ".jsonl")]
    files = [file for file in files if any(split in file.name for split in pope.SPLITS)]
    if not files:
        raise InputError(f"{path}: no .json or .jsonl file with random, popular or adversarial in its name")
    for split in pope.SPLITS:
        same = [file.name for file in files if split in file.name]
        if len(same) > 1:
            raise InputError(f"{path}: {' and '.join(same)} are both named after the split {split}; leave one")
    return files


def _split_of(file: Path, known: Mapping[str, Any]) -> str:
    named = [split for split in pope.SPLITS if split in file.name]
    if not named and len(known) == 1:
        named = list(known)
    if len(named) != 1:
        raise InputError(
            f"{file}: answers without ids, and the file's name does not tell the split; "
            "put one of random, popular and adversarial into it"
        )
    return named[0]


def _found_at(name: str, value: Any) -> Found | None:
    response = value
    if isinstance(value, dict):
        # A row with a label and a text is a question: an annotation file given for an answer file.
        response = value.get("answer", None if "label" in value else value.get("text"))
    return Found(name, response) if isinstance(response, str) else None


def _refuse_other_random_file(path: Path, answers: Answers, rows: int) -> None:
    """The two random files differ by 90 rows inside; answers to the one look like a cut answer file of the other.

    The official script pairs rows by position and says nothing (github.com/RUCAIBox/POPE, issue 17). Not even a partial
    score is possible, for most answers would meet another question's label.
    """
    names = {*answers.given, *answers.wrong["extra"]}
    last = max((number for number in range(1, pope.ROWS + 1) if f"random/{number}" in names), default=0)
    if {rows, last} == {pope.ROWS, pope.OLD_RANDOM_ROWS}:
        other = "before" if last == pope.OLD_RANDOM_ROWS else "since"
        raise InputError(
            f"{path}: {last} answers for random, but coco_pope_random.json has {rows} questions: they answer the file "
            f"of {other} October 2023, where other questions have these numbers; put that file into --data"
        )


def _refuse_misaligned(asked: Iterable[tuple[str, str, str]], items: Sequence[Item]) -> None:
    questions = {item.id: item.ask.text.removesuffix(SHORT_ANSWER) for item in items}
    for name, question, where in asked:
        if name in questions and questions[name] not in question:
            raise InputError(
                f"{where}: answers {question[:80]!r}, but {name} asks {questions[name]!r}; "
                "answers without ids must be in the order of the annotation file"
            )


# --- MMMU -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MmmuAnswers:
    """Answers, and the references to judge them by: from the rows themselves, or from a file of golds."""

    answers: Answers
    references: Mapping[str, mmmu.Reference]


def mmmu_answers(path: Path, golds: Path | None = None) -> MmmuAnswers:
    """Answers to the 900 validation questions: one file, or the official folder of SUBJECT/output.json. Three forms:

    - the official output rows {id, question_type, answer, all_choices, index2ans, response}, which need no `golds`
    - rows {id, response}, the response to a multiple-choice question being a letter, as there are no options
    - the official dict of parsed answers {"validation_Accounting_1": "D"}

    `golds` is answer_dict_val.json or its folder; it judges rows that have no gold, and must agree with those that do.
    """
    known = {} if golds is None else _mmmu_golds(golds)
    files = sorted(path.glob("*/output.json")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: no SUBJECT/output.json in this folder")
    found: list[Found] = []
    unreadable: list[str] = []
    own: dict[str, mmmu.Reference] = {}
    for row in (row for file in files for row in _mmmu_rows(file)):
        answer = _found(row.value)
        if answer is None:
            unreadable.append(f"{row.where}: {row.unreadable or 'no text to score'}")
            continue
        found.append(answer)
        if "answer" in row.value and answer.id not in own:
            own[answer.id] = reference = _mmmu_reference(row.value, row.where)
            if answer.id in known and _gist(known[answer.id]) != _gist(reference):
                raise InputError(f"{row.where}: the gold of {answer.id} is not the one in {golds}")
    answers = _match(mmmu.VALIDATION_IDS, found, unreadable)
    references = {**known, **own}
    lacking = [name for name in answers.given if name not in references]
    if lacking:
        raise InputError(
            f"{path}: {len(lacking)} answers have no gold ({_few(lacking)}); "
            "give --data with the official answer_dict_val.json"
        )
    return MmmuAnswers(answers, references)


def _mmmu_rows(file: Path) -> list[Row]:
    rows = read_rows(file)
    if len(rows) == 1 and isinstance(rows[0].value, dict) and "id" not in rows[0].value:
        return [Row(f"{file}: {name}", {"id": name, "response": said}) for name, said in rows[0].value.items()]
    return rows


def _mmmu_golds(path: Path) -> dict[str, mmmu.Reference]:
    file = path / "answer_dict_val.json" if path.is_dir() else path
    rows = read_rows(file)
    golds = rows[0].value if len(rows) == 1 else None
    if not isinstance(golds, dict) or set(golds) != set(mmmu.VALIDATION_IDS):
        raise InputError(f"{file}: not the official answer_dict_val.json, one object with MMMU's 900 validation ids")
    references = {}
    for name, gold in golds.items():
        if not isinstance(gold, dict) or "ground_truth" not in gold:
            raise InputError(f"{file}: {name}: no ground_truth")
        row = {"id": name, "question_type": gold.get("question_type"), "answer": gold["ground_truth"]}
        references[name] = _mmmu_reference(row, f"{file}: {name}")
    return references


def _mmmu_reference(row: Mapping[str, Any], where: str) -> mmmu.Reference:
    if not isinstance(row.get("question_type"), str):
        raise InputError(f"{where}: a gold needs its question_type")
    try:
        answers = mmmu.gold_answers(row["answer"])
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    is_open = row["question_type"] != "multiple-choice"
    options = None if is_open else row.get("index2ans")
    if options is not None and not (
        isinstance(options, dict)
        and options
        and all(isinstance(text, str) for text in options.values())
        and row.get("all_choices", list(options)) == list(options)
    ):
        raise InputError(f"{where}: index2ans must map the letters of all_choices, in their order, to texts")
    return mmmu.Reference(row["id"], is_open, answers, options)


def _gist(reference: mmmu.Reference) -> tuple[bool, frozenset[str]]:
    return reference.open, frozenset(reference.answers)
