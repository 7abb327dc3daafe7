"""Two runs over the same items: what changed from one to the other, by how much, and whether chance would do as much.

A task is compared where both runs measured it by one protocol, on the clusters (images, prompts, homologous items) that
both have in full. Drawings of other seeds are other draws of the same model, and compare.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from gapbench import recount
from gapbench.records import Estimate, InputError, Record
from gapbench.report.runs import Run
from gapbench.report.table import Column, Figure, Row, Table
from gapbench.report.tables import headlines
from gapbench.run import SEEDS
from gapbench.significance import POWER, Difference, detectable, difference, holm, mcnemar, needed, sign_flip
from gapbench.stats import Resampled

LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Change:
    """A metric of both runs; `difference` is the second less the first.

    `adjusted` is its p by Holm: over the tasks' headlines, or else over all metrics that are none.
    """

    task: str
    metric: str
    label: str
    headline: bool
    first: Estimate
    second: Estimate
    difference: Difference
    adjusted: float

    @property
    def significant(self) -> bool:
        return self.adjusted < LEVEL


@dataclass(frozen=True, slots=True)
class Flips:
    """Of `n` items that both runs were judged on: how many only one of them got right, and two tests of that.

    mcnemar takes items for independent; sign_flip permutes whole clusters.
    """

    task: str
    what: str
    n: int
    only_first: int
    only_second: int
    mcnemar: float
    sign_flip: float


@dataclass(frozen=True, slots=True)
class Comparison:
    first: str
    second: str
    changes: Sequence[Change]
    flips: Sequence[Flips]
    notes: Sequence[str]

    def told(self) -> dict[str, Any]:
        return asdict(self)


def compare(first: Run, second: Run) -> Comparison:
    """Every headline metric of the tasks that both runs have. Raises InputError where they have none in common."""
    common = [task for task in first.tasks if task in second.tasks]
    if not common:
        raise InputError(f"{first.folder} and {second.folder}: they have no task in common, so nothing compares")
    changes: list[Change] = []
    flips: list[Flips] = []
    notes = [
        f"{task}: only {run.label} has it"
        for run, other in ((first, second), (second, first))
        for task in run.tasks
        if task not in other.tasks
    ]
    for task in common:
        if first.tasks[task]["fingerprint"] != second.tasks[task]["fingerprint"]:
            told, other = first.tasks[task]["protocol"], second.tasks[task]["protocol"]
            named = [key for key in dict.fromkeys((*told, *other)) if told.get(key) != other.get(key)]
            notes.append(
                f"{task}: not compared, its protocols differ in {', '.join(n for n in named if n not in SEEDS)}"
            )
            continue
        mine, yours, note = aligned(first.records(task), second.records(task))
        if note:
            notes.append(f"{task}: {note}")
        if mine:
            changes += _changes(task, first, second, mine, yours)
            flips += _flips(task, mine, yours)
    return Comparison(first.label, second.label, _adjusted(changes), flips, notes)


def _adjusted(changes: Sequence[Change]) -> list[Change]:
    families = {family: holm([c.difference.p for c in changes if c.headline is family]) for family in (True, False)}
    following = {family: iter(adjusted) for family, adjusted in families.items()}
    return [replace(change, adjusted=next(following[change.headline])) for change in changes]


def aligned(first: Sequence[Record], second: Sequence[Record]) -> tuple[list[Record], list[Record], str]:
    """The records of the clusters in which both have as many of each part, and what was left out, in words."""
    shapes = [_shapes(records) for records in (first, second)]
    both = {cluster for cluster, shape in shapes[0].items() if shapes[1].get(cluster) == shape}
    every = len(shapes[0].keys() | shapes[1].keys())
    note = "" if len(both) == every else f"on the {len(both)} of {every} clusters that both have in full"
    kept = ([record for record in records if record.cluster in both] for records in (first, second))
    return *kept, note


def _shapes(records: Iterable[Record]) -> dict[str, Counter[str]]:
    shapes: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        shapes[record.cluster][record.part] += 1
    return shapes


def _changes(task: str, first: Run, second: Run, mine: list[Record], yours: list[Record]) -> list[Change]:
    found = []
    of_both = []
    for run, records in ((first, mine), (second, yours)):
        metrics = recount.metrics_of(task, run.folder)
        of_both.append(metrics(records) if metrics else {})
    before, after = of_both
    lines, headline = headlines(task)[1] or {name: name for name in before}, next(iter(before), "")
    for metric, label in lines.items():
        a, b = before.get(metric), after.get(metric)
        if isinstance(a, Resampled) and isinstance(b, Resampled) and list(a.ids) == list(b.ids):
            told = (Estimate(e.value, e.low, e.high, e.n, e.clusters) for e in (a, b))
            found.append(Change(task, metric, label, metric == headline, *told, difference(b, a), 1.0))
    return found


# --- Items that one run got right and the other wrong -----------------------------------------------------------------


class Outcome(NamedTuple):
    cluster: str
    right: bool


def _flips(task: str, first: Sequence[Record], second: Sequence[Record]) -> list[Flips]:
    mine, yours = outcomes(first), outcomes(second)
    found = []
    for what in dict.fromkeys(name for name, *_ in mine):
        keys = [key for key in mine if key[0] == what and key in yours]
        pairs = [(mine[key].right, yours[key].right) for key in keys]
        sums: dict[str, int] = Counter()
        for key, (a, b) in zip(keys, pairs, strict=True):
            sums[mine[key].cluster] += int(b) - int(a)
        lost, won = (sum(pair == which for pair in pairs) for which in ((True, False), (False, True)))
        exact = mcnemar(*map(list, zip(*pairs, strict=True))) if pairs else 1.0
        found.append(Flips(task, what, len(pairs), lost, won, exact, sign_flip(list(sums.values()))))
    return found


def outcomes(records: Sequence[Record]) -> Mapping[tuple[str, str, int], Outcome]:
    """(what, item, number) -> right or wrong, of tasks that judge so; none of others.

    Several drawings of an item are numbered by their seeds' order, so that those of two first seeds meet.
    """
    found: dict[tuple[str, str, int], Outcome] = {}
    numbers: Counter[tuple[str, str]] = Counter()
    for record in sorted(records, key=lambda record: record.seed):
        if record.part == "drawn":
            rights = [asked["right"] for asked in record.details["questions"]]
            judged = [(f"{record.item}/{n}", right) for n, right in enumerate(rights) if right is not None]
        elif record.score is None or record.part == "own":
            continue
        elif record.score not in (0.0, 1.0):
            return {}
        else:
            judged = [(record.item, record.score == 1.0)]
        what = {"real": "understood", "drawn": "drawn"}.get(record.part, "right")
        for item, right in judged:
            found[what, item, numbers[what, item]] = Outcome(record.cluster, right)
            numbers[what, item] += 1
    return found


# --- As tables --------------------------------------------------------------------------------------------------------


def tables(comparison: Comparison) -> list[Table]:
    """A table a task: each metric of both, the difference with its interval, and whether chance would do as much."""
    found = []
    columns = [Column(comparison.first), Column(comparison.second), Column("difference"), Column("p (Holm)")]
    for task in dict.fromkeys(change.task for change in comparison.changes):
        rows = []
        for change in comparison.changes:
            if change.task == task:
                moved = change.difference
                p = f"{_p(change.adjusted)}{' *' if change.significant else ''}"
                figures = (Figure(change.first.value), Figure(change.second.value))
                rows.append(Row(change.label, (*figures, Figure(moved.value, moved.low, moved.high), p)))
        notes = [_sentence(flips, comparison) for flips in comparison.flips if flips.task == task]
        for change in comparison.changes:
            notes += _power(change) if change.task == task and change.headline else []
        title = headlines(task)[0]
        found.append(Table(title, title, columns, rows, notes))
    return found


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def _sentence(flips: Flips, comparison: Comparison) -> str:
    lost, won = f"only {comparison.first} {flips.only_first}", f"only {comparison.second} {flips.only_second}"
    tests = f"McNemar p {_p(flips.mcnemar)}, sign flips of clusters p {_p(flips.sign_flip)}"
    return f"{flips.what}, of {flips.n}: {lost}, {won}; {tests}"


def _power(headline: Change) -> list[str]:
    """What the headline's number of clusters can show, and how many would show what was seen."""
    seen = headline.difference
    if not seen.error:
        return []
    told = f"{headline.label}: {seen.clusters} clusters show a difference of {detectable(seen):.3f} with power {POWER}"
    if not headline.significant and round(seen.value, 3):
        told += f"; one of {abs(seen.value):.3f} needs {needed(seen, seen.value)}"
    return [told]


def verdict(comparison: Comparison) -> str:
    """In one line."""
    moved = sorted((c for c in comparison.changes if c.significant), key=lambda change: not change.headline)
    headline = sum(change.headline for change in comparison.changes)
    of = f"paired tests over clusters at {LEVEL}, Holm's correction over {headline} headline metrics and over "
    of += f"{len(comparison.changes) - headline} others"
    if not moved:
        return f"no significant difference ({of})"
    named = ", ".join(f"{change.task} {change.label} {change.difference.value:+.3f}" for change in moved[:5])
    more = f" and {len(moved) - 5} more" if len(moved) > 5 else ""
    plural = "s" if len(moved) > 1 else ""
    return f"{len(moved)} significant difference{plural}: {named}{more} ({of})"
