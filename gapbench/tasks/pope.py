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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gapbench import stats
from gapbench.metrics import vqa_accuracy
from gapbench.records import Estimate, InputError, Item, Judgement, Question, Record
from gapbench.skills import skills_of
from gapbench.tasks.base import Drawings, Response, file_picture
from gapbench.tasks.prompts import SHORT_ANSWER

SPLITS = ("random", "popular", "adversarial")
VARIANTS = ("official", "lmms-eval", "vlmevalkit")
MEASURES = ("accuracy", "precision", "recall", "f1", "yes_ratio")
ROWS = 3000
# The random split of August 2023 (commit e3e3926), which LLaVA-1.5 was scored on: 90 "no" questions fewer.
OLD_RANDOM_ROWS = 2910

Said = Literal["yes", "no", "other"]


# --- What is asked ----------------------------------------------------------------------------------------------------


def prompt(question: str) -> str:
    """The prompt of LLaVA and lmms-eval; the official one is the bare question."""
    return question.strip() + SHORT_ANSWER


@dataclass(frozen=True, slots=True)
class Annotations:
    """The items of the splits that a folder holds, in file order, and the name of the data for reports."""

    items: tuple[Item, ...]
    data: str


def read_annotations(folder: Path, images: Path | None = None) -> Annotations:
    """Read coco_pope_{random,popular,adversarial}.json of the official repository, as many of them as `folder` has.

    Pictures are looked up in `images` (default: folder/val2014) only when they are opened.
    Raises InputError, one line that names file and line, for a file that is not the official one.
    """
    folder = Path(folder)
    images = folder / "val2014" if images is None else Path(images)
    paths = {split: folder / f"coco_pope_{split}.json" for split in SPLITS}
    present = {split: path for split, path in paths.items() if path.is_file()}
    if not present:
        raise InputError(f"{folder}: no coco_pope_{{random,popular,adversarial}}.json in this folder")
    items: list[Item] = []
    names = []
    for split, path in present.items():
        rows = _rows(path, split)
        names.append(f"{split} {len(rows)}" + (" (e3e3926)" if len(rows) == OLD_RANDOM_ROWS else ""))
        items += [_item(row, split, images) for row in rows]
    return Annotations(tuple(items), ", ".join(names))


def _rows(path: Path, split: str) -> list[dict[str, Any]]:
    # Split on "\n" alone: the files mix LF and CRLF, and str.splitlines would also cut at rarer separators.
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            rows.append(_checked(line, f"{path}:{number}", len(rows) + 1))
    if len(rows) != ROWS and not (split == "random" and len(rows) == OLD_RANDOM_ROWS):
        old = f" (or {OLD_RANDOM_ROWS} before October 2023)" if split == "random" else ""
        raise InputError(f"{path}: {len(rows)} questions, the official file has {ROWS}{old}; download it again")
    return rows


def _checked(line: str, where: str, position: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error})") from error
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("image", "text", "label")):
        raise InputError(f"{where}: not a POPE question, which has the texts image, text and label")
    if row["label"] not in ("yes", "no"):
        raise InputError(f"{where}: label {row['label']!r} is neither yes nor no")
    if row.get("question_id") != position:
        raise InputError(f"{where}: question_id {row.get('question_id')!r} where {position} is due; rows are missing")
    return row


def _item(row: Mapping[str, Any], split: str, images: Path) -> Item:
    name = f"{split}/{row['question_id']}"
    picture = file_picture(images / row["image"], key=row["image"])
    return Item(
        id=name,
        cluster=row["image"],
        skills=skills_of("pope", split),
        ask=Question(name, prompt(row["text"]), (picture,)),
        truth={"label": row["label"], "split": split},
    )


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
    records = [record for record in records if record.score is not None]
    if not records:
        raise ValueError("no POPE records to compute metrics from")
    of_split = [record.details.get("split") or record.item.partition("/")[0] for record in records]
    unknown = set(of_split) - set(SPLITS)
    if unknown:
        raise ValueError(f"POPE has no split {min(unknown)!r}")
    splits = [split for split in SPLITS if split in of_split]

    contributions = np.zeros((len(records), len(splits), _CELLS))
    for position, (record, split) in enumerate(zip(records, of_split, strict=True)):
        answer = (record.details.get("label"), record.details.get("said", "other"))
        contributions[position, splits.index(split), _CELL.get(answer, _CELLS - 1)] = 1

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
    clusters = [record.cluster for record in records]
    return stats.estimates(contributions.reshape(len(records), -1), clusters, table, counted)


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


@dataclass(frozen=True)
class Pope:
    """POPE over any annotations."""

    name: str
    annotations: Annotations
    variant: str = "official"

    version = "1"
    side = "understanding"
    parts = ("",)

    def items(self, part: str, drawings: Drawings) -> Sequence[Item]:
        # By picture, not by split: the three splits ask about the same pictures, and a model shares their prefix.
        order = {cluster: i for i, cluster in enumerate(dict.fromkeys(item.cluster for item in self.annotations.items))}
        return sorted(self.annotations.items, key=lambda item: order[item.cluster])

    def judge(self, items: Sequence[Item], responses: Sequence[Response]) -> list[Judgement]:
        return [judge_item(item, response, self.variant) for item, response in zip(items, responses, strict=True)]

    def metrics(self, records: Sequence[Record]) -> dict[str, Estimate]:
        return metrics(records, self.variant)

    def protocol(self) -> dict[str, Any]:
        return {"data": self.annotations.data, "prompt": prompt("{question}"), "scoring": self.variant}


def mini() -> Pope:
    """POPE of the miniature world: shapes for objects, and absent ones chosen in POPE's three ways."""
    from gapbench.miniature import benchmarks

    items = [
        Item(
            id=f"{split}/{row.question_id}",
            cluster=row.picture.key,
            skills=skills_of("pope", split),
            ask=Question(f"{split}/{row.question_id}", prompt(row.text), (row.picture,)),
            truth={"label": row.label, "split": split},
        )
        for split, rows in benchmarks.pope_rows().items()
        for row in rows
    ]
    return Pope("pope-mini", Annotations(tuple(items), benchmarks.DATA))
