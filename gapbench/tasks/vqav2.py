"""VQAv2: open questions about everyday photographs (Goyal et al., CVPR 2017, arXiv 1612.00837)

Asked: 214,354 questions about 40,504 COCO images (val2014); test-dev and test have no public answers.
Judged: by how many of ten people gave the same answer, see metrics/vqa_accuracy.py.
Averaged: over all questions, per type of answer (yes/no, number, other), and per type of question (its first words).

The "VQAv2(test)" of papers is the evaluation server's number on test-dev, which cannot be scored here;
`write_submission` makes the server's file, as LLaVA does. Which of the rules the server runs is not known.

Files and rules follow github.com/GT-Vision-Lab/VQA at a013f00, and LLaVA c121f04 for the submission.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Any

import numpy as np

from gapbench import stats
from gapbench.metrics import vqa_accuracy
from gapbench.records import Estimate, InputError, Judgement, Record
from gapbench.responses import Answers, Saved, read_answers, records_of, refuse_faults
from gapbench.skills import skills_of
from gapbench.tasks.base import Response
from gapbench.tasks.prompts import SHORT_ANSWER

VARIANTS = vqa_accuracy.VARIANTS
ANSWER_TYPES = ("yes/no", "number", "other")
PEOPLE = 10
# Questions in the official files; other names, for subsets of one's own, may hold any number.
COUNTS = {
    "v2_mscoco_train2014_annotations.json": 443_757,
    "v2_mscoco_val2014_annotations.json": 214_354,
    "v2_OpenEnded_mscoco_train2014_questions.json": 443_757,
    "v2_OpenEnded_mscoco_val2014_questions.json": 214_354,
    "v2_OpenEnded_mscoco_test-dev2015_questions.json": 107_394,
    "v2_OpenEnded_mscoco_test2015_questions.json": 447_793,
}
_KEYS = ("question_id", "answer")  # of the official result file


# --- What is asked ----------------------------------------------------------------------------------------------------


def prompt(question: str) -> str:
    """The prompt of LLaVA and lmms-eval."""
    return question + SHORT_ANSWER


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of an official question file."""

    id: str
    image: str
    text: str


@dataclass(frozen=True, slots=True)
class Reference:
    """What the judge needs of a question: the answers of ten people, and the types."""

    image: str
    question_type: str
    answer_type: str
    answers: tuple[str, ...]


def read_questions(path: Path) -> list[Asked]:
    """Read v2_OpenEnded_mscoco_*_questions.json. Raises InputError naming the file and the entry."""
    return list(_by_id(path, "questions", _asked).values())


def read_annotations(path: Path) -> dict[str, Reference]:
    """Read v2_mscoco_*_annotations.json, by question id. Raises InputError naming the file and the entry."""
    return _by_id(path, "annotations", _reference)


