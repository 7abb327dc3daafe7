"""What a loop trains on and what it is measured on: the miniature world, or one's own homologous items.

Held-out items are in neither training nor the measurement that training follows. `follow` is measured before every
iteration: it tells where to put weight and when to stop. `judge` is measured before the first and after the last, and
decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gapbench import tasks
from gapbench.homologous import Homologous, HomologousQuestion
from gapbench.judges import judge as judge_by_name
from gapbench.records import InputError
from gapbench.tasks.base import Options, Task
from gapbench.tasks.gap import Gap
from gapbench.tasks.matching import Exact

FOLLOWED = 60  # scenes of the miniature's validation split


@dataclass(frozen=True, slots=True)
class Grounds:
    """`items` are trained on; `follow` is a gap task; `judge` holds the gap task that decides, first, and the panel."""

    name: str
    items: Sequence[Homologous]
    follow: Gap
    judge: Sequence[Task]

    @property
    def gap(self) -> str:
        """The name of the task that decides."""
        return self.judge[0].name


def of_gap(name: str, items: Sequence[Homologous], source: str, judge: str, device: str | None, seed: int) -> Gap:
    return Gap(name, items, judge_by_name(judge, device), source, Exact(), (seed,))


def miniature(items: Sequence[Homologous], seed: int, device: str | None, panel: bool) -> Grounds:
    """Trained on scenes of the training split, followed on the validation split, judged on the test split."""
    from gapbench.miniature import benchmarks

    followed = [
        Homologous(
            h.id,
            h.picture,
            h.caption,
            tuple(HomologousQuestion(q.text, q.answer(h.scene.things), q.skill, q.choices) for q in h.queries),
        )
        for h in benchmarks.homologous_scenes(FOLLOWED, "validation")
    ]
    follow = of_gap("gap-validation", followed, "miniature world 1, validation split", "eye", device, seed)
    names = tasks.SUITES["mini"] if panel else ("gap-mini",)
    judged = tasks.load_all(names, Options(seed, device=device))
    if not isinstance(judged[0], Gap):
        raise InputError("the suite mini begins with its gap task")
    return Grounds("the miniature world", items, follow, judged)
