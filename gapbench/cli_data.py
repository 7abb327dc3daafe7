"""`gapbench data`: where the benchmarks' data are, whether they are whole, and what they ask."""

from __future__ import annotations

import json
from collections import Counter
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


@data_commands.command()
def homologous(
    root: Annotated[
        Path, typer.Argument(metavar="JOURNEYDB", help="Folder with JourneyDB as its authors lay it out, unpacked.")
    ],
    to: Annotated[Path, typer.Option("--out", help="Folder to make, with homologous.jsonl and a copy of the images.")],
    split: Annotated[str, typer.Option(help="valid or train; test has no answers.")] = "valid",
    items: Annotated[int, typer.Option(min=1, help="How many prompts, each with one of its images.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of prompts and images.")] = 0,
    debug: Debug = False,
) -> None:
    """Choose prompts of JourneyDB by chance, for the task `gap`: images, captions, and questions about both.

    The choice does not depend on the order of the file, and a larger one begins with the smaller one.
    """
    from gapbench import homologous as files
    from gapbench.data import journeydb

    files.new_file(to)  # before minutes of reading
    data = journeydb.read_journeydb(root, split)
    progress = Progress()
    progress.start(f"{data.annotations.name}, MB", data.megabytes, 0)
    try:
        found = journeydb.sample(data, items, seed, progress.advance)
    finally:
        progress.stop()
    files.write(to, found.items)
    kinds = Counter(question.type for item in found.items for question in item.questions)
    asked = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    lines = [f"{len(found.items)} of {found.prompts} usable prompts, {kinds.total()} questions ({asked})"]
    if len(found.items) < items:
        lines.append(f"  less than the {items} that were asked for: no more are usable here")
    lines += [f"  left out: {count} {reason}" for reason, count in found.left_out.most_common()]
    for line in (*lines, journeydb.TERMS, f"wrote {to / files.FILE}"):
        out.print(line, highlight=False, markup=False, soft_wrap=True)


@data_commands.command()
def questions(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="homologous.jsonl or its folder; JSON lines with id, image, caption.")
    ],
    model: Annotated[str, typer.Option(metavar="openai:NAME[@URL]", help="Who writes the questions.")],
    to: Annotated[Path, typer.Option("--out", help="Folder for homologous.jsonl with the questions.")],
    check: Annotated[
        str | None,
        typer.Option(metavar="openai:NAME[@URL]", help="Who answers them from the caption; by default who wrote them."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write questions about captions, in TIFA's element types, and keep those that the caption alone answers.

    Questions that are there stay. The same command goes on where it was interrupted, and asks again what failed.
    """
    from gapbench import api, homologous, questions_file

    writer = api.endpoint(model)
    checker = api.endpoint(check) if check else writer
    writes = api.Client(writer)
    checks = writes if checker == writer else api.Client(checker)
    told = questions_file.augment(source, to, writes, checks, Progress())
    for line in (*told.lines(), f"wrote {to / homologous.FILE}"):
        out.print(line, highlight=False, markup=False, soft_wrap=True)


def _with_data(names: Sequence[str] | None) -> list[str]:
    from gapbench import tasks as catalogue
    from gapbench.data import sources

    known = [name for name in catalogue.TASKS if sources.source_of(name)]
    for name in names or ():
        if name not in known:
            raise InputError(f"{name}: no task with data of its own; there are {', '.join(known)}")
    return list(names or known)
