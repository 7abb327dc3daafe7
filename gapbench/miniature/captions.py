"""What a caption of the miniature world says, how much of it is true of a scene, and what can be asked about it.

Read are the captions that `language.py` makes, short, plain and dense, and what a model says in their manner: phrases
joined by commas and "and", each of a thing or of two in a relation.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import combinations

from gapbench.metrics.relations import RELATIONS, relations
from gapbench.miniature.language import AXES, NONE, NUMBERS, Name, Query, plural
from gapbench.miniature.world import CELLS, COLORS, SHAPES, SIZES, Scene, Thing

_COUNTS = {"a": 1, "an": 1, **{word: number for number, word in NUMBERS.items()}}
_SHAPES = {plural(shape): shape for shape in SHAPES} | {shape: shape for shape in SHAPES}
_THING = (
    rf"({'|'.join(_COUNTS)}) (?:({'|'.join(SIZES)}) )?(?:({'|'.join(COLORS)}) )?({'|'.join(_SHAPES)}|objects?)"
    rf"(?: at the ({'|'.join(CELLS)}))?"
)
_PHRASE = re.compile(f"{_THING}(?: ({'|'.join(RELATIONS)}) {_THING})?")


@dataclass(frozen=True, slots=True)
class Mention:
    """`count` equal things; None is what is not said of them."""

    count: int
    color: str | None
    shape: str | None
    size: str | None = None
    cell: int | None = None

    @property
    def name(self) -> Name:
        return self.color, self.shape


@dataclass(frozen=True, slots=True)
class Caption:
    """What is said: things, relations among them, and how many phrases could not be understood."""

    mentions: tuple[Mention, ...]
    relations: tuple[tuple[Name, str, Name], ...] = ()
    unread: int = 0


def read(text: str) -> Caption:
    """What a caption says; whatever is no phrase of the world's language is counted as one that says nothing."""
    words = " ".join(text.lower().split()).rstrip(" .").removeprefix("a photo of ")
    mentions: list[Mention] = []
    related, unread = [], 0
    for phrase in re.split(r" ?, ?(?:and )?| and ", words):
        found = _PHRASE.fullmatch(phrase)
        if found is None:
            unread += 1
            continue
        groups = found.groups()
        mentions.append(_mention(*groups[:5]))
        if groups[5]:
            mentions.append(_mention(*groups[6:]))
            related.append((mentions[-2].name, groups[5], mentions[-1].name))
    return Caption(tuple(mentions), tuple(related), unread)


def _mention(count: str, size: str | None, color: str | None, shape: str, cell: str | None) -> Mention:
    return Mention(_COUNTS[count], color, _SHAPES.get(shape), size, None if cell is None else CELLS.index(cell))


def truth(said: Caption, scene: Scene) -> float:
    """F1 in [0, 1] of a caption: which share of its claims is true, and which share of the things it mentions.

    A claim is that a thing of a name is there (a scene's thing bears out one mention), each size, each cell, each
    relation. A phrase that cannot be understood is a false claim. What is left out but a thing costs nothing.
    """
    left = list(scene.things)
    claims = true = mentioned = 0
    # Who says more chooses first, so that "a circle" does not take what only "a red circle" can have.
    for mention in sorted(said.mentions, key=_left_open):
        details = (mention.size is not None) + (mention.cell is not None)
        claims += mention.count * (1 + details)
        for _ in range(mention.count):
            fits = [t for t in left if mention.color in (None, t.color) and mention.shape in (None, t.shape)]
            if not fits:
                break
            best = max(fits, key=lambda thing, m=mention: _details(m, thing))
            left.remove(best)
            mentioned += 1
            true += 1 + _details(mention, best)
    for a, relation, b in said.relations:
        claims += 1
        true += Query("related", a, b, relation).answer(scene.things) == "yes"
    claims += said.unread
    if true == 0:
        return 0.0
    precision, recall = true / claims, mentioned / len(scene.things)
    return 2 * precision * recall / (precision + recall)


def _left_open(mention: Mention) -> int:
    return (mention.color is None) + (mention.shape is None)


def _details(mention: Mention, thing: Thing) -> int:
    return (mention.size == thing.size) + (mention.cell == thing.cell)


def queries(said: Caption, scene: Scene) -> list[Query]:
    """Questions that a true caption of the scene answers, and that together cover all it says but single cells.

    Every shape, color, binding and size that is said, every count, the number of things; relations that are said, and
    for things whose cells are said one of each pair. Only what has one answer is asked.
    """
    counts: Counter[Name] = Counter()
    for mention in said.mentions:
        counts[mention.name] += mention.count
    shapes = Counter(shape for _, shape in counts)
    found = []
    for color, shape in counts:
        found.append(Query("exists", (None, shape)))
        if color and shapes[shape] == 1:
            found.append(Query("color", (None, shape)))
        if color and len(counts) > 1:
            found.append(Query("exists", (color, shape)))
        found.append(Query("count", (color, shape)))
    found.append(Query("count"))
    found += [Query("size", mention.name) for mention in said.mentions if mention.size]
    held = [*said.relations, *_placed(said, scene)]
    for a, relation, b in held:
        axis = next(axis for axis in AXES if relation in axis)
        found.append(Query("side", a, b, axis[0]))
    return [query for query in dict.fromkeys(found) if query.answer(scene.things) != NONE]


def _placed(said: Caption, scene: Scene) -> list[tuple[Name, str, Name]]:
    """A relation of each two single things whose cells are said, where they stand in one."""
    single = [m for m in said.mentions if m.cell is not None and len(scene.having(*m.name)) == 1]
    found = []
    for a, b in combinations(single, 2):
        if held := sorted(relations(scene.having(*a.name)[0].box, scene.having(*b.name)[0].box)):
            found.append((a.name, held[0], b.name))
    return found
