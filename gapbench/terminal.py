"""What the commands print with: consoles, tables, and progress. Only they print, and only to these two."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from rich.text import Text

    from gapbench.report.table import Figure, Table

# A pipe or a file has no width; 80 columns would cut the tables there.
out = Console(width=None if sys.stdout.isatty() else 110)
err = Console(stderr=True)


class Progress:
    """A bar with rate and time left; without a terminal, a line now and then."""

    INTERVAL = 15.0

    def __init__(self) -> None:
        self._bar: Any = None

    def start(self, title: str, total: int, done: int) -> None:
        self._title, self._total, self._done, self._said = title, total, done, time.time()
        self._first, self._started = done, time.time()
        if err.is_terminal:
            from rich import progress

            self._bar = progress.Progress(
                progress.TextColumn("{task.description:18}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[rate]}"),
                progress.TimeRemainingColumn(),
                console=err,
            )
            self._bar.start()
            self._task = self._bar.add_task(title, total=total, completed=done, rate="")

    def advance(self, count: int) -> None:
        self._done += count
        rate = (self._done - self._first) / max(1e-9, time.time() - self._started)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, rate=f"{rate:.1f}/s")
        elif time.time() - self._said > self.INTERVAL:
            left = (self._total - self._done) / max(1e-9, rate)
            err.print(f"{self._title}: {self._done}/{self._total}, {rate:.1f}/s, {left:.0f} s left", highlight=False)
            self._said = time.time()

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        else:
            seconds = time.time() - self._started
            err.print(f"{self._title}: {self._done}/{self._total} in {seconds:.0f} s", highlight=False)


def show(tables: Sequence[Table]) -> None:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    for table in tables:
        shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
        shown.add_column(Text(table.label), no_wrap=True)
        for column in table.columns:
            shown.add_column(Text(column.name), justify="right", no_wrap=True)
        for row in table.rows:
            label = f"{row.label} (reported)" if row.source else row.label
            shown.add_row(Text(label), *map(_shown, row.cells))
        out.print(shown)
        for note in table.notes:
            out.print(f"  {note}", highlight=False, markup=False)


def _shown(cell: Figure | str | None) -> Text:
    from rich.text import Text

    if cell is None or isinstance(cell, str):
        return Text(cell or "-")
    styles = {"best": "bold", "tied": "underline", "": ""}
    # Assembled, for a text's own style would underline its column to the edge.
    return Text.assemble((cell.text, styles[cell.mark]), f" {cell.interval}" if cell.interval else "")
