"""The gap between understanding and drawing, on homologous items: an image, its caption, and questions about both.

Asked: the model answers every question about the real image, and draws the caption. The same questions are then put to
a judge about the drawing; and, because "model on the real image" and "judge on the drawing" differ in the answerer
too, the judge is also asked about the real image and the model about its own drawing.

    U_self   model, real image          U_judge  judge, real image
    G_self   model, drawing             G_judge  judge, drawing

Averaged over questions: gap = U_self - G_judge, the protocol of HermesFlow (arXiv 2502.12148, table 4). It splits into
the answerer effect, U_self - U_judge, and what the drawing lost, U_judge - G_judge. Per question, understood (U_self)
against drawn (G_judge) gives the table p11, p10, p01, p00, and gap = p10 - p01.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from gapbench import stats
from gapbench.homologous import Homologous, HomologousQuestion
from gapbench.models.base import Answers
from gapbench.prompts import SHORT_ANSWER
from gapbench.records import Decoding, Estimate, Failure, Item, Judgement, Picture, Prompt, Question, Record
from gapbench.skills import SKILLS
from gapbench.tasks.base import Drawings, Options, Response

T = TypeVar("T")

CELLS = ("p11", "p10", "p01", "p00")
MEASURES = ("U", "G", "gap", *CELLS)
DECODING = Decoding(max_new_tokens=32)  # the model's and a judge's answers
_EXTRA = ("U_judge", "G_self", "answerer_effect", "drawing_loss")


def normal(answer: str) -> str:
    return " ".join(answer.lower().split()).rstrip(" .")


def matches(response: Response, answer: str) -> bool:
    return isinstance(response, str) and normal(response) == normal(answer)


@dataclass(frozen=True)
class Gap:
    """The gap of a model over `data`, with any model that answers as the judge."""

    name: str
    data: Sequence[Homologous]
    judge_model: Answers
    judge_name: str
    source: str
    seeds: tuple[int, ...] = (0,)

    version = "1"
    side = "both"
    parts = ("real", "drawn", "own")
    decoding = DECODING

    def items(self, part: str, drawings: Drawings) -> list[Item]:
        match part:
            case "real":
                return [self._asked(h, k, h.picture, 0, part) for h in self.data for k in range(len(h.questions))]
            case "drawn":
                return [
                    Item(
                        h.id,
                        h.id,
                        tuple(sorted({q.skill for q in h.questions}, key=SKILLS.index)),
                        Prompt(h.id, h.caption, seed),
                        {"item": h},
                        part,
                    )
                    for h in self.data
                    for seed in self.seeds
                ]
        found = []
        for h in self.data:
            for seed in self.seeds:
                drawing = drawings(h.id, seed) or _missing(h.id, seed)
                found += [self._asked(h, k, drawing, seed, part) for k in range(len(h.questions))]
        return found

    def _asked(self, h: Homologous, number: int, picture: Picture, seed: int, part: str) -> Item:
        question = h.questions[number]
        name = f"{h.id}/{number}" if part == "real" else f"{h.id}/{number}@{seed}"
        ask = Question(name, question.text + SHORT_ANSWER, (picture,), question.choices)
        return Item(name, h.id, (question.skill,), ask, {"answer": question.answer}, part)

    def judge(self, items: Sequence[Item], responses: Sequence[Response]) -> list[Judgement]:
        part = items[0].part
        if part == "drawn":
            return self._judge_drawings(items, responses)
        answers = [item.truth["answer"] for item in items]
        right = [matches(response, answer) for response, answer in zip(responses, answers, strict=True)]
        if part == "own":
            return [Judgement(float(r), {"answer": a}) for r, a in zip(right, answers, strict=True)]
        said = list(self.judge_model.answer([item.ask for item in items], DECODING))
        return [
            Judgement(float(r), {"answer": a, "judge": _verdict(s, a)})
            for r, a, s in zip(right, answers, said, strict=True)
        ]

    def _judge_drawings(self, items: Sequence[Item], drawings: Sequence[Response]) -> list[Judgement]:
        questions, wanted = [], []
        for item, drawing in zip(items, drawings, strict=True):
            if isinstance(drawing, Failure):
                continue
            picture = Picture(f"{self.name}/{item.id}@{item.seed}", lambda drawing=drawing: drawing)
            for question in item.truth["item"].questions:
                questions.append(Question(item.id, question.text + SHORT_ANSWER, (picture,), question.choices))
                wanted.append(question.answer)
        said = iter(list(self.judge_model.answer(questions, DECODING)))
        wanted = iter(wanted)
        judgements = []
        for item, drawing in zip(items, drawings, strict=True):
            if isinstance(drawing, Failure):
                verdicts = [{"said": None, "right": False} for _ in item.truth["item"].questions]
            else:
                verdicts = [_verdict(next(said), next(wanted)) for _ in item.truth["item"].questions]
            judged = [v["right"] for v in verdicts if v["right"] is not None]
            score = float(np.mean(judged)) if judged else None
            judgements.append(Judgement(score, {"prompt": item.ask.text, "questions": verdicts}))
        return judgements

    def metrics(self, records: Sequence[Record]) -> dict[str, Estimate]:
        return metrics(records)

    def unjudged(self, records: Sequence[Record]) -> int:
        return rows(records)[1]

    def protocol(self) -> dict[str, Any]:
        return {
            "data": self.source,
            "U_answerer": "self",
            "G_answerer": self.judge_name,
            "images_per_prompt": len(self.seeds),
            "seeds": list(self.seeds),
            "prompt": "{question}" + SHORT_ANSWER,
            "matching": "exact after lower-casing, collapsing spaces and dropping a final full stop",
            "weighting": "mean over questions",
        }


def _missing(item: str, seed: int) -> Picture:
    def refuse() -> Image.Image:
        raise OSError("there is no drawing to ask about")

    return Picture(f"{item}@{seed}", refuse)


def _verdict(said: str | Failure, answer: str) -> dict[str, Any]:
    """What a judge said of one question; `right` is None where it could not judge."""
    if isinstance(said, Failure):
        return {"said": None, "right": None, "reason": said.reason}
    return {"said": said, "right": matches(said, answer)}


def mini(options: Options) -> Gap:
    """The gap over the miniature world, judged by the exact eye."""
    from gapbench.miniature import benchmarks, eye

    data = [
        Homologous(
            h.id,
            h.picture,
            h.caption,
            tuple(HomologousQuestion(q.text, q.answer(h.scene.things), q.skill, q.choices) for q in h.queries),
        )
        for h in benchmarks.homologous_scenes()
    ]
    return Gap("gap-mini", data, eye.Eye(), "exact eye", benchmarks.DATA, seeds=(options.seed,))


# --- What is averaged over what ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One question of one item, from all sides; a mean over seeds where there are several drawings."""

    cluster: str
    skills: tuple[str, ...]
    U_self: float
    U_judge: float
    G_judge: float
    G_self: float
    p11: float
    p10: float
    p01: float
    p00: float


