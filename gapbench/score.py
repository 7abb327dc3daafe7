"""Scoring responses made by any system: an answer file in, metrics with their intervals out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gapbench import drawings, tasks
from gapbench.data.drawn import located
from gapbench.records import Estimate, InputError, Record
from gapbench.responses import KINDS, Saved, refuse_faults
from gapbench.run import unjudged
from gapbench.tasks import (
    flickr30k_answers,
    gqa,
    mme,
    mme_answers,
    mmmu,
    mmmu_answers,
    pope,
    pope_answers,
    vqav2,
    vqav2_answers,
)
from gapbench.tasks.base import Options

Metrics = Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class Scorer:
    """What it takes to score a task without a model. `remarks` are notes made of the records and their metrics."""

    variants: tuple[str, ...]
    read: Callable[[Path, Path | None], Saved]
    metrics: Callable[[Sequence[Record], str], Metrics]
    unparsed: Callable[[Record], bool] = lambda record: False
    remarks: Callable[[Sequence[Record], Metrics], tuple[str, ...]] = lambda records, metrics: ()


SCORERS = {
    "pope": Scorer(pope.VARIANTS, pope_answers.read, pope.metrics, pope_answers.unparsed, pope_answers.remarks),
    "mmmu": Scorer(mmmu.VARIANTS, mmmu_answers.read, mmmu.metrics, mmmu_answers.unparsed, mmmu.remarks),
    "mme": Scorer(mme.VARIANTS, mme_answers.read, lambda records, _: mme.metrics(records), pope_answers.unparsed),
    "gqa": Scorer(gqa.VARIANTS, gqa.read_saved, lambda records, _: gqa.metrics(records), remarks=gqa.remarks),
    "vqav2": Scorer(
        vqav2.VARIANTS, vqav2_answers.read, lambda records, _: vqav2.metrics(records), remarks=vqav2_answers.remarks
    ),
    "flickr30k": Scorer(
        flickr30k_answers.VARIANTS,
        flickr30k_answers.read_saved,
        flickr30k_answers.metrics,
        remarks=flickr30k_answers.remarks,
    ),
    "flickr30k-karpathy": Scorer(
        flickr30k_answers.VARIANTS,
        flickr30k_answers.read_saved_karpathy,
        flickr30k_answers.metrics,
        remarks=flickr30k_answers.remarks,
    ),
}
DRAWN = ("geneval", "geneval-rewritten", "dpg", "coco")  # scored from folders of images
# The rules that each task can be judged by, the default first.
VARIANTS = {task: scorer.variants for task, scorer in SCORERS.items()} | dict.fromkeys(DRAWN, ("official",))


@dataclass(frozen=True, slots=True)
class Scored:
    """A score and everything needed to believe it. The first metric is the headline.

    counts: expected, done, missing, extra, duplicate, unreadable, unparsed. `partial` where any answer was amiss and
    the caller wanted the score all the same; it is then of done/expected items.
    """

    task: str
    variant: str
    metrics: Metrics
    counts: Mapping[str, int]
    partial: bool
    notes: tuple[str, ...]
    records: tuple[Record, ...] = field(repr=False)


def score(
    task: str,
    responses: Path,
    data: Path | None = None,
    variant: str | None = None,
    allow_partial: bool = False,
    judge: str | None = None,
    device: str | None = None,
) -> Scored:
    """Score the answer file or folder `responses`; `data` is the folder of the benchmark's own files.

    Drawings are judged by the task's judge, or the one that `judge` names, on `device`.

    Raises InputError, one line, for an unknown task or variant, for files that cannot be read, and for answers that
    are missing, extra, duplicate or unreadable unless `allow_partial`.
    """
    if task in vqav2_answers.SUBMITTED:
        raise InputError(f"{task}: its answers are not public; `gapbench submission {task}` writes the server's file")
    if task not in VARIANTS:
        raise InputError(f"unknown task {task!r}; tasks that can be scored: {', '.join(VARIANTS)}")
    variant = VARIANTS[task][0] if variant is None else variant
    if variant not in VARIANTS[task]:
        raise InputError(f"unknown variant {variant!r} of {task}; variants: {', '.join(VARIANTS[task])}")
    responses, data = Path(responses), None if data is None else Path(data)
    if not responses.exists():
        raise InputError(f"{responses}: no such file or folder")
    if task in DRAWN:
        return _score_drawings(task, responses, Options(0, data, allow_partial, judge=judge, device=device))
    scorer = SCORERS[task]
    saved = scorer.read(responses, data)
    refuse_faults(responses, saved.answers, allow_partial)
    records = saved.judge(variant)
    metrics = scorer.metrics(records, variant)
    answers = saved.answers
    counts = {
        "expected": answers.expected,
        "done": len(answers.given),
        **{kind: len(answers.wrong[kind]) for kind in KINDS},
        "unparsed": sum(map(scorer.unparsed, records)),
    }
    notes = saved.notes + scorer.remarks(records, metrics)
    if not answers.whole:
        notes += (f"partial, {counts['done']}/{counts['expected']}: {answers.faults()}",)
    return Scored(task, variant, metrics, counts, not answers.whole, notes, tuple(records))


def _score_drawings(name: str, folder: Path, options: Options) -> Scored:
    """What is there is told before a judge is loaded."""
    asking = tasks.load(name, replace(options, pictures=False))
    items = list(asking.items("", lambda item, seed: None))
    prompts = list({item.id: item.ask.text for item in items}.values())
    found, bad, open_image = located(name, folder, prompts)
    answers = drawings.checked(items, found, bad, open_image)
    refuse_faults(folder, answers, options.allow_partial)
    task = tasks.load(name, options)
    records = tuple(drawings.judged(task, items, answers, open_image))
    counts = {"expected": answers.expected, "done": len(answers.given)}
    counts |= {kind: len(answers.wrong[kind]) for kind in KINDS}
    counts |= {"unparsed": unjudged(task, records)}
    notes = tuple(f"{key}: {value}" for key, value in task.protocol().items())
    if not answers.whole:
        notes += (f"partial, {counts['done']}/{counts['expected']}: {answers.faults()}",)
    return Scored(name, "official", task.metrics(records), counts, not answers.whole, notes, records)
