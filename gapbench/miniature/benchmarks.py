"""The world in the form of benchmarks that ask: questions on held-out scenes, and homologous items."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from functools import partial
from itertools import combinations

from gapbench.metrics.relations import OPPOSITE
from gapbench.miniature.language import (
    NONE,
    NUMBERS,
    Query,
    article,
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
POPE_SCENES = 100
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
