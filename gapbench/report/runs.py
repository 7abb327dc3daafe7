"""Runs as reports read them: what was found, and, where it must be computed again, the records behind it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gapbench import recount
from gapbench.records import Estimate, InputError, Record
from gapbench.store import RunFolder

JSON = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One run; `label` tells it from the others of its report."""

    folder: Path
    label: str
    results: JSON
    manifest: JSON
    _counted: dict[str, Mapping[str, Estimate]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def tasks(self) -> JSON:
        """Of each task: side, protocol, fingerprint, expected, asked, done, failed, unjudged, metrics (as JSON)."""
        return self.results["tasks"]

    def records(self, task: str) -> list[Record]:
        return RunFolder(self.folder).records(task)

    def estimates(self, task: str) -> Mapping[str, Estimate]:
        """The task's metrics, computed from the records once; see recount.metrics_of for those that cannot be."""
        if task not in self._counted:
            metrics = recount.metrics_of(task, self.folder)
            records = self.records(task) if metrics else []
            self._counted[task] = metrics(records) if metrics and records else {}
        return self._counted[task]


def load(path: Path) -> Run:
    """The run in the folder `path`. Raises InputError where there is none, or it has no results yet."""
    path = Path(path)
    manifest = RunFolder(path).manifest()
    file = path / "results.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not isinstance(found.get("tasks"), dict):
            raise ValueError("it holds no tasks")
    except FileNotFoundError:
        status = manifest.get("status")
        raise InputError(f"{path}: this run has no results yet (status: {status}); continue it first") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from error
    return Run(path, found["model"], found, manifest)


def load_all(paths: Iterable[Path]) -> list[Run]:
    """Several runs, told apart by their folders' names where their models' are equal."""
    runs: Sequence[Run] = [load(path) for path in paths]
    models = Counter(run.label for run in runs)
    return [
        replace(run, label=f"{run.label} ({run.folder.resolve().name})") if models[run.label] > 1 else run
        for run in runs
    ]
