"""A contact sheet: what was to be drawn, what was drawn, and what the judge says is wrong with it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from gapbench.records import Record

CELL, MARGIN, LINES = 144, 12, 4
RIGHT, WRONG, INK = (30, 120, 50), (190, 40, 40), (40, 40, 40)


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
