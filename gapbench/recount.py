"""Every number of a run again, from its records alone: for comparing runs, and for those who do not believe a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gapbench import stats
from gapbench.metrics import frechet
from gapbench.records import Estimate, InputError, Record
from gapbench.tasks import coco, dpg, flickr30k, gap, geneval, gqa, mme, mmmu, pope, vqav2

Metrics = Callable[[Sequence[Record]], Mapping[str, Estimate]]

_METRICS: dict[str, Metrics] = {
    "gap": gap.metrics,
    "pope": pope.metrics,
    "mme": mme.metrics,
    "gqa": gqa.metrics,
    "vqav2": vqav2.metrics,
    "mmmu": mmmu.metrics,
    "flickr30k": flickr30k.metrics,
    "geneval": geneval.metrics,
    "dpg": dpg.metrics,
}
CLOSE = 1e-9  # relative; sums of the same numbers in another order differ in their last digits


def metrics_of(task: str, folder: Path) -> Metrics | None:
    """What makes a task's metrics of its records; `folder` is the run's, which holds what FID is compared with.

    None where the records do not suffice: metrics of lm-eval's that are no means are its own to compute.
    """
    base = task.partition("-")[0]
    if base == "coco":
        kept = reference_path(folder, task)
        if not kept.is_file():
            raise InputError(f"{kept}: no such file; FID cannot be computed again without its reference statistics")
        return partial(coco.metrics, real=frechet.read_npz(kept))
    if task == "mme-mini":
        from gapbench.miniature.benchmarks import MME_SUBTASKS

        return partial(mme.metrics, groups={"perception": MME_SUBTASKS})
    return _METRICS.get(base, _means if task.startswith("lm-eval-") else None)


def reference_path(folder: Path, task: str) -> Path:
    """Where a run keeps the statistics of the real images that its drawings were compared with."""
    return folder / "references" / f"{task}.npz"


def _means(records: Sequence[Record]) -> dict[str, Estimate]:
    """Of a task of lm-eval's, the metrics that are a number for each document."""
    found = {}
    for name in dict.fromkeys(name for record in records for name in record.details["metrics"]):
        values = [(value, r.cluster) for r in records if (value := r.details["metrics"].get(name)) is not None]
        if values and all(isinstance(value, int | float) for value, _ in values):
            found[name] = stats.mean(*zip(*values, strict=True))
    return found


def differences(told: Mapping[str, Mapping[str, Any]], again: Mapping[str, Estimate]) -> list[str]:
    """What is not the same in results.json's `told` and in metrics computed `again`: a line each, `name: a, not b`.

    Metrics that were not computed again are none of them.
    """
    found = []
    for name, estimate in again.items():
        if name not in told:
            found.append(f"{name}: {estimate.value}, where the results have none")
            continue
        for field in ("value", "low", "high", "n", "clusters"):
            first, second = told[name][field], getattr(estimate, field)
            if not math.isclose(first, second, rel_tol=CLOSE, abs_tol=CLOSE):
                found.append(f"{name}: {field} {first} in the results, {second} from the records")
    return found
