"""The world in the form of benchmarks: POPE's questions and homologous items on held-out scenes, GenEval's prompts."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from typing import Any

from gapbench.metrics.relations import RELATIONS
from gapbench.miniature.language import Query, counted, describe
from gapbench.miniature.picture import render
from gapbench.miniature.world import COLORS, SHAPES, Scene, scenes
from gapbench.records import Picture

DATA = "miniature world 1, test split"
GENEVAL_DATA = "miniature world 1, prompts in GenEval's six forms"
POPE_SCENES = 100
GENEVAL_PER_TAG = 24
GAP_SCENES = 150


def picture_of(scene: Scene, key: str) -> Picture:
    return Picture(key, partial(render, scene))


@dataclass(frozen=True, slots=True)
class PopeRow:
    """A row of POPE's annotation file, with the picture in place of its file name."""

    question_id: int
    picture: Picture
    text: str
    label: str


def pope_rows(count: int = POPE_SCENES) -> dict[str, list[PopeRow]]:
    """POPE's three splits: per picture, the shapes that are there in turn with as many that are not.

    Absent shapes are chosen as POPE chooses absent objects: at random; the most frequent of the world; those that most
    often stand beside the shapes in the picture. Frequencies are those of the training split.
    """
    frequency: Counter[str] = Counter()
    company: Counter[tuple[str, str]] = Counter()
    for scene in scenes("train", 2000):
        shapes = {thing.shape for thing in scene.things}
        frequency.update(shapes)
        company.update(pair for a, b in combinations(sorted(shapes), 2) for pair in ((a, b), (b, a)))

    rows: dict[str, list[PopeRow]] = {"random": [], "popular": [], "adversarial": []}
    for number, scene in enumerate(scenes("test", count, seed=1)):
        present = sorted({thing.shape for thing in scene.things})
        absent = [shape for shape in SHAPES if shape not in present]
        rng = random.Random(f"pope/{number}")
        chosen = {
            "random": rng.sample(absent, len(absent)),
            "popular": sorted(absent, key=lambda s: -frequency[s]),
            "adversarial": sorted(absent, key=lambda s, p=present: -sum(company[q, s] for q in p)),
        }
        picture = picture_of(scene, f"miniature-pope-{number}")
        for split, negatives in chosen.items():
            # A picture of four shapes has only two that are absent; POPE keeps yes and no balanced, so do we.
            for yes, no in zip(present, negatives, strict=False):
                for shape, label in ((yes, "yes"), (no, "no")):
                    text = Query("exists", (None, shape)).text
                    rows[split].append(PopeRow(len(rows[split]) + 1, picture, text, label))
    return rows


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


@dataclass(frozen=True, slots=True)
class HomologousScene:
    """A scene, its caption, and the questions that the caption answers."""

    id: str
    scene: Scene
    picture: Picture
    caption: str
    queries: tuple[Query, ...]


def homologous_scenes(count: int = GAP_SCENES, split: str = "test") -> list[HomologousScene]:
    found = []
    for number, scene in enumerate(scenes(split, count, seed=2)):
        description = describe(scene, random.Random(f"gap/{split}/{number}"))
        name = f"{split}-{number:04d}"
        picture = picture_of(scene, f"miniature-{name}")
        found.append(HomologousScene(name, scene, picture, description.text, tuple(description.queries())))
    return found
