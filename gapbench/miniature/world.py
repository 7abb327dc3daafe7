"""The embedded world: scenes of one to four coloured shapes on a three by three grid, drawn from a seed.

Small enough that a model of three million parameters understands it, exact enough that the truth is known. Scenes are
not uniform: some shapes are frequent and some keep company, so that popular and adversarial absent objects mean
something; and they are split by combination: every held-out scene has two things that never stand together in a
training scene.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from itertools import combinations

from gapbench.metrics.relations import Box

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
SIZES = ("small", "large")
GRID = 3
CELLS = (
    "top left", "top center", "top right",
    "middle left", "center", "middle right",
    "bottom left", "bottom center", "bottom right",
)  # fmt: skip
SPLITS = ("train", "validation", "test")

CELL_PIXELS = 32
PICTURE_PIXELS = GRID * CELL_PIXELS
RADIUS = {"small": 8.5, "large": 13.5}  # pixels, half the side of a thing's square

_FREQUENCY = {"circle": 26, "square": 22, "triangle": 18, "star": 14, "cross": 11, "heart": 9}
_COMPANION = {
    "circle": "square", "square": "circle", "triangle": "star", "star": "triangle", "cross": "heart", "heart": "cross",
}  # fmt: skip
_COMPANY = 0.35  # how often the next group is the companion of the first


@dataclass(frozen=True, slots=True, order=True)
class Thing:
    """A coloured shape in one of the nine cells, counted in reading order."""

    cell: int
    color: str
    shape: str
    size: str

    @property
    def name(self) -> tuple[str, str]:
        return self.color, self.shape

    @property
    def box(self) -> Box:
        """The square that the shape is drawn in, in pixels."""
        x = (self.cell % GRID + 0.5) * CELL_PIXELS
        y = (self.cell // GRID + 0.5) * CELL_PIXELS
        r = RADIUS[self.size]
        return Box(x - r, y - r, x + r, y + r)


@dataclass(frozen=True, slots=True)
class Scene:
    """Things in reading order, no two in one cell."""

    things: tuple[Thing, ...]

    def __post_init__(self) -> None:
        cells = [thing.cell for thing in self.things]
        if cells != sorted(set(cells)):
            raise ValueError(f"cells must be distinct and in order, not {cells}")

    def having(self, color: str | None = None, shape: str | None = None) -> list[Thing]:
        return [t for t in self.things if color in (None, t.color) and shape in (None, t.shape)]

    def groups(self) -> dict[tuple[str, str], list[Thing]]:
        """Things by (color, shape), in reading order of the first of each."""
        groups: dict[tuple[str, str], list[Thing]] = {}
        for thing in self.things:
            groups.setdefault(thing.name, []).append(thing)
        return groups


def random_scene(rng: random.Random) -> Scene:
    """Between one and four things in groups of equal color and shape; sizes and cells are free."""
    left = rng.choices((1, 2, 3, 4), weights=(14, 32, 30, 24))[0]
    cells = rng.sample(range(GRID * GRID), left)
    things: list[Thing] = []
    names: set[tuple[str, str]] = set()
    first = None
    while left:
        if first is not None and rng.random() < _COMPANY:
            shape = _COMPANION[first]
        else:
            shape = rng.choices(tuple(_FREQUENCY), weights=tuple(_FREQUENCY.values()))[0]
        first = first or shape
        name = (rng.choice(COLORS), shape)
        if name in names:
            continue
        names.add(name)
        count = rng.choices((1, 2, 3, 4)[:left], weights=(60, 20, 12, 8)[:left])[0]
        things += [Thing(cells.pop(), *name, rng.choice(SIZES)) for _ in range(count)]
        left -= count
    return Scene(tuple(sorted(things)))


def _bucket(*words: str) -> int:
    return hashlib.sha256(" ".join(words).encode()).digest()[0] % 16


def split_of(scene: Scene) -> str:
    """`test` or `validation` where any two of its things are a held-out combination, else `train`.

    One sixteenth of the pairs of (color, shape) is held out for each. A scene of one thing goes by all it is.
    """
    if len(scene.things) == 1:
        thing = scene.things[0]
        buckets = {_bucket(thing.color, thing.shape, thing.size, str(thing.cell))}
    else:
        pairs = {tuple(sorted((a.name, b.name))) for a, b in combinations(scene.things, 2)}
        buckets = {_bucket(*a, *b) for a, b in pairs}
    return "test" if 0 in buckets else "validation" if 1 in buckets else "train"


def scenes(split: str, count: int, seed: int = 0) -> list[Scene]:
    """`count` distinct scenes of a split. Equal seeds give equal scenes, and a longer list begins with the shorter."""
    rng = random.Random(f"{split}/{seed}")
    found: dict[Scene, None] = {}
    while len(found) < count:
        scene = random_scene(rng)
        if split_of(scene) == split:
            found[scene] = None
    return list(found)
