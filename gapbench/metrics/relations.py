"""Spatial relation of two boxes, as GenEval decides it (djghosh13/geneval, `relative_position`)."""

from __future__ import annotations

import math
from typing import NamedTuple

RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


class Box(NamedTuple):
    """Pixels; x to the right, y down."""

    left: float
    top: float
    right: float
    bottom: float


def relations(a: Box, b: Box, tolerance: float = 0.1) -> set[str]:
    """Which of RELATIONS hold for a as seen from b: none where they nearly coincide, two on a diagonal.

    The offset of the centres is shrunk by `tolerance` times the summed sizes, then divided by the length of the offset
    before shrinking; a relation holds where the result exceeds one half.
    """
    offset, shrunk = [], []
    for low, high in ((0, 2), (1, 3)):
        d = (a[low] + a[high]) / 2 - (b[low] + b[high]) / 2
        sizes = abs(a[high] - a[low]) + abs(b[high] - b[low])
        offset.append(d)
        shrunk.append(math.copysign(max(abs(d) - tolerance * sizes, 0.0), d) if d else 0.0)
    if all(abs(s) < 1e-3 for s in shrunk):
        return set()
    length = math.hypot(*offset)
    dx, dy = shrunk[0] / length, shrunk[1] / length
    holds = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {name for name, held in holds.items() if held}
