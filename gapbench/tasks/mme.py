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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gapbench import stats
from gapbench.records import Estimate, InputError, Judgement, Record
from gapbench.responses import Answers, Found, Saved, match, read_answers, read_text, records_of
from gapbench.skills import skills_of
from gapbench.tasks import pope
from gapbench.tasks.base import Response
from gapbench.tasks.prompts import SHORT_ANSWER

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


# --- What is asked ----------------------------------------------------------------------------------------------------


def prompt(question: str) -> str:
    """The prompt of LLaVA and lmms-eval; the official one is the bare question, which asks for yes or no itself.

    Seven questions have two spaces before that sentence; of these one stays, as in lmms-eval.
    """
    return question.strip().replace(" Please answer yes or no.", "") + SHORT_ANSWER


@dataclass(frozen=True, slots=True)
class Reference:
    """A question of the official files. Ids are SUBTASK/IMAGE/1 and /2, in the order of the image's questions."""

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
    said = parse(response, variant) if isinstance(response, str) else "other"
    return Judgement(
        float(said == reference.gold), {"said": said, "gold": reference.gold, "subtask": reference.subtask}
    )


def unparsed(record: Record) -> bool:
    return record.details["said"] == "other"


# --- What is averaged over what ---------------------------------------------------------------------------------------


def metrics(records: Sequence[Record]) -> dict[str, Estimate]:
    """perception, cognition, and SUBTASK, SUBTASK/acc, SUBTASK/acc+ of each subtask.

    Scores are in points, acc and acc+ are shares. A subtask without records is left out, and with it the sum that it
    belongs to; acc+ is of the images with both questions. Intervals resample images within their subtask.
    """
    records = [record for record in records if record.score is not None]
    if not records:
        raise ValueError("no MME records to compute metrics from")
    of_subtask = [record.details.get("subtask") or record.item.partition("/")[0] for record in records]
    unknown = set(of_subtask) - set(SUBTASKS)
    if unknown:
        raise ValueError(f"MME has no subtask {min(unknown)!r}")
    subtasks = [subtask for subtask in SUBTASKS if subtask in of_subtask]
    groups = {name: members for name, members in GROUPS.items() if set(members) <= set(subtasks)}

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
    return stats.estimates(contributions.reshape(len(records), -1), clusters, table, counted, strata=of_subtask)


# --- Saved answers ----------------------------------------------------------------------------------------------------


def read_questions(folder: Path) -> list[Reference]:
    """Read the official folder of SUBTASK.txt: image, question and gold between tabs (a fourth column is passed over).

    Raises InputError naming file and line for a folder that is not the official one.
    """
    lines, bad = _read_lines(folder)
    if bad:
        raise InputError(bad[0])
    references = [line.asked for line in lines]
    for subtask, images in IMAGES.items():
        found = [reference for reference in references if reference.subtask == subtask]
        clusters = {reference.cluster for reference in found}
        both = {f"{cluster}/{number}" for cluster in clusters for number in (1, 2)}
        if len(clusters) != images or len(found) != len(both) or {reference.id for reference in found} != both:
            raise InputError(
                f"{folder / subtask}.txt: {len(found)} questions on {len(clusters)} images, "
                f"the official file has two on each of {images}"
            )
    return references


def read_saved(path: Path, data: Path | None) -> Saved:
    """Answers as the official folder of SUBTASK.txt (image, question, gold and response between tabs), or as one file
    of rows {"id", "response"}.

    `data` is the official template, such a folder without responses. A folder of answers, which has the golds, can do
    without it: then a question that is missing cannot be named, only counted.
    """
    if path.is_dir():
        lines, bad = _read_lines(path)
        references = [line.asked for line in lines] if data is None else read_questions(data)
        expected = _expected(references) if data is None else [reference.id for reference in references]
        answers = _matched(lines, bad, references, expected)
    elif data is None:
        raise InputError("score mme needs --data, the official folder of SUBTASK.txt, for answers in one file")
    else:
        references = read_questions(data)
        answers = read_answers(path, (reference.id for reference in references))
    by_id = {reference.id: reference for reference in references}

    def judge(variant: str) -> list[Record]:
        def one(name: str, response: str) -> tuple[str, tuple[str, ...], Judgement]:
            reference = by_id[name]
            skills = skills_of("mme", reference.subtask)
            return reference.cluster, skills, judge_answer(reference, response, variant)

        return records_of("mme", answers, one)

    return Saved(answers, judge)


class _Line(NamedTuple):
    """A line of an official file. `response` is None where the line ends with the gold, as in the template."""

    where: str
    asked: Reference
    response: str | None


def _read_lines(folder: Path) -> tuple[list[_Line], list[str]]:
    """The lines of the subtasks that a folder has, and what is unreadable in it."""
    files = sorted(folder.glob("*.txt"))
    present = [subtask for subtask in SUBTASKS if folder / f"{subtask}.txt" in files]
    if not present:
        raise InputError(f"{folder}: no existence.txt, count.txt ... in this folder; give MME's official files")
    bad = [f"{file}: not the name of a subtask" for file in files if file.stem not in SUBTASKS]
    lines = []
    asked: dict[str, list[tuple[str, str]]] = {}  # by image, its different questions and their golds
    for subtask in present:
        file = folder / f"{subtask}.txt"
        for number, text in enumerate(read_text(file).split("\n"), start=1):
            if not text.strip():
                continue
            where, columns = f"{file}:{number}", text.split("\t")
            if len(columns) not in (3, 4):
                bad.append(f"{where}: {len(columns)} columns where 4 are due")
                continue
            image, question, gold = columns[0], columns[1], columns[2].strip().lower()
            if gold not in ("yes", "no"):
                raise InputError(f"{where}: third column {columns[2][:40]!r} is not the gold, Yes or No")
            reference = Reference("", subtask, image, question, gold)
            of_image = asked.setdefault(reference.cluster, [])
            if (reference.plain, gold) not in of_image:
                of_image.append((reference.plain, gold))
            name = f"{reference.cluster}/{of_image.index((reference.plain, gold)) + 1}"
            lines.append(_Line(where, replace(reference, id=name), columns[3] if len(columns) == 4 else None))
    return lines, bad


def _expected(references: Iterable[Reference]) -> list[str]:
    """Ids of two questions on each image found, and on as many as are not there; images in excess are extra."""
    found = dict.fromkeys((reference.subtask, reference.cluster) for reference in references)
    expected = []
    for subtask, images in IMAGES.items():
        clusters = [cluster for own, cluster in found if own == subtask][:images]
        clusters += [f"{subtask}/image {number}" for number in range(len(clusters) + 1, images + 1)]
        expected += [f"{cluster}/{number}" for cluster in clusters for number in (1, 2)]
    return expected


def _matched(
    lines: Iterable[_Line], bad: Sequence[str], references: Iterable[Reference], expected: Iterable[str]
) -> Answers:
    """Lines matched with the references that ask the same of the same image."""
    known = {(reference.cluster, reference.plain, reference.gold): reference.id for reference in references}
    questions = {(cluster, question) for cluster, question, _ in known}
    answers, bad = [], list(bad)
    for where, asked, response in lines:
        name = known.get((asked.cluster, asked.plain, asked.gold))
        if name is None and (asked.cluster, asked.plain) in questions:
            raise InputError(f"{where}: {asked.gold} is not the official gold of {asked.question[:80]!r}")
        if response is None:
            bad.append(f"{where}: no fourth column, the response")
        else:
            answers.append(Found(name or f"{asked.cluster} {asked.question!r}", response))
    return match(expected, answers, bad)
