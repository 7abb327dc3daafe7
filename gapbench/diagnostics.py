"""Records -> diagnostics: what a model understands and cannot draw, skill by skill, and how sure that is.

The contract between measuring and training: hermesflow reads this file and nothing else of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gapbench.records import InputError
from gapbench.tasks.gap import MEASURES, by_skill

SCHEMA = 1


def diagnostics(results: Mapping[str, Any], run: str) -> dict[str, Any]:
    """diagnostics.json of a run's results: overall and per skill U, G, gap and the 2x2 table, and every other metric.

    Raises InputError where the run holds no gap task or nothing of it is done.
    """
    gap = next((task for task in results["tasks"].values() if task["side"] == "both" and task["metrics"]), None)
    if gap is None:
        raise InputError(f"{run}: no gap was measured; run a suite that has a gap task, such as --suite mini")
    metrics = gap["metrics"]
    return {
        "schema": SCHEMA,
        "run": run,
        "model": results["model"],
        "protocol": gap["protocol"],
        "overall": {measure: metrics[measure] for measure in MEASURES},
        "skills": by_skill(metrics),
        "tasks": {name: task["metrics"] for name, task in results["tasks"].items() if task is not gap},
    }
