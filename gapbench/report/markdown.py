"""Tables -> Markdown as GitHub reads it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gapbench.report.table import Column, Figure, Row, Table, notes_of, reported_by

ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}
_MARKS = {"best": "**{}**", "tied": "<ins>{}</ins>", "": "{}"}
# What Markdown would read as its own: marks, the end of a link's text, underscores at the edge of a word, entities.
_SPECIAL = re.compile(r"[\\|`*]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])|~(?=~)|&(?=#?\w+;)")


def markdown(tables: Iterable[Table], intervals: bool = True) -> str:
    """One after another, each under its title and above its notes. What others reported says so.

    intervals: in brackets behind each figure that has one.
    """
    return "\n".join(_table(table, intervals) for table in tables)


def _table(table: Table, intervals: bool) -> str:
    heads = [escaped(table.label), *(_head(column) for column in table.columns)]
    lines = [f"### {escaped(table.title)}", "", _line(heads), "| --- |" + " ---: |" * len(table.columns)]
    lines += [_line([_label(row), *(_cell(cell, intervals) for cell in row.cells)]) for row in table.rows]
    reported = [f"Reported by {source}: {', '.join(models)}" for source, models in reported_by(table).items()]
    lines += [f"\n{escaped(note)}" for note in (*reported, *notes_of(table, intervals))]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _head(column: Column) -> str:
    return escaped(column.name) + ARROWS[column.better]


def _label(row: Row) -> str:
    return escaped(row.label) + (" (reported)" if row.source else "")


def _cell(cell: Figure | str | None, intervals: bool) -> str:
    if not isinstance(cell, Figure):
        return escaped(cell or "-")
    text = _MARKS[cell.mark].format(cell.text)
    return f"{text} {cell.interval}" if intervals and cell.interval else text


def escaped(text: str) -> str:
    """The text on one line, with nothing in it that Markdown or HTML would read as its own."""
    text = _SPECIAL.sub(lambda found: "&amp;" if found[0] == "&" else f"\\{found[0]}", " ".join(text.split()))
    return text.replace("<", "&lt;")
