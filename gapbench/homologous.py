"""Homologous items: an image, its caption, and questions with answers about both.

What the gap is measured on and what hermesflow trains on. As files: a folder with `homologous.jsonl`, an item a line:

    {"id": "beach/7", "image": "images/7.jpg", "caption": "Two brown dogs run on a beach.", "cluster": "beach",
     "questions": [{"question": "How many dogs are there?", "choices": ["1", "2"], "answer": "2", "type": "counting"}]}

`image` is relative to the file. `cluster` may be left out, and so may `choices`, where any short answer may be given.
A question has a `skill`, one of SKILLS, or a `type` (TIFA's of its element, or JourneyDB's style and content), which
has its skill by the table in skills.py; or both.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gapbench.records import InputError, Picture
from gapbench.responses import read_text
from gapbench.skills import SKILLS, skills_of

if TYPE_CHECKING:
    from PIL import Image

FILE = "homologous.jsonl"


@dataclass(frozen=True, slots=True)
class HomologousQuestion:
    """`choices`: all the answers to choose from, `answer` one of them; none where any short answer may be given.

    `type`: what its source calls questions of its kind, where it does.
    """

    text: str
    answer: str
    skill: str
    choices: tuple[str, ...] = ()
    type: str = ""


@dataclass(frozen=True, slots=True)
class Homologous:
    """`caption` is what is drawn. `cluster`: what this item shares with others (JourneyDB's prompt), else its id."""

    id: str
    picture: Picture
    caption: str
    questions: tuple[HomologousQuestion, ...]
    cluster: str = field(default="")

    def __post_init__(self) -> None:
        if not self.cluster:
            object.__setattr__(self, "cluster", self.id)


def normal(answer: str) -> str:
    """What of an answer counts when it is compared with another."""
    return " ".join(answer.lower().split()).rstrip(" .")


# --- Reading ----------------------------------------------------------------------------------------------------------


def read(path: Path, pictures: bool = True) -> list[Homologous]:
    """The items of a `homologous.jsonl`, or of the folder that holds it, in its order.

    An answer is spelt as the choice that it equals. `pictures` False: the images need not be there.
    Raises InputError naming file and line for anything that is wrong with it.
    """
    file = path / FILE if path.is_dir() else path
    items: dict[str, Homologous] = {}
    # Only "\n" ends a line: captions may hold the other separators that str.splitlines knows.
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        item = _item(_parse(line, where), where, file.parent, pictures)
        if item.id in items:
            raise InputError(f"{where}: item {item.id!r} is there twice; keep one of them")
        items[item.id] = item
    if not items:
        raise InputError(f"{file}: no items in it; give an item a line, with id, image, caption and questions")
    return list(items.values())


def _parse(line: str, where: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(keys := dict(pairs)) < len(pairs):
            raise ValueError("a key is there twice")
        return keys

    try:
        row = json.loads(line, object_pairs_hook=once)
        json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair can be read, but not be written again
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error}); correct the line or leave it out") from None
    return row


def _item(row: Any, where: str, folder: Path, pictures: bool) -> Homologous:
    if not isinstance(row, dict):
        raise InputError(f"{where}: not a JSON object with id, image, caption and questions")
    name, image, caption = (_text(row, key, where) for key in ("id", "image", "caption"))
    cluster = _text(row, "cluster", where) if "cluster" in row else name
    path = folder / image
    if pictures and not path.is_file():
        raise InputError(f"{where}: no image {path}; add it, or leave the line out")
    rows = row.get("questions")
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{where}: no questions; give a list of them, or write some with `gapbench data questions`")
    questions = tuple(_question(q, f"{where}: question {number}") for number, q in enumerate(rows, start=1))
    return Homologous(name, Picture(str(path), partial(_open, path)), caption, questions, cluster)


def _question(row: Any, where: str) -> HomologousQuestion:
    if not isinstance(row, dict):
        raise InputError(f"{where}: not a JSON object with question, answer and skill or type")
    text, answer = _text(row, "question", where), _text(row, "answer", where)
    choices = row.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, str) and normal(choice) for choice in choices):
        raise InputError(f"{where}: choices must be a list of texts that are not empty")
    if choices:
        same: dict[str, str] = {}
        for choice in choices:
            if normal(choice) in same:
                raise InputError(f"{where}: choice {choice!r} is there twice; keep one of them")
            same[normal(choice)] = choice
        if len(same) < 2:
            raise InputError(f"{where}: one choice is none; give another, or no choices at all")
        if normal(answer) not in same:
            raise InputError(f"{where}: answer {answer!r} is none of the choices {', '.join(map(repr, choices))}")
        answer = same[normal(answer)]
    kind = _text(row, "type", where) if "type" in row else ""
    return HomologousQuestion(text, answer, _skill(row, kind, where), tuple(choices), kind)


def _skill(row: Mapping[str, Any], kind: str, where: str) -> str:
    found = ""
    if kind:
        try:
            (found,) = skills_of("homologous", kind)
        except KeyError:
            raise InputError(f"{where}: unknown type {kind!r}; give one of TIFA's types, or a skill") from None
    if "skill" in row:
        found = _text(row, "skill", where)
        if found not in SKILLS:
            raise InputError(f"{where}: unknown skill {found!r}; there are {', '.join(SKILLS)}")
    if not found:
        raise InputError(f"{where}: neither skill nor type; give one of them")
    return found


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    if key not in row:
        raise InputError(f"{where}: no {key!r}; add it")
    if not isinstance(row[key], str) or not normal(row[key]):
        raise InputError(f"{where}: {key} must be a text that is not empty")
    return row[key]


def _open(path: Path) -> Image.Image:
    from PIL import Image

    return Image.open(path)


# --- Writing ----------------------------------------------------------------------------------------------------------


def new_file(folder: Path) -> Path:
    """Where items of the folder are to be written. Raises InputError where there are some already."""
    file = folder / FILE
    if file.exists():
        raise InputError(f"{file} is there already; give another folder")
    return file


def write(folder: Path, items: Iterable[Homologous]) -> int:
    """Write a folder that stands alone: `homologous.jsonl`, which comes last, and images/. How many items it has.

    Images from files are copied as they are; others become PNG files.
    Raises InputError where items are there already, an image cannot be opened, or the folder cannot be written.
    """
    file, count = new_file(folder), 0
    aside = file.with_name(f".{FILE}.part")
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("w", encoding="utf-8", newline="\n") as lines:
                for item in items:
                    image = _copy(item.picture, folder, f"images/{count:06d}")
                    lines.write(json.dumps(_row(item, image), ensure_ascii=False) + "\n")
                    count += 1
            aside.replace(file)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error})") from error
    return count


def _copy(picture: Picture, folder: Path, stem: str) -> str:
    try:
        image = picture.open()
    except (OSError, ValueError, SyntaxError) as error:  # what PIL raises for files that are no pictures
        raise InputError(f"image {picture.key} cannot be opened ({error}); leave its item out") from error
    if source := getattr(image, "filename", ""):
        image.close()
        name = stem + Path(source).suffix.lower()
        shutil.copyfile(source, folder / name)
    else:
        name = f"{stem}.png"
        image.save(folder / name)
    return name


def _row(item: Homologous, image: str) -> dict[str, Any]:
    questions = []
    for q in item.questions:
        row = {"question": q.text, "choices": list(q.choices), "answer": q.answer, "skill": q.skill, "type": q.type}
        questions.append({key: value for key, value in row.items() if value})
    cluster = {} if item.cluster == item.id else {"cluster": item.cluster}
    return {"id": item.id, "image": image, "caption": item.caption, **cluster, "questions": questions}
