"""MME: yes/no questions in fourteen subtasks (Fu et al., 2023, arXiv 2306.13394)

Asked: two questions on each of 1,187 images, one whose answer is yes and one whose answer is no.
Judged: yes or no, read off the first letters of the answer; see `parse` for whose rules.
Averaged: per subtask acc, the share of right answers, and acc+, the share of images with both answers right. Their sum
in percent is the subtask's score, at most 200. Perception is the sum of ten subtasks (at most 2000), cognition that of
the other four (800). The column "MME" of papers is mostly perception alone.

MME may be used for research only and not be handed on, so none of it is here.

Rules and files follow the official eval_tool.zip (`calculation.py`, at dd29509 of its repository's branch Evaluation),
lmms-eval 0.7.3 and VLMEvalKit e8e78f0.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gapbench import stats
from gapbench.data import sources
from gapbench.data.parquet import Table, shards
from gapbench.data.pictures import file_picture, image_folder, present
from gapbench.data.sources import check_count, digest
from gapbench.prompts import SHORT_ANSWER
from gapbench.records import Decoding, Estimate, InputError, Item, Judgement, Picture, Question, Record
from gapbench.responses import read_text
from gapbench.skills import skills_of
from gapbench.tasks import pope
from gapbench.tasks.base import Options, QuestionTask, Response, by_picture

VARIANTS = ("official", "lmms-eval", "vlmevalkit")
GROUPS = {
    "perception": (
        "existence",
        "count",
        "position",
        "color",
        "posters",
        "celebrity",
        "scene",
        "landmark",
        "artwork",
        "OCR",
    ),
    "cognition": ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
}
SUBTASKS = (*GROUPS["perception"], *GROUPS["cognition"])
IMAGES = dict(zip(SUBTASKS, (30, 30, 30, 30, 147, 170, 200, 200, 200, 20, 70, 20, 20, 20), strict=True))
QUESTIONS = 2 * sum(IMAGES.values())

_RELEASE = "MME_Benchmark_release_version"
_SUFFIXES = (".jpg", ".jpeg", ".png")


# --- What is asked ----------------------------------------------------------------------------------------------------


def prompt(question: str) -> str:
    """The prompt of LLaVA and lmms-eval; the official one is the bare question, which asks for yes or no itself.

    Seven questions have two spaces before that sentence; of these one stays, as in lmms-eval.
    """
    return question.strip().replace(" Please answer yes or no.", "") + SHORT_ANSWER


@dataclass(frozen=True, slots=True)
class Reference:
    """A question of the official files. Ids are SUBTASK/IMAGE/1 and /2, in the order of the image's questions: first
    the one whose answer is yes.
    """

    id: str
    subtask: str
    image: str
    question: str
    gold: str

    @property
    def cluster(self) -> str:
        return f"{self.subtask}/{self.image}"

    @property
    def plain(self) -> str:
        """The question with single spaces, for copies differ in them."""
        return " ".join(self.question.split())

    @property
    def truth(self) -> dict[str, str]:
        return {"gold": self.gold, "subtask": self.subtask}


class Asked(NamedTuple):
    reference: Reference
    picture: Picture


def read(folder: Path, pictures: bool = True, allow_partial: bool = False) -> list[Asked]:
    """Read the hub's parquet files, or the official release: a folder a subtask, in it images and texts of the same
    names, or these in images/ and questions_answers_YN/.

    The images of a release must be there if `pictures`. `allow_partial` takes fewer images, but never one without its
    two questions. Raises InputError, one line that names file and row, for what is not MME.
    """
    if files := shards(folder, "test"):
        table = Table(files)
        where = table.name
        asked = [Asked(row, table.picture(n, row.cluster)) for n, row in enumerate(_table_rows(table))]
    else:
        where = _release(folder)
        asked = [
            found
            for subtask in SUBTASKS
            if (where / subtask).is_dir()
            for found in _subtask_rows(where / subtask, pictures, allow_partial)
        ]
    _check(where, [reference for reference, _ in asked], allow_partial)
    return asked


def _table_rows(table: Table) -> Iterator[Reference]:
    """The rows of the hub's data set (lmms-eval's); a question_id is SUBTASK/IMAGE and so names two of them."""
    for position, found in enumerate(table.rows(("question_id", "question", "answer", "category"))):
        where = f"{table.name}: row {position}"
        subtask, _, image = str(found["question_id"]).partition("/")
        if subtask != found["category"] or subtask not in SUBTASKS or not image:
            raise InputError(
                f"{where}: question_id {found['question_id']!r} of category {found['category']!r} is not MME's"
            )
        yield _reference(where, subtask, image, found["question"], found["answer"])


def _release(folder: Path) -> Path:
    for inner in ("", _RELEASE, f"{_RELEASE}/MME_Benchmark", "MME_Benchmark"):
        if any((folder / inner / subtask).is_dir() for subtask in SUBTASKS):
            return folder / inner
    raise InputError(f"{folder}: no data/test-*.parquet and no folders existence, count ... in it; add MME's files")


def _subtask_rows(folder: Path, pictures: bool, allow_partial: bool) -> list[Asked]:
    texts = image_folder(folder, ("questions_answers_YN",))
    images = image_folder(folder, ("images",))
    named = {path.stem: path.name for path in sorted(images.iterdir()) if path.suffix.lower() in _SUFFIXES}
    usual = ".png" if folder.name in GROUPS["cognition"] else ".jpg"
    asked = []
    for file in sorted(texts.glob("*.txt")):
        image = named.get(file.stem, f"{file.stem}{usual}")
        for number, line in enumerate(read_text(file).split("\n"), start=1):
            if not line.strip():
                continue
            columns = line.strip().split("\t")
            if len(columns) != 2:
                raise InputError(f"{file}:{number}: {len(columns)} columns where 2 are due, a question and Yes or No")
            reference = _reference(f"{file}:{number}", folder.name, image, *columns)
            asked.append(Asked(reference, file_picture(images / image, reference.cluster)))
    if pictures and asked:
        there = present(images, (reference.image for reference, _ in asked), allow_partial)
        asked = [found for found in asked if found.reference.image in there]
    return asked


def _reference(where: str, subtask: str, image: str, question: object, answer: object) -> Reference:
    gold = str(answer).strip().lower()
    if gold not in ("yes", "no"):
        raise InputError(f"{where}: answer {answer!r} is neither Yes nor No")
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"{where}: question {question!r} is not a text")
    # All official files ask first what is answered yes; by that a row has the same id wherever it stands.
    return Reference(f"{subtask}/{image}/{1 if gold == 'yes' else 2}", subtask, image, question.strip(), gold)


def _check(where: object, references: Iterable[Reference], allow_partial: bool) -> None:
    of_image: dict[tuple[str, str], list[Reference]] = defaultdict(list)
    for reference in references:
        of_image[reference.subtask, reference.cluster].append(reference)
    for (_, cluster), both in of_image.items():
        if sorted(one.gold for one in both) != ["no", "yes"] or both[0].plain == both[1].plain:
            golds = " and ".join(one.gold for one in both)
            raise InputError(
                f"{where}: the questions on {cluster} ({golds}) are not two, one with the answer Yes and one with No; "
                "download them again"
            )
    if not of_image:
        raise InputError(f"{where}: no questions in it; add MME's files")
    images = Counter(subtask for subtask, _ in of_image)
    for subtask, official in IMAGES.items():
        if images[subtask] or not allow_partial:
            check_count(where, f"{subtask} images", images[subtask], official, allow_partial)


def item_of(reference: Reference, picture: Picture) -> Item:
    ask = Question(reference.id, prompt(reference.question), (picture,))
    return Item(reference.id, reference.cluster, skills_of("mme", reference.subtask), ask, reference.truth)


# --- How it is judged -------------------------------------------------------------------------------------------------


def parse(response: str, variant: str = "official") -> pope.Said:
    """Read yes or no off an answer; what is neither is "other".

    official    yes, or else no, is within the first four characters, as they are: "not sure" is no, "  yes" is other
    lmms-eval   the same, without white space around the answer and without periods; y and n will do
    vlmevalkit  just one of the words yes and no occurs (its exact matching, before it asks an LLM)
    """
    if variant == "vlmevalkit":
        return pope.parse(response, variant)  # it reads all yes/no benchmarks in this way
    text = response.lower()
    if variant == "lmms-eval":
        text = text.strip().replace(".", "")
        text = {"y": "yes", "n": "no"}.get(text, text)
    start = text[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def judge_answer(reference: Reference, response: Response, variant: str = "official") -> Judgement:
    """Right where the answer says the gold. The details hold all that `metrics` needs."""
    return _judge(reference.truth, response, variant)


def judge_item(item: Item, response: Response, variant: str = "official") -> Judgement:
    """`judge_answer` of an item."""
    return _judge(item.truth, response, variant)


def _judge(truth: Mapping[str, str], response: Response, variant: str) -> Judgement:
    said = parse(response, variant) if isinstance(response, str) else "other"
    return Judgement(float(said == truth["gold"]), {"said": said, **truth})


# --- What is averaged over what ---------------------------------------------------------------------------------------


def metrics(records: Sequence[Record], groups: Mapping[str, Sequence[str]] = GROUPS) -> dict[str, Estimate]:
    """The sums of `groups` (perception, cognition), and SUBTASK, SUBTASK/acc, SUBTASK/acc+ of each subtask.

    Scores are in points, acc and acc+ are shares. A subtask without records is left out, and with it the sum that it
    belongs to; acc+ is of the images with both questions. Intervals resample images within their subtask.
    """
    records = [record for record in records if record.score is not None]
    if not records:
        raise ValueError("no MME records to compute metrics from")
    of_subtask = [record.details.get("subtask") or record.item.partition("/")[0] for record in records]
    known = [subtask for members in groups.values() for subtask in members]
    unknown = set(of_subtask) - set(known)
    if unknown:
        raise ValueError(f"MME has no subtask {min(unknown)!r}")
    subtasks = [subtask for subtask in known if subtask in of_subtask]
    groups = {name: members for name, members in groups.items() if set(members) <= set(subtasks)}

    # Of a question: right, 1; and with the second question of an image: both right, 1.
    contributions = np.zeros((len(records), len(subtasks), 4))
    first: dict[str, float] = {}
    for position, (record, subtask) in enumerate(zip(records, of_subtask, strict=True)):
        row = contributions[position, subtasks.index(subtask)]
        row[:2] = record.score, 1
        if record.cluster in first:
            row[2:] = record.score * first.pop(record.cluster), 1
        else:
            first[record.cluster] = record.score

    def table(sums: np.ndarray) -> np.ndarray:
        """(resamples, subtasks x 4) -> (resamples, groups + subtasks x 3)."""
        cells = sums.reshape(len(sums), len(subtasks), 4)
        acc, plus = stats.ratio(cells[..., :2]), stats.ratio(cells[..., 2:])
        scores = 100 * acc + 100 * plus
        totals = [scores[:, [subtasks.index(name) for name in members]].sum(axis=1) for members in groups.values()]
        parts = np.stack([scores, acc, plus], axis=-1).reshape(len(sums), -1)
        return np.concatenate([*(total[:, None] for total in totals), parts], axis=1)

    of_record = np.array(of_subtask)
    counted = {name: np.isin(of_record, members) for name, members in groups.items()}
    counted |= {f"{subtask}{kind}": of_record == subtask for subtask in subtasks for kind in ("", "/acc", "/acc+")}
    clusters = [record.cluster for record in records]
    bounds = dict.fromkeys(subtasks, (0.0, 200.0)) | {name: (0.0, 200.0 * len(of)) for name, of in groups.items()}
    contributions = contributions.reshape(len(records), -1)
    return stats.estimates(contributions, clusters, table, counted, strata=of_subtask, bounds=bounds)


# --- The task ---------------------------------------------------------------------------------------------------------


def task(
    name: str, asked: Sequence[Asked], whole: int, data: str, groups: Mapping[str, Sequence[str]] = GROUPS
) -> QuestionTask:
    told = {"data": data, "prompt": prompt("{question}"), "scoring": "official"}
    items, decoding = by_picture(item_of(*one) for one in asked), Decoding(max_new_tokens=16)
    return QuestionTask(name, "1", items, whole, decoding, judge_item, partial(metrics, groups=groups), told)


def real(options: Options) -> QuestionTask:
    folder = sources.find("mme", options.data).folder
    asked = read(folder, options.pictures, options.allow_partial)
    rows = sorted((reference.id, reference.question, reference.gold) for reference, _ in asked)
    return task("mme", asked, QUESTIONS, f"test {len(rows)}; rows {digest(rows)}")


def mini(options: Options) -> QuestionTask:
    """MME of the miniature world: those of its subtasks that can be asked there."""
    from gapbench.miniature import benchmarks

    asked = []
    for row in benchmarks.mme_rows():
        where = f"miniature: {row.picture.key}"
        asked.append(Asked(_reference(where, row.subtask, row.image, row.text, row.answer), row.picture))
    groups = {"perception": benchmarks.MME_SUBTASKS}
    return task("mme-mini", asked, len(asked), benchmarks.DATA, groups)
