"""POPE's saved answers: its own answer files, LLaVA's, and ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gapbench.data import sources
from gapbench.prompts import SHORT_ANSWER
from gapbench.records import Estimate, InputError, Item, Judgement, Record
from gapbench.responses import RECORDED, Answers, Found, Saved, found, match, read_rows, records_of, unreadable
from gapbench.tasks import pope

_LABELS = {"f1": "F1", "yes_ratio": "yes ratio", "mean_of_three": "mean of the three"}


def read(path: Path, data: Path | None) -> Saved:
    annotations = pope.read(sources.find("pope", data, fetch=False).folder, pictures=False)
    answers = read_answers(path, annotations.items)

    items = {item.id: item for item in annotations.items}

    def judge(variant: str) -> list[Record]:
        def one(name: str, response: str) -> tuple[str, tuple[str, ...], Judgement]:
            item = items[name]
            return item.cluster, item.skills, pope.judge_item(item, response, variant)

        return records_of("pope", answers, one)

    return Saved(answers, judge, (f"data: {annotations.data}",))


def unparsed(record: Record) -> bool:
    """Of any benchmark whose answers are read as `pope.Said`."""
    return record.details["said"] == "other"


def remarks(records: Sequence[Record], found: Mapping[str, Estimate]) -> tuple[str, ...]:
    """All measures of each group in a line, for papers print any of them as "POPE"."""
    lines = []
    for group in dict.fromkeys(name.partition("/")[0] for name in found):
        values = [(_LABELS.get(measure, measure), found[f"{group}/{measure}"].value) for measure in pope.MEASURES]
        lines.append(f"{_LABELS.get(group, group)}: {', '.join(f'{name} {value:.4f}' for name, value in values)}")
    return tuple(lines)


def read_answers(path: Path, items: Sequence[Item]) -> Answers:
    """Answers to POPE's items: one file, or a folder with one file per split, told by the split in the file's name.

    A file has rows with `id` ("random/1") and `response`, or is a run's records, or else is in the order of the split's
    annotation file: rows with `answer` or `text` (POPE's and LLaVA's answer files; their `question` or `prompt` is
    checked), or plain texts.
    """
    by_split: dict[str, list[Item]] = {}
    for item in items:
        by_split.setdefault(item.truth["split"], []).append(item)
    answers: list[Found] = []
    bad: list[str] = []
    asked: list[tuple[str, str, str]] = []
    for file in _files(path):
        rows = read_rows(file)
        by_id = any(isinstance(row.value, dict) and not {"id", "item"}.isdisjoint(row.value) for row in rows)
        split = "" if by_id else _split_of(file, by_split)
        for position, row in enumerate(rows, start=1):
            given = found(row.value) or found(row.value, RECORDED)
            answer = given if by_id else _found_at(f"{split}/{position}", row.value)
            if answer is None:
                bad.append(unreadable(row))
                continue
            answers.append(answer)
            question = row.value.get("question", row.value.get("prompt")) if isinstance(row.value, dict) else None
            if isinstance(question, str) and not by_id:
                asked.append((answer.id, question, row.where))
    matched = match((item.id for item in items), answers, bad)
    _refuse_other_random_file(path, matched, len(by_split.get("random", ())))
    _refuse_misaligned(asked, items)
    return matched


def _files(path: Path) -> list[Path]:
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
