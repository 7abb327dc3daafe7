"""What is averaged over what in the gap: records -> questions seen from all sides -> estimates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from gapbench import stats
from gapbench.homologous import normal
from gapbench.records import Estimate, Record
from gapbench.skills import SKILLS

T = TypeVar("T")

CELLS = ("p11", "p10", "p01", "p00")
MEASURES = ("U", "G", "gap", *CELLS)
_ORDER = ("gap", "U", "G", *CELLS)
_EXTRA = ("U_judge", "G_self", "answerer_effect", "drawing_loss")
_SIGNED = ("gap", "answerer_effect", "drawing_loss")
_YES = ("gold", "U_self", "U_judge", "G_judge", "G_self")
_YES_OR_NO = ("yes", "no")


@dataclass(frozen=True, slots=True)
class Row:
    """One question of one item, from all sides; a mean over seeds where there are several drawings.

    `yes`: of a question whose answer is yes or no, how often each of _YES is yes; else None.
    """

    item: str
    cluster: str
    skills: tuple[str, ...]
    type: str
    U_self: float
    U_judge: float
    G_judge: float
    G_self: float
    yes: tuple[float, ...] | None

    @property
    def values(self) -> tuple[float, ...]:
        u, g = self.U_self, self.G_judge
        return u, g, u * g, u * (1 - g), (1 - u) * g, (1 - u) * (1 - g), self.U_judge, self.G_self


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
        judge = record.details["judge"]
        of_drawings = [drawing.details["questions"][int(number)] for drawing in drawn[item]]
        of_own = [own[f"{name}@{drawing.seed}"] for drawing in drawn[item]]
        if any(verdict["right"] is None for verdict in (judge, *of_drawings)):
            unjudged += 1
            continue
        found.append(
            Row(
                item,
                record.cluster,
                record.skills,
                record.details.get("type", ""),
                record.score,
                float(judge["right"]),
                float(np.mean([verdict["right"] for verdict in of_drawings])),
                float(np.mean([answer.score for answer in of_own])),
                _yes(record, judge, of_drawings, of_own),
            )
        )
    return found, unjudged


def _yes(
    real: Record, judge: Mapping[str, object], drawn: Sequence[Mapping[str, object]], own: Sequence[Record]
) -> tuple[float, ...] | None:
    gold = real.details.get("answer", "")
    if normal(gold) not in _YES_OR_NO:
        return None
    sides = (
        [gold],
        [real.details.get("said")],
        [judge.get("said")],
        [verdict.get("said") for verdict in drawn],
        [record.details.get("said") for record in own],
    )
    return tuple(float(np.mean([isinstance(s, str) and normal(s) == "yes" for s in said])) for said in sides)


def metrics(records: Sequence[Record]) -> dict[str, Estimate]:
    """gap, U, G, the 2x2 table, the swapped answerers and the split of the gap, averaged over questions; `macro/` over
    items; `SKILL/` of each skill and `type/NAME/` of each type that the data tell; `yes/`: of the questions whose
    answer is yes or no, the share where it is yes (gold), and where each answerer says so.

    Nothing where no question counts.
    """
    joined, _ = rows(records)
    if not joined:
        return {}
    sizes = Counter(row.item for row in joined)
    skills = [skill for skill in SKILLS if any(skill in row.skills for row in joined)]
    types = sorted({row.type for row in joined} - {""})
    groups = {skill: np.array([skill in row.skills for row in joined]) for skill in skills}
    groups |= {f"type/{name}": np.array([row.type == name for row in joined]) for name in types}

    # Blocks of (values, count): all questions, each question weighted by 1 / questions of its item, then each group.
    weights = [np.ones(len(joined)), np.array([1 / sizes[row.item] for row in joined])]
    weights += [group.astype(float) for group in groups.values()]
    with_count = np.array([(*row.values, 1.0) for row in joined])
    width = with_count.shape[1]
    yes = np.array([(*row.yes, 1.0) if row.yes else (0.0,) * (len(_YES) + 1) for row in joined])
    is_yes_or_no = yes[:, -1] > 0
    contributions = np.concatenate([*(with_count * w[:, None] for w in weights), yes], axis=1)

    def table(sums: np.ndarray) -> np.ndarray:
        means = _means(sums[:, : -yes.shape[1]].reshape(len(sums), -1, width))
        u, g, p11, p10, p01, p00, u_judge, g_self = np.moveaxis(means, -1, 0)
        main = np.stack([u - g, u, g, p11, p10, p01, p00], axis=-1)
        extra = np.stack([u_judge, g_self, u - u_judge, u_judge - g], axis=-1)
        macro = main[:, 1, :3]
        shares = _means(sums[:, -yes.shape[1] :])[:, : len(_YES) * is_yes_or_no.any()]
        return np.concatenate([main[:, 0], extra[:, 0], macro, main[:, 2:].reshape(len(sums), -1), shares], axis=-1)

    everything = np.ones(len(joined), dtype=bool)
    counted = dict.fromkeys((*_ORDER, *_EXTRA, "macro/gap", "macro/U", "macro/G"), everything)
    counted |= {f"{name}/{measure}": group for name, group in groups.items() for measure in _ORDER}
    if is_yes_or_no.any():
        counted |= dict.fromkeys((f"yes/{name}" for name in _YES), is_yes_or_no)
    signed = {name: (-1.0, 1.0) for name in counted if name.rpartition("/")[2] in _SIGNED}
    return stats.estimates(contributions, [row.cluster for row in joined], table, counted, bounds=signed)


def _means(sums: np.ndarray) -> np.ndarray:
    """(..., values and their count) -> (..., values)."""
    counts = np.broadcast_to(sums[..., -1:], sums[..., :-1].shape)
    return stats.ratio(np.stack([sums[..., :-1], counts], axis=-1))


def by_skill(metrics: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """The per-skill part of `metrics`, estimates or their JSON: skill -> MEASURES."""
    found: dict[str, dict[str, T]] = {}
    for name, value in metrics.items():
        skill, _, measure = name.partition("/")
        if skill in SKILLS:
            found.setdefault(skill, {})[measure] = value
    return found
