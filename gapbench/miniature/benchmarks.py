"""The world in the form of benchmarks: POPE's questions and homologous items on held-out scenes, GenEval's prompts."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from typing import Any

from gapbench.metrics.relations import OPPOSITE, RELATIONS, relations
from gapbench.miniature.language import (
    NONE,
    NUMBERS,
    Query,
    article,
    counted,
    dense_caption,
    describe,
    photo_caption,
    random_query,
)
from gapbench.miniature.picture import render
from gapbench.miniature.tokenizer import YES_NO
from gapbench.miniature.world import COLORS, SHAPES, Scene, scenes
from gapbench.records import Picture

DATA = "miniature world 1, test split"
GENEVAL_DATA = "miniature world 1, prompts in GenEval's six forms"
POPE_SCENES = 100
GENEVAL_PER_TAG = 24
GAP_SCENES = 150
MMMU_SCENES = 80
FLICKR_SCENES = 100


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


MME_SUBTASKS = ("existence", "position", "color")
MME_IMAGES = 30  # a subtask, as many as MME has in these


@dataclass(frozen=True, slots=True)
class MmeRow:
    """A question of an MME subtask; `image` is the picture's name within it."""

    subtask: str
    image: str
    picture: Picture
    text: str
    answer: str


def mme_rows(images: int = MME_IMAGES) -> list[MmeRow]:
    """MME's existence, position and color: two questions an image, answered yes and then no.

    As in MME the second asks for another shape, the opposite relation, or the same shape in another color. Its count
    is not here, for the world's language has no yes/no question about a number.
    """
    rows = []
    for seed, subtask in enumerate(MME_SUBTASKS, start=10):
        found = 0
        for number, scene in enumerate(scenes("test", 4 * images, seed=seed)):
            pair = _mme_pair(subtask, scene, random.Random(f"mme/{subtask}/{number}"))
            if pair is None or found == images:
                continue
            picture = picture_of(scene, f"miniature-mme-{subtask}-{found}")
            for query, answer in zip(pair, ("Yes", "No"), strict=True):
                rows.append(MmeRow(subtask, str(found), picture, query.text + YES_NO, answer))
            found += 1
    return rows


def _mme_pair(subtask: str, scene: Scene, rng: random.Random) -> tuple[Query, Query] | None:
    """Two queries, answered yes and no, or None where the scene has no two single things that stand in a relation."""
    if subtask == "position":
        description = describe(scene, rng)
        if not description.relation:
            return None
        (_, a), (_, b) = description.groups[:2]
        relation = description.relation
        return Query("related", a, b, relation), Query("related", a, b, OPPOSITE[relation])
    color, shape = rng.choice(scene.things).name
    if subtask == "color":
        other = rng.choice([c for c in COLORS if not scene.having(c, shape)])
        return Query("exists", (color, shape)), Query("exists", (other, shape))
    absent = rng.choice([s for s in SHAPES if not scene.having(shape=s)])
    return Query("exists", (None, shape)), Query("exists", (None, absent))


GQA_SCENES = 80
GQA_QUESTIONS = 5  # a scene

# Kind of query -> GQA's structural and semantic type.
_GQA_TYPES = {
    "exists": ("verify", "obj"),
    "bound": ("verify", "attr"),
    "related": ("verify", "rel"),
    "color": ("query", "attr"),
    "shape": ("query", "attr"),
    "count": ("query", "obj"),
    "size": ("choose", "attr"),
    "side": ("choose", "rel"),
}


@dataclass(frozen=True, slots=True)
class GqaRow:
    """A question in GQA's form; `image` is the picture's name."""

    id: str
    image: str
    picture: Picture
    text: str
    answer: str
    structural: str
    semantic: str


def gqa_rows(count: int = GQA_SCENES) -> list[GqaRow]:
    """Questions of five kinds on each of `count` scenes, with GQA's types.

    Of the kinds that apply to a scene those are asked that were asked the least before.
    """
    rows = []
    asked = dict.fromkeys(_GQA_TYPES, 0)
    for number, scene in enumerate(scenes("test", count, seed=20)):
        rng = random.Random(f"gqa/{number}")
        drawn: dict[str, Query] = {}
        for query in (random_query(scene, rng) for _ in range(100)):
            drawn.setdefault("bound" if query.kind == "exists" and query.a[0] else query.kind, query)
        picture = picture_of(scene, f"miniature-gqa-{number}")
        for kind in sorted(drawn, key=lambda kind: asked[kind])[:GQA_QUESTIONS]:
            asked[kind] += 1
            query = drawn[kind]
            answer = query.answer(scene.things)
            rows.append(GqaRow(f"{number}/{kind}", str(number), picture, query.text, answer, *_GQA_TYPES[kind]))
    return rows


@dataclass(frozen=True, slots=True)
class ChoiceRow:
    """A multiple-choice question as MMMU's table has it, of a subject's `number`; the answer is a letter."""

    subject: str
    number: int
    picture: Picture
    question: str
    options: tuple[str, ...]
    answer: str


