"""The miniature world: splits, pictures, codes, and a language whose every sentence is true and can be read back."""

from __future__ import annotations

import random
import re
from itertools import combinations

import numpy as np
import pytest

from gapbench.metrics.relations import RELATIONS, relations
from gapbench.miniature import tiles
from gapbench.miniature.eye import detect
from gapbench.miniature.language import (
    AXES,
    NONE,
    NUMBERS,
    Query,
    dense_caption,
    describe,
    parse,
    photo_caption,
    random_query,
)
from gapbench.miniature.picture import render, render_array
from gapbench.miniature.world import CELLS, COLORS, SHAPES, SIZES, SPLITS, Scene, Thing, scenes, split_of

SCENES = [scene for split in SPLITS for scene in scenes(split, 200, seed=11)]
WORDS = {word: count for count, word in NUMBERS.items()} | {"a": 1, "an": 1}


def pairs(scene: Scene) -> set[tuple]:
    return {tuple(sorted((a.name, b.name))) for a, b in combinations(scene.things, 2)}


def said(phrase: str) -> tuple[int, str | None, str | None]:
    """Count, color and shape of `two red circles`."""
    count, *color, noun = phrase.split()
    shape = next(shape for shape in SHAPES if noun.startswith(shape))
    return WORDS[count], color[0] if color else None, shape


# --- Scenes -----------------------------------------------------------------------------------------------------------


def test_every_held_out_scene_has_a_combination_that_training_lacks() -> None:
    """The rest of its pairs may be known. With two things, the only pair is new."""
    trained = {pair for scene in scenes("train", 2000) for pair in pairs(scene)}
    for split in ("validation", "test"):
        for scene in scenes(split, 300):
            assert split_of(scene) == split
            if len(scene.things) == 1:
                continue
            assert pairs(scene) - trained, scene


def test_no_scene_is_in_two_splits() -> None:
    found = [set(scenes(split, 500)) for split in SPLITS]
    assert not any(a & b for a, b in combinations(found, 2))


@pytest.mark.parametrize("split", SPLITS)
def test_scenes_follow_from_the_seed_and_longer_lists_begin_with_shorter(split: str) -> None:
    many = scenes(split, 200, seed=5)
    assert many == scenes(split, 200, seed=5)
    assert many[:50] == scenes(split, 50, seed=5)
    assert len(set(many)) == 200
    assert many != scenes(split, 200, seed=6)


def test_scenes_hold_one_to_four_things_in_distinct_cells() -> None:
    assert {len(scene.things) for scene in SCENES} == {1, 2, 3, 4}
    with pytest.raises(ValueError, match="distinct"):
        Scene((Thing(3, "red", "circle", "small"), Thing(3, "blue", "circle", "small")))
    with pytest.raises(ValueError, match="in order"):
        Scene((Thing(4, "red", "circle", "small"), Thing(3, "blue", "circle", "small")))


# --- Pictures and codes -----------------------------------------------------------------------------------------------


def test_the_code_book_draws_every_scene() -> None:
    codes = np.stack([tiles.codes_of(scene) for scene in SCENES])
    assert np.array_equal(tiles.picture_of(codes), np.stack([render_array(scene) for scene in SCENES]))


def test_a_code_names_one_quadrant_of_one_thing() -> None:
    codes = {
        tiles.code(q, size, color, shape) for q in range(4) for size in SIZES for color in COLORS for shape in SHAPES
    }
    assert len(codes) == 4 * 2 * 8 * 6
    assert max(codes) < 2**tiles.BITS
    assert tiles.BARE not in codes
    assert len(np.unique(tiles.code_book()[tiles.BARE].reshape(-1, 3), axis=0)) == 1


# --- Questions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "text", "skill"),
    [
        (Query("exists", (None, "star")), "Is there a star in the image?", "object"),
        (Query("exists", ("orange", "cross")), "Is there an orange cross in the image?", "binding"),
        (Query("color", (None, "heart")), "What color is the heart?", "color"),
        (Query("shape", ("red", None)), "What shape is the red object?", "shape"),
        (Query("size", ("red", "star")), "Is the red star large or small?", "other"),
        (Query("count", ("red", "cross")), "How many red crosses are there?", "count"),
        (Query("count"), "How many objects are there?", "count"),
        (
            Query("related", ("red", "star"), (None, "heart"), "left of"),
            "Is the red star left of the heart?",
            "position",
        ),
        (
            Query("side", (None, "star"), (None, "heart"), "above"),
            "Is the star above or below the heart?",
            "position",
        ),
    ],
)
def test_the_wording_of_every_kind(query: Query, text: str, skill: str) -> None:
    assert (query.text, query.skill) == (text, skill)
    assert parse(text) == query
    assert parse(f"{text}\nAnswer the question using a single word or phrase.") == query


