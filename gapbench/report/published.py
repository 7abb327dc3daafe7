"""What papers report, number by number, from published.csv: never measured here, and never mixed with what was."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gapbench.report.headlines import PaperTable
from gapbench.report.table import Figure, Row


@dataclass(frozen=True, slots=True)
class Reported:
    """One number of one model: `table` and `column` as in headlines.PAPER_TABLES, `value` as it was printed.

    params: the model's size as it was printed. note: on the model's row.
    """

    table: str
    model: str
    params: str
    column: str
    value: str
    source: str
    note: str


@cache
def published() -> tuple[Reported, ...]:
    """All of them, in the order of their tables."""
    with Path(__file__).with_name("published.csv").open(newline="", encoding="utf-8") as file:
        return tuple(Reported(**line) for line in csv.DictReader(file))


@dataclass(frozen=True, slots=True)
class ReportedRow:
    model: str
    params: str
    source: str
    note: str
    figures: Sequence[Figure | None]

    def row(self, params: bool) -> Row:
        """As a row of a table, with or without a column for parameters."""
        cells = (self.params or None, *self.figures) if params else self.figures
        return Row(self.model, cells, self.source)


def rows(table: PaperTable) -> list[ReportedRow]:
    """A row a model and source, its figures in the order of the table's columns, with the digits that were printed."""
    found: dict[tuple[str, str], dict[str, Reported]] = {}
    for number in published():
        if number.table == table.name:
            found.setdefault((number.model, number.source), {})[number.column] = number
    return [
        ReportedRow(
            model,
            first.params,
            source,
            first.note,
            [_figure(numbers[column.name].value) if column.name in numbers else None for column in table.columns],
        )
        for (model, source), numbers in found.items()
        for first in [next(iter(numbers.values()))]
    ]


def _figure(text: str) -> Figure:
    return Figure(float(text), digits=len(text.partition(".")[2]))
