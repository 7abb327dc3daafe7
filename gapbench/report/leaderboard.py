"""Runs -> tables: models as rows, first as papers print them, then task by task with all that is worth telling.

Numbers are those of the runs' results. What is bold is decided by the records: runs of one protocol that answered the
same items are compared item by item, so a table says which differences would survive another draw of the items.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gapbench import stats
from gapbench.report import published as reported
from gapbench.report.headlines import (
    HEADLINES,
    PAPER_TABLES,
    Better,
    Headline,
    PaperTable,
    base_of,
    better,
    digits,
    headlines,
    suite_of,
)
from gapbench.report.marks import MEANING, marks
from gapbench.report.table import Column, Figure, Mark, Row, Table
from gapbench.report.tables import incomplete, notes, skill_table
from gapbench.stats import Resampled

if TYPE_CHECKING:
    from gapbench.report.runs import Run

SUITES = ("", "mini")  # those whose tasks stand together as papers have them; other variants have their own tables
FEW_DRAWINGS = 10_000
JSON = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Column:
    """A metric of a task, and how it is shown."""

    task: str
    metric: str
    name: str
    better: Better
    digits: int
    scale: float = 1.0

    def of(self, run: Run) -> JSON | None:
        return run.tasks[self.task]["metrics"].get(self.metric) if self.task in run.tasks else None

    def figure(self, estimate: JSON) -> Figure:
        value, low, high = (self.scale * estimate[key] for key in ("value", "low", "high"))
        return Figure(value, low, high, self.digits)


def leaderboard(runs: Sequence[Run], published: bool = False) -> list[Table]:
    """The tables of papers, as far as their tasks were measured; then one a task; then each model's gap by skill.

    Runs whose protocols differ stand in separate tables, for their numbers do not compare, and so do the suites.
    published: add what papers report, below what was measured of the real benchmarks or alone.
    """
    tables = [
        table for suite in SUITES for paper in PAPER_TABLES for table in _as_papers(paper, suite, runs, published)
    ]
    for task, fingerprint in _protocols(runs):
        if not _told_by_papers(task):
            tables.append(_of_task(task, fingerprint, runs))
    for run in runs:
        tables += [_skills(run, task) for task, t in run.tasks.items() if t["side"] == "both" and t["metrics"]]
    return tables


def _skills(run: Run, task: str) -> Table:
    told = run.tasks[task]
    table = skill_table(told["metrics"], f"{headlines(task)[0]} by skill: {run.label}")
    return replace(table, label="skill", notes=(f"Intervals: {stats.METHOD}", f"protocol {told['fingerprint']}"))


# --- As papers print them ---------------------------------------------------------------------------------------------


def _as_papers(paper: PaperTable, suite: str, runs: Sequence[Run], published: bool) -> list[Table]:
    rows = reported.rows(paper) if published and not suite else []
    columns = [_paper_column(headline, suite) for headline in paper.columns]
    if paper.extra and not rows:
        return []
    measured = [run for run in runs if any(column.task in run.tasks for column in columns)]
    groups: list[list[Run]] = _comparable(measured, {column.task for column in columns})
    if rows and not groups:
        groups = [[]]
    return [_paper_table(paper, suite, columns, group, rows) for group in groups]


def _paper_column(headline: Headline, suite: str) -> _Column:
    task = f"{headline.task}-{suite}" if suite else headline.task
    return _Column(task, headline.metric, headline.name, headline.better, headline.digits, headline.scale)


def _paper_table(
    paper: PaperTable,
    suite: str,
    columns: Sequence[_Column],
    runs: Sequence[Run],
    rows: Sequence[reported.ReportedRow],
) -> Table:
    shown = [n for n, column in enumerate(columns) if rows or any(column.task in run.tasks for run in runs)]
    columns, told = [columns[n] for n in shown], [paper.columns[n] for n in shown]
    cells, why = _marked(columns, runs)
    for run, row in zip(runs, cells, strict=True):
        for place, column in enumerate(columns):
            cell = row[place]
            if cell is not None and (partial := incomplete(run.tasks[column.task])):
                row[place] = f"{cell.text} ({partial})"
    remarks = [headline.note for headline, column in zip(told, columns, strict=True) if any(map(column.of, runs))]
    remarks += [
        f"{run.label}: {note}"
        for run in runs
        for task in dict.fromkeys(column.task for column in columns)
        if task in run.tasks
        for note in notes(task, run.tasks[task])
    ]
    if rows:
        remarks.append("What is reported was not measured here, and is never marked")
        remarks += [headline.reported for headline in told]
        remarks += dict.fromkeys(row.note for row in rows)
    params = any(row.params for row in rows)
    heads = [Column("# params"), *_heads(columns)] if params else _heads(columns)
    measured = [Row(run.label, (None, *row) if params else row) for run, row in zip(runs, cells, strict=True)]
    title = f"{paper.title} ({suite})" if suite else paper.title
    found = [*filter(None, remarks), *why, *_few(columns, runs), *_protocol_notes(columns, runs)]
    return Table(title, "model", heads, [*measured, *(row.row(params) for row in rows)], found)


def _told_by_papers(task: str) -> bool:
    """Whether all that is worth telling of a task stands in papers' tables already."""
    base = base_of(task)
    columns = {c.metric for paper in PAPER_TABLES if not paper.extra for c in paper.columns if c.task == base}
    return suite_of(task) in SUITES and base in HEADLINES and HEADLINES[base].keys() <= columns