@pytest.mark.parametrize("text", ["", "Is there a dog in the image?", "Describe the image.", "What color is the sky?"])
def test_other_texts_are_no_questions(text: str) -> None:
    with pytest.raises(ValueError, match="not a question"):
        parse(text)


def test_a_query_of_no_kind_has_no_wording() -> None:
    with pytest.raises(ValueError, match="kind"):
        _ = Query("taste").text


def test_random_queries_apply_are_read_back_and_have_listed_answers() -> None:
    rng = random.Random(2)
    kinds = {"exists", "color", "shape", "size", "count", "related", "side"}
    asked = set()
    verdicts: dict[str, list[str]] = {"exists": [], "related": []}
    for scene in SCENES:
        for _ in range(4):
            query = random_query(scene, rng)
            answer = query.answer(scene.things)
            assert parse(query.text) == query
            assert answer != NONE
            assert answer in query.choices
            asked.add(query.kind)
            verdicts.get(query.kind, []).append(answer)
    assert asked == kinds
    for answers in verdicts.values():
        assert 0.4 < answers.count("yes") / len(answers) < 0.6


def test_the_eye_and_the_truth_give_the_same_answers() -> None:
    rng = random.Random(3)
    for scene in SCENES:
        seen = detect(render(scene))
        queries = [random_query(scene, rng) for _ in range(4)] + describe(scene, rng).queries()
        queries.append(random_query(rng.choice(SCENES), rng))  # may well not apply here
        for query in queries:
            assert query.answer(seen) == query.answer(scene.things), (scene, query)


# --- Captions ---------------------------------------------------------------------------------------------------------


def test_descriptions_are_complete_and_their_queries_apply() -> None:
    rng = random.Random(4)
    related = 0
    for scene in SCENES:
        description = describe(scene, rng)
        assert sorted((name, count) for count, name in description.groups) == sorted(
            (name, len(group)) for name, group in scene.groups().items()
        )
        for query in description.queries():
            assert parse(query.text) == query
            assert query.answer(scene.things) not in (NONE, "no", "0")
        if description.relation:
            related += 1
            (_, first), (_, second) = description.groups[:2]
            (a,), (b,) = scene.having(*first), scene.having(*second)
            assert description.relation in relations(a.box, b.box)
    assert related > len(SCENES) / 4


def test_the_text_of_a_description_says_its_groups() -> None:
    rng = random.Random(5)
    joints = re.compile("|".join([", ", *(f" {word} " for word in ("and", *RELATIONS))]))
    for scene in SCENES:
        description = describe(scene, rng)
        phrases = joints.split(description.text)
        assert [said(phrase) for phrase in phrases] == [(count, *name) for count, name in description.groups]


def test_dense_captions_say_every_thing_once() -> None:
    rng = random.Random(6)
    for scene in SCENES:
        things = []
        for phrase in re.split(", | and ", dense_caption(scene, rng)):
            _, size, color, shape, cell = re.fullmatch(r"(an?) (\w+) (\w+) (\w+) at the ([\w ]+)", phrase).groups()
            things.append(Thing(CELLS.index(cell), color, shape, size))
        assert tuple(sorted(things)) == scene.things


def test_photo_captions_are_true_of_the_whole_scene() -> None:
    rng = random.Random(7)
    forms = set()
    for scene in SCENES:
        caption = photo_caption(scene, rng)
        if caption is None:
            continue
        *middle, relation = [r for axis in AXES for r in axis if f" {r} " in caption] or [""]
        assert not middle
        phrases = re.split(f" {relation} " if relation else " and ", caption.removeprefix("a photo of "))
        parts = [said(phrase) for phrase in phrases]
        for count, color, shape in parts:
            assert len(scene.having(color, shape)) == count, (caption, scene)
        assert sum(count for count, *_ in parts) == len(scene.things)
        if relation:
            (a,), (b,) = (scene.having(*name) for _, *name in parts)
            assert relation in relations(a.box, b.box)
        forms.add((len(parts), parts[0][0] > 1, parts[0][1] is not None, bool(relation)))
    assert forms == {
        (1, False, False, False),  # single object
        (1, False, True, False),  # colors
        (1, True, False, False),  # counting
        (2, False, False, False),  # two objects
        (2, False, False, True),  # position
        (2, False, True, False),  # color attribution
    }
