"""Scoring responses made by any system: an answer file in, metrics with their intervals out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gapbench.records import Estimate, InputError, Item, Judgement, Record
from gapbench.responses import KINDS, Answers, mmmu_answers, pope_answers
from gapbench.tasks import mmmu, pope

# Every task that can be scored without a model, and the rules it can be judged by, the default first.
VARIANTS = {"pope": pope.VARIANTS, "mmmu": mmmu.VARIANTS}


@dataclass(frozen=True, slots=True)
class Scored:
    """A score and everything needed to believe it. The first metric is the headline.

    counts: expected, done, missing, extra, duplicate, unreadable, unparsed. `partial` where any answer was amiss and
    the caller wanted the score all the same; it is then of done/expected items.
    """

    task: str
    variant: str
    metrics: Mapping[str, Estimate]
    counts: Mapping[str, int]
    partial: bool
    notes: tuple[str, ...]
    records: tuple[Record, ...] = field(repr=False)


def score(
    task: str, responses: Path, data: Path | None = None, variant: str | None = None, allow_partial: bool = False
) -> Scored:
    """Score the answer file or folder `responses`; `data` is the folder of the benchmark's own files.

    Raises InputError, one line, for an unknown task or variant, for files that cannot be read, and for answers that
    are missing, extra, duplicate or unreadable unless `allow_partial`.
    """
    if task not in VARIANTS:
        raise InputError(f"unknown task {task!r}; tasks that can be scored: {', '.join(VARIANTS)}")
    variant = VARIANTS[task][0] if variant is None else variant
    if variant not in VARIANTS[task]:
        raise InputError(f"unknown variant {variant!r} of {task}; variants: {', '.join(VARIANTS[task])}")
    responses, data = Path(responses), None if data is None else Path(data)
    if not responses.exists():
        raise InputError(f"{responses}: no such file or folder")
    return _SCORERS[task](responses, data, variant, allow_partial)


def _score_pope(responses: Path, data: Path | None, variant: str, allow_partial: bool) -> Scored:
    if data is None:
        raise InputError("score pope needs --data, a folder with the official coco_pope_{random,...}.json")
    annotations = pope.read_annotations(data)
    answers = pope_answers(responses, annotations.items)
    _refuse_faults(responses, answers, allow_partial)
    records = []
    for item in annotations.items:
        if item.id in answers.given:
            judgement = pope.judge_answer(item.truth["label"], answers.given[item.id], variant)
            records.append(_record("pope", item, answers.given[item.id], judgement))
    unparsed = sum(record.details["said"] == "other" for record in records)
    metrics = pope.metrics(records, variant)
    return _scored("pope", variant, metrics, answers, unparsed, (f"data: {annotations.data}",), records)


def _record(task: str, item: Item, response: str, judgement: Judgement) -> Record:
    details = {**judgement.details, "split": item.truth["split"]}
    return Record(task, item.id, item.cluster, item.skills, item.seed, response, judgement.score, details)


def _score_mmmu(responses: Path, data: Path | None, variant: str, allow_partial: bool) -> Scored:
    read = mmmu_answers(responses, data)
    _refuse_faults(responses, read.answers, allow_partial)
    records = []
    for name, response in read.answers.given.items():
        judgement = mmmu.judge_answer(read.references[name], response, variant)
        records.append(
            Record("mmmu", name, name, ("knowledge",), 0, response, judgement.score, details=judgement.details)
        )
    unparsed = sum(map(mmmu.unparsed, records))
    if variant == "official-random":
        records = mmmu.guess(records)
    return _scored("mmmu", variant, mmmu.metrics(records), read.answers, unparsed, (), records)


def _refuse_faults(responses: Path, answers: Answers, allow_partial: bool) -> None:
    if not answers.given:
        raise InputError(f"{responses}: none of the {answers.expected} expected answers: {answers.faults()}")
    if not answers.whole and not allow_partial:
        raise InputError(
            f"{responses}: of {answers.expected} expected answers {answers.faults()}; "
            "complete the file, or score what is there with --allow-partial"
        )


def _scored(
    task: str,
    variant: str,
    metrics: Mapping[str, Estimate],
    answers: Answers,
    unparsed: int,
    notes: tuple[str, ...],
    records: list[Record],
) -> Scored:
    counts = {
        "expected": answers.expected,
        "done": len(answers.given),
        **{kind: len(answers.wrong[kind]) for kind in KINDS},
        "unparsed": unparsed,
    }
    if not answers.whole:
        notes += (f"partial, {counts['done']}/{counts['expected']}: {answers.faults()}",)
    return Scored(task, variant, metrics, counts, not answers.whole, notes, tuple(records))


_SCORERS = {"pope": _score_pope, "mmmu": _score_mmmu}
