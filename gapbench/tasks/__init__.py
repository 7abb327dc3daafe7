"""Benchmarks by name. A suite is a list of them."""

from __future__ import annotations

import difflib
import importlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from gapbench.records import InputError
from gapbench.tasks.base import Options, Task

# name -> module and function of Options
TASKS = {
    "gap-mini": "gap:mini",
    "pope-mini": "pope:mini",
    "mme-mini": "mme:mini",
    "gqa-mini": "gqa:mini",
    "vqav2-mini": "vqav2:mini",
    "mmmu-mini": "mmmu:mini",
    "flickr30k-mini": "flickr30k:mini",
    "geneval-mini": "geneval:mini",
    "dpg-mini": "dpg:mini",
    "coco-mini": "coco:mini",
    "gap": "gap:real",
    "pope": "pope:real",
    "mme": "mme:real",
    "flickr30k": "flickr30k:real",
    "flickr30k-karpathy": "flickr30k:karpathy",
    "vqav2": "vqav2:real",
    "vqav2-testdev": "vqav2:testdev",
    "vqav2-test": "vqav2:test",
    "gqa": "gqa:real",
    "mmmu": "mmmu:real",
    "geneval": "geneval:real",
    "geneval-rewritten": "geneval:rewritten",
    "dpg": "dpg:real",
    "coco": "coco:real",
}
SUITES: dict[str, tuple[str, ...]] = {
    "mini": tuple(name for name in TASKS if name.endswith("-mini")),
    "paper": ("pope", "mme", "flickr30k", "vqav2", "gqa", "mmmu", "geneval", "dpg", "coco"),
}
DRAWN = ("geneval", "dpg", "coco")  # what begins so asks for drawings; the gap asks for both; the rest for answers
HARNESS = "lm-eval:"  # before the name or the file of a task of lm-evaluation-harness


def names(suite: str, tasks: str | None) -> list[str]:
    """The tasks of a suite, or those of a comma-separated list; `pope` of the suite mini is pope-mini.

    Raises InputError naming what is unknown and what there is; what lm-eval does not know shows when it is loaded.
    """
    if suite not in SUITES:
        raise InputError(f"--suite {suite}: unknown; there is {', '.join(SUITES)}")
    if tasks is None:
        return list(SUITES[suite])
    chosen = []
    for name in (part.strip() for part in tasks.split(",")):
        known = (n for n in (f"{name}-{suite}", name) if n in TASKS)
        full = name if name.startswith(HARNESS) else next(known, None)
        if full is None:
            close = difflib.get_close_matches(name, TASKS, n=1)
            hint = f", did you mean {close[0]}" if close else ""
            raise InputError(f"--tasks {name or tasks}: no such task{hint}; there are {', '.join(TASKS)}")
        if full not in chosen:
            chosen.append(full)
    return chosen


def sides(name: str) -> tuple[str, ...]:
    """What a task asks of a model: "answers", "draws" or both."""
    if name.startswith(DRAWN):
        return ("draws",)
    return ("answers", "draws") if name.startswith("gap") else ("answers",)


def load(name: str, options: Options | None = None) -> Task:
    """Raises InputError, one line, where the task's data are not there or not the benchmark's."""
    module, _, function = TASKS[name].partition(":")
    return getattr(importlib.import_module(f"gapbench.tasks.{module}"), function)(options or Options())


def load_all(
    names: Iterable[str], options: Options | None = None, judges: Mapping[str, str] | None = None
) -> list[Task]:
    """The tasks of these names, of which `lm-eval:GROUP` means several; judges: of some tasks, if not their own.

    Raises InputError as `load` does.
    """
    options, judges = options or Options(), judges or {}
    loaded: list[Task] = []
    for name in names:
        if name.startswith(HARNESS):
            from gapbench.tasks import hosted

            loaded += hosted.load(name.removeprefix(HARNESS))
        else:
            loaded.append(load(name, replace(options, judge=judges.get(name))))
    for name, count in Counter(task.name for task in loaded).items():
        if count > 1:
            raise InputError(f"--tasks: {count} tasks are named {name}; run them apart")
    return loaded
