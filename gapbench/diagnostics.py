"""Records -> diagnostics: what a model understands and cannot draw, skill by skill, and how sure that is.

The contract between measuring and training: hermesflow reads this file and nothing else of a run.

Where the gap was measured on homologous items, U, G, the gap and the 2x2 table are that task's. What the benchmarks say
of each skill, by the one table of skills.py, stands beside it under `benchmarks`, and takes its place where there is no
gap task: U is then what benchmarks that ask found, G what benchmarks that have things drawn found, each benchmark
counting once. They ask about other images than are drawn, so there is no 2x2 table, and a gap between them tells
skills apart better than it tells how wide a gap is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gapbench import stats
from gapbench.records import InputError, Record
from gapbench.skills import SKILLS, skills_of
from gapbench.tasks import dpg
from gapbench.tasks.gap import MEASURES, by_skill

SCHEMA = 1
# The benchmarks whose records are right or wrong about a skill; the others' scores are of another kind.
ASKED = ("pope", "mme", "gqa", "vqav2", "mmmu")
DRAWN = ("geneval", "dpg")
SIDES = ("U", "G")
OVERALL = "overall"

Records = Callable[[str], Iterable[Record]]


def diagnostics(results: Mapping[str, Any], run: str, records: Records) -> dict[str, Any]:
    """diagnostics.json of a run: its results, its name, and the records of each of its tasks.

    Raises InputError where nothing was measured that tells a skill.
    """
    gap = _gap(results["tasks"])
    found = benchmarks(results["tasks"], records)
    if gap is None and not found:
        raise InputError(f"{run}: nothing in it tells U or G; run a gap task, or {', '.join(ASKED + DRAWN)}")
    told: dict[str, Any] = {"schema": SCHEMA, "run": run, "model": results["model"]}
    if gap is not None:
        metrics = gap["metrics"]
        told |= {
            "protocol": {"homologous": True, **gap["protocol"]},
            "overall": {measure: metrics[measure] for measure in MEASURES},
            "skills": by_skill(metrics),
        }
    else:
        told |= {
            "protocol": {"homologous": False, "weighting": "mean over benchmarks", **_sources(results["tasks"])},
            "overall": found[OVERALL],
            "skills": {skill: measured for skill, measured in found.items() if skill != OVERALL},
        }
    told["tasks"] = {name: task["metrics"] for name, task in results["tasks"].items() if task is not gap}
    told["benchmarks"] = {skill: measured for skill, measured in found.items() if skill != OVERALL}
    return told


def diagnosable(results: Mapping[str, Any]) -> bool:
    """Whether anything was measured that tells U or G."""
    told = results["tasks"]
    return _gap(told) is not None or any(_side(task) and told[task]["metrics"] for task in told)


def _gap(tasks: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((told for told in tasks.values() if told["side"] == "both" and told["metrics"]), None)


def _side(task: str) -> str | None:
    base = task.partition("-")[0]
    return "U" if base in ASKED else "G" if base in DRAWN else None


def _sources(tasks: Iterable[str]) -> dict[str, list[str]]:
    return {side: [task for task in tasks if _side(task) == side] for side in SIDES}


# --- What the benchmarks say of each skill ----------------------------------------------------------------------------


@dataclass
class _Column:
    """A benchmark's scores about one skill, summed by cluster."""

    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, cluster: str, score: float) -> None:
        self.sums[cluster] += score
        self.counts[cluster] += 1


def benchmarks(tasks: Mapping[str, Any], records: Records) -> dict[str, dict[str, Any]]:
    """skill (and `overall`) -> U, G and, where both were measured, their difference as `gap`; estimates as JSON.

    A side is the plain mean of its benchmarks' means. Benchmarks are resampled apart, each by its clusters; n and
    clusters are sums over them.
    """
    columns: dict[tuple[str, str], _Column] = {}
    for task in tasks:
        if _side(task) is None:
            continue
        for cluster, skills, score in _judged(task, records(task)):
            for skill in (OVERALL, *skills):
                columns.setdefault((skill, task), _Column()).add(f"{task}/{cluster}", score)
    if not columns:
        return {}

    clusters = list(dict.fromkeys(cluster for column in columns.values() for cluster in column.counts))
    row = {cluster: number for number, cluster in enumerate(clusters)}
    sums = np.zeros((len(clusters), len(columns), 2))
    for number, column in enumerate(columns.values()):
        for cluster, count in column.counts.items():
            sums[row[cluster], number] = column.sums[cluster], count

    measures, members = _measures(list(columns))

    def table(resampled: np.ndarray) -> np.ndarray:
        means = stats.ratio(resampled.reshape(len(resampled), len(columns), 2))
        return means @ measures

    covered = {name: sums[:, numbers, 1].sum(axis=1) > 0 for name, numbers in members.items()}
    strata = [cluster.partition("/")[0] for cluster in clusters]
    signed = {name: (-1.0, 1.0) for name in members if name[1] == "gap"}
    estimated = stats.estimates(sums.reshape(len(clusters), -1), clusters, table, covered, strata, bounds=signed)
    found: dict[str, dict[str, Any]] = {skill: {} for skill in (OVERALL, *SKILLS)}
    for (skill, measure), e in estimated.items():
        n = int(sums[:, members[skill, measure], 1].sum())
        found[skill][measure] = {"value": e.value, "low": e.low, "high": e.high, "n": n, "clusters": e.clusters}
    return {skill: measured for skill, measured in found.items() if measured}


def _measures(columns: Sequence[tuple[str, str]]) -> tuple[np.ndarray, dict[tuple[str, str], list[int]]]:
    """Weights (columns, measures) that make U, G and gap of each skill of the columns' means; of which columns."""
    weights, members = [], {}
    for skill in (OVERALL, *SKILLS):
        of_side = {}
        for side in SIDES:
            numbers = [n for n, (name, task) in enumerate(columns) if name == skill and _side(task) == side]
            if numbers:
                weight = np.zeros(len(columns))
                weight[numbers] = 1 / len(numbers)
                of_side[side] = weight
                members[skill, side] = numbers
        weights += of_side.values()
        if len(of_side) == 2:
            members[skill, "gap"] = members[skill, "U"] + members[skill, "G"]
            weights.append(of_side["U"] - of_side["G"])
    return np.stack(weights, axis=1), members


def _judged(task: str, records: Iterable[Record]) -> Iterator[tuple[str, Sequence[str], float]]:
    """Cluster, skills and score of all that was judged; DPG's questions one by one, each with its own skills."""
    for record in records:
        if record.score is None:
            continue
        if task.partition("-")[0] != "dpg":
            yield record.cluster, record.skills, record.score
            continue
        graph = dpg.graph_of(record)
        for node, value in zip(graph, dpg.zeroed(graph, record.details["yes"]), strict=True):
            if value is not None:
                yield record.cluster, skills_of("dpg", node.category), float(value)
