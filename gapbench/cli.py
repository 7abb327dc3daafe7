"""The command line; with cli_data.py the only file that parses arguments, and with terminal.py that prints."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gapbench import cli_report, cli_serve
from gapbench.cli_data import AllowPartial, Debug, data_commands
from gapbench.records import InputError, Sampling
from gapbench.terminal import Progress, err, out, show

if TYPE_CHECKING:
    from gapbench.models.zoo import Entry
    from gapbench.run import Shard
    from gapbench.score import Scored
    from gapbench.store import RunFolder

app = typer.Typer(
    help="Measures what unified multimodal models understand, what they can draw, and the gap between the two.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_commands, name="data")

UsageError = typer.BadParameter.__mro__[1]  # click's, wherever this version of typer keeps it
INTERRUPTED = 130


@app.command()
def run(
    model: Annotated[
        str, typer.Option(help="A zoo name (`gapbench list models`) or a checkpoint folder.")
    ] = "show-o-mini",
    suite: Annotated[
        str | None, typer.Option(help="A named list of tasks (`gapbench list suites`); by default the model's.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="Comma-separated tasks, in place of the whole suite; lm-eval:NAME is a task of lm-eval's."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images or prompts of each task.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with the benchmarks' data; by default GAPBENCH_DATA, the cache, the hub."),
    ] = None,
    allow_partial: AllowPartial = False,
    judge: Annotated[
        list[str] | None, typer.Option(metavar="TASK=JUDGE", help="Who judges a task's drawings, if not its own judge.")
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(help="Server of models and judges named openai:NAME; by default OPENAI_BASE_URL, then OpenAI."),
    ] = None,
    matching: Annotated[
        str | None, typer.Option(help="How the gap's answers are matched: likelihood, exact or nearest.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first drawing of a prompt.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps; by default the checkpoint's.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="Guidance scale; by default the checkpoint's.")] = None,
    to: Annotated[Path | None, typer.Option("--out", help="Run folder; by default runs/MODEL-SUITE-TIME.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; by default a GPU if there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; bfloat16 on CUDA.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let Python files that come with the weights run.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Measure a model. Without options: the embedded miniature model on the embedded miniature world.

    A run that was interrupted goes on with the same command.
    """
    from gapbench import tasks as catalogue
    from gapbench.data.sources import reads_data
    from gapbench.manifest import finish, open_run, request_of
    from gapbench.models import zoo
    from gapbench.run import Runner, check_sides
    from gapbench.tasks.base import Options

    model = _served(model, base_url)
    entry = zoo.resolve(model, trust_remote_code)
    suite = suite or entry.suite
    named = catalogue.names(suite, tasks)
    if tasks is None:
        named = _able(entry, named)
    if data is not None and not any(map(reads_data, named)):
        raise InputError(f"--data: {', '.join(named)} reads no data; for the real benchmarks add --suite paper")
    judges = {task: _served(name, base_url) for task, name in _judges(judge or (), named).items()}
    if base_url and not any(f"@{base_url}" in name for name in (model, *judges.values())):
        raise InputError(f"--base-url {base_url}: neither the model nor a judge is openai:NAME without a server")
    shard, device = shard_of(device, to)
    place = str(zoo.device_of(device))
    options = Options(seed, data, allow_partial, device=place, matching=matching, weighs=entry.weighs)
    chosen = catalogue.load_all(named, options, judges)
    loaded = zoo.load(model, device, dtype, trust_remote_code)
    check_sides(loaded, chosen, model)
    sampling = Sampling(steps=steps, guidance=guidance)
    request = request_of(loaded, chosen, sampling, limit)
    folder, manifest = open_run(to, f"{_slug(model)}-{suite}", request, shard)
    if shard.leads:
        err.print(f"run folder: {folder.path}", highlight=False)

    started = time.time()
    progress = Progress() if shard.leads else None
    on_gpu = str(loaded.describe().get("device", "")).startswith("cuda")
    found = Runner(loaded, chosen, folder, sampling, limit, shard, progress, overlap=on_gpu).run()
    if shard.leads:
        manifest["seconds"] = round(manifest["seconds"] + time.time() - started, 1)
        finish(folder, manifest, found, chosen)
        _show_run(folder, found)