def _by_id(path: Path, key: str, made: Callable[[Mapping[str, Any], str], Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, entry in enumerate(_entries(path, key), start=1):
        where = f"{path}: {key} entry {number}"
        if not isinstance(entry, dict) or not all(type(entry.get(id)) is int for id in ("question_id", "image_id")):
            raise InputError(f"{where}: no numbers question_id and image_id; give the official VQAv2 file")
        name = str(entry["question_id"])
        if name in found:
            raise InputError(f"{where}: question {name} is there twice")
        found[name] = made(entry, where)
    if len(found) != COUNTS.get(path.name, len(found)) or not found:
        due = f", the official file has {COUNTS[path.name]}" if path.name in COUNTS else ""
        raise InputError(f"{path}: {len(found)} {key}{due}; download it again")
    return found


def _asked(entry: Mapping[str, Any], where: str) -> Asked:
    if not isinstance(entry.get("question"), str):
        raise InputError(f"{where}: no text question; give the official VQAv2 question file")
    return Asked(str(entry["question_id"]), str(entry["image_id"]), entry["question"])


def _reference(entry: Mapping[str, Any], where: str) -> Reference:
    people = entry.get("answers") if isinstance(entry.get("answers"), list) else []
    answers = [person.get("answer") if isinstance(person, dict) else None for person in people]
    if len(answers) != PEOPLE or not all(isinstance(answer, str) for answer in answers):
        raise InputError(f"{where}: not {PEOPLE} answers; give the official VQAv2 annotation file")
    question_type, answer_type = entry.get("question_type"), entry.get("answer_type")
    if not isinstance(question_type, str) or answer_type not in ANSWER_TYPES:
        raise InputError(f"{where}: needs a question_type, and an answer_type of {', '.join(ANSWER_TYPES)}")
    # Few answers are distinct; interned, the 2.1 million of val take the room of their names once.
    return Reference(
        str(entry["image_id"]), intern(question_type), intern(answer_type), tuple(intern(answer) for answer in answers)
    )


_CHUNK = 1 << 20  # characters read at once; an entry has about a thousand, and what stands before the list fewer
_SEPARATOR = re.compile(r"[\s,]*")


def _entries(path: Path, key: str) -> Iterator[Any]:
    """The entries of the list `key` of a JSON object, one by one: all annotations at once would take gigabytes."""
    decoder = json.JSONDecoder()
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(_CHUNK)
            start = re.search(rf'"{key}"\s*:\s*\[', text)
            if start is None:
                raise InputError(f"{path}: no list {key!r} in it; give the official VQAv2 file")
            at = start.end()
            while True:
                at = _SEPARATOR.match(text, at).end()
                if text.startswith("]", at):
                    return
                try:
                    entry, at = decoder.raw_decode(text, at)
                except (ValueError, RecursionError) as error:
                    chunk = file.read(_CHUNK)
                    if not chunk or len(text) - at > _CHUNK:
                        raise InputError(f"{path}: broken JSON in {key!r}; download it again") from error
                    text, at = text[at:] + chunk, 0
                else:
                    yield entry
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from error


# --- How it is judged -------------------------------------------------------------------------------------------------


def judge_answer(reference: Reference, response: Response, variant: str = "official-2021") -> Judgement:
    """The share of agreement with people. The details hold all that `metrics` needs."""
    right = vqa_accuracy.accuracy(response, reference.answers, variant) if isinstance(response, str) else 0.0
    return Judgement(right, {"question_type": reference.question_type, "answer_type": reference.answer_type})


# --- What is averaged over what ---------------------------------------------------------------------------------------


def metrics(records: Sequence[Record]) -> dict[str, Estimate]:
    """accuracy, answer_type/NAME and question_type/NAME. Intervals resample images, each with all its questions."""
    records = [record for record in records if record.score is not None]
    if not records:
        raise ValueError("no VQAv2 records to compute metrics from")
    groups = {"accuracy": np.ones(len(records), dtype=bool)}
    for kind in ("answer_type", "question_type"):
        of_record = np.array([record.details.get(kind, "") for record in records])
        groups |= {f"{kind}/{name}": of_record == name for name in sorted({*of_record.tolist()} - {""})}
    scores = [record.score for record in records]
    return stats.means(scores, [record.cluster for record in records], groups)


def official_percent(accuracy: float) -> float:
    """As the official script gives it: in percent, rounded to two decimals."""
    return round(100 * accuracy, 2)


# --- Saved answers ----------------------------------------------------------------------------------------------------


def read_saved(path: Path, data: Path | None) -> Saved:
    """Answers as official results, a JSON list of {"question_id", "answer"}, or rows {"id", "response"}.

    `data` is v2_mscoco_*_annotations.json or the folder with just one of that name.
    """
    file = _annotation_file(data)
    references = read_annotations(file)
    answers = read_answers(path, references, _KEYS)

    def judge(variant: str) -> list[Record]:
        def one(name: str, response: str) -> tuple[str, tuple[str, ...], Judgement]:
            reference = references[name]
            skills = skills_of("vqav2", reference.question_type)
            return reference.image, skills, judge_answer(reference, response, variant)

        return records_of("vqav2", answers, one)

    return Saved(answers, judge, (f"data: {file.name}, {len(references)} questions",))


def _annotation_file(data: Path | None) -> Path:
    if data is None:
        raise InputError("score vqav2 needs --data, a folder with the official v2_mscoco_val2014_annotations.json")
    if not data.is_dir():
        return data
    files = sorted(data.glob("v2_mscoco_*_annotations.json"))
    if not files:
        raise InputError(f"{data}: no v2_mscoco_*_annotations.json in this folder; the answers of test are not public")
    if len(files) > 1:
        raise InputError(f"{data}: {' and '.join(file.name for file in files)}; give one of the files as --data")
    return files[0]


def remarks(records: Sequence[Record], found: Mapping[str, Estimate]) -> tuple[str, ...]:
    names = ["accuracy", *(f"answer_type/{name}" for name in ANSWER_TYPES)]
    parts = [
        f"{name.removeprefix('answer_type/')} {official_percent(found[name].value):.2f}"
        for name in names
        if name in found
    ]
    return (f"as the official script rounds: {', '.join(parts)}",)


def write_submission(
    path: Path, asked: Path, to: Path, everything: Path | None = None, allow_partial: bool = False
) -> Answers:
    """Write the evaluation server's file: [{"question_id", "answer"}] of all questions, in their order.

    path: answers to the question file `asked` (test-dev, say), in any form that `read_saved` takes. everything: the
    question file that the server wants covered (test2015), where it is another; its other questions get the answer "".
    Answers are put into LLaVA's form (`vqa_accuracy.m4c`). Faults are refused; with `allow_partial` what is missing
    gets "", as LLaVA does in silence. Returns the answers, with their faults.
    """
    names = [question.id for question in read_questions(asked)]
    answers = read_answers(path, names, _KEYS)
    refuse_faults(path, answers, allow_partial)
    if everything is not None:
        names = [question.id for question in read_questions(everything)]
        lacking = len(answers.given.keys() - set(names))
        if lacking:
            raise InputError(f"{everything}: {lacking} of the answered questions are not in it")
    rows = [{"question_id": int(name), "answer": vqa_accuracy.m4c(answers.given.get(name, ""))} for name in names]
    try:
        to.write_text(json.dumps(rows), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{to}: cannot be written ({error.strerror})") from error
    return answers
