"""The command line of hermesflow; the only file of it that parses arguments and prints."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gapbench.cli import guarded, shard_of
from gapbench.cli_data import Debug
from gapbench.records import InputError
from gapbench.terminal import Progress, err, out, show
from hermesflow import cli_stages as stages
from hermesflow.cli_stages import changed, tell_left_out

if TYPE_CHECKING:
    from hermesflow.close_gap import Loop

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
HELD_OUT = 0.2


@app.callback()
def commands() -> None:
    """Closes the gap between what a unified model understands and what it draws, by iterative Pair-DPO."""


@app.command(name="close-gap")
def close_gap(
    model: stages.Model = "show-o-mini",
    data: stages.Data = None,
    iterations: Annotated[int, typer.Option(min=1, help="At most so many rounds.")] = 3,
    emphasis: stages.Emphasis = "gap",
    diagnostics: stages.Diagnostics = None,
    items: Annotated[
        int | None, typer.Option(min=2, help="Items of the miniature to train on, or to take of --data in all.")
    ] = None,
    hold_out: Annotated[
        float | None,
        typer.Option(help=f"Share of --data to measure by and not to train on, half a round; by default {HELD_OUT}."),
    ] = None,
    judge: stages.Judged = "self",
    judge_gap: Annotated[
        str | None, typer.Option(help="Who judges the gap on what is held out of --data; by default openai:gpt-4o.")
    ] = None,
    images: stages.Images = None,
    matching: stages.Matched = None,
    scorer: stages.Scorer = None,
    learning_rate: stages.LearningRate = None,
    epochs: stages.Epochs = None,
    lora: stages.Lora = None,
    reference: Annotated[str, typer.Option(help="Of each round: previous (policy) or base.")] = "previous",
    fresh_items: Annotated[
        bool | None,
        typer.Option(
            "--fresh-items/--same-items",
            help="A part of the items for each round, or all of them in every round; by default the recipe's.",
        ),
    ] = None,
    target: Annotated[float, typer.Option(help="Stop once the interval of the gap holds this.")] = 0.0,
    quick: Annotated[bool, typer.Option("--quick", help="One small round, to see that all works.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of items, drawings, masks and order.")] = 0,
    to: Annotated[Path | None, typer.Option("--out", help="Folder; by default loops/MODEL-TIME.")] = None,
    track: stages.Track = None,
    device: stages.Device = None,
    dtype: stages.DType = None,
    debug: Debug = False,
) -> None:
    """Measure, curate, pair, emphasise, train, and measure again, until the gap is closed.

    Without options: the embedded miniature model. A loop that was interrupted goes on with the same command and --out.
    """
    from hermesflow import recipes, trackers
    from hermesflow.close_gap import close_gap as run_loop
    from hermesflow.emphasis import RULES, read_diagnostics

    if emphasis not in RULES:
        raise InputError(f"--emphasis {emphasis}: unknown; there is {', '.join(RULES)}")
    if reference not in ("previous", "base"):
        raise InputError(f"--reference {reference}: unknown; there is previous, base")
    if data is None and (hold_out, judge_gap) != (None, None):
        flag = "--hold-out" if judge_gap is None else "--judge-gap"
        raise InputError(f"{flag}: only with --data; the miniature has splits and a judge of its own")
    how = recipes.of(model, data is not None, quick)
    how = replace(
        how,
        iterations=1 if quick else iterations,
        rule=emphasis,
        reference=reference,
        target=target,
        fresh_items=how.fresh_items if fresh_items is None else fresh_items,
        curation=changed(how.curation, judge=judge, images=images, matching=matching, scorer=scorer, seed=seed),
        training=changed(stages.of_length(how.training, epochs), learning_rate=learning_rate, lora=lora, seed=seed),
    )
    tracking = trackers.by_name(track)
    if diagnostics is not None:
        read_diagnostics(diagnostics)  # of which model is seen once it is loaded
    count = items or (recipes.QUICK_ITEMS if quick else None)
    if data is None:
        stages.refuse_miniature(model)
    shard, device = shard_of(device, to)
    if data is not None:
        share = HELD_OUT if hold_out is None else hold_out
        grounds = recipes.own_grounds(data, share, judge_gap, matching, count, seed, device)
    else:
        grounds = recipes.miniature_grounds(count or recipes.ITEMS, seed, device, panel=not quick)
    folder = to or Path("loops") / f"{Path(model).name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if shard.leads:
        err.print(f"loop folder: {folder}", highlight=False, soft_wrap=True)
    found = run_loop(
        model,
        partial(stages.load, device=device, dtype=dtype),
        grounds,
        how,
        folder,
        Progress() if shard.leads else None,
        load_master=partial(stages.load_master, device=device),
        diagnostics=diagnostics,
        tracking=tracking,
        shard=shard,
    )
    if shard.leads:
        _show(folder, found, how)


stages.register(app)


def _show(folder: Path, found: dict, how: Loop) -> None:
    from hermesflow.outcome import told_table

    show([told_table(found["outcome"])])
    done = found["done"]
    out.print(f"{done} of {how.iterations} rounds" + (f"; {found['stopped']}" if "stopped" in found else ""))
    tell_left_out(found.get("left_out", {}))
    out.print(f"checkpoint {found['checkpoint']}, report {folder / 'report.md'}", highlight=False, soft_wrap=True)


def main() -> None:
    guarded(app)


if __name__ == "__main__":
    main()
