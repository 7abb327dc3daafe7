"""What a loop came to: when to stop, and what changed from before to after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gapbench.compare import compare
from gapbench.compare import tables as compared
from gapbench.report.runs import Run
from gapbench.report.table import Column, Figure, Row, Table
from gapbench.significance import difference
from gapbench.skills import SKILLS
from gapbench.tasks.gap import MEASURES

SHOWN = ("U", "G", "gap", "p10")


def stopped(followed: Sequence[Run], target: float) -> str:
    """Why the loop need not go on after these runs of the gap that it follows; empty where it should."""
    (task,) = followed[-1].tasks
    gap = followed[-1].tasks[task]["metrics"]["gap"]
    if gap["low"] <= target:
        return f"closed: the gap is {gap['value']:.3f} [{gap['low']:.3f}, {gap['high']:.3f}], which holds {target:g}"
    if len(followed) > 1:
        last, now = (run.estimates(task)["G"] for run in followed[-2:])
        if now.value <= last.value:
            return f"no longer helping: G on validation items went from {last.value:.3f} to {now.value:.3f}"
    return ""


def outcome_tables(before: Run, after: Run, task: str) -> tuple[list[Table], dict[str, Any]]:
    """U, G, gap and p10 before and after, of all questions and of each skill; then every other task that was measured.

    Also the first as JSON: skill (`all` first) -> measure -> before, after, difference with its interval and p.
    """
    first, second = before.estimates(task), after.estimates(task)
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
    return [told_table(told), *compared(compare(*labelled))], told


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
