"""`gapbench data`: where the benchmarks' data are, whether they are whole, and what they ask."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from gapbench.records import InputError
from gapbench.terminal import Progress, out

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
AllowPartial = Annotated[
    bool, typer.Option("--allow-partial", help="Take data that are a part of the benchmark's; the result is marked so.")
]

data_commands = typer.Typer(help="The benchmarks' data: where they are, whether they are whole.", no_args_is_help=True)
Names = Annotated[list[str] | None, typer.Argument(metavar="TASK...", help="Tasks; by default all that have data.")]
Folder = Annotated[Path | None, typer.Option("--data", help="Folder; by default GAPBENCH_DATA, then the cache.")]


@data_commands.command()
def where(names: Names = None, data: Folder = None, debug: Debug = False) -> None:
    """Where each benchmark's data are looked up and found, and under which licence they are."""
    from gapbench.data import sources

    elsewhere = [name for name in names or sources.ELSEWHERE if name in sources.ELSEWHERE]
    for name in elsewhere:
        out.print(f"{name}: DIR/{name} of --data DIR\n  {sources.ELSEWHERE[name]}", highlight=False, soft_wrap=True)
    asked = [name for name in names or () if name not in elsewhere]
    for name in _with_data(asked) if asked or not names else ():
        source = sources.source_of(name)
        try:
            place = sources.find(name, data, fetch=False)
            found = f"{place.folder} ({place.why})"
        except InputError:
            found = "not here"
        out.print(f"{name}: {found}", highlight=False, soft_wrap=True)
        out.print(
            f"  hub      {source.repo} at {source.revision}: {', '.join(source.files)}", highlight=False, soft_wrap=True
        )
        out.print(f"  or       {source.own}", highlight=False, soft_wrap=True)
        out.print(f"  licence  {source.licence}", highlight=False, soft_wrap=True)


@data_commands.command()
def fetch(names: Names = None, debug: Debug = False) -> None:
    """Fetch data from the hub into its cache, or complete what is there."""
    from gapbench import hub
    from gapbench.data import sources

    for name in _with_data(names):
        source = sources.source_of(name)
        folder = hub.fetch_dataset(source.repo, source.revision, source.files, source.advice)
        out.print(f"{name}: {folder}", highlight=False, soft_wrap=True)


@data_commands.command()
def check(names: Names = None, data: Folder = None, debug: Debug = False) -> None:
    """Read every question and decode every picture; exit status 2 if anything is missing or broken."""
    from gapbench import checkup

    faults = 0
    for name in _with_data(names):
        try:
            found = checkup.check(name, data, Progress())
        except InputError as error:
            faults += 1
            out.print(str(error), highlight=False, markup=False, soft_wrap=True)
            continue
        faults += len(found.faults)
        out.print(f"{name}: {found}", highlight=False, soft_wrap=True)
        for fault in found.faults:
            out.print(f"  {fault}", highlight=False, soft_wrap=True)
    if faults:
        raise InputError(f"data check: {faults} {'fault' if faults == 1 else 'faults'}, named above")


@data_commands.command()
def ids(
    name: Annotated[str, typer.Argument(metavar="TASK")],
    data: Folder = None,
    allow_partial: AllowPartial = False,
    debug: Debug = False,
) -> None:
    """What a task asks, as JSON lines: id, pictures and text; for answers that are made elsewhere."""
    from gapbench import checkup

    for line in checkup.asked(name, data, allow_partial):
        print(json.dumps(line, ensure_ascii=False))


def _with_data(names: Sequence[str] | None) -> list[str]:
    from gapbench import tasks as catalogue
    from gapbench.data import sources

    known = [name for name in catalogue.TASKS if sources.source_of(name)]
    for name in names or ():
        if name not in known:
            raise InputError(f"{name}: no task with data of its own; there are {', '.join(known)}")
    return list(names or known)
