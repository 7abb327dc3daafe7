"""Questions added to homologous items on disk: `homologous.jsonl` in, `homologous.jsonl` and `questions.json` out.

Read are JSON lines {"id", "image", "caption", "questions"}, the questions optional, an image's path relative to the
file. Questions that are there stay in front of the new ones, as HermesFlow has both; all else in a line stays as it is,
but for the image's path, which is made relative to the new file. `questions.json` tells who wrote the new ones, with
which prompts, who checked them, and what was rejected, failed or left out.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import tee
from pathlib import Path
from typing import Any, NamedTuple

from gapbench.api import Client
from gapbench.homologous import FILE, normal
from gapbench.questions import PROMPT_VERSION, Caption, ElementQuestion, Generated, generate
from gapbench.records import InputError
from gapbench.responses import few
from gapbench.run import Progress
from gapbench.store import write_json

ABOUT = "questions.json"


class Row(NamedTuple):
    fields: dict[str, Any]
    caption: Caption


@dataclass
class Told:
    """What became of the captions.

    `writer`, `checker`: model and server; `writers`, `checkers`: the snapshots of these models that replied.
    `failed`: the reason by id; `left_out`: ids of items without any question.
    """

    writer: Mapping[str, str]
    checker: Mapping[str, str]
    captions: int = 0
    items: int = 0
    written: int = 0
    kept: int = 0
    yes_no: int = 0
    yes: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    writers: set[str] = field(default_factory=set)
    checkers: set[str] = field(default_factory=set)

    @property
    def label(self) -> str:
        """The name of the new questions in a protocol."""
        return (
            f"TIFA's element types, written by {self.writer['model']} (prompt {PROMPT_VERSION}), "
            f"text-only check by {self.checker['model']}"
        )

    def count(self, row: Row, made: Generated) -> None:
        self.captions += 1
        self.written += made.written
        self.kept += len(made.questions)
        self.rejected.update(made.rejected)
        yes_no = [question for question in made.questions if question.yes_no]
        self.yes_no += len(yes_no)
        self.yes += sum(normal(question.answer) == "yes" for question in yes_no)
        self.writers |= {made.writer} - {""}
        self.checkers |= made.checkers
        if made.failure:
            self.failed[made.id] = made.failure
        if made.questions or row.caption.there:
            self.items += 1
        else:
            self.left_out.append(made.id)

    def lines(self) -> Iterator[str]:
        """What a person wants to know of it."""
        yield f"questions: {self.label}"
        yield f"{self.captions} captions, {self.written} questions written, {self.kept} kept"
        for reason, count in self.rejected.most_common():
            yield f"  rejected: {count} {reason}"
        if self.yes_no:
            yield f"  yes is right in {self.yes} of {self.yes_no} yes/no questions ({self.yes / self.yes_no:.1%})"
        if self.failed:
            name, reason = next(iter(self.failed.items()))
            yield f"  captions that failed: {len(self.failed)}, such as {name}: {reason}"
        if self.left_out:
            yield f"  items left out, with no question: {len(self.left_out)} ({few(self.left_out)})"

    def about(self) -> dict[str, Any]:
        return {
            "questions": self.label,
            "prompt": PROMPT_VERSION,
            "writer": {**self.writer, "snapshots": sorted(self.writers)},
            "check": {"kind": "text-only", **self.checker, "snapshots": sorted(self.checkers)},
            "captions": self.captions,
            "items": self.items,
            "written": self.written,
            "kept": self.kept,
            "rejected": dict(self.rejected.most_common()),
            "yes_no": self.yes_no,
            "yes": self.yes,
            "failed": self.failed,
            "left_out": self.left_out,
        }


def read(path: Path) -> Iterator[Row]:
    """The items of a file, line by line. Raises InputError, naming file and line, for what is wrong with one."""
    seen: set[str] = set()
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                row = _row(line, f"{path}:{number}", path.parent)
                if row.caption.id in seen:
                    raise InputError(f"{path}:{number}: item {row.caption.id!r} is there twice; keep one of them")
                seen.add(row.caption.id)
                yield row
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from error


def _row(line: str, where: str, folder: Path) -> Row:
    try:
        fields = json.loads(line)
        json.dumps(fields, ensure_ascii=False).encode()  # half a surrogate pair can be read, but not be sent or written
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise InputError(f"{where}: not a JSON object with id, image and caption")
    for key in ("id", "image", "caption"):
        if not isinstance(fields.get(key), str) or not fields[key].strip():
            raise InputError(f"{where}: {key} must be a text that is not empty")
    if not (folder / fields["image"]).is_file():
        raise InputError(f"{where}: no image {folder / fields['image']}; add it, or leave the line out")
    questions = fields.get("questions", [])
    if not isinstance(questions, list) or not all(
        isinstance(question, dict) and isinstance(question.get("question"), str) for question in questions
    ):
        raise InputError(f"{where}: questions must be a list of objects with the text question")
    there = tuple(question["question"] for question in questions)
    return Row(fields, Caption(fields["id"], fields["caption"], there))


def augment(source: Path, out: Path, writer: Client, checker: Client, progress: Progress) -> Told:
    """Write the items of `source`, a file or a folder with homologous.jsonl, with new questions into the folder `out`.

    Everything wrong with the file is told before anything is asked. Nothing is written unless all captions have had
    their turn; the clients keep the replies, so that a second call goes on. Raises InputError for wrong input, and
    where no item has a question.
    """
    source = source / FILE if source.is_dir() else source
    target = _target(source, out)
    total = sum(1 for _ in read(source))
    if not total:
        raise InputError(f"{source}: no items in it")
    told = Told(writer.describe(), checker.describe())
    aside = target.with_name(f".{FILE}.part")
    progress.start("questions", total, 0)
    try:
        with aside.open("w", encoding="utf-8", newline="\n") as file:
            rows, again = tee(read(source))
            made = generate((row.caption for row in again), writer, checker)
            for row, generated in zip(rows, made, strict=True):
                told.count(row, generated)
                if questions := row.fields.get("questions", []) + list(map(_line, generated.questions)):
                    fields = {**row.fields, "image": _moved(row.fields["image"], source, out), "questions": questions}
                    file.write(json.dumps(fields, ensure_ascii=False) + "\n")
                progress.advance(1)
        if not told.items:
            why = next(iter(told.failed.values()), ", ".join(f"{n} {reason}" for reason, n in told.rejected.items()))
            raise InputError(f"{source}: no item has a question ({why or 'none was written'})")
        write_json(out / ABOUT, told.about())  # first, for it is what allows to write over the items
        aside.replace(target)
    finally:
        progress.stop()
        aside.unlink(missing_ok=True)
    return told


def _target(source: Path, out: Path) -> Path:
    """Where to write; never over what this did not write itself."""
    target = out / FILE
    if target.exists() and (not (out / ABOUT).exists() or (source.exists() and target.samefile(source))):
        raise InputError(f"--out {out}: {FILE} is there already, and would be lost; give another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be made a folder ({error.strerror})") from error
    return target


def _moved(image: str, source: Path, out: Path) -> str:
    return image if Path(image).is_absolute() else os.path.relpath(source.parent.resolve() / image, out.resolve())


def _line(question: ElementQuestion) -> dict[str, Any]:
    return {
        "question": question.text,
        "choices": list(question.choices),
        "answer": question.answer,
        "type": question.type,
    }
