"""The command line of hermesflow; the only file of it that parses arguments and prints."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gapbench.cli import guarded
from gapbench.cli_data import Debug
from gapbench.terminal import Progress, err, out, show

if TYPE_CHECKING:
    from hermesflow.close_gap import Loop

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def commands() -> None:
    """Closes the gap between what a unified model understands and what it draws, by iterative Pair-DPO."""


@app.command(name="close-gap")
def close_gap(
    model: Annotated[str, typer.Option(help="A zoo name or a checkpoint folder.")] = "show-o-mini",
    iterations: Annotated[int, typer.Option(min=1, help="At most so many rounds.")] = 3,
    emphasis: Annotated[
        str, typer.Option(help="gap, uniform (the paper's Pair-DPO), understanding or generation (DPO on one side).")
    ] = "gap",
    items: Annotated[int | None, typer.Option(min=2, help="Items of the miniature to train on.")] = None,
    judge: Annotated[str, typer.Option(help="Who scores drawings: self (self-play) or a judge such as eye.")] = "self",
    reference: Annotated[str, typer.Option(help="Of each round: previous (policy) or base.")] = "previous",
    target: Annotated[float, typer.Option(help="Stop once the interval of the gap holds this.")] = 0.0,
    quick: Annotated[bool, typer.Option("--quick", help="One small round, to see that all works.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of items, drawings, masks and order.")] = 0,
    to: Annotated[Path | None, typer.Option("--out", help="Folder; by default loops/MODEL-TIME.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda ...; by default a GPU if there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    debug: Debug = False,
) -> None:
    """Measure, curate, pair, emphasise, train, and measure again, until the gap is closed.

    Without options: the embedded miniature model. A loop that was interrupted goes on with the same command and --out.
    """
    from gapbench.models import zoo
    from hermesflow import recipes
    from hermesflow.close_gap import close_gap as run_loop

    how = replace(recipes.miniature(quick), rule=emphasis, reference=reference, target=target)
    how = replace(how, iterations=1 if quick else iterations)
    how = replace(
        how, curation=replace(how.curation, judge=judge, seed=seed), training=replace(how.training, seed=seed)
    )
    folder = to or Path("loops") / f"{Path(model).name}-{time.strftime('%Y%m%d-%H%M%S')}"
    err.print(f"loop folder: {folder}", highlight=False, soft_wrap=True)
    grounds = recipes.miniature_grounds(
        items or (recipes.QUICK_ITEMS if quick else recipes.ITEMS), seed, device, panel=not quick
    )
    found = run_loop(model, lambda name: zoo.load(name, device, dtype), grounds, how, folder, Progress())
    _show(folder, found, how)


def _show(folder: Path, found: dict, how: Loop) -> None:
    from hermesflow.outcome import told_table

    show([told_table(found["outcome"])])
    done = found["done"]
    out.print(f"{done} of {how.iterations} rounds" + (f"; {found['stopped']}" if "stopped" in found else ""))
    out.print(f"checkpoint {found['checkpoint']}, report {folder / 'report.md'}", highlight=False, soft_wrap=True)


def main() -> None:
    guarded(app)


if __name__ == "__main__":
    main()