def _comparable(runs: Iterable[Run], tasks: Iterable[str]) -> list[list[Run]]:
    """Runs in groups within which every task has one protocol, each in the first group that it fits."""
    groups: list[tuple[dict[str, str], list[Run]]] = []
    for run in runs:
        mine = {task: run.tasks[task]["fingerprint"] for task in tasks if task in run.tasks}
        for protocols, group in groups:
            if all(protocols.get(task, fingerprint) == fingerprint for task, fingerprint in mine.items()):
                protocols.update(mine)
                group.append(run)
                break
        else:
            groups.append((mine, [run]))
    return [group for _, group in groups]


# --- Task by task -----------------------------------------------------------------------------------------------------


def _protocols(runs: Iterable[Run]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((name, told["fingerprint"]) for run in runs for name, told in run.tasks.items()))


def _of_task(task: str, fingerprint: str, runs: Sequence[Run]) -> Table:
    runs = [run for run in runs if task in run.tasks and run.tasks[task]["fingerprint"] == fingerprint]
    title, lines = headlines(task)
    lines = lines or {name: name for run in runs for name in run.tasks[task]["metrics"]}
    # The gap's lines explain themselves at a length that no column has; its metrics' own names are short.
    names = dict.fromkeys(lines) if base_of(task) == "gap" else lines
    columns = [
        _Column(task, metric, names[metric] or metric, better(task, metric), digits(task, metric)) for metric in lines
    ]
    columns = [column for column in columns if any(map(column.of, runs))]
    cells, why = _marked(columns, runs)
    remarks = [f"{run.label}: {note}" for run in runs for note in notes(task, run.tasks[task])]
    rows = []
    for run, row in zip(runs, cells, strict=True):
        partial = incomplete(run.tasks[task])
        rows.append(Row(f"{run.label} ({partial})" if partial else run.label, row))
    found = [*remarks, *why, *_few(columns, runs), f"protocol {fingerprint}"]
    return Table(title, "model", _heads(columns), rows, found)


# --- What they share --------------------------------------------------------------------------------------------------


def _heads(columns: Iterable[_Column]) -> list[Column]:
    return [Column(column.name, column.better) for column in columns]


def _marked(columns: Sequence[_Column], runs: Sequence[Run]) -> tuple[list[list[Figure | str | None]], list[str]]:
    """The cells of each run, figures marked where they may be, and the notes on marks and intervals."""
    cells: list[list[Any]] = [[(e := column.of(run)) and column.figure(e) for column in columns] for run in runs]
    unmarked: dict[str, list[str]] = {}
    for place, column in enumerate(columns):
        whole = [n for n, run in enumerate(runs) if column.of(run) and not incomplete(run.tasks[column.task])]
        if len(whole) < 2 or not column.better:
            continue
        found = _contest(column, [runs[n] for n in whole])
        if isinstance(found, str):
            unmarked.setdefault(found, []).append(column.name)
            continue
        for n, mark in zip(whole, found, strict=True):
            cells[n][place] = replace(cells[n][place], mark=mark)
    remarks = [f"No marks under {', '.join(names)}: {reason}" for reason, names in unmarked.items()]
    figures = [cell for row in cells for cell in row if cell]
    if any(figure.mark for figure in figures):
        remarks.insert(0, MEANING)
    if figures:
        remarks.append(f"Intervals: {stats.METHOD}")
    return cells, remarks


def _contest(column: _Column, runs: Sequence[Run]) -> list[Mark] | str:
    """The marks of two or more runs in a column, or why they cannot be compared."""
    found = []
    try:
        for run in runs:
            estimate = run.estimates(column.task).get(column.metric)
            if not isinstance(estimate, Resampled):
                return f"{run.label} has no records that it can be resampled from"
            found.append(estimate)
        return marks(found, column.better)
    except ValueError as error:  # what the records lack, or that they are of other items
        return str(error)


def _few(columns: Iterable[_Column], runs: Sequence[Run]) -> list[str]:
    """FID is not told of few drawings without saying so."""
    estimates = [e for column in columns if column.metric == "fid" for run in runs if (e := column.of(run))]
    if all(estimate["n"] >= FEW_DRAWINGS for estimate in estimates):
        return []
    return [f"FID of fewer than {FEW_DRAWINGS:,} drawings is biased upwards; compare it only with that of as many"]


def _protocol_notes(columns: Iterable[_Column], runs: Sequence[Run]) -> list[str]:
    tasks = dict.fromkeys(column.task for column in columns)
    told = {task: run.tasks[task]["fingerprint"] for run in runs for task in tasks if task in run.tasks}
    return [f"protocols: {', '.join(f'{task} {told[task]}' for task in tasks if task in told)}"] if told else []
