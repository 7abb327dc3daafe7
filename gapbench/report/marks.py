"""Which figures of a column are bold, and which underlined: is the best really better, or only luckier?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from gapbench.report.table import Mark
from gapbench.significance import difference, holm
from gapbench.stats import Resampled

LEVEL = 0.05
MEANING = (
    "Bold: the best, and better than every other of its column; underlined: the best, and what cannot be told from it "
    f"(paired cluster bootstrap, Holm's correction within the column, {LEVEL:g})"
)


def marks(column: Sequence[Resampled], better: Literal["higher", "lower"]) -> list[Mark]:
    """The marks of two or more figures over the same clusters.

    The best is compared with each of the others. Where all differ, after Holm's correction, it is "best"; else it and
    those that do not differ are "tied".
    """
    pick = max if better == "higher" else min
    best = pick(range(len(column)), key=lambda place: column[place].value)
    others = [place for place in range(len(column)) if place != best]
    adjusted = holm([difference(column[best], column[place]).p for place in others])
    tied = {place for place, p in zip(others, adjusted, strict=True) if p >= LEVEL}
    if not tied:
        return ["best" if place == best else "" for place in range(len(column))]
    return ["tied" if place in tied | {best} else "" for place in range(len(column))]
