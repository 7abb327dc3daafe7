"""VQAv2: open questions about everyday photographs (Goyal et al., CVPR 2017, arXiv 1612.00837)

Asked: 214,354 questions about 40,504 COCO images (val2014); 107,394 of test-dev and 447,793 of test (test2015), which
has those of test-dev, without public answers.
Judged: by how many of ten people gave the same answer, see metrics/vqa_accuracy.py.
Averaged: over all questions, per type of answer (yes/no, number, other), and per type of question (its first words).

The "VQAv2(test)" of papers is the evaluation server's number on test-dev, which cannot be scored here;
`vqav2_answers.write_submission` makes the server's file. Which of the rules the server runs is not known.

Rules follow github.com/GT-Vision-Lab/VQA at a013f00, the prompt LLaVA c121f04 and lmms-eval 0.7.3. How the files are
read stands in vqav2_files.py.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from sys import intern

import numpy as np

from gapbench import stats
from gapbench.data import sources
from gapbench.data.parquet import shards
from gapbench.metrics import vqa_accuracy
from gapbench.prompts import SHORT_ANSWER
from gapbench.records import Decoding, Estimate, InputError, Item, Judgement, Picture, Question, Record
from gapbench.skills import skills_of
from gapbench.tasks.base import Items, Options, QuestionTask, Response, Stream
from gapbench.tasks.vqav2_files import ID, IMAGE, SPLITS, HubFiles, Layout, OfficialFiles, Reference, Row

VARIANTS = vqa_accuracy.VARIANTS


# --- What is asked ----------------------------------------------------------------------------------------------------


def prompt(question: str) -> str:
    """The prompt of LLaVA and lmms-eval."""
    return question + SHORT_ANSWER


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
