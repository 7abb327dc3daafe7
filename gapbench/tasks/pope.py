"""POPE: does the model see objects that are not there? (Li et al., EMNLP 2023, arXiv 2305.10355)

Asked: "Is there a {object} in the image?", six questions on each of 500 COCO val2014 images, half of them about an
object that is not there. The three splits differ in how that object was chosen: at random, among the most frequent
ones, or among those that most often appear with the objects in the image. The images are the same in all three.
Judged: yes or no, read off the answer by a few string rules; see `parse` for whose rules.
Averaged: a confusion matrix per split, positive = yes. Papers print different numbers under the one name "POPE"
(mean F1 of the splits, pooled F1, pooled accuracy, F1 of the random split), so all of them are given.

Rules and data follow github.com/RUCAIBox/POPE at 3df3ba1 (`evaluate.py`, `output/coco`), lmms-eval 0.7.3 and
VLMEvalKit e8e78f0.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from sys import intern
from typing import Literal

import numpy as np

from gapbench import stats
from gapbench.data import sources
from gapbench.data.parquet import Table, shards
from gapbench.data.pictures import file_picture, image_folder, present
from gapbench.data.sources import check_count, digest
from gapbench.metrics import vqa_accuracy
from gapbench.prompts import SHORT_ANSWER
from gapbench.records import Decoding, Estimate, InputError, Item, Judgement, Picture, Question, Record
from gapbench.responses import read_text
from gapbench.skills import skills_of
from gapbench.tasks.base import Options, QuestionTask, Response, by_picture

SPLITS = ("random", "popular", "adversarial")
VARIANTS = ("official", "lmms-eval", "vlmevalkit")
MEASURES = ("accuracy", "precision", "recall", "f1", "yes_ratio")
ROWS = 3000
# The random split of August 2023 (commit e3e3926), which LLaVA-1.5 was scored on: 90 "no" questions fewer.
OLD_RANDOM_ROWS = 2910
OFFICIAL_ROWS = (
    "e9760ac79c2c36c6",
    "3b12ab7c2ce1822e",
)  # digests of the rows of all three files, with the new random file and with the old one

Said = Literal["yes", "no", "other"]


# --- What is asked ----------------------------------------------------------------------------------------------------


def prompt(question: str) -> str:
    """The prompt of LLaVA and lmms-eval; the official one is the bare question."""
    return question.strip() + SHORT_ANSWER


@dataclass(frozen=True, slots=True)
class Row:
    """A question of one split; `image` is the COCO image's name without its extension."""

    split: str
    number: int
    image: str
    text: str
    label: str

    @property
    def id(self) -> str:
        return f"{self.split}/{self.number}"


@dataclass(frozen=True, slots=True)
class Annotations:
    """Items in the order of the files, how many the complete benchmark has, and the name of the data for reports."""

    items: tuple[Item, ...]
    whole: int
    data: str


def read(folder: Path, pictures: bool = True, allow_partial: bool = False) -> Annotations:
    """Read coco_pope_{random,popular,adversarial}.json of the official repository, as many of them as `folder` has, or
    the hub's parquet files.

    With `pictures` all three splits and all images (in val2014/, images/ or `folder` itself) must be there, unless
    `allow_partial`. Raises InputError, one line that names file and line, for files that are not the official ones.
    """
    folder = Path(folder)
    if files := shards(folder, "test"):
        table = Table(files)
        rows = list(_table_rows(table, allow_partial))
        opened = [table.picture(number, row.image) for number, row in enumerate(rows)]
    else:
        rows = _own_rows(folder, pictures and not allow_partial, allow_partial)
        images = image_folder(folder, ("val2014", "images"))
        if pictures:
            if not allow_partial and digest(sorted(map(astuple, rows))) not in OFFICIAL_ROWS:
                raise InputError(f"{folder}: of the right size, but not the official questions; download them again")
            there = present(images, (f"{row.image}.jpg" for row in rows), allow_partial)
            rows = [row for row in rows if f"{row.image}.jpg" in there]
        opened = [file_picture(images / f"{row.image}.jpg", row.image) for row in rows]
    counts = Counter(row.split for row in rows)
    old = counts["random"] == OLD_RANDOM_ROWS
    named = ", ".join(f"{split} {counts[split]}" for split in SPLITS if counts[split]) + (" (e3e3926)" if old else "")
    told = f"{named}; rows {digest(sorted(map(astuple, rows)))}"
    items = tuple(item_of(row, picture) for row, picture in zip(rows, opened, strict=True))
    return Annotations(items, len(SPLITS) * ROWS - (ROWS - OLD_RANDOM_ROWS if old else 0), told)


def _own_rows(folder: Path, all_splits: bool, allow_partial: bool) -> list[Row]:
    paths = {split: folder / f"coco_pope_{split}.json" for split in SPLITS}
    held = {split: path for split, path in paths.items() if path.is_file()}
    if not held:
        raise InputError(f"{folder}: no coco_pope_{{random,popular,adversarial}}.json in this folder")
    if all_splits and len(held) < len(SPLITS):
        lacking = next(path for split, path in paths.items() if split not in held)
        raise InputError(f"{lacking}: no such file; add it, or measure the other splits with --allow-partial")
    return [row for split, path in held.items() for row in _split_rows(path, split, allow_partial)]


