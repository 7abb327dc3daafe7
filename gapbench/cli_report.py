"""`gapbench report`, `compare` and `gap`: what runs found, as tables, as a page, and one against another."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gapbench.cli_data import Debug
from gapbench.records import InputError
from gapbench.terminal import err, out, show

if TYPE_CHECKING:
    from gapbench.report.runs import Run

FORMATS = ("md", "latex", "csv", "html", "json")


def report(
    paths: Annotated[list[Path] | None, typer.Argument(metavar="RUN...", help="Run folders, or bundles.")] = None,
    form: Annotated[str, typer.Option("--format", help=" | ".join(FORMATS))] = "md",
    published: Annotated[
        bool, typer.Option("--with-published", help="Add what papers reported, set apart from what was measured.")
    ] = False,
    intervals: Annotated[bool, typer.Option("--intervals/--no-intervals", help="Show 95 % intervals.")] = True,
    document: Annotated[
        bool, typer.Option("--document", help="With latex: a whole document, not only its tables.")
    ] = False,
    to: Annotated[Path | None, typer.Option("--out", help="File to write; by default standard output.")] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Instead: pack the run into this file, with all that recomputes its numbers.")
    ] = None,
    pictures: Annotated[bool, typer.Option("--with-images", help="With --bundle: the drawings too.")] = False,
    debug: Debug = False,
) -> None:
    """Leaderboard of one or more runs: tables, an HTML page, or a bundle for others to check."""
    if form not in FORMATS:
        raise InputError(f"--format {form}: choose one of {', '.join(FORMATS)}")
    if document and form != "latex":
        raise InputError("--document: only with --format latex")
    if pictures and bundle is None:
        raise InputError("--with-images: only with --bundle")
    if not paths and not published:
        raise InputError("report: give a run folder or a bundle, or --with-published for the published tables alone")
    if bundle is not None:
        _pack(paths or (), bundle, pictures)
        return
    with _runs(paths or ()) as runs:
        text = _text(runs, form, published, intervals, document)
    if to is None:
        sys.stdout.write(text)
        return
    try:
        to.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out {to}: cannot be written ({error.strerror})") from error
    err.print(f"wrote {to}", highlight=False)


def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN_A", help="A run folder or a bundle.")],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to standard output, and nothing else.")] = False,
    debug: Debug = False,
) -> None:
    """What changed from one run to another, with paired intervals and corrected p-values."""
    from gapbench import compare as comparing

    with _runs((first, second)) as runs:
        found = comparing.compare(*runs)
    if as_json:
        print(json.dumps(found.told(), indent=1))
        return
    show(comparing.tables(found))
    for note in found.notes:
        out.print(note, highlight=False, markup=False, soft_wrap=True)
    out.print(comparing.verdict(found), highlight=False, markup=False, soft_wrap=True)


def gap(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder or a bundle.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the diagnostics to standard output.")] = False,
    debug: Debug = False,
) -> None:
    """The gap of a run, skill by skill; of homologous items where it has them, else of its benchmarks."""
    from gapbench.diagnostics import diagnostics
    from gapbench.report import tables

    with _runs((path,)) as (run,):
        told = diagnostics(run.results, run.folder.resolve().name, run.records)
        if as_json:
            print(json.dumps(told, indent=1))
            return
        show(tables.diagnosed(run, told))


def _text(runs: Sequence[Run], form: str, published: bool, intervals: bool, document: bool) -> str:
    if form == "json":
        return json.dumps([run.results for run in runs], indent=1) + "\n"
    from gapbench.report.leaderboard import leaderboard

    tables = leaderboard(runs, published)
    if form == "md":
        from gapbench.report.markdown import markdown

        return markdown(tables, intervals)
    if form == "latex":
        from gapbench.report.latex import latex

        return latex(tables, intervals, document)
    if form == "html":
        from gapbench.report.html import page

        return page(runs, tables)
    from gapbench.report.csv import csv

    return csv(runs, published)


@contextmanager
def _runs(paths: Sequence[Path]) -> Iterator[list[Run]]:
    """Folders, and bundles unpacked for as long as they are looked at, whose every number was computed again."""
    from gapbench import bundle
    from gapbench.report import runs

    with ExitStack() as stack:
        folders = [stack.enter_context(bundle.opened(path)) if path.is_file() else path for path in paths]
        loaded = runs.load_all(folders)
        for path, run in zip(paths, loaded, strict=True):
            if path.is_file():
                counted = f"{bundle.verify(run)} metrics computed again from its records, all as told"
                err.print(f"{path}: {counted}", highlight=False, soft_wrap=True)
        yield loaded


def _pack(paths: Sequence[Path], file: Path, pictures: bool) -> None:
    from gapbench import bundle

    if len(paths) != 1:
        raise InputError(f"--bundle {file}: a bundle holds one run; give one run folder")
    counted = bundle.pack(paths[0], file, pictures)
    size = file.stat().st_size / 2**20
    err.print(
        f"wrote {file}: {size:.1f} MiB, {counted} metrics can be computed again from it",
        highlight=False,
        soft_wrap=True,
    )


def register(app: typer.Typer) -> None:
    for command in (report, compare, gap):
        app.command()(command)
