"""Drawings to look at: a contact sheet of a run, and what a model understands and does not draw."""

from __future__ import annotations

import hashlib
import io
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from gapbench.records import Record

CELL, MARGIN, LINES = 144, 12, 4
RIGHT, WRONG, INK = (30, 120, 50), (190, 40, 40), (40, 40, 40)
THUMBNAIL = 256  # pixels


def contact_sheet(drawings: Sequence[tuple[Record, str]], folder: Path, columns: int = 6) -> Image.Image:
    """A picture of the given drawings, each under its prompt with its score.

    drawings: records of drawings and their prompts; `folder` is the run folder that the records' paths start from.
    """
    font = ImageFont.load_default(11)
    height = CELL + 15 * (LINES + 1) + MARGIN
    rows = -(-len(drawings) // columns)
    sheet = Image.new("RGB", (columns * (CELL + MARGIN) + MARGIN, rows * height + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (record, prompt) in enumerate(drawings):
        x = MARGIN + (number % columns) * (CELL + MARGIN)
        y = MARGIN + (number // columns) * height
        for line, text in enumerate(textwrap.wrap(prompt, 26, max_lines=LINES, placeholder=" ...")):
            draw.text((x, y + 15 * line), text, INK, font)
        top = y + 15 * LINES
        if record.error is None:
            with Image.open(folder / record.response) as image:
                sheet.paste(image.convert("RGB").resize((CELL, CELL), Image.Resampling.LANCZOS), (x, top))
        draw.rectangle((x, top, x + CELL - 1, top + CELL - 1), outline=(200, 200, 200))
        told = "not judged" if record.score is None else f"score {record.score:.2f}"
        draw.text((x, top + CELL + 1), told, RIGHT if record.score == 1 else WRONG, font)
    return sheet


# --- What is understood and not drawn ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Miss:
    """A question that the model answers rightly about the real image, and its drawing wrongly in the judge's eyes.

    question: None where the run did not write it down. said: the judge's answer; None where nothing was drawn.
    """

    number: int
    skills: tuple[str, ...]
    question: str | None
    answer: str
    said: str | None
    expected: str


@dataclass(frozen=True, slots=True)
class MissedDrawing:
    record: Record
    misses: Sequence[Miss]


@dataclass(frozen=True, slots=True)
class Misses:
    """Some of the drawings; `shown` and `found` count misses by skill, all of them under ""."""

    drawings: Sequence[MissedDrawing]
    shown: Mapping[str, int]
    found: Mapping[str, int]


def understood_not_drawn(records: Sequence[Record], per_skill: int) -> Misses:
    """The misses of a gap task's records, of each skill at most `per_skill`.

    Drawings come in the order of their ids' hashes: as good as by chance, the same for every model, and every skill
    takes the first, so that few drawings show many misses.
    """
    real = {record.item: record for record in records if record.part == "real"}
    drawn = sorted((record for record in records if record.part == "drawn"), key=_place)
    shown, found = Counter[str](), Counter[str]()
    drawings = []
    for record in drawn:
        kept = []
        for miss in _misses(record, real):
            found.update(("", *miss.skills))
            if all(shown[skill] < per_skill for skill in miss.skills):
                shown.update(("", *miss.skills))
                kept.append(miss)
        if kept:
            drawings.append(MissedDrawing(record, kept))
    return Misses(drawings, shown, found)


def _place(record: Record) -> bytes:
    return hashlib.sha256(f"{record.item}@{record.seed}".encode("utf-8", "surrogatepass")).digest()


def _misses(record: Record, real: Mapping[str, Record]) -> list[Miss]:
    verdicts: Sequence[Mapping[str, Any]] = record.details["questions"]
    asked = [real.get(f"{record.item}/{number}") for number in range(len(verdicts))]
    return [
        Miss(
            number,
            about.skills,
            about.details.get("question"),
            _answer(about),
            verdict["said"],
            about.details["answer"],
        )
        for number, (about, verdict) in enumerate(zip(asked, verdicts, strict=True))
        if about is not None and about.score == 1 and verdict["right"] is False
    ]


def _answer(record: Record) -> str:
    """What the model said; of weighed choices, whose response is their likelihoods, the likeliest."""
    weighed = record.response.startswith("[[")
    return record.details.get("said", record.response) if weighed else record.response


def thumbnail(folder: Path, record: Record) -> bytes:
    """A run's drawing as WebP of at most THUMBNAIL pixels a side.

    Raises OSError where there is none, or none that can be read. What lies outside the run folder is not read: records
    may be another's.
    """
    file = (folder / record.response).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise OSError(f"{record.response} is not in the run folder")
    try:
        with Image.open(file) as image:
            small = image.convert("RGB")
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's, of broken files
        raise OSError(f"{record.response}: {error}") from error
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS, reducing_gap=1.0)
    written = io.BytesIO()
    small.save(written, "WEBP", quality=80, method=2)  # a page has hundreds; more effort makes them 4 % smaller
    return written.getvalue()
