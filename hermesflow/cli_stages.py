"""`hermesflow curate`, `pairs` and `train`: the stages of the loop, one by one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gapbench.cli import shard_of
from gapbench.cli_data import Debug
from gapbench.records import InputError
from gapbench.terminal import Progress, out, show

if TYPE_CHECKING:
    from gapbench.homologous import Homologous
    from gapbench.report.table import Table
    from hermesflow.curate import Curation
    from hermesflow.learners import Model
    from hermesflow.preferences import Rule
    from hermesflow.train import Training

T = TypeVar("T", "Curation", "Rule", "Training")

Model = Annotated[str, typer.Option(help="A zoo name or a checkpoint folder.")]
Data = Annotated[
    Path | None,
    typer.Option(help="Folder with homologous.jsonl, or JourneyDB with its train/; by default the miniature's world."),
]
Images = Annotated[int | None, typer.Option(min=0, help="Drawings of each caption; by default the recipe's.")]
Judged = Annotated[str, typer.Option(help="Who scores drawings: self (self-play) or a judge such as eye.")]
Matched = Annotated[
    str | None, typer.Option(help="How the model's own answers are matched: likelihood, exact or nearest.")
]
Scorer = Annotated[
    str | None, typer.Option(help="Of captions: bert[:FOLDER], bertscore[:FOLDER], questions:openai:NAME@URL, facts.")
]
Emphasis = Annotated[
    str, typer.Option(help="gap, uniform (the paper's Pair-DPO), understanding or generation (DPO on one side).")
]
Diagnostics = Annotated[
    Path | None, typer.Option(help="A run of the model, or its diagnostics.json, that tells what is missing.")
]
LearningRate = Annotated[float | None, typer.Option(help="Peak; by default the recipe's for the model's size.")]
Epochs = Annotated[float | None, typer.Option(help="Passes over the pairs.")]
Lora = Annotated[int | None, typer.Option(min=0, help="Rank of low-rank updates; 0 trains all weights.")]
Track = Annotated[str | None, typer.Option(help="Metrics also to tensorboard or wandb.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; by default a GPU if there is one.")]
DType = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; bfloat16 on CUDA. Training: float32.")]


def curate(
    to: Annotated[Path, typer.Option("--out", help="Folder for the candidates.")],
    model: Model = "show-o-mini",
    data: Data = None,
    items: Annotated[int | None, typer.Option(min=1, help="Only so many, by chance; of the miniature 240.")] = None,
    judge: Judged = "self",
    images: Images = None,
    matching: Matched = None,
    scorer: Scorer = None,
    seed: Annotated[int, typer.Option(min=0, help="Of items, captions and drawings.")] = 0,
    device: Device = None,
    dtype: DType = None,
    debug: Debug = False,
) -> None:
    """Let the model caption each image and draw each caption several times, and score what it made.

    Goes on where it was interrupted, and under torchrun each process takes its share of the items.
    """
    from hermesflow import recipes
    from hermesflow.candidate_files import ABOUT
    from hermesflow.curate import curate as make

    how = recipes.of(model, data is not None).curation
    how = changed(how, judge=judge, images=images, matching=matching, scorer=scorer, seed=seed)
    left_out: Counter[str] = Counter()
    chosen = _items(model, data, items, seed, left_out)
    shard, device = shard_of(device, to)
    loaded = load(model, device, dtype)
    file = make(loaded, chosen, how, to, Progress() if shard.leads else None, shard)
    if shard.leads:
        counts = json.loads((to / ABOUT).read_text(encoding="utf-8"))["counts"]
        made = {name: count for name, count in counts.items() if not name.startswith("left out: ")}
        out.print(", ".join(f"{count} {name}" for name, count in made.items()), highlight=False)
        missed = {name.removeprefix("left out: "): count for name, count in counts.items() if name not in made}
        tell_left_out({**left_out, **missed})
        out.print(f"candidates {file}", highlight=False, soft_wrap=True)


def pairs(
    candidates: Annotated[Path, typer.Argument(metavar="CANDIDATES", help="What `hermesflow curate` wrote.")],
    to: Annotated[Path, typer.Option("--out", help="Folder for pairs.jsonl, pairs.json and emphasis.md.")],
    diagnostics: Diagnostics = None,
    emphasis: Emphasis = "gap",
    previous: Annotated[
        Path | None, typer.Option(help="pairs.jsonl of the iteration before: the new best goes over the old winner.")
    ] = None,
    image_threshold: Annotated[float, typer.Option(help="The best drawing's score must be above this.")] = 0.6,
    image_margin: Annotated[float, typer.Option(help="By how much a winning drawing must be better.")] = 0.0,
    caption_margin: Annotated[float, typer.Option(help="By how much a winning caption must be better.")] = 0.0,
    per_item: Annotated[int, typer.Option(help="At most so many pairs of an item.")] = 1,
    trust: Annotated[
        float | None,
        typer.Option(
            help="A model's verdicts count on what it understands: skills of at least this U; by default all."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Prefer the best candidate to the worst, where the difference is real, and weigh pairs by what is missing."""
    from hermesflow import emphasis as weighing
    from hermesflow.candidate_files import model_of
    from hermesflow.pair_files import pair_up, read_pairs
    from hermesflow.preferences import Rule

    if diagnostics is None and emphasis == "gap":
        others = ", ".join(rule for rule in weighing.RULES if rule != emphasis)
        raise InputError(f"--emphasis gap: give --diagnostics, a run of the model; without it there is {others}")
    rule = Rule(image_threshold, image_margin, caption_margin, per_item, trust)
    measured = diagnostics and weighing.read_diagnostics(diagnostics, model_of(candidates))
    old = read_pairs(previous) if previous else ()
    paired = pair_up(candidates, old, rule, measured, emphasis, to)
    show(_narrow(paired.emphasis.table))
    tell_left_out(paired.dropped)
    out.print(f"{len(paired.emphasis.pairs)} pairs {paired.file}", highlight=False, soft_wrap=True)


