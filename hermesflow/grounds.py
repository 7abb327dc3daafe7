"""What a loop trains on and what it is measured on: the miniature world, or one's own homologous items.

Held-out items are in neither training nor the measurement that training follows. `follow` is measured before every
iteration: it tells where to put weight and when to stop. `judge` is measured before the first and after the last, and
decides nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gapbench import tasks
from gapbench.homologous import Homologous, normal
from gapbench.judges import judge as judge_by_name
from gapbench.records import InputError
from gapbench.tasks.base import Options, Task
from gapbench.tasks.gap import JUDGE, Gap, items_of
from gapbench.tasks.matching import Exact, matching
from hermesflow.homologous import hold_out, own_items

FOLLOWED = 100  # scenes of the miniature's validation split
DRAWN = 6  # drawings of each scene that decides: chance in three is as large as what a round of training changes


@dataclass(frozen=True, slots=True)
class Grounds:
    """`items` are trained on; `follow` is a gap task; `judge` holds the gap task that decides, first, and the panel.

    left_out: what of the data is in neither, by reason.
    """

    name: str
    items: Sequence[Homologous]
    follow: Gap
    judge: Sequence[Task]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def gap(self) -> str:
        """The name of the task that decides."""
        return self.judge[0].name


def miniature(items: Sequence[Homologous], seed: int, device: str | None, panel: bool) -> Grounds:
    """Trained on `items`, followed on other scenes of the validation split, judged on the test split, whose pairs of
    things are in neither.
    """
    from gapbench.miniature import benchmarks

    followed = items_of(benchmarks.homologous_scenes(FOLLOWED, "validation"))
    source = "miniature world 1, validation split"
    follow = Gap("gap-validation", followed, judge_by_name("eye", device), source, Exact(), (seed, seed + 1))
    gap, *others = tasks.SUITES["mini"]
    decides = tasks.load(gap, Options(seed, device=device))
    if not isinstance(decides, Gap):
        raise InputError("the suite mini begins with its gap task")
    decides = replace(decides, seeds=tuple(range(seed, seed + DRAWN)))
    others = tasks.load_all(others, Options(seed, device=device)) if panel else []
    return Grounds("the miniature world", items, follow, [decides, *others])


def own(
    place: Path,
    share: float,
    judge: str | None = None,
    rule: str | None = None,
    count: int | None = None,
    seed: int = 0,
    device: str | None = None,
) -> Grounds:
    """One's own items, see `own_items`: `share` of the clusters is held out, half to follow and half to judge by.

    judge: of the held-out gap, by default the paper's. rule: by which the model's answers mean a choice, by default
    likelihood where all held-out questions have choices, else the nearest. An item whose caption is also held out is
    not trained on. Raises InputError where the items do not suffice for all three parts.
    """
    left_out: Counter[str] = Counter()
    items = own_items(place, count, seed, left_out)
    try:
        train, held = hold_out(items, share, seed)
        follow, decide = hold_out(held, 0.5, seed)
    except InputError as error:
        raise InputError(f"{place}: {len(items)} items do not suffice to train, follow and judge: {error}") from None
    captions = {normal(item.caption) for item in held}
    kept = [item for item in train if normal(item.caption) not in captions]
    if len(kept) < len(train):
        left_out["items to train on whose caption is held out too"] = len(train) - len(kept)
    if not kept:
        raise InputError(f"{place}: every caption to train on is held out too; give more items, or hold out less")
    rule = rule or ("likelihood" if all(q.choices for item in held for q in item.questions) else "nearest")
    judges, match_by = judge_by_name(judge or JUDGE, device), matching(rule, device)

    def gap(name: str, part: Sequence[Homologous]) -> Gap:
        order = {cluster: number for number, cluster in enumerate(dict.fromkeys(item.cluster for item in part))}
        together = sorted(part, key=lambda item: order[item.cluster])  # as runs want those of a cluster
        return Gap(name, together, judges, f"held out of {place.resolve().name}", match_by, (seed,))

    return Grounds(place.resolve().name, kept, gap("gap-follow", follow), [gap("gap-judge", decide)], left_out)
