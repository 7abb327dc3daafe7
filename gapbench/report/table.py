"""What a table is, whatever it is written as: figures with their intervals and marks, not yet texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Mark = Literal["", "best", "tied"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A number as a table shows it, with `digits` decimals.

    mark: "best" is better than every other of its column, significantly so; "tied" cannot be told from the best.
    low, high: None where there is no interval, as for what others reported.
    """

    value: float
    low: float | None = None
    high: float | None = None
    digits: int = 3
    mark: Mark = ""

    @property
    def text(self) -> str:
        return number(self.value, self.digits)

    @property
    def interval(self) -> str:
        """`[low, high]`; empty where there is none."""
        if self.low is None or self.high is None:
            return ""
        return f"[{number(self.low, self.digits)}, {number(self.high, self.digits)}]"


@dataclass(frozen=True, slots=True)
class Column:
    """`better`: which end is up; "" where neither is."""

    name: str
    better: Literal["higher", "lower", ""] = ""


@dataclass(frozen=True, slots=True)
class Row:
    """Cells: a figure, a text, or None where there is nothing. `source`: who reported it; "" for what was measured."""

    label: str
    cells: Sequence[Figure | str | None]
    source: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """`label` heads the column of the rows' labels. Notes stand below, one a line; what they say of intervals begins
    with "Intervals".
    """

    title: str
    label: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = field(default_factory=tuple)


def number(value: float, digits: int = 3) -> str:
    """Rounded, and never a negative zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def reported_by(table: Table) -> dict[str, list[str]]:
    """Who reported which rows of a table."""
    found: dict[str, list[str]] = {}
    for row in table.rows:
        if row.source:
            found.setdefault(row.source, []).append(row.label)
    return found


def notes_of(table: Table, intervals: bool) -> list[str]:
    """The notes below a table that shows its intervals, or does not."""
    return [note for note in table.notes if intervals or not note.startswith("Intervals")]
