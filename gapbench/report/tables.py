"""What one run found, as tables for the terminal; leaderboard.py has those of several runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gapbench.report.headlines import headlines
from gapbench.report.table import Column, Figure, Row, Table, number
from gapbench.tasks.gap_metrics import by_skill
from gapbench.tasks.vqav2_answers import SUBMITTED

if TYPE_CHECKING:
    from gapbench.report.runs import Run

__all__ = ["diagnosed", "headlines", "incomplete", "metric_table", "notes", "skill_table", "summary"]

JSON = Mapping[str, Any]
_SKILL_COLUMNS = (
    Column("U", "higher"),
    Column("G", "higher"),
    Column("gap", "lower"),
    Column("95 % interval"),
    Column("p10", "lower"),
    Column("n"),
)


def interval(estimate: JSON, digits: int = 3) -> str:
    return f"[{number(estimate['low'], digits)}, {number(estimate['high'], digits)}]"


def incomplete(told: JSON) -> str | None:
    """`n/N` where not everything was asked and answered: such numbers are not the benchmark's."""
    return None if told["done"] == told["expected"] else f"{told['done']}/{told['expected']}"


def notes(name: str, told: JSON) -> list[str]:
    found = []
    if partial := incomplete(told):
        found.append(f"partial: {partial} items; not comparable with a complete {name}")
    if failed := told["failed"]:
        what = "response" if failed == 1 else "responses"
        found.append(f"{failed} {what} that the model failed to give count{'s' * (failed == 1)} as wrong")
    if unjudged := told["unjudged"]:
        what = "item" if unjudged == 1 else "items"
        found.append(f"{unjudged} {what} that the judge could not decide count{'s' * (unjudged == 1)} on no side")
    if name in SUBMITTED and told["done"]:
        found.append(
            f"{told['done']} answers, which only the evaluation server can score: `gapbench submission {name}` makes "
            f"its file of the run's records/{name}.jsonl"
        )
    return found


def metric_table(
    title: str, metrics: JSON, lines: Mapping[str, str], remarks: Sequence[str] = (), digits: int = 3
) -> Table:
    """One metric a line."""
    columns = [Column(name) for name in ("value", "95 % interval", "n", "clusters")]
    rows = [
        Row(label, (Figure(e["value"], digits=digits), interval(e, digits), str(e["n"]), str(e["clusters"])))
        for metric, label in lines.items()
        if (e := metrics.get(metric))
    ]
    return Table(title, title, columns, rows, remarks)


def skill_table(metrics: JSON, title: str = "Gap by skill") -> Table:
    """Widest gap first."""
    skills = sorted(by_skill(metrics).items(), key=lambda pair: -pair[1]["gap"]["value"])
    return Table(title, title, _SKILL_COLUMNS, [_skill_row(skill, found) for skill, found in skills])


def _skill_row(skill: str, found: JSON) -> Row:
    u, g, gap, p10 = (found.get(measure) for measure in ("U", "G", "gap", "p10"))
    values = [e and Figure(e["value"]) for e in (u, g, gap)]
    n = next(e["n"] for e in (gap, u, g) if e)
    return Row(skill, (*values, gap and interval(gap), p10 and Figure(p10["value"]), str(n)))


def summary(results: JSON) -> list[Table]:
    """What one run found."""
    tables = []
    for name, told in results["tasks"].items():
        title, lines = headlines(name)
        remarks = notes(name, told)
        if not told["metrics"]:
            tables.append(Table(title, title, (), (), remarks))
            continue
        tables.append(metric_table(title, told["metrics"], lines or _all(told["metrics"]), remarks))
        if told["side"] == "both":
            tables.append(skill_table(told["metrics"], f"{title} by skill"))
    return tables


def diagnosed(run: Run, told: JSON) -> list[Table]:
    """The gap of a run: of its homologous items, else the skills of `told`, its diagnostics, of its benchmarks."""
    tables = []
    for name, task in run.tasks.items():
        if task["side"] == "both" and task["metrics"]:
            title, lines = headlines(name)
            tables += [metric_table(title, task["metrics"], lines, notes(name, task)), skill_table(task["metrics"])]
    if tables:
        return tables
    title = "Understanding and drawing by skill"
    rows = [_skill_row(skill, found) for skill, found in {"all": told["overall"], **told["skills"]}.items()]
    sources = [f"{side}: {', '.join(told['protocol'][side]) or 'not measured'}" for side in ("U", "G")]
    note = f"of benchmarks about other images than were drawn, each counting once ({'; '.join(sources)})"
    return [Table(title, title, _SKILL_COLUMNS, rows, (note,))]


def _all(metrics: Iterable[str]) -> dict[str, str]:
    return {name: name for name in metrics}