def choice_rows(count: int = MMMU_SCENES) -> list[ChoiceRow]:
    """Per scene what color, how many and what shape, with four options each, as far as the scene has one answer."""
    found: list[ChoiceRow] = []
    asked: Counter[str] = Counter()
    for number, scene in enumerate(scenes("test", count, seed=6)):
        rng = random.Random(f"mmmu/{number}")
        picture = picture_of(scene, f"miniature-mmmu-{number}")
        names = [name for t in scene.things for name in (t.name, (None, t.shape), (t.color, None))]
        queries = {
            "Color": [Query("color", (None, thing.shape)) for thing in scene.things],
            "Count": [Query("count", name) for name in (*names, (None, None))],
            "Shape": [Query("shape", (thing.color, None)) for thing in scene.things],
        }
        for subject, candidates in queries.items():
            answers = {query: query.answer(scene.things) for query in candidates}
            single = [query for query, answer in answers.items() if answer != NONE]
            if not single:
                continue
            query = rng.choice(single)
            options = [answers[query], *rng.sample([c for c in query.choices if c != answers[query]], 3)]
            rng.shuffle(options)
            asked[subject] += 1
            letter = "ABCD"[options.index(answers[query])]
            found.append(ChoiceRow(subject, asked[subject], picture, query.text, tuple(options), letter))
    return found


@dataclass(frozen=True, slots=True)
class CaptionedScene:
    """A picture and five captions of it."""

    id: str
    picture: Picture
    captions: tuple[str, ...]


def captioned_scenes(count: int = FLICKR_SCENES) -> list[CaptionedScene]:
    """As five people would caption a photograph: three in plain words, one with every detail, one with few."""
    found = []
    for number, scene in enumerate(scenes("test", count, seed=7)):
        people = [random.Random(f"flickr30k/{number}/{person}") for person in range(5)]
        plain = [describe(scene, rng).text for rng in people[:3]]
        few = photo_caption(scene, people[4]) or describe(scene, people[4]).text
        name = f"miniature-flickr30k-{number}"
        found.append(CaptionedScene(name, picture_of(scene, name), (*plain, dense_caption(scene, people[3]), few)))
    return found


VQA_SCENES = 80
VQA_QUESTIONS = 5  # a scene
# Those of VQAv2's 65 question types that the miniature's questions begin with.
VQA_TYPES = ("how many", "is the", "is there", "is there a", "what", "what color is the")
# Questions are plain, usual or hard; and how often people give the right answer, in other words, a wrong one, or none.
_VQA_QUESTIONS = {(100, 0, 0, 0): 30, (75, 15, 7, 3): 55, (30, 15, 40, 15): 15}


@dataclass(frozen=True, slots=True)
class VqaRow:
    """A question in VQAv2's form with ten people's answers; ids are numbers as there."""

    question_id: int
    image_id: int
    picture: Picture
    text: str
    question_type: str
    answer_type: str
    answers: tuple[str, ...]


def vqa_rows(count: int = VQA_SCENES) -> list[VqaRow]:
    """Five questions on each of `count` scenes. People mostly agree on the right answer, not always on its words."""
    rows = []
    for number, scene in enumerate(scenes("test", count, seed=8)):
        rng = random.Random(f"vqa/{number}")
        picture = picture_of(scene, f"miniature-vqa-{number}")
        queries: dict[Query, None] = {}
        while len(queries) < VQA_QUESTIONS:
            queries[random_query(scene, rng)] = None
        for query in queries:
            first_words = max((t for t in VQA_TYPES if query.text.lower().startswith(f"{t} ")), key=len)
            kind = {"exists": "yes/no", "related": "yes/no", "count": "number"}.get(query.kind, "other")
            people = _vqa_people(query, query.answer(scene.things), random.Random(f"vqa/{number}/{query.text}"))
            name = 1000 * number + len(rows) % VQA_QUESTIONS
            rows.append(VqaRow(name, number, picture, query.text, first_words, kind, people))
    return rows


def _vqa_people(query: Query, right: str, rng: random.Random) -> tuple[str, ...]:
    wrong = [choice for choice in query.choices if choice != right]
    said = ([right], _vqa_wordings(query.kind, right), wrong, ["unsure"])
    weights = rng.choices(list(_VQA_QUESTIONS), weights=_VQA_QUESTIONS.values())[0]
    return tuple(rng.choice(answers) for answers in rng.choices(said, weights=weights, k=10))


def _vqa_wordings(kind: str, right: str) -> list[str]:
    """Other words for the right answer; some of them VQAv2's rules make equal to it, some they do not."""
    match kind:
        case "count":
            return [("zero", *NUMBERS.values())[int(right)]]
        case "color":
            return [f"{right} color", f"it's {right}"]
        case "shape":
            return [article(right), f"{right} shape"]
        case "size":
            return ["big" if right == "large" else "little"]
        case "side":
            return [right.removesuffix(" of"), f"it is {right}"]
    return [f"{right}.", right.capitalize()]


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