def train(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="pairs.jsonl, or the folder that holds it.")],
    to: Annotated[Path, typer.Option("--out", help="Folder for the checkpoint, the metrics and the state.")],
    model: Model = "show-o-mini",
    reference: Annotated[
        str | None, typer.Option(help="Frozen model that preferences are told against; by default the model.")
    ] = None,
    learning_rate: LearningRate = None,
    epochs: Epochs = None,
    steps: Annotated[int | None, typer.Option(help="In place of --epochs.")] = None,
    batch: Annotated[int | None, typer.Option(help="Pairs a step, of all processes together.")] = None,
    at_once: Annotated[int | None, typer.Option(help="Pairs of a batch that are in memory together.")] = None,
    masks: Annotated[int | None, typer.Option(help="Masks of a drawing at each of its visits.")] = None,
    states: Annotated[
        int | None, typer.Option(help="In place of masks, so many of the states that a drawing was sampled through.")
    ] = None,
    condition_dropout: Annotated[float | None, typer.Option(help="Share of visits without the prompt.")] = None,
    beta: Annotated[float | None, typer.Option(help="The smaller, the farther from the reference.")] = None,
    balance: Annotated[float | None, typer.Option(help="Weight of drawings against captions.")] = None,
    anchor: Annotated[float | None, typer.Option(help="Weight of the winners' own likelihood; the paper's: 0.")] = None,
    balanced: Annotated[
        bool | None, typer.Option("--balanced/--not-balanced", help="Let the balance follow the gradients.")
    ] = None,
    per_token: Annotated[bool | None, typer.Option("--per-token/--summed", help="Likelihoods per token.")] = None,
    product: Annotated[
        bool | None, typer.Option("--product/--sum", help="The paper's formula as printed, for an ablation.")
    ] = None,
    sampling: Annotated[
        bool | None,
        typer.Option("--sampling/--weighting", help="Weights say how often a pair comes, not how much it counts."),
    ] = None,
    lora: Lora = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option("--gradient-checkpointing/--no-gradient-checkpointing", help="Less memory, more time."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of masks and order.")] = 0,
    track: Track = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Pair-DPO: raise the winners over the losers of both sides at once, against a frozen reference.

    What is not said is the recipe's for the model's size. Goes on where it was interrupted; torchrun shares the batch.
    """
    from hermesflow import recipes, trackers
    from hermesflow.pair_files import read_pairs
    from hermesflow.train import train as run_stage

    how = recipes.of(model, own=True).training
    if product:  # of which the recipe's own anchor and balance are no part
        anchor, balance = anchor or 0.0, 1.0 if balance is None else balance
    loss = changed(how.loss, beta=beta, balance=balance, anchor=anchor, per_token=per_token, product=product)
    how = of_length(how, epochs, steps)
    how = changed(
        how,
        loss=loss,
        learning_rate=learning_rate,
        batch=batch,
        at_once=at_once,
        masks=masks,
        states=states,
        condition_dropout=condition_dropout,
        balanced=balanced,
        sampling=sampling,
        lora=lora,
        gradient_checkpointing=gradient_checkpointing,
        seed=seed,
    )
    given = read_pairs(pairs)
    tracking = trackers.by_name(track)
    shard, device = shard_of(device, to)
    learner = load_master(model, device)
    frozen = load_master(reference, device) if reference else learner
    with tracking(to) as tracked:
        checkpoint = run_stage(learner, frozen, given, how, to, Progress() if shard.leads else None, tracked)
    if shard.leads:
        stage = json.loads((to / "stage.json").read_text(encoding="utf-8"))["names"]
        out.print(f"{stage['steps']} steps over {stage['pairs']} pairs", highlight=False)
        tell_left_out({f"{what} of weight 0": count for what, count in stage["left out"].items()})
        out.print(f"checkpoint {checkpoint}", highlight=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    for command in (curate, pairs, train):
        app.command()(command)


# --- What the commands share ------------------------------------------------------------------------------------------


def changed(how: T, **given: Any) -> T:
    """`how`, but for what is given."""
    return replace(how, **{name: value for name, value in given.items() if value is not None})


def of_length(how: Training, epochs: float | None, steps: int | None = None) -> Training:
    if epochs is not None and steps is not None:
        raise InputError("--epochs and --steps: both say how long to train; give one")
    return how if epochs is None and steps is None else changed(replace(how, steps=steps), epochs=epochs)


def load(name: str, device: str | None, dtype: str | None) -> Model:
    """To measure and to curate with: bfloat16 on a GPU."""
    from gapbench.models import zoo

    return zoo.load(name, device, dtype)


def load_master(name: str, device: str | None) -> Model:
    """To train and to be trained against: float32 everywhere, for a step is smaller than bfloat16 tells apart."""
    return load(name, device, "float32")


def _items(model: str, data: Path | None, count: int | None, seed: int, left_out: Counter[str]) -> list[Homologous]:
    from hermesflow import recipes
    from hermesflow.homologous import own_items, train_items

    if data is not None:
        return own_items(data, count, seed, left_out)
    refuse_miniature(model)
    return train_items(recipes.ITEMS if count is None else count, seed)


def _narrow(table: Table) -> list[Table]:
    """The table of emphasis as two that a terminal holds: what was measured, if anything was, and the weights."""
    from hermesflow.emphasis import SHOWN

    measured, weighed = slice(len(SHOWN)), slice(len(SHOWN), None)
    parts = [
        replace(table, columns=table.columns[part], rows=[replace(row, cells=row.cells[part]) for row in table.rows])
        for part in (measured, weighed)
    ]
    return [replace(parts[0], notes=()), parts[1]] if any(any(row.cells) for row in parts[0].rows) else parts[1:]


def refuse_miniature(model: str) -> None:
    """Raises InputError for a model that the miniature's world is nothing to."""
    from hermesflow import recipes

    if not recipes.is_miniature(model):
        raise InputError(f"--data: {model} is too large for the miniature; give a folder with homologous.jsonl")


def tell_left_out(counts: Mapping[str, int]) -> None:
    for reason, count in counts.items():
        if count:
            out.print(f"  left out: {count} {reason}", highlight=False, markup=False, soft_wrap=True)
