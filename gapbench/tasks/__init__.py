"""Benchmarks by name. A suite is a list of them."""

from __future__ import annotations

import difflib
import importlib

from gapbench.records import InputError
from gapbench.tasks.base import Options, Task

# name -> module and function of Options
TASKS = {
    "gap-mini": "gap:mini",
    "pope-mini": "pope:mini",
    "geneval-mini": "geneval:mini",
    "pope": "pope:real",
}
SUITES: dict[str, tuple[str, ...]] = {
    "mini": ("gap-mini", "pope-mini", "geneval-mini"),
    "paper": ("pope",),
}


def names(suite: str, tasks: str | None) -> list[str]:
    """The tasks of a suite, or those of a comma-separated list; `pope` of the suite mini is pope-mini.

    Raises InputError naming what is unknown and what there is.
    """
    if suite not in SUITES:
        raise InputError(f"--suite {suite}: unknown; there is {', '.join(SUITES)}")
    if tasks is None:
        return list(SUITES[suite])
    chosen = []
    for name in (part.strip() for part in tasks.split(",")):
        full = next((n for n in (f"{name}-{suite}", name) if n in TASKS), None)
        if full is None:
            close = difflib.get_close_matches(name, TASKS, n=1)
            hint = f", did you mean {close[0]}" if close else ""
            raise InputError(f"--tasks {name or tasks}: no such task{hint}; there are {', '.join(TASKS)}")
        if full not in chosen:
            chosen.append(full)
    return chosen


def load(name: str, options: Options | None = None) -> Task:
    """Raises InputError, one line, where the task's data are not there or not the benchmark's."""
    module, _, function = TASKS[name].partition(":")
    return getattr(importlib.import_module(f"gapbench.tasks.{module}"), function)(options or Options())
