"""Benchmarks by name. A suite is a list of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from gapbench.records import InputError
from gapbench.tasks.base import Task


def _pope_mini(seed: int) -> Task:
    from gapbench.tasks import pope

    return pope.mini()


def _geneval_mini(seed: int) -> Task:
    from gapbench.tasks import geneval

    return geneval.mini(seed)


def _gap_mini(seed: int) -> Task:
    from gapbench.tasks import gap

    return gap.mini(seed)


# name -> a function of the first seed of the drawings
TASKS: dict[str, Callable[[int], Task]] = {
    "gap-mini": _gap_mini,
    "pope-mini": _pope_mini,
    "geneval-mini": _geneval_mini,
}
SUITES: dict[str, tuple[str, ...]] = {"mini": ("gap-mini", "pope-mini", "geneval-mini")}


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


def load(name: str, seed: int) -> Task:
    return TASKS[name](seed)