@app.command()
def score(
    task: Annotated[str, typer.Argument(help="A task that can be scored (`gapbench list tasks`).")],
    responses: Annotated[
        Path, typer.Option(help="JSON lines with id and response, the benchmark's own format, or a folder of drawings.")
    ],
    data: Annotated[Path | None, typer.Option(help="Folder with the benchmark's annotation files.")] = None,
    variant: Annotated[str | None, typer.Option(help="Whose scoring rules; by default the official ones.")] = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Score what is there, marked partial.")
    ] = False,
    judge: Annotated[str | None, typer.Option(help="Who judges drawings, if not the task's own judge.")] = None,
    device: Annotated[str | None, typer.Option(help="Where the judge runs: cpu, cuda ...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to standard output, and nothing else.")] = False,
    debug: Debug = False,
) -> None:
    """Score answers or drawings that any system gave, by the official rules."""
    from gapbench import score as scoring

    scored = scoring.score(task, responses, data, variant, allow_partial, judge, device)
    if as_json:
        print(json.dumps(_scored_json(scored), indent=1))
        return
    _show_scored(scored)


@app.command()
def submission(
    task: Annotated[str, typer.Argument(help="vqav2-testdev or vqav2-test")],
    responses: Annotated[Path, typer.Option(help="A run's records/TASK.jsonl, JSON lines with id and response ...")],
    to: Annotated[Path, typer.Option("--out", help="File to write, for the evaluation server.")],
    data: Annotated[Path | None, typer.Option(help="Question file or folder; by default where `run` looks.")] = None,
    everything: Annotated[
        Path | None, typer.Option(help="Question file of all that the server wants; unasked ones get an empty answer.")
    ] = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Give missing answers as empty ones, and say how many.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Write VQAv2's answers for the evaluation server, whose golds are not public."""
    from gapbench.data import sources
    from gapbench.tasks import vqav2_answers

    if task not in vqav2_answers.SUBMITTED:
        raise InputError(f"submission {task}: there is {' and '.join(vqav2_answers.SUBMITTED)}")
    asked = data if data is not None and data.is_file() else sources.find(task, data, fetch=False).folder
    split = vqav2_answers.SUBMITTED[task]
    answers = vqav2_answers.write_submission(responses, asked, to, everything, allow_partial, split)
    err.print(f"wrote {to}: {len(answers.given)} of {answers.expected} answers", highlight=False)
    if not answers.whole:
        err.print(f"  {answers.faults()}", highlight=False)
    if split == "testdev" and everything is None:
        wanted = "of test-dev alone; where the server wants all of test, name its question file with --everything"
        err.print(f"  {wanted}", highlight=False)


cli_report.register(app)
cli_serve.register(app)


@app.command(
    name="lm-eval",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def lm_eval(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="ARGS...", help="lm-eval's arguments.")] = None,
    debug: Debug = False,
) -> None:
    """lm-evaluation-harness with these models: `--model gapbench --model_args model=NAME,device=cpu`."""
    from gapbench import harness

    harness.main(arguments or [])


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(help="models, tasks, suites or judges")],
    debug: Debug = False,
) -> None:
    """What there is."""
    from gapbench import judges
    from gapbench import score as scoring
    from gapbench import tasks as catalogue
    from gapbench.models import zoo

    if what == "models":
        for entry in zoo.entries().values():
            where = entry.repo or entry.target or "in this package"
            out.print(f"{entry.name:22} {where:36} {entry.note}", highlight=False, soft_wrap=True)
    elif what == "tasks":
        for name in catalogue.TASKS:
            out.print(f"{name:22} run", highlight=False)
        out.print(f"{'lm-eval:NAME':22} run (a task of lm-eval's, or a YAML file in its format)", highlight=False)
        for name, variants in scoring.VARIANTS.items():
            out.print(f"{name:22} score (variants: {', '.join(variants)})", highlight=False)
    elif what == "judges":
        for name, what_it_is in judges.KNOWN.items():
            out.print(f"{name:22} {what_it_is}", highlight=False, markup=False, soft_wrap=True)
    elif what == "suites":
        for name, members in catalogue.SUITES.items():
            out.print(f"{name:22} {', '.join(members)}", highlight=False, soft_wrap=True)
    else:
        raise InputError(f"gapbench list {what}: choose models, tasks, suites or judges")


# --- what the commands share ------------------------------------------------------------------------------------------


