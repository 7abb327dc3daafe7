"""What a loop came to: when to stop, and what changed from before to after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gapbench import recount
from gapbench.compare import compare
from gapbench.compare import tables as compared
from gapbench.records import Estimate, InputError, Record
from gapbench.report.runs import Run
from gapbench.report.table import Column, Figure, Row, Table
from gapbench.significance import difference
from gapbench.skills import SKILLS
from gapbench.tasks.gap import MEASURES

SHOWN = ("U", "G", "gap", "p10")
PATIENCE = 2  # iterations without gain: one alone may be chance


def stopped(followed: Sequence[Run], target: float) -> str:
    """Why the loop need not go on after these runs of the gap that it follows; empty where it should.

    A gap that is small because less is understood than at first is not closed. Raises InputError where no
    question of the last run could be judged.
    """
    (task,) = followed[-1].tasks
    gap = followed[-1].tasks[task]["metrics"].get("gap")
    if gap is None:
        raise InputError(
            f"{followed[-1].folder}: no question of {task} could be judged; see to its judge and begin anew"
        )
    if gap["low"] <= target and not _understands_less(followed[0], followed[-1], task):
        which = "holds" if target <= gap["high"] else "lies below"
        return f"closed: the gap is {gap['value']:.3f} [{gap['low']:.3f}, {gap['high']:.3f}], which {which} {target:g}"
    if len(followed) > PATIENCE:
        before, now = (run.estimates(task)["G"] for run in (followed[-1 - PATIENCE], followed[-1]))
        if now.value <= before.value:
            went = f"G on validation items went from {before.value:.3f} to {now.value:.3f} in {PATIENCE} iterations"
            return f"no longer helping: {went}"
    return ""


def _understands_less(first: Run, last: Run, task: str) -> bool:
    if first is last:
        return False
    before, now, _ = _paired(first, last, task)
    return difference(now["U"], before["U"]).high < 0


def outcome_tables(before: Run, after: Run, task: str) -> tuple[list[Table], dict[str, Any]]:
    """U, G, gap and p10 before and after, of all questions and of each skill; then every task that was measured.

    Also the first as JSON: skill (`all` first) -> measure -> before, after, difference with its interval and p. An item
    that the judge could not judge in full, before or after, is in neither, and counted in a note.
    """
    first, second, notes = _paired(before, after, task)
    told: dict[str, Any] = {}
    for skill in ("all", *SKILLS):
        prefix = "" if skill == "all" else f"{skill}/"
        if f"{prefix}gap" not in first:
            continue
        told[skill] = {}
        for measure in MEASURES:
            a, b = first[f"{prefix}{measure}"], second[f"{prefix}{measure}"]
            moved = difference(b, a)
            told[skill][measure] = {
                "before": a.value,
                "after": b.value,
                "difference": moved.value,
                "low": moved.low,
                "high": moved.high,
                "p": moved.p,
            }
    labelled = replace(before, label="before"), replace(after, label="after")
    return [replace(told_table(told), notes=notes), *compared(compare(*labelled))], told


def _paired(
    before: Run, after: Run, task: str
) -> tuple[Mapping[str, Estimate], Mapping[str, Estimate], tuple[str, ...]]:
    """The estimates of both runs over the same items, and what was left out for that, in words."""
    records = before.records(task), after.records(task)
    unjudged = {record.cluster for record in (*records[0], *records[1]) if _lacks_verdict(record)}
    if not unjudged:
        return before.estimates(task), after.estimates(task), ()
    metrics = recount.metrics_of(task, before.folder)
    first, second = (metrics([each for each in part if each.cluster not in unjudged]) for part in records)
    every = {record.cluster for record in records[0]}
    note = f"Without {len(unjudged)} of {len(every)} items, of which the judge left questions open before or after."
    return first, second, (note,)


def _lacks_verdict(record: Record) -> bool:
    """Of a model's answer to a question about the real image, its judge's; of a drawing, those of all questions."""
    verdicts = [record.details.get("judge")] if record.part == "real" else record.details.get("questions", ())
    return record.part != "own" and any(verdict["right"] is None for verdict in verdicts)


def told_table(told: Mapping[str, Any]) -> Table:
    """What `outcome_tables` told, as a table."""
    rows = []
    for skill, measures in told.items():
        for measure in SHOWN:
            e = measures[measure]
            moved = Figure(e["difference"], e["low"], e["high"])
            figures = (Figure(e["before"]), Figure(e["after"]), Figure(e["difference"]))
            rows.append(Row(f"{skill}: {measure}", (*figures, moved.interval)))
    title = "Before and after, on held-out items"
    columns = [Column("before"), Column("after"), Column("difference"), Column("95 % interval, paired")]
    return Table(title, "skill", columns, rows)
