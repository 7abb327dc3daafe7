"""What is said and asked about scenes: captions, questions, and the one rule that answers them.

A `Query` knows its wording, and `parse` gets it back from the wording, so that a judge which can only see (the exact
eye) answers the same texts that a model is asked. Answers follow from what is visible alone: colors, shapes, sizes and
boxes, be they a scene's own or those detected in a drawing.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

from gapbench.metrics.relations import OPPOSITE, RELATIONS, Box, relations
from gapbench.miniature.world import CELLS, COLORS, SHAPES, SIZES, Scene

NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
NONE = "none"  # what a query about something that is not there is answered
AXES = (("left of", "right of"), ("above", "below"))


class Visible(Protocol):
    """A thing of a scene, or one detected in a picture."""

    @property
    def color(self) -> str: ...
    @property
    def shape(self) -> str: ...
    @property
    def size(self) -> str: ...
    @property
    def box(self) -> Box: ...


Name = tuple[str | None, str | None]  # color, shape; None where it is left open


def plural(shape: str) -> str:
    return shape + ("es" if shape == "cross" else "s")


def noun(name: Name, many: bool = False) -> str:
    """`red circle`, `circle`, `red object`, or in the plural."""
    color, shape = name
    word = shape or "object"
    word = plural(word) if many else word
    return f"{color} {word}" if color else word


def article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def counted(count: int, name: Name) -> str:
    """`a red circle`, `two red circles`."""
    return article(noun(name)) if count == 1 else f"{NUMBERS[count]} {noun(name, many=True)}"


@dataclass(frozen=True, slots=True)
class Query:
    """A question with one right answer. `kind` is a row of the table in `text`; `a` and `b` name what it is about."""

    kind: str
    a: Name = (None, None)
    b: Name = (None, None)
    relation: str = ""

    @property
    def text(self) -> str:
        a, b = noun(self.a), noun(self.b)
        match self.kind:
            case "exists":
                return f"Is there {article(a)} in the image?"
            case "color":
                return f"What color is the {a}?"
            case "shape":
                return f"What shape is the {a}?"
            case "size":
                return f"Is the {a} {' or '.join(reversed(SIZES))}?"
            case "count":
                return f"How many {noun(self.a, many=True)} are there?"
            case "related":
                return f"Is the {a} {self.relation} the {b}?"
            case "side":
                return f"Is the {a} {self.relation} or {OPPOSITE[self.relation]} the {b}?"
        raise ValueError(f"no query is of kind {self.kind!r}")

    @property
    def skill(self) -> str:
        if self.kind == "exists":
            return "binding" if self.a[0] else "object"
        return {"color": "color", "shape": "shape", "size": "other", "count": "count"}.get(self.kind, "position")

    @property
    def choices(self) -> tuple[str, ...]:
        match self.kind:
            case "color":
                return COLORS
            case "shape":
                return SHAPES
            case "size":
                return SIZES
            case "count":
                return ("0", "1", "2", "3", "4")
            case "side":
                return (self.relation, OPPOSITE[self.relation])
        return ("yes", "no")

    def answer(self, things: Sequence[Visible]) -> str:
        """The answer for what is visible; NONE where the question does not apply (nothing or nothing single there)."""
        a = [t for t in things if _is(t, self.a)]
        b = [t for t in things if _is(t, self.b)]
        match self.kind:
            case "exists":
                return "yes" if a else "no"
            case "count":
                return str(len(a))
            case "color" | "shape" | "size":
                values = {getattr(t, self.kind) for t in a}
                return values.pop() if len(values) == 1 else NONE
        held = [relations(p.box, q.box) for p in a for q in b if p is not q]
        common = set.intersection(*held) if held else set()
        if self.kind == "related":
            return "yes" if self.relation in common else "no"
        return next((r for r in (self.relation, OPPOSITE[self.relation]) if r in common), NONE)


def _is(thing: Visible, name: Name) -> bool:
    color, shape = name
    return color in (None, thing.color) and shape in (None, thing.shape)


_NOUN = rf"(?:({'|'.join(COLORS)}) )?({'|'.join((*SHAPES, 'object', *map(plural, (*SHAPES, 'object'))))})"
_RELATION = f"({'|'.join(RELATIONS)})"
_FORMS = [
    ("exists", re.compile(f"Is there an? {_NOUN} in the image\\?")),
    ("color", re.compile(f"What color is the {_NOUN}\\?")),
    ("shape", re.compile(f"What shape is the {_NOUN}\\?")),
    ("size", re.compile(f"Is the {_NOUN} large or small\\?")),
    ("count", re.compile(f"How many {_NOUN} are there\\?")),
    ("side", re.compile(f"Is the {_NOUN} {_RELATION} or {_RELATION} the {_NOUN}\\?")),
    ("related", re.compile(f"Is the {_NOUN} {_RELATION} the {_NOUN}\\?")),
]
_SINGULAR = {plural(word): word for word in (*SHAPES, "object")}


def parse(text: str) -> Query:
    """The query that a text asks, whatever instruction follows it. Raises ValueError on any other text."""
    for kind, form in _FORMS:
        match = form.match(text)
        if match is None:
            continue
        groups = list(match.groups())
        names: list[Name] = []
        relation = next((g for g in groups if g in RELATIONS), "")
        words = [g for g in groups if g not in RELATIONS]
        for color, word in zip(words[::2], words[1::2], strict=True):
            shape = _SINGULAR.get(word, word)
            names.append((color, None if shape == "object" else shape))
        return Query(kind, *names, relation=relation)
    raise ValueError(f"not a question about the miniature world: {text!r}")


@dataclass(frozen=True, slots=True)
class Description:
    """What a caption says: groups of equal things, and perhaps how the first two stand to each other."""

    groups: tuple[tuple[int, Name], ...]
    relation: str = ""

    @property
    def text(self) -> str:
        phrases = [counted(count, name) for count, name in self.groups]
        if self.relation:
            phrases[:2] = [f"{phrases[0]} {self.relation} {phrases[1]}"]
        return ", ".join(phrases[:-1]) + (" and " if len(phrases) > 1 else "") + phrases[-1]

    def queries(self) -> list[Query]:
        """Questions that the caption answers and that together cover all it says (in the manner of TIFA)."""
        found = []
        shapes = [shape for _, (_, shape) in self.groups]
        for count, (color, shape) in self.groups:
            found.append(Query("exists", (None, shape)))
            if shapes.count(shape) == 1:
                found.append(Query("color", (None, shape)))
            if len(self.groups) > 1:
                found.append(Query("exists", (color, shape)))
            if count > 1:
                found.append(Query("count", (color, shape)))
        found.append(Query("count"))
        if self.relation:
            axis = next(axis for axis in AXES if self.relation in axis)
            found.append(Query("side", self.groups[0][1], self.groups[1][1], axis[0]))
        return list(dict.fromkeys(found))


def describe(scene: Scene, rng: random.Random) -> Description:
    """Everything but sizes and cells: all groups with their counts, and one relation where two things are single."""
    groups = scene.groups()
    names = list(groups)
    rng.shuffle(names)
    single = [name for name in names if len(groups[name]) == 1]
    for a, b in combinations(single, 2):
        held = sorted(relations(groups[a][0].box, groups[b][0].box))
        if held:
            rest = [name for name in names if name not in (a, b)]
            return Description(tuple((len(groups[n]), n) for n in (a, b, *rest)), rng.choice(held))
    return Description(tuple((len(groups[n]), n) for n in names))


def dense_caption(scene: Scene, rng: random.Random) -> str:
    """Every thing with its size, color, shape and cell."""
    things = list(scene.things)
    rng.shuffle(things)
    phrases = [f"{article(f'{t.size} {noun(t.name)}')} at the {CELLS[t.cell]}" for t in things]
    return ", ".join(phrases[:-1]) + (" and " if len(phrases) > 1 else "") + phrases[-1]


def photo_caption(scene: Scene, rng: random.Random) -> str | None:
    """A caption in GenEval's six forms, true of the whole scene, or None where the scene fits none of them."""
    groups = scene.groups()
    shapes = {shape for _, shape in groups}
    if len(shapes) == 1:
        count = len(scene.things)
        name = next(iter(groups))
        if count == 1:
            return f"a photo of {counted(1, rng.choice((name, (None, name[1]))))}"
        return f"a photo of {counted(count, (None, name[1]))}" if count <= 4 else None
    if len(scene.things) != 2:
        return None
    a, b = rng.sample(scene.things, 2)
    form = rng.choice(("two_object", "position", "color_attr"))
    if form == "color_attr":
        return f"a photo of {counted(1, a.name)} and {counted(1, b.name)}"
    joint = "and"
    if form == "position":
        joint = rng.choice(sorted(relations(a.box, b.box)) or ["and"])
    return f"a photo of {counted(1, (None, a.shape))} {joint} {counted(1, (None, b.shape))}"


