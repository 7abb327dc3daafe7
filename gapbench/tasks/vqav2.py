"""VQAv2: open questions about everyday photographs (Goyal et al., CVPR 2017, arXiv 1612.00837)

Asked: 214,354 questions about 40,504 COCO images (val2014); 107,394 of test-dev and 447,793 of test (test2015), which
has those of test-dev, without public answers.
Judged: by how many of ten people gave the same answer, see metrics/vqa_accuracy.py.
Averaged: over all questions, per type of answer (yes/no, number, other), and per type of question (its first words).

The "VQAv2(test)" of papers is the evaluation server's number on test-dev, which cannot be scored here;
`vqav2_answers.write_submission` makes the server's file. Which of the rules the server runs is not known.

Files and rules follow github.com/GT-Vision-Lab/VQA at a013f00, the prompt LLaVA c121f04 and lmms-eval 0.7.3. Questions
and answers stay on disk: what is held of each is where it lies, its ids, and a hash.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from sys import intern
from typing import Any, Protocol

import numpy as np

from gapbench import stats
from gapbench.data import sources
from gapbench.data.json_list import JsonList
from gapbench.data.parquet import Table, shards
from gapbench.data.pictures import file_picture, image_folder, present
from gapbench.data.sources import check_count
from gapbench.metrics import vqa_accuracy
from gapbench.prompts import SHORT_ANSWER
from gapbench.records import Decoding, Estimate, InputError, Item, Judgement, Picture, Question, Record
from gapbench.skills import skills_of
from gapbench.tasks.base import Items, Options, QuestionTask, Response, Stream

VARIANTS = vqa_accuracy.VARIANTS
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


# --- What is asked ----------------------------------------------------------------------------------------------------


def prompt(question: str) -> str:
    """The prompt of LLaVA and lmms-eval."""
    return question + SHORT_ANSWER


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


@dataclass(frozen=True, slots=True)
class Annotations:
    """Items grouped by image, how many the complete split has, and the name of the data for reports."""

    items: Items
    whole: int
    data: str


def read(folder: Path, split: str = "val", pictures: bool = True, allow_partial: bool = False) -> Annotations:
    """Read a split of SPLITS from the hub's parquet files, or from the official question file (for val with the
    annotation file beside it) and the images in val2014/ or test2015/, images/ or `folder` itself.

    With `pictures` all images must be there, unless `allow_partial`. Items are made as they are gone through, image by
    image in the order of the files. Raises InputError, one line that names file and entry, for files that are not the
    official ones.
    """
    folder, wanted = Path(folder), SPLITS[split]
    layout: Layout
    if files := shards(folder, wanted.hub):
        layout = HubFiles(files, wanted, pictures, allow_partial)
        positions = np.arange(len(layout.numbers))
    elif (folder / wanted.questions).exists():
        layout = OfficialFiles(folder, wanted, allow_partial)
        there = layout.has_picture(allow_partial) if pictures else np.ones(len(layout.numbers), dtype=bool)
        positions = np.flatnonzero(there)
    else:
        raise InputError(f"{folder}: neither data/{wanted.hub}-*.parquet nor {wanted.questions} in this folder")
    told = f"{split} {len(positions)}; rows {digest(layout.numbers[positions, ID], layout.hashes()[positions])}"
    order = positions[grouped(layout.numbers[positions, IMAGE])]
    return Annotations(Stream(len(order), partial(_items, layout, order)), wanted.count, told)


def digest(ids: np.ndarray, hashes: np.ndarray) -> str:
    """Short name of questions and annotations by their hashes, whatever order they stand in."""
    return hashlib.sha256(hashes[np.argsort(ids)].astype(">i8").tobytes()).hexdigest()[:16]


def grouped(images: np.ndarray) -> np.ndarray:
    """Positions with those of one image together, images in the order of their first positions."""
    _, first, which = np.unique(images, return_index=True, return_inverse=True)
    return np.argsort(first[which], kind="stable")


def _items(layout: Layout, order: np.ndarray) -> Iterator[Item]:
    image = picture = None
    for position, row in zip(order, layout.rows(order), strict=True):
        if row.image != image:  # the picture of its first row, which is read once
            image, picture = row.image, layout.picture(int(position))
        yield item_of(row, picture)


def item_of(row: Row, picture: Picture) -> Item:
    """The item of a row; its image is its cluster."""
    ask = Question(str(row.id), prompt(row.text), (picture,))
    if row.reference is None:
        return Item(ask.id, str(row.image), skills_of("vqav2", ""), ask)
    skills = skills_of("vqav2", row.reference.question_type)
    return Item(ask.id, str(row.image), skills, ask, {"reference": row.reference})


# --- How it is judged -------------------------------------------------------------------------------------------------


def judge_answer(reference: Reference, response: Response, variant: str = "official-2021") -> Judgement:
    """The share of agreement with people. The details hold all that `metrics` needs."""
    right = vqa_accuracy.accuracy(response, reference.answers, variant) if isinstance(response, str) else 0.0
    return Judgement(right, {"question_type": reference.question_type, "answer_type": reference.answer_type})


def judge_item(item: Item, response: Response) -> Judgement:
    return judge_answer(item.truth["reference"], response)


# --- What is averaged over what ---------------------------------------------------------------------------------------


def metrics(records: Sequence[Record]) -> dict[str, Estimate]:
    """accuracy, answer_type/NAME and question_type/NAME. Intervals resample images, each with all its questions."""
    # Records are gone through once and let go: there are 214,354.
    scores, clusters = array("d"), []
    types: dict[str, list[str]] = {"answer_type": [], "question_type": []}
    for record in records:
        if record.score is not None:
            scores.append(record.score)
            clusters.append(intern(record.cluster))
            for kind, of_record in types.items():
                of_record.append(intern(record.details.get(kind, "")))
    if not scores:
        raise ValueError("no VQAv2 records to compute metrics from")
    groups = {"accuracy": np.ones(len(scores), dtype=bool)}
    for kind, of_record in types.items():
        names = np.array(of_record)
        groups |= {f"{kind}/{name}": names == name for name in sorted(set(of_record) - {""})}
    return stats.means(scores, clusters, groups)


# --- The tasks --------------------------------------------------------------------------------------------------------


class Unscored(QuestionTask):
    """A split whose answers are not public. Its records make the evaluation server's file, which scores them."""

    def unjudged(self, records: Sequence[Record]) -> int:
        return 0  # nothing failed


