"""Figures in long form, a line each, with full precision: for spreadsheets and data frames."""

from __future__ import annotations

import csv as standard
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gapbench.report.headlines import PAPER_TABLES, base_of
from gapbench.report.published import published as reported
from gapbench.report.tables import incomplete, notes

if TYPE_CHECKING:
    from gapbench.report.runs import Run

FIELDS = (
    "table",
    "task",
    "protocol",
    "model",
    "metric",
    "value",
    "low",
    "high",
    "n",
    "clusters",
    "partial",
    "source",
    "note",
)


def csv(runs: Sequence[Run], published: bool = False) -> str:
    """Every metric of the runs, and with `published` what papers report; a header and then a line a figure.

    table: that of the paper that the metric stands in, if any (understanding, generation, coco, gap; training only for
    what was reported). value: in our units, also of what was reported (0.8 for 80.0 percent). partial: n/N where a run
    was. source: who reported it; empty for what was measured, and then there are an interval, n and clusters.
    """
    text = io.StringIO()
    lines = standard.DictWriter(text, FIELDS, restval="", lineterminator="\n")
    lines.writeheader()
    lines.writerows(_measured(runs))
    if published:
        lines.writerows(_reported())
    return text.getvalue()


def _measured(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    papers = {(c.task, c.metric): paper.name for paper in PAPER_TABLES if not paper.extra for c in paper.columns}
    for run in runs:
        for task, told in run.tasks.items():
            same = {
                "task": task,
                "protocol": told["fingerprint"],
                "model": run.label,
                "partial": incomplete(told) or "",
                "note": "; ".join(notes(task, told)),
            }
            for metric, estimate in told["metrics"].items():
                yield {"table": papers.get((base_of(task), metric), ""), "metric": metric, **same, **estimate}


def _reported() -> Iterator[dict[str, Any]]:
    columns = {(paper.name, column.name): column for paper in PAPER_TABLES for column in paper.columns}
    for number in reported():
        column = columns[number.table, number.column]
        yield {
            "table": number.table,
            "task": column.task,
            "model": number.model,
            "metric": column.metric,
            "value": round(float(number.value) / column.scale, 6),  # without the dust of a division
            "source": number.source,
            "note": number.note,
        }