KINDS = ("exists", "bound", "color", "shape", "size", "count", "related", "side")  # of random queries
EVENLY = (16, 16, 12, 8, 5, 15, 18, 10)  # how often each


def random_query(scene: Scene, rng: random.Random, weights: Sequence[float] = EVENLY) -> Query:
    """A query that applies to the scene; yes/no queries are right half of the time. weights: of KINDS."""
    while True:
        query = _draw_query(scene, rng, weights)
        if query is not None and query.answer(scene.things) != NONE:
            return query


def _draw_query(scene: Scene, rng: random.Random, weights: Sequence[float]) -> Query | None:
    kind = rng.choices(KINDS, weights=weights)[0]
    thing = rng.choice(scene.things)
    yes = rng.random() < 0.5
    match kind:
        case "exists":
            absent = [s for s in SHAPES if not scene.having(shape=s)]
            return Query("exists", (None, thing.shape if yes or not absent else rng.choice(absent)))
        case "bound":
            return Query("exists", thing.name if yes else _unbound(scene, rng))
        case "color":
            return Query("color", (None, thing.shape))
        case "shape":
            return Query("shape", (thing.color, None))
        case "size":
            return Query("size", thing.name)
        case "count":
            return Query("count", rng.choice((thing.name, (None, thing.shape), (thing.color, None), (None, None))))
    if len(scene.things) < 2:
        return None
    a, b = rng.sample(scene.things, 2)
    named = rng.random() < 0.5
    first, second = (t.name if named else (None, t.shape) for t in (a, b))
    held = sorted(relations(a.box, b.box))
    if first == second or len(scene.having(*first)) > 1 or len(scene.having(*second)) > 1 or not held:
        return None
    relation = rng.choice(held)
    if kind == "related":
        return Query("related", first, second, relation if yes else OPPOSITE[relation])
    return Query("side", first, second, next(axis for axis in AXES if relation in axis)[0])


def _unbound(scene: Scene, rng: random.Random) -> Name:
    """A color and shape that are not bound together here, though each may well be there."""
    while True:
        color = rng.choice(scene.things).color if rng.random() < 0.7 else rng.choice(COLORS)
        shape = rng.choice(scene.things).shape if rng.random() < 0.7 else rng.choice(SHAPES)
        if not scene.having(color, shape):
            return color, shape