def _split_rows(path: Path, split: str, allow_partial: bool) -> list[Row]:
    rows = []
    # Split on "\n" alone: the files mix LF and CRLF, and str.splitlines would also cut at rarer separators.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            rows.append(_checked(line, f"{path}:{number}", split, len(rows) + 1))
    if not (split == "random" and len(rows) == OLD_RANDOM_ROWS):
        check_count(path, "questions", len(rows), ROWS, allow_partial)
    return rows


def _checked(line: str, where: str, split: str, position: int) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error})") from error
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("image", "text", "label")):
        raise InputError(f"{where}: not a POPE question, which has the texts image, text and label")
    if row.get("question_id") != position:
        found = f"question_id {row.get('question_id')!r} where {position} is due"
        raise InputError(f"{where}: {found}; rows are missing, or there twice; download the file again")
    return _row(where, split, position, row["image"], row["text"], row["label"])


def _row(where: str, split: str, number: int, image: str, text: str, label: str) -> Row:
    if label not in ("yes", "no"):
        raise InputError(f"{where}: label {label!r} is neither yes nor no")
    return Row(split, number, image.removesuffix(".jpg"), text.strip(), label)


def _table_rows(table: Table, allow_partial: bool) -> Iterator[Row]:
    """The rows of the hub's data set (lmms-eval's), default config: all three splits in one table."""
    columns = ("question_id", "question", "answer", "image_source", "category")
    seen: set[str] = set()
    for position, found in enumerate(table.rows(columns)):
        where = f"{table.name}: row {position}"
        number = str(found["question_id"])
        if found["category"] not in SPLITS or not number.isdecimal() or not 1 <= int(number) <= ROWS:
            raise InputError(f"{where}: {found['category']}/{number} is no question of POPE's, such as random/1")
        for column in ("question", "image_source"):
            if not isinstance(found[column], str):
                raise InputError(f"{where}: {column} {found[column]!r} is not a text; download the file again")
        label = str(found["answer"]).strip().lower()
        row = _row(where, found["category"], int(number), found["image_source"], found["question"], label)
        if row.id in seen:
            raise InputError(f"{where}: question {row.id} is there twice")
        seen.add(row.id)
        yield row
    check_count(table.name, "questions", len(seen), len(SPLITS) * ROWS, allow_partial)


def item_of(row: Row, picture: Picture) -> Item:
    """The item of a row; its picture's key is its cluster."""
    ask = Question(row.id, prompt(row.text), (picture,))
    return Item(row.id, picture.key, skills_of("pope", row.split), ask, {"label": row.label, "split": row.split})


# --- How it is judged -------------------------------------------------------------------------------------------------


def parse(response: str, variant: str = "official") -> Said:
    """Read yes or no off an answer; what is neither is "other".

    official    first sentence only; no where one of the words No, no, not is in it, else yes: whatever it says
    lmms-eval   the whole answer must be yes or no, in any case; "Yes." is other
    vlmevalkit  just one of the words yes and no occurs (its exact matching, before it asks an LLM)
    """
    return _PARSERS[variant](response)


def _official(response: str) -> Said:
    # Words are what single spaces separate; so "No\n", "no!" and "NO" are not the word "no", and mean yes.
    words = response.split(".", maxsplit=1)[0].replace(",", "").split(" ")
    return "yes" if {"No", "no", "not"}.isdisjoint(words) else "no"


def _lmms_eval(response: str) -> Said:
    said = response.strip().lower()
    return said if said in ("yes", "no") else "other"


def _vlmevalkit(response: str) -> Said:
    # VLMEvalKit takes punctuation off as VQA's rule does.
    words = vqa_accuracy.punctuation(response.lower(), "vlmevalkit").split()
    if ("yes" in words) == ("no" in words):
        return "other"
    return "yes" if "yes" in words else "no"


_PARSERS: dict[str, Callable[[str], Said]] = {
    "official": _official,
    "lmms-eval": _lmms_eval,
    "vlmevalkit": _vlmevalkit,
}


def judge_answer(label: str, response: Response, variant: str = "official") -> Judgement:
    """Right where the answer says the label. The details hold all that `metrics` needs, but for the split."""
    said = parse(response, variant) if isinstance(response, str) else "other"
    return Judgement(float(said == label), {"said": said, "label": label})


def judge_item(item: Item, response: Response, variant: str = "official") -> Judgement:
    """`judge_answer` of an item, whose split the metrics need as well."""
    judged = judge_answer(item.truth["label"], response, variant)
    return Judgement(judged.score, {**judged.details, "split": item.truth["split"]})


# --- What is averaged over what ---------------------------------------------------------------------------------------