def rows(records: Iterable[Record]) -> tuple[list[Row], int]:
    """Join a gap task's records by question. Also how many questions no judge could decide and neither side counts.

    A question counts once its real, drawn and own records are there, so a run that was cut off compares like with like.
    """
    real: dict[str, Record] = {}
    drawn: dict[str, list[Record]] = {}
    own: dict[str, Record] = {}
    for record in records:
        match record.part:
            case "real":
                real[record.item] = record
            case "drawn":
                drawn.setdefault(record.item, []).append(record)
            case "own":
                own[record.item] = record
    found, unjudged = [], 0
    for name, record in real.items():
        item, _, number = name.rpartition("/")
        if item not in drawn or any(f"{name}@{drawing.seed}" not in own for drawing in drawn[item]):
            continue
        judge = record.details["judge"]["right"]
        seen = [
            (drawing.details["questions"][int(number)]["right"], own[f"{name}@{drawing.seed}"].score)
            for drawing in drawn[item]
        ]
        if judge is None or any(right is None for right, _ in seen):
            unjudged += 1
            continue
        u = record.score
        g = float(np.mean([right for right, _ in seen]))
        found.append(
            Row(
                record.cluster,
                record.skills,
                u,
                float(judge),
                g,
                float(np.mean([score for _, score in seen])),
                u * g,
                u * (1 - g),
                (1 - u) * g,
                (1 - u) * (1 - g),
            )
        )
    return found, unjudged


def metrics(records: Sequence[Record]) -> dict[str, Estimate]:
    """gap, U, G, the 2x2 table, the swapped answerers and the split of the gap; `macro/` over items; `SKILL/` each.

    Nothing where no question counts.
    """
    joined, _ = rows(records)
    if not joined:
        return {}
    clusters = [row.cluster for row in joined]
    values = np.array([[r.U_self, r.G_judge, r.p11, r.p10, r.p01, r.p00, r.U_judge, r.G_self] for r in joined])
    skills = [skill for skill in SKILLS if any(skill in row.skills for row in joined)]
    of_skill = {skill: np.array([skill in row.skills for row in joined]) for skill in skills}

    # Blocks of (values, count): all questions, each question weighted by 1 / questions of its item, then each skill.
    sizes = Counter(clusters)
    weights = [np.ones(len(joined)), np.array([1 / sizes[cluster] for cluster in clusters])]
    weights += [of_skill[skill].astype(float) for skill in skills]
    with_count = np.concatenate([values, np.ones((len(joined), 1))], axis=1)
    contributions = np.concatenate([with_count * w[:, None] for w in weights], axis=1)
    width = with_count.shape[1]

    def table(sums: np.ndarray) -> np.ndarray:
        blocks = sums.reshape(len(sums), -1, width)
        means = stats.ratio(np.stack([blocks[..., :-1], np.repeat(blocks[..., -1:], width - 1, axis=-1)], axis=-1))
        u, g, p11, p10, p01, p00, u_judge, g_self = np.moveaxis(means, -1, 0)
        main = np.stack([u - g, u, g, p11, p10, p01, p00], axis=-1)
        extra = np.stack([u_judge, g_self, u - u_judge, u_judge - g], axis=-1)
        macro = main[:, 1, :3]
        return np.concatenate([main[:, 0], extra[:, 0], macro, main[:, 2:].reshape(len(sums), -1)], axis=-1)

    everything = np.ones(len(joined), dtype=bool)
    order = ("gap", "U", "G", *CELLS)
    counted = dict.fromkeys((*order, *_EXTRA), everything)
    counted |= dict.fromkeys(("macro/gap", "macro/U", "macro/G"), everything)
    counted |= {f"{skill}/{measure}": of_skill[skill] for skill in skills for measure in order}
    return stats.estimates(contributions, clusters, table, counted)


def by_skill(metrics: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """The per-skill part of `metrics`, estimates or their JSON: skill -> MEASURES."""
    found: dict[str, dict[str, T]] = {}
    for name, value in metrics.items():
        skill, _, measure = name.partition("/")
        if skill in SKILLS:
            found.setdefault(skill, {})[measure] = value
    return found
