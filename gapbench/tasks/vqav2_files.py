"""VQAv2's files: the official question and annotation files, and the hub's tables.

Questions and answers stay on disk: what is held of each is where it lies, its ids, and a hash. Files follow
github.com/GT-Vision-Lab/VQA at a013f00.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gapbench.data.json_list import JsonList
from gapbench.data.parquet import Table
from gapbench.data.pictures import file_picture, image_folder, present
from gapbench.data.sources import check_count
from gapbench.records import InputError, Picture

ANSWER_TYPES = ("yes/no", "number", "other")
PEOPLE = 10


@dataclass(frozen=True, slots=True)
class Split:
    """Where a split's questions lie: its name on the hub, the official files, and the images' folder."""

    hub: str
    questions: str
    annotations: str | None
    images: str
    count: int


SPLITS = {
    "val": Split(
        "validation",
        "v2_OpenEnded_mscoco_val2014_questions.json",
        "v2_mscoco_val2014_annotations.json",
        "val2014",
        214_354,
    ),
    "testdev": Split("testdev", "v2_OpenEnded_mscoco_test-dev2015_questions.json", None, "test2015", 107_394),
    "test": Split("test", "v2_OpenEnded_mscoco_test2015_questions.json", None, "test2015", 447_793),
}


@dataclass(frozen=True, slots=True)
class Reference:
    """What the judge and the averages need of a question: the answers of ten people, and the types."""

    question_type: str
    answer_type: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A question; `reference` is None where the answers are not public."""

    id: int
    image: int
    text: str
    reference: Reference | None


# Rows are checked entry by entry, whichever file they come from; each check names what it finds wrong and where.


def ids_of(entry: Mapping[str, Any], where: str) -> tuple[int, int]:
    """Question and image."""
    question, image = entry.get("question_id"), entry.get("image_id")
    if type(question) is not int or type(image) is not int:
        raise InputError(f"{where}: no numbers question_id and image_id; give the official VQAv2 file")
    return question, image


def text_of(entry: Mapping[str, Any], where: str) -> str:
    if not isinstance(entry.get("question"), str):
        raise InputError(f"{where}: no text question; give the official VQAv2 question file")
    return entry["question"]


def reference_of(entry: Mapping[str, Any], where: str) -> Reference:
    people = entry.get("answers") if isinstance(entry.get("answers"), list) else []
    answers = [person.get("answer") if isinstance(person, dict) else None for person in people]
    if len(answers) != PEOPLE or not all(isinstance(answer, str) for answer in answers):
        raise InputError(f"{where}: not {PEOPLE} answers; give the official VQAv2 annotation file")
    question_type, answer_type = entry.get("question_type"), entry.get("answer_type")
    if not isinstance(question_type, str) or answer_type not in ANSWER_TYPES:
        raise InputError(f"{where}: needs a question_type, and an answer_type of {', '.join(ANSWER_TYPES)}")
    return Reference(question_type, answer_type, tuple(answers))


ID, IMAGE, HASH = 0, 1, 2  # what is held of a question or of an annotation


def noted_question(entry: Mapping[str, Any], where: str) -> tuple[int, int, int]:
    ids = ids_of(entry, where)
    return *ids, _hash(*ids, text_of(entry, where))


def noted_annotation(entry: Mapping[str, Any], where: str) -> tuple[int, int, int]:
    ids, reference = ids_of(entry, where), reference_of(entry, where)
    return *ids, _hash(*ids, reference.question_type, reference.answer_type, *reference.answers)


def _hash(*values: int | str) -> int:
    """64 bits, signed, of `values`; `ascii` writes equal values equally and different ones differently."""
    return int.from_bytes(hashlib.blake2b(ascii(values).encode(), digest_size=8).digest(), "big", signed=True)


class Layout(Protocol):
    """The questions of a split in one of the forms that they come in; `numbers` are int64 (questions, ID and so on)."""

    numbers: np.ndarray

    def hashes(self) -> np.ndarray:
        """int64 (questions, 1 or 2): of the question, and of its annotation."""

    def rows(self, positions: np.ndarray) -> Iterator[Row]: ...

    def picture(self, position: int) -> Picture: ...