def _judges(given: Sequence[str], tasks: Sequence[str]) -> dict[str, str]:
    """TASK=JUDGE of each `--judge`."""
    judges = {"gap": "openai:gpt-4o"} if "gap" in tasks else {}
    for text in given:
        task, equals, judge = text.partition("=")
        if not equals or not judge or task not in tasks:
            raise InputError(f"--judge {text}: give TASK=JUDGE, TASK one of {', '.join(tasks)}")
        judges[task] = judge
    return judges


def _served(name: str, base_url: str | None) -> str:
    """The name of a model or judge with the server that `--base-url` gives to those that name none."""
    return f"{name}@{base_url}" if base_url and name.startswith("openai:") and "@http" not in name else name


def _able(entry: Entry, named: list[str]) -> list[str]:
    """The suite's tasks that the model can do; tells of the others."""
    from gapbench import tasks as catalogue

    able = [name for name in named if all(getattr(entry, side) for side in catalogue.sides(name))]
    if left_out := [name for name in named if name not in able]:
        does = "draws" if entry.draws else "answers"
        err.print(f"{entry.name} only {does}: without {', '.join(left_out)}", highlight=False)
    return able


def _slug(model: str) -> str:
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in Path(model).name) or "model"


def shard_of(device: str | None, to: Path | None) -> tuple[Shard, str | None]:
    """This process's share under torchrun, and the device that it should take."""
    from gapbench.run import Shard

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Shard(), device
    if to is None:
        raise InputError("--out: give the run folder when several processes share a run")
    from datetime import timedelta

    import torch
    from accelerate import PartialState

    on_cpu = device == "cpu" or not torch.cuda.is_available()
    # Ranks wait for the slowest at the end of a task, which may take hours; the default time limit is minutes.
    state = PartialState(cpu=on_cpu, timeout=timedelta(days=7))
    shard = Shard(state.process_index, state.num_processes, state.wait_for_everyone)
    return shard, device or str(state.device)


# --- printing ---------------------------------------------------------------------------------------------------------


def _show_run(folder: RunFolder, found: dict[str, Any]) -> None:
    from gapbench.report.tables import summary

    show(summary(found))
    out.print(f"model {found['model']}, run folder {folder.path}", highlight=False, soft_wrap=True)
    made = ("results.json", "diagnostics.json", "records", "images", "drawings.png")
    out.print("  " + "  ".join(name for name in made if (folder.path / name).exists()), highlight=False)


def _show_scored(scored: Scored) -> None:
    from dataclasses import asdict

    from gapbench.report import tables

    title, lines = tables.headlines(scored.task)
    metrics = {name: asdict(estimate) for name, estimate in scored.metrics.items()}
    rest = len(metrics.keys() - lines.keys())
    remarks = [*scored.notes, *([f"{rest} more metrics with --json"] if rest else [])]
    show([tables.metric_table(f"{title}, {scored.variant}", metrics, lines, remarks, digits=4)])
    if not scored.task.startswith(("flickr30k", "dpg", "coco")):  # these are not right or wrong
        right, n = sum(record.score or 0.0 for record in scored.records), len(scored.records)
        out.print(f"  {right:g} of {n} right ({right / n:.4f})", highlight=False)
    counts = ", ".join(f"{count} {name}" for name, count in scored.counts.items() if count or name == "expected")
    out.print(f"  {counts}", highlight=False)


def _scored_json(scored: Scored) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "task": scored.task,
        "variant": scored.variant,
        "partial": scored.partial,
        "counts": dict(scored.counts),
        "notes": list(scored.notes),
        "metrics": {name: asdict(estimate) for name, estimate in scored.metrics.items()},
    }


def guarded(command_line: typer.Typer) -> None:
    """Run a command line; wrong input is one line on standard error and exit status 2."""
    debug = "--debug" in sys.argv
    try:
        status = command_line(args=sys.argv[1:] or ["--help"], standalone_mode=False)
        if status == INTERRUPTED:  # typer's answer to Ctrl-C
            raise KeyboardInterrupt
    except UsageError as error:
        asked = error.ctx.command_path if error.ctx else "gapbench"
        _fail(f"{error.format_message().rstrip('.')}; `{asked} --help` shows what there is", 2)
    except InputError as error:
        if debug:
            raise
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("interrupted; the same command goes on from here", INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        _fail(f"{type(error).__name__}: {error} (--debug shows where)", 1)


def _fail(message: str, status: int) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(status)


def main() -> None:
    guarded(app)


if __name__ == "__main__":
    main()