def task(name: str, annotations: Annotations) -> QuestionTask:
    told = {"data": annotations.data, "prompt": prompt("{question}"), "scoring": "official-2021"}
    decoding = Decoding(max_new_tokens=16)
    return QuestionTask(name, "1", annotations.items, annotations.whole, decoding, judge_item, metrics, told)


def unscored(name: str, annotations: Annotations) -> Unscored:
    like = task(name, annotations)
    told = {**like.told, "scoring": "evaluation server"}
    nothing = (lambda item, response: Judgement(None)), (lambda records: {})
    return Unscored(name, like.version, like.asked, like.whole, like.decoding, *nothing, told)


def real(options: Options) -> QuestionTask:
    folder = sources.find("vqav2", options.data).folder
    return task("vqav2", read(folder, allow_partial=options.allow_partial))


def testdev(options: Options) -> Unscored:
    folder = sources.find("vqav2-testdev", options.data).folder
    return unscored("vqav2-testdev", read(folder, "testdev", allow_partial=options.allow_partial))


def test(options: Options) -> Unscored:
    folder = sources.find("vqav2-test", options.data).folder
    return unscored("vqav2-test", read(folder, "test", allow_partial=options.allow_partial))


def mini(options: Options) -> QuestionTask:
    """VQAv2 of the miniature world, with ten people's answers that mostly agree."""
    from gapbench.miniature import benchmarks

    items = []
    for row in benchmarks.vqa_rows():
        reference = Reference(row.question_type, row.answer_type, row.answers)
        items.append(item_of(Row(row.question_id, row.image_id, row.text, reference), row.picture))
    return task("vqav2-mini", Annotations(items, len(items), benchmarks.DATA))
