"""The gap between understanding and drawing, on homologous items: an image, its caption, and questions about both.

Asked: the model answers every question about the real image, and draws the caption. The same questions are then put to
a judge about the drawing; and, because "model on the real image" and "judge on the drawing" differ in the answerer
too, the judge is also asked about the real image and the model about its own drawing.

    U_self   model, real image          U_judge  judge, real image
    G_self   model, drawing             G_judge  judge, drawing

Judged: which of the choices an answer of the model's means is decided by a rule (matching.py); a judge's answer must be
the right one, word for word.

Averaged over questions: gap = U_self - G_judge, the protocol of HermesFlow (arXiv 2502.12148, table 4). It splits into
the answerer effect, U_self - U_judge, and what the drawing lost, U_judge - G_judge. Per question, understood (U_self)
against drawn (G_judge) gives the table p11, p10, p01, p00, and gap = p10 - p01. Where a caption's questions can be
answered with yes or no the answer is mostly yes, so the shares of yes are told as well: who always says it scores high.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from gapbench import homologous, judges
from gapbench.data import journeydb
from gapbench.data.sources import VARIABLE, digest, given_folder
from gapbench.homologous import Homologous, HomologousQuestion
from gapbench.judges import Judge
from gapbench.prompts import SHORT_ANSWER
from gapbench.records import (
    Decoding,
    Estimate,
    Failure,
    InputError,
    Item,
    Judgement,
    Picture,
    Prompt,
    Question,
    Record,
    Weighing,
)
from gapbench.responses import read_text
from gapbench.skills import SKILLS
from gapbench.tasks.base import Drawings, Items, Options, Response, Stream
from gapbench.tasks.gap_metrics import CELLS, MEASURES, by_skill, metrics, rows
from gapbench.tasks.matching import Exact, Matching, matches, matching

if TYPE_CHECKING:
    from gapbench.miniature.benchmarks import HomologousScene

__all__ = ["CELLS", "MEASURES", "Gap", "by_skill", "metrics", "mini", "real", "rows"]

JUDGE = "openai:gpt-4o"  # the paper's
DECODING = Decoding(max_new_tokens=32)  # the model's answers


class _Known(NamedTuple):
    items: int
    questions: int
    digest: str


@dataclass(frozen=True)
class Gap:
    """The gap of a model over `data`, which can be gone through again and again, those of a cluster together.

    `source` names the data, `about` is what else is told of them. `judge_model` may be None where nothing is judged.
    """

    name: str
    data: Iterable[Homologous]
    judge_model: Judge | None
    source: str
    matching: Matching = field(default_factory=Exact)
    seeds: tuple[int, ...] = (0,)
    about: Mapping[str, Any] = field(default_factory=dict)

    version = "2"
    side = "both"
    parts = ("real", "drawn", "own")
    decoding = DECODING

    @property
    def weighs(self) -> bool:
        return self.matching.weighs

    @cached_property
    def _known(self) -> _Known:
        items, questions = 0, 0

        def rows() -> Iterator[list[Any]]:
            nonlocal items, questions
            for h in self.data:
                items, questions = items + 1, questions + len(h.questions)
                asked = [[q.text, list(q.choices), q.answer, q.skill, q.type] for q in h.questions]
                yield [h.id, h.cluster, h.caption, asked]

        told = digest(rows())
        return _Known(items, questions, told)

    def items(self, part: str, drawings: Drawings) -> Items:
        match part:
            case "real":
                return Stream(self._known.questions, self._real)
            case "drawn":
                return Stream(self._known.items * len(self.seeds), self._drawn)
        return Stream(self._known.questions * len(self.seeds), lambda: self._own(drawings))

    def _real(self) -> Iterator[Item]:
        return (self._asked(h, k, h.picture, 0, "real") for h in self.data for k in range(len(h.questions)))

    def _drawn(self) -> Iterator[Item]:
        for h in self.data:
            skills = tuple(sorted({q.skill for q in h.questions}, key=SKILLS.index))
            for seed in self.seeds:
                yield Item(h.id, h.cluster, skills, Prompt(h.id, h.caption, seed), {"item": h}, "drawn")

    def _own(self, drawings: Drawings) -> Iterator[Item]:
        for h in self.data:
            for seed in self.seeds:
                drawing = drawings(h.id, seed) or _missing(h.id, seed)
                for k in range(len(h.questions)):
                    yield self._asked(h, k, drawing, seed, "own")

    def _asked(self, h: Homologous, number: int, picture: Picture, seed: int, part: str) -> Item:
        question = h.questions[number]
        name = f"{h.id}/{number}" if part == "real" else f"{h.id}/{number}@{seed}"
        ask: Question | Weighing
        ask = Question(name, question.text + SHORT_ANSWER, (picture,), question.choices)
        if self.weighs:
            if not question.choices:
                raise InputError(f"--matching likelihood: {name} has no choices to weigh; choose another rule")
            ask = Weighing(name, tuple((ask, f" {choice}") for choice in question.choices))
        return Item(name, h.cluster, (question.skill,), ask, {"question": question}, part)

    def judge(self, items: Sequence[Item], responses: Sequence[Response]) -> list[Judgement]:
        part = items[0].part
        if part == "drawn":
            return self._judge_drawings(items, responses)
        questions: list[HomologousQuestion] = [item.truth["question"] for item in items]
        said = self.matching.said(questions, responses)
        judgements = [
            Judgement(float(matches(s, q.answer)), {"question": q.text, "answer": q.answer, "said": s})
            for q, s in zip(questions, said, strict=True)
        ]
        if part == "own":
            return judgements
        bare = [_bare(item.id, q, _picture(item)) for item, q in zip(items, questions, strict=True)]
        return [
            Judgement(
                judged.score,
                {**judged.details, **({"type": q.type} if q.type else {}), "judge": _verdict(verdict, q.answer)},
            )
            for judged, q, verdict in zip(judgements, questions, self.judge_model.judge(bare), strict=True)
        ]

    def _judge_drawings(self, items: Sequence[Item], drawings: Sequence[Response]) -> list[Judgement]:
        bare: list[Question] = []
        for item, drawing in zip(items, drawings, strict=True):
            if not isinstance(drawing, Failure):
                # Told by its pixels: another model draws the same item.
                pixels = hashlib.sha256(drawing.tobytes()).hexdigest()[:16]
                picture = Picture(f"{self.name}/{item.id}@{item.seed}/{pixels}", lambda drawing=drawing: drawing)
                for number, question in enumerate(item.truth["item"].questions):
                    bare.append(_bare(f"{item.id}/{number}@{item.seed}", question, picture))
        said = iter(list(self.judge_model.judge(bare)))
        judgements = []
        for item, drawing in zip(items, drawings, strict=True):
            questions = item.truth["item"].questions
            if isinstance(drawing, Failure):
                verdicts = [{"said": None, "right": False} for _ in questions]
            else:
                verdicts = [_verdict(next(said), question.answer) for question in questions]
            judged = [v["right"] for v in verdicts if v["right"] is not None]
            score = float(np.mean(judged)) if judged else None
            judgements.append(Judgement(score, {"prompt": item.ask.text, "questions": verdicts}))
        return judgements

    def metrics(self, records: Sequence[Record]) -> dict[str, Estimate]:
        return metrics(records)

    def unjudged(self, records: Sequence[Record]) -> int:
        return rows(records)[1]

    def protocol(self) -> dict[str, Any]:
        judge = dict(self.judge_model.describe()) if self.judge_model else {"name": None}
        known = self._known
        return {
            "data": f"{self.source}: {known.items} items, {known.questions} questions ({known.digest})",
            **self.about,
            "U_answerer": "self",
            "G_answerer": judge.pop("name", None),
            "judge": judge,
            "images_per_prompt": len(self.seeds),
            "seeds": list(self.seeds),
            "drawn_from": "caption",
            "prompt": "{question}" + SHORT_ANSWER,
            "matching": dict(self.matching.describe()),
            "weighting": "mean over questions",
        }


def _missing(item: str, seed: int) -> Picture:
    def refuse() -> Image.Image:
        raise OSError("there is no drawing to ask about")

    return Picture(f"{item}@{seed}", refuse)


def _picture(item: Item) -> Picture:
    ask = item.ask.asks[0][0] if isinstance(item.ask, Weighing) else item.ask
    return ask.pictures[0]


def _bare(name: str, question: HomologousQuestion, picture: Picture) -> Question:
    return Question(name, question.text, (picture,), question.choices)


def _verdict(said: str | Failure, answer: str) -> dict[str, Any]:
    """What a judge said of one question; `right` is None where it could not judge.

    `reason` is why not, or what the judge says it saw; `snapshot` the model that said so, where there are several.
    """
    if isinstance(said, Failure):
        return {"said": None, "right": None, "reason": said.reason}
    more = {name: value for name in ("reason", "snapshot") if (value := getattr(said, name, None))}
    return {"said": str(said), "right": matches(said, answer), **more}


def mini(options: Options) -> Gap:
    """The gap over the miniature world, judged by the exact eye and matched exactly, unless asked otherwise."""
    from gapbench.miniature import benchmarks

    data = items_of(benchmarks.homologous_scenes())
    return _task("gap-mini", data, benchmarks.DATA, options, "eye", "exact")


def items_of(scenes: Iterable[HomologousScene]) -> list[Homologous]:
    """Scenes of the miniature with the answers to their questions."""
    return [
        Homologous(
            h.id,
            h.picture,
            h.caption,
            tuple(HomologousQuestion(q.text, q.answer(h.scene.things), q.skill, q.choices) for q in h.queries),
        )
        for h in scenes
    ]


def real(options: Options) -> Gap:
    """The gap over one's own homologous items, or over the first image of each of JourneyDB's validation prompts.

    Judged as the paper does by GPT-4o, by default; answers are matched by likelihood where the model weighs texts and
    all questions have choices, else by the nearest choice.
    """
    place = given_folder("gap", options.data)
    made = f"{homologous.FILE} (`gapbench data homologous` makes it of JourneyDB), or JourneyDB's valid/"
    if place is None:
        raise InputError(f"gap: give --data DIR (or {VARIABLE}) with {made}")
    file = place.folder / homologous.FILE if place.folder.is_dir() else place.folder
    if file.is_file():
        items = homologous.read(file, options.pictures)
        order = {cluster: i for i, cluster in enumerate(dict.fromkeys(item.cluster for item in items))}
        items.sort(key=lambda item: order[item.cluster])
        rule = "likelihood" if options.weighs and all(q.choices for h in items for q in h.questions) else "nearest"
        return _task("gap", items, homologous.FILE, options, JUDGE, rule, _written(file))
    if journeydb.find(place.folder, "valid") is None:
        raise InputError(f"gap: {place.folder} has neither {made}")
    data = journeydb.read_journeydb(place.folder, "valid", options.pictures)
    left_out: Counter[str] = Counter()
    for _ in data.first_of_each_prompt(left_out):
        pass
    rule, about = "likelihood" if options.weighs else "nearest", {"left_out": dict(sorted(left_out.items()))}
    return _task("gap", data, "JourneyDB valid, first image of each prompt", options, JUDGE, rule, about)


def _task(
    name: str,
    data: Iterable[Homologous],
    source: str,
    options: Options,
    judge: str,
    rule: str,
    about: Mapping[str, Any] | None = None,
) -> Gap:
    match_by = matching(options.matching or rule, options.device)
    judge_model = judges.judge(options.judge or judge, options.device) if options.pictures else None
    return Gap(name, data, judge_model, source, match_by, (options.seed,), about or {})


def _written(file: Path) -> dict[str, Any]:
    """Who wrote questions, where `gapbench data questions` left word of it."""
    beside = file.with_name("questions.json")
    if not beside.is_file():
        return {}
    try:
        return {"questions": json.loads(read_text(beside))["questions"]}
    except (ValueError, LookupError, TypeError):
        raise InputError(f"{beside}: does not say who wrote the questions; write it anew or remove it") from None