class OfficialFiles:
    """A question is an entry of the question file, and its annotation one of the annotation file, in any order."""

    def __init__(self, folder: Path, split: Split, allow_partial: bool) -> None:
        self._images, self._name = image_folder(folder, (split.images, "images")), f"COCO_{split.images}_%012d.jpg"
        self._questions = JsonList(folder / split.questions, "questions", noted_question)
        check_count(self._questions.path, "questions", len(self._questions), split.count, allow_partial)
        refuse_twice(self._questions.numbers[:, ID], self._questions.where)
        self.numbers = self._questions.numbers
        self._annotations = None
        if split.annotations:
            self._annotations = JsonList(folder / split.annotations, "annotations", noted_annotation)
            refuse_twice(self._annotations.numbers[:, ID], self._annotations.where)
            self._annotation_of = _joined(self._questions, self._annotations)

    def hashes(self) -> np.ndarray:
        asked = self.numbers[:, HASH:]
        if self._annotations is None:
            return asked
        return np.column_stack([asked, self._annotations.numbers[self._annotation_of, HASH]])

    def rows(self, positions: np.ndarray) -> Iterator[Row]:
        asked = self._questions.entries(positions)
        if self._annotations is None:
            for entry in asked:
                yield Row(entry["question_id"], entry["image_id"], entry["question"], None)
            return
        annotated = self._annotations.entries(self._annotation_of[positions])
        for entry, annotation in zip(asked, annotated, strict=True):
            reference = reference_of(annotation, str(self._annotations.path))
            yield Row(entry["question_id"], entry["image_id"], entry["question"], reference)

    def picture(self, position: int) -> Picture:
        image = int(self.numbers[position, IMAGE])
        return file_picture(self._images / (self._name % image), f"vqav2/{image}")

    def has_picture(self, allow_partial: bool) -> np.ndarray:
        """Of which questions the images are there, bool. Raises InputError as `present` does."""
        images, which = np.unique(self.numbers[:, IMAGE], return_inverse=True)
        names = [self._name % image for image in images]
        there = present(self._images, names, allow_partial)
        return np.array([name in there for name in names])[which]


def _joined(questions: JsonList, annotations: JsonList) -> np.ndarray:
    """Each question's annotation, by position."""
    asked, annotated = questions.numbers[:, ID], annotations.numbers[:, ID]
    for ids, others, path, what in (
        (asked, annotated, questions.path, f"an annotation in {annotations.path}"),
        (annotated, asked, annotations.path, f"a question in {questions.path}"),
    ):
        lacking = np.setdiff1d(ids, others, assume_unique=True)
        if len(lacking):
            raise InputError(f"{path}: {len(lacking)} without {what}, the first {lacking[0]}; download both again")
    found = np.empty(len(asked), np.int64)
    found[np.argsort(asked)] = np.argsort(annotated)
    differs = np.flatnonzero(questions.numbers[:, IMAGE] != annotations.numbers[found, IMAGE])
    if len(differs):
        where = annotations.where(found[differs[0]])
        raise InputError(f"{where}: another image than question {asked[differs[0]]} has in {questions.path}")
    return found


class HubFiles:
    """A question is a row of parquet files, with its image, which stands in each of the image's rows again."""

    def __init__(self, files: Sequence[Path], split: Split, pictures: bool, allow_partial: bool) -> None:
        self._table = Table(files)
        self._columns = ["question_id", "image_id", "question"]
        if split.annotations:
            self._columns += ["question_type", "answer_type", "answers"]
        if pictures and not self._table.has("image"):
            raise InputError(f"{self._table.name}: no column 'image'; give the files of the hub's data set")
        numbers = array("q")
        for number, entry in enumerate(self._table.rows(self._columns)):
            where = self._where(number)
            numbers.extend(noted_question(entry, where))
            if split.annotations:
                numbers.append(noted_annotation(entry, where)[HASH])
        self.numbers = np.array(numbers).reshape(-1, HASH + (2 if split.annotations else 1))
        check_count(self._table.name, "questions", len(self.numbers), split.count, allow_partial)
        refuse_twice(self.numbers[:, ID], self._where)

    def _where(self, number: int) -> str:
        return f"{self._table.name}: row {number}"

    def hashes(self) -> np.ndarray:
        return self.numbers[:, HASH:]

    def rows(self, positions: np.ndarray) -> Iterator[Row]:
        in_order = np.array_equal(positions, np.arange(len(self._table)))
        entries = self._table.rows(self._columns) if in_order else self._table.take(positions, self._columns)
        for position, entry in zip(positions, entries, strict=True):
            reference = reference_of(entry, self._where(position)) if "answers" in entry else None
            yield Row(entry["question_id"], entry["image_id"], entry["question"], reference)

    def picture(self, position: int) -> Picture:
        return self._table.picture(position, f"vqav2/{self.numbers[position, IMAGE]}")


def refuse_twice(ids: np.ndarray, where: Callable[[int], str]) -> None:
    """Raises InputError where an id is there twice; `where` names the entry at a position."""
    order = np.argsort(ids, kind="stable")
    again = order[1:][ids[order[1:]] == ids[order[:-1]]]
    if len(again):
        position = int(again.min())
        raise InputError(f"{where(position)}: question {ids[position]} is there twice")
