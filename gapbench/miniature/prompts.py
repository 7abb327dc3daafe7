"""The world in the form of benchmarks that have pictures drawn: GenEval's prompts, DPG-Bench's, and captions."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from gapbench.metrics.relations import RELATIONS, relations
from gapbench.miniature.benchmarks import picture_of
from gapbench.miniature.language import Query, counted, dense_caption, describe
from gapbench.miniature.world import COLORS, SHAPES, scenes
from gapbench.records import Picture

GENEVAL_DATA = "miniature world 1, prompts in GenEval's six forms"
GENEVAL_PER_TAG = 24
COCO_CAPTIONS, COCO_PICTURES = 150, 1000


def geneval_prompts(per_tag: int = GENEVAL_PER_TAG) -> list[dict[str, Any]]:
    """Prompts in GenEval's metadata form, six kinds, at most `per_tag` of each, drawn from a fixed seed."""
    rng = random.Random("geneval")

    def some(every: list[Any]) -> list[Any]:
        return rng.sample(every, min(per_tag, len(every)))

    def metadata(tag: str, words: str, *include: dict[str, Any], exclude: tuple[dict[str, Any], ...] = ()) -> dict:
        found = {"tag": tag, "include": list(include), "prompt": f"a photo of {words}"}
        return found | ({"exclude": list(exclude)} if exclude else {})

    def one(shape: str) -> str:
        return counted(1, (None, shape))

    pairs = [(a, b) for a, b in product(SHAPES, SHAPES) if a != b]
    bound = [(a, b) for a, b in product(product(COLORS, SHAPES), repeat=2) if a[0] != b[0] and a[1] != b[1]]
    prompts = [metadata("single_object", one(s), {"class": s, "count": 1}) for s in SHAPES]
    for a, b in some(pairs):
        words = f"{one(a)} and {one(b)}"
        prompts.append(metadata("two_object", words, {"class": a, "count": 1}, {"class": b, "count": 1}))
    for shape, count in some([(s, n) for s in SHAPES for n in (2, 3, 4)]):
        more = {"class": shape, "count": count + 1}
        include = {"class": shape, "count": count}
        prompts.append(metadata("counting", counted(count, (None, shape)), include, exclude=(more,)))
    for color, shape in some(list(product(COLORS, SHAPES))):
        include = {"class": shape, "count": 1, "color": color}
        prompts.append(metadata("colors", counted(1, (color, shape)), include))
    for (a, b), relation in some(list(product(pairs, RELATIONS))):
        subject = {"class": a, "count": 1, "position": [relation, 0]}
        prompts.append(metadata("position", f"{one(a)} {relation} {one(b)}", {"class": b, "count": 1}, subject))
    for a, b in some(bound):
        include = [{"class": shape, "count": 1, "color": color} for color, shape in (a, b)]
        prompts.append(metadata("color_attr", f"{counted(1, a)} and {counted(1, b)}", *include))
    return prompts


DPG_SCENES = 40

# What a query exercises -> DPG-Bench's category.
_DPG_CATEGORIES = {"object": "entity - whole", "binding": "attribute - color", "position": "relation - spatial"}


@dataclass(frozen=True, slots=True)
class DpgRow:
    """A question of DPG-Bench's table about the drawing of `text`, answered yes where the drawing is right."""

    item: str
    text: str
    number: int
    parents: tuple[int, ...]
    category: str
    query: Query


def dpg_rows(count: int = DPG_SCENES) -> list[DpgRow]:
    """Per scene its dense caption and questions in a graph: is a shape there, below it is it there in this color, and
    below two of those, where they are single things, do they stand as in the scene? Things are related by their shapes
    alone where that names them, so that things in wrong colors can stand right.

    The captions tell sizes that no question asks for: the world's language has no yes/no question about a size.
    """
    rows = []
    for number, scene in enumerate(scenes("test", count, seed=9)):
        rng = random.Random(f"dpg/{number}")
        text = dense_caption(scene, rng)
        groups = scene.groups()
        graph: dict[Query, tuple[Query, ...]] = {}
        for color, shape in groups:
            there = Query("exists", (None, shape))
            graph.setdefault(there, ())
            graph[Query("exists", (color, shape))] = (there,)
        for a, b in combinations([name for name, things in groups.items() if len(things) == 1], 2):
            if held := sorted(relations(groups[a][0].box, groups[b][0].box)):
                names = [
                    (None, shape) if len(scene.having(shape=shape)) == 1 else (color, shape) for color, shape in (a, b)
                ]
                graph[Query("related", *names, rng.choice(held))] = (Query("exists", a), Query("exists", b))
        number_of = {query: place for place, query in enumerate(graph, start=1)}
        for query, parents in graph.items():
            above = tuple(number_of[parent] for parent in parents)
            rows.append(DpgRow(str(number), text, number_of[query], above, _DPG_CATEGORIES[query.skill], query))
    return rows


@dataclass(frozen=True, slots=True)
class DrawnCaption:
    id: str
    caption: str


def drawn_captions(count: int = COCO_CAPTIONS) -> list[DrawnCaption]:
    """Captions of held-out scenes, to be drawn."""
    return [
        DrawnCaption(f"caption-{number:04d}", describe(scene, random.Random(f"coco/{number}")).text)
        for number, scene in enumerate(scenes("test", count, seed=10))
    ]


def real_pictures(count: int = COCO_PICTURES) -> list[Picture]:
    """Pictures of held-out scenes, those of `drawn_captions` first: what drawings are compared with."""
    return [picture_of(scene, f"miniature-coco-{n}") for n, scene in enumerate(scenes("test", count, seed=10))]
