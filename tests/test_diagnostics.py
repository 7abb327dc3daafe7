"""What a model understands and cannot draw: from homologous items where there are any, else from the benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from gapbench.diagnostics import benchmarks, diagnosable, diagnostics
from gapbench.records import InputError, Record

MEASURED = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 2, "clusters": 2}


def told(**metrics: Any) -> dict[str, Any]:
    return {"side": "understanding", "protocol": {}, "metrics": metrics or {"accuracy": MEASURED}}


def record(task: str, item: str, skills: Sequence[str], score: float | None, **details: Any) -> Record:
    return Record(task, item, item.partition("/")[0], tuple(skills), 0, "", score, details)


def of(records: dict[str, list[Record]]) -> Callable[[str], list[Record]]:
    return lambda task: records[task]


RECORDS = {
    "pope": [
        record("pope", "a/1", ["object"], 1.0),
        record("pope", "a/2", ["object"], 1.0),
        record("pope", "b/1", ["object"], 0.0),
        record("pope", "b/2", ["object"], None),
    ],
    "gqa": [record("gqa", "a/1", ["object"], 1.0), record("gqa", "c/1", ["scene"], 0.0)],
    "geneval": [
        record("geneval", "0", ["object"], 0.0),
        record("geneval", "1", ["count"], 1.0),
        record("geneval", "2", ["color", "binding"], 1.0),
    ],
    "dpg": [
        record(
            "dpg",
            "p",
            ["object", "position"],
            0.5,
            graph=[[1, "entity - whole", []], [2, "relation - spatial", [1]], [3, "other - count", []]],
            yes=[0, 1, None],
        )
    ],
    "flickr30k": [record("flickr30k", "x", ["other"], 0.7)],
}
TASKS = {name: told() for name in RECORDS}


def values(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    return {skill: {name: e["value"] for name, e in measured.items()} for skill, measured in found.items()}


def test_values_by_hand() -> None:
    assert values(benchmarks(TASKS, of(RECORDS))) == {
        # POPE 2/3 of three, GQA 1/2; GenEval 2/3, DPG 0 of its two known questions, one zeroed by its parent
        "overall": {"U": pytest.approx(7 / 12), "G": pytest.approx(1 / 3), "gap": pytest.approx(1 / 4)},
        "object": {"U": pytest.approx(5 / 6), "G": 0.0, "gap": pytest.approx(5 / 6)},
        "count": {"G": 1.0},
        "color": {"G": 1.0},
        "position": {"G": 0.0},
        "binding": {"G": 1.0},
        "scene": {"U": 0.0},
    }


def test_counts_are_sums_over_benchmarks() -> None:
    found = benchmarks(TASKS, of(RECORDS))
    counts = {name: (e["n"], e["clusters"]) for name, e in found["object"].items()}
    # POPE's image a and GQA's are two clusters: the benchmarks are resampled apart
    assert counts == {"U": (4, 3), "G": (2, 2), "gap": (6, 5)}


def test_intervals_are_of_means_over_benchmarks() -> None:
    rng = np.random.default_rng(0)
    scores = (rng.random(600) < 0.5).astype(float)
    both = {
        "pope": [record("pope", f"{n}/1", ["object"], s) for n, s in enumerate(scores[:400])],
        "gqa": [record("gqa", f"{n}/1", ["object"], s) for n, s in enumerate(scores[400:])],
    }
    found = benchmarks({name: told() for name in both}, of(both))["object"]["U"]
    spread = np.sqrt(0.25 / 400 + 0.25 / 200) / 2
    assert found["value"] == pytest.approx((scores[:400].mean() + scores[400:].mean()) / 2)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * spread, rel=0.1)


def test_the_order_of_records_is_no_matter() -> None:
    backwards = {name: records[::-1] for name, records in RECORDS.items()}
    assert benchmarks(TASKS, of(backwards)).keys() == benchmarks(TASKS, of(RECORDS)).keys()
    assert values(benchmarks(TASKS, of(backwards))) == values(benchmarks(TASKS, of(RECORDS)))


def test_without_homologous_items_the_benchmarks_speak() -> None:
    found = diagnostics({"model": "m", "tasks": TASKS}, "run", of(RECORDS))
    assert found["protocol"] == {
        "homologous": False,
        "weighting": "mean over benchmarks",
        "U": ["pope", "gqa"],
        "G": ["geneval", "dpg"],
    }
    assert found["overall"] == benchmarks(TASKS, of(RECORDS))["overall"]
    assert found["skills"] == found["benchmarks"]
    assert "overall" not in found["skills"]
    assert set(found["tasks"]) == set(TASKS)


def test_homologous_items_speak_first() -> None:
    measures = ("U", "G", "gap", "p11", "p10", "p01", "p00")
    gap = told(**dict.fromkeys(measures, MEASURED), **{f"count/{m}": MEASURED for m in measures})
    gap |= {"side": "both", "protocol": {"U_answerer": "self", "G_answerer": "eye"}}
    found = diagnostics({"model": "m", "tasks": {"gap-mini": gap, **TASKS}}, "run", of(RECORDS))
    assert found["protocol"] == {"homologous": True, "U_answerer": "self", "G_answerer": "eye"}
    assert list(found["overall"]) == list(measures)
    assert found["skills"] == {"count": dict.fromkeys(measures, MEASURED)}
    assert values(found["benchmarks"])["object"]["G"] == 0.0
    assert "gap-mini" not in found["tasks"]


def test_a_run_that_tells_no_skill() -> None:
    results = {"model": "m", "tasks": {"flickr30k": told()}}
    assert not diagnosable(results)
    assert diagnosable({"tasks": {"pope": told()}})
    with pytest.raises(InputError, match="run: nothing in it tells U or G; run a gap task, or pope"):
        diagnostics(results, "run", of(RECORDS))
