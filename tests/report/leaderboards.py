"""Runs whose records and results are made up, for the tests of what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gapbench.records import Estimate, Record
from gapbench.report.runs import Run
from gapbench.store import RunFolder
from gapbench.tasks import gqa

COUNTS = {"asked": 20, "done": 20, "expected": 20, "failed": 0, "unjudged": 0}


def estimate(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 20, "clusters": 5}


def told(metrics: Mapping[str, float], side: str = "understanding", **change: Any) -> dict[str, Any]:
    """A task's entry in results.json."""
    estimates = {name: estimate(value) for name, value in metrics.items()}
    return {"side": side, "fingerprint": "abc", "protocol": {}, **COUNTS, "metrics": estimates, **change}


def run_of(label: str, tasks: Mapping[str, Any], folder: Path = Path("nowhere")) -> Run:
    return Run(folder, label, {"model": label, "tasks": tasks}, {})


def answered(folder: Path, label: str, right: Callable[[int], bool], items: Sequence[int] = range(100)) -> Run:
    """A run of GQA with records: a question an image, item n answered right where `right(n)`."""
    details = {"gold": "red", "said": "red", "structural": "query", "semantic": "obj", "group": None}
    records = [Record("gqa", f"q{n}", f"image{n}", (), 0, "red", float(right(n)), details) for n in items]
    RunFolder(folder / label).append("gqa", records)
    metrics = {name: _plain(e) for name, e in gqa.metrics(records).items()}
    whole = dict.fromkeys(("asked", "done", "expected"), len(records))
    return run_of(label, {"gqa": told({}) | {"metrics": metrics} | whole}, folder / label)


def _plain(e: Estimate) -> dict[str, Any]:
    return {"value": e.value, "low": e.low, "high": e.high, "n": e.n, "clusters": e.clusters}