# An answer falls into one cell of its split's table; the last is for a failure whose record has lost the label.
_CELL = {
    ("yes", "yes"): 0,
    ("no", "yes"): 1,
    ("no", "no"): 2,
    ("yes", "no"): 3,
    ("yes", "other"): 4,
    ("no", "other"): 5,
}
_CELLS = 7


def metrics(records: Sequence[Record], variant: str = "official") -> dict[str, Estimate]:
    """pooled/, random/, popular/, adversarial/ and mean_of_three/ of accuracy, precision, recall, f1 and yes_ratio.

    A record's details tell its `split`, `label` and what was `said`; one without `said`, which the model failed to
    give, counts as neither yes nor no. Splits without records are left out, and mean_of_three unless all are there.
    Intervals resample images, each with all its questions in all splits.
    """
    # Records are gone through once and let go: of 9,000 their counts are kept, not their texts.
    of_split, answers, clusters = [], [], []
    for record in records:
        if record.score is not None:
            of_split.append(intern(record.details.get("split") or record.item.partition("/")[0]))
            answers.append(_CELL.get((record.details.get("label"), record.details.get("said", "other")), _CELLS - 1))
            clusters.append(intern(record.cluster))
    if not of_split:
        raise ValueError("no POPE records to compute metrics from")
    unknown = set(of_split) - set(SPLITS)
    if unknown:
        raise ValueError(f"POPE has no split {min(unknown)!r}")
    splits = [split for split in SPLITS if split in of_split]

    contributions = np.zeros((len(of_split), len(splits), _CELLS))
    for position, (split, cell) in enumerate(zip(of_split, answers, strict=True)):
        contributions[position, splits.index(split), cell] = 1

    groups = ["pooled", *splits] + (["mean_of_three"] if len(splits) == len(SPLITS) else [])

    def table(sums: np.ndarray) -> np.ndarray:
        """(resamples, splits x cells) -> (resamples, groups x measures)."""
        cells = sums.reshape(len(sums), len(splits), _CELLS)
        per_split = _measures(cells, variant)
        rows = [_measures(cells.sum(axis=1, keepdims=True), variant), per_split]
        if "mean_of_three" in groups:
            rows.append(per_split.mean(axis=1, keepdims=True))
        return np.concatenate(rows, axis=1).reshape(len(sums), -1)

    # One bootstrap for the whole table: a resample's images are drawn once and give all its numbers.
    split_of = np.array(of_split)
    counted = {
        f"{group}/{measure}": (split_of == group) | (group in ("pooled", "mean_of_three"))
        for group in groups
        for measure in MEASURES
    }
    return stats.estimates(contributions.reshape(len(of_split), -1), clusters, table, counted)


def _measures(cells: np.ndarray, variant: str) -> np.ndarray:
    """(..., cells) -> (..., measures). Official: "other" never occurs. VLMEvalKit: "other" is wrong and not a yes."""
    tp, fp, tn, fn, other_yes, other_no, unlabelled = np.moveaxis(cells, -1, 0)
    n = tp + fp + tn + fn + other_yes + other_no + unlabelled
    accuracy = _ratio(tp + tn, n)
    precision = _ratio(tp, tp + fp)
    if variant == "lmms-eval":
        # Two quirks of lmms-eval: recall forgets the answers that are neither yes nor no (so that F1 can be 0.87 where
        # accuracy is 0.31), and its yes ratio is that of the labels, always 0.5 on the full data.
        recall = _ratio(tp, tp + fn)
        yes_ratio = _ratio(tp + fn + other_yes, n)
    else:
        recall = _ratio(tp, tp + fn + other_yes)
        yes_ratio = _ratio(tp + fp, n)
    # With no true positive the official script divides zero by zero and stops; here F1 is then 0.
    f1 = _ratio(2 * precision * recall, precision + recall)
    return np.stack([accuracy, precision, recall, f1, yes_ratio], axis=-1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return stats.ratio(np.stack([part, whole], axis=-1))


# --- The task ---------------------------------------------------------------------------------------------------------


def task(name: str, annotations: Annotations) -> QuestionTask:
    # By picture, not by split: the three splits ask about the same pictures, and a model shares their prefix.
    told = {"data": annotations.data, "prompt": prompt("{question}"), "scoring": "official"}
    asked, decoding = by_picture(annotations.items), Decoding(max_new_tokens=128)
    return QuestionTask(name, "1", asked, annotations.whole, decoding, judge_item, metrics, told)


def real(options: Options) -> QuestionTask:
    folder = sources.find("pope", options.data).folder
    return task("pope", read(folder, options.pictures, options.allow_partial))


def mini(options: Options) -> QuestionTask:
    """POPE of the miniature world: shapes for objects, and absent ones chosen in POPE's three ways."""
    from gapbench.miniature import benchmarks

    items = [
        item_of(Row(split, row.question_id, row.picture.key, row.text, row.label), row.picture)
        for split, rows in benchmarks.pope_rows().items()
        for row in rows
    ]
    return task("pope-mini", Annotations(tuple(items), len(items), benchmarks.DATA))
