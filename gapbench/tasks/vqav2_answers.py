"""VQAv2's answers from elsewhere: the official result file and the hub's golds, and the evaluation server's file.

The server wants {"question_id", "answer"} for every question of test; what is not answered gets "", as LLaVA c121f04
does it.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

import numpy as np

from gapbench.data import sources
from gapbench.data.json_list import scan
from gapbench.data.parquet import Table, shards
from gapbench.data.sources import check_count
from gapbench.metrics import vqa_accuracy
from gapbench.records import Estimate, InputError, Judgement, Record
from gapbench.responses import Answers, Saved, read_answers, records_of, refuse_faults
from gapbench.skills import skills_of
from gapbench.tasks.vqav2 import judge_answer
from gapbench.tasks.vqav2_files import ANSWER_TYPES, SPLITS, Reference, ids_of, reference_of, refuse_twice, text_of

# Entries of the official files; under other names, for subsets of one's own, there may be any number.
COUNTS = {
    "v2_mscoco_train2014_annotations.json": 443_757,
    "v2_mscoco_val2014_annotations.json": 214_354,
    "v2_OpenEnded_mscoco_train2014_questions.json": 443_757,
    **{split.questions: split.count for split in SPLITS.values()},
}
_KEYS = ("question_id", "answer")  # of the official result file


class Annotation(NamedTuple):
    image: str
    reference: Reference


def read_annotations(path: Path) -> dict[str, Annotation]:
    """Read v2_mscoco_*_annotations.json, by question id. Raises InputError naming the file and the entry."""
    found = _by_id((located.entry, located.where) for located in scan(path, "annotations"))
    _check_named_count(path, "annotations", len(found))
    return found


def _read_table(files: Sequence[Path]) -> dict[str, Annotation]:
    table = Table(files)
    entries = table.rows(("question_id", "image_id", "question_type", "answer_type", "answers"))
    found = _by_id((entry, f"{table.name}: row {number}") for number, entry in enumerate(entries))
    check_count(table.name, "questions", len(found), SPLITS["val"].count, False)
    return found


def _by_id(entries: Iterable[tuple[Mapping[str, Any], str]]) -> dict[str, Annotation]:
    found: dict[str, Annotation] = {}
    for entry, where in entries:
        question, image = ids_of(entry, where)
        if str(question) in found:
            raise InputError(f"{where}: question {question} is there twice")
        reference = reference_of(entry, where)
        # Few texts are distinct; interned, the 2.1 million answers of val take the room of their names once.
        kind, answer_type = intern(reference.question_type), intern(reference.answer_type)
        reference = Reference(kind, answer_type, tuple(map(intern, reference.answers)))
        found[str(question)] = Annotation(intern(str(image)), reference)
    return found


def _check_named_count(path: Path, what: str, found: int) -> None:
    if found == 0 or found != COUNTS.get(path.name, found):
        due = f", the official file has {COUNTS[path.name]}" if path.name in COUNTS else ""
        raise InputError(f"{path}: {found} {what}{due}; download it again")


# --- Scoring ----------------------------------------------------------------------------------------------------------


def read(path: Path, data: Path | None) -> Saved:
    """Answers as official results, a JSON list of {"question_id", "answer"}, as rows {"id", "response"}, or the records
    of a run.

    `data` is v2_mscoco_*_annotations.json or the folder with just one of that name, or with the hub's parquet files.
    """
    annotations, told = _annotations(data)
    answers = read_answers(path, annotations, _KEYS)

    def judge(variant: str) -> list[Record]:
        def one(name: str, response: str) -> tuple[str, tuple[str, ...], Judgement]:
            image, reference = annotations[name]
            return image, skills_of("vqav2", reference.question_type), judge_answer(reference, response, variant)

        return records_of("vqav2", answers, one)

    return Saved(answers, judge, (f"data: {told}, {len(annotations)} questions",))


def _annotations(data: Path | None) -> tuple[dict[str, Annotation], str]:
    """Annotations by question, and the name of the data."""
    if data is not None and not data.is_dir():
        return read_annotations(data), data.name
    folder = sources.find("vqav2", data, fetch=False).folder
    if tables := shards(folder, SPLITS["val"].hub):
        return _read_table(tables), SPLITS["val"].hub
    files = sorted(folder.glob("v2_mscoco_*_annotations.json"))
    if not files:
        raise InputError(
            f"{folder}: no v2_mscoco_*_annotations.json in this folder; the answers of test are not public"
        )
    if len(files) > 1:
        raise InputError(f"{folder}: {' and '.join(file.name for file in files)}; give one of the files as --data")
    return read_annotations(files[0]), files[0].name


def remarks(records: Sequence[Record], found: Mapping[str, Estimate]) -> tuple[str, ...]:
    names = ["accuracy", *(f"answer_type/{name}" for name in ANSWER_TYPES)]
    parts = [
        f"{name.removeprefix('answer_type/')} {official_percent(found[name].value):.2f}"
        for name in names
        if name in found
    ]
    return (f"as the official script rounds: {', '.join(parts)}",)


def official_percent(accuracy: float) -> float:
    """As the official script gives it: in percent, rounded to two decimals."""
    return round(100 * accuracy, 2)


# --- The evaluation server's file -------------------------------------------------------------------------------------


SUBMITTED = {"vqav2-testdev": "testdev", "vqav2-test": "test"}  # task -> split


def write_submission(
    path: Path,
    asked: Path,
    to: Path,
    everything: Path | None = None,
    allow_partial: bool = False,
    split: str = "testdev",
) -> Answers:
    """Write the evaluation server's file: [{"question_id", "answer"}] of all questions, in their order.

    path: answers to the question file `asked` (test-dev, say), in any form that `read` takes, so also the records of a
    run, RUN/records/vqav2-testdev.jsonl. everything: the question file that the server wants covered (test2015), where
    it is another; its other questions get the answer "". For a question file the folder will do that it is in, or that
    of the hub's parquet files; `asked` is then of `split`, `everything` of test.
    Answers are put into LLaVA's form (`vqa_accuracy.m4c`). Faults are refused; with `allow_partial` what is missing
    gets "", as LLaVA does in silence. Returns the answers, with their faults.
    """
    ids = _question_ids(asked, split)
    answers = read_answers(path, map(str, ids.tolist()), _KEYS)
    refuse_faults(path, answers, allow_partial)
    if everything is not None:
        ids = _question_ids(everything, "test")
        lacking = len(answers.given.keys() - set(map(str, ids.tolist())))
        if lacking:
            raise InputError(f"{everything}: {lacking} of the answered questions are not in it")
    try:
        with to.open("w", encoding="utf-8") as file:
            for position, id in enumerate(ids.tolist()):
                answer = vqa_accuracy.m4c(answers.given.get(str(id), ""))
                file.write(", " if position else "[")
                file.write(json.dumps({"question_id": id, "answer": answer}))
            file.write("]")
    except OSError as error:
        raise InputError(f"{to}: cannot be written ({error.strerror})") from error
    return answers


def _question_ids(path: Path, split: str) -> np.ndarray:
    """Of a question file, or of a split in a folder with the hub's parquet files, in order."""
    found = array("q")
    if (path / SPLITS[split].questions).is_file():
        path = path / SPLITS[split].questions
    if path.is_dir():
        files = shards(path, SPLITS[split].hub)
        if not files:
            raise InputError(f"{path}: no data/{SPLITS[split].hub}-*.parquet in this folder; or give a question file")
        table = Table(files)
        for number, entry in enumerate(table.rows(("question_id", "image_id"))):
            found.append(ids_of(entry, f"{table.name}: row {number}")[0])
        check_count(path, "questions", len(found), SPLITS[split].count, False)
    else:
        for located in scan(path, "questions"):
            text_of(located.entry, located.where)
            found.append(ids_of(located.entry, located.where)[0])
        _check_named_count(path, "questions", len(found))
    ids = np.array(found)
    refuse_twice(ids, lambda position: f"{path}: questions entry {position + 1}")
    return ids
