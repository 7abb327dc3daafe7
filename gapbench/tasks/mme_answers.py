"""MME's saved answers: the official folder of SUBTASK.txt, and ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from gapbench.data import sources
from gapbench.records import InputError, Judgement, Record
from gapbench.responses import Answers, Found, Saved, match, read_answers, read_text, records_of
from gapbench.skills import skills_of
from gapbench.tasks import mme
from gapbench.tasks.mme import IMAGES, SUBTASKS, Reference


def read(path: Path, data: Path | None) -> Saved:
    """Answers as the official folder of SUBTASK.txt (image, question, gold and response between tabs), or as one file
    of rows {"id", "response"}.

    `data` is the official template, such a folder without responses, or MME itself. A folder of answers, which has the
    golds, can do without it: then a question that is missing cannot be named, only counted.
    """
    if path.is_dir():
        lines, bad = _read_lines(path)
        references = [line.asked for line in lines] if data is None else _questions(data)
        expected = _expected(references) if data is None else [reference.id for reference in references]
        answers = _matched(lines, bad, references, expected)
    else:
        references = _questions(data)
        answers = read_answers(path, (reference.id for reference in references))
    by_id = {reference.id: reference for reference in references}

    def judge(variant: str) -> list[Record]:
        def one(name: str, response: str) -> tuple[str, tuple[str, ...], Judgement]:
            reference = by_id[name]
            skills = skills_of("mme", reference.subtask)
            return reference.cluster, skills, mme.judge_answer(reference, response, variant)

        return records_of("mme", answers, one)

    return Saved(answers, judge)


def _questions(data: Path | None) -> list[Reference]:
    folder = sources.find("mme", data, fetch=False).folder
    if any((folder / f"{subtask}.txt").is_file() for subtask in SUBTASKS):
        return read_template(folder)
    return [reference for reference, _ in mme.read(folder, pictures=False)]


def read_template(folder: Path) -> list[Reference]:
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
