"""Captions of the miniature world read back: what is true scores 1, and what is not costs what it should."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapbench.miniature.captions import Caption, Mention, queries, read, truth
from gapbench.miniature.language import NONE, Query, dense_caption, describe, photo_caption
from gapbench.miniature.world import Scene, Thing, random_scene

SCENE = Scene(
    (Thing(0, "red", "circle", "large"), Thing(2, "blue", "cross", "small"), Thing(5, "blue", "cross", "small"))
)
SEEDS = st.integers(0, 10**6)


@given(SEEDS)
def test_every_true_caption_is_understood_and_true(seed: int) -> None:
    rng = random.Random(seed)
    scene = random_scene(rng)
    for text in (describe(scene, rng).text, dense_caption(scene, rng), photo_caption(scene, rng)):
        if text is not None:
            assert read(text).unread == 0
            assert truth(read(text), scene) == 1.0
            assert truth(read(f"  {text.capitalize()}. "), scene) == 1.0


@given(SEEDS)
def test_what_is_said_is_asked_and_answered(seed: int) -> None:
    rng = random.Random(seed)
    scene = random_scene(rng)
    description = describe(scene, rng)
    asked = queries(read(description.text), scene)
    assert set(description.queries()) <= set(asked)
    for query in (*asked, *queries(read(dense_caption(scene, rng)), scene)):
        assert query.answer(scene.things) in (set(query.choices) - {NONE, "no"})
    assert len(set(asked)) == len(asked)


def test_a_caption_read_by_hand() -> None:
    assert read("a red circle left of two blue crosses, an object and a large star at the top center") == Caption(
        (
            Mention(1, "red", "circle"),
            Mention(2, "blue", "cross"),
            Mention(1, None, None),
            Mention(1, None, "star", "large", 1),
        ),
        ((("red", "circle"), "left of", ("blue", "cross")),),
    )
    assert read("a photo of a circle, and a dog.") == Caption((Mention(1, None, "circle"),), unread=1)
    assert read("") == Caption((), unread=1)


@pytest.mark.parametrize(
    ("text", "precision", "recall"),
    [
        ("a red circle and two blue crosses", 1, 1),
        ("a red circle", 1, 1 / 3),
        ("a circle and a red circle", 1 / 2, 1 / 3),  # one circle cannot be both
        ("three blue crosses", 2 / 3, 2 / 3),
        ("a green circle and two blue crosses", 2 / 3, 2 / 3),
        ("a red circle, two blue crosses and a dog", 3 / 4, 1),
        ("a red circle right of a blue cross", 2 / 3, 2 / 3),
        ("a red circle left of a blue cross", 1, 2 / 3),
        ("a small red circle at the top left and two blue crosses", 4 / 5, 1),  # the size alone is wrong
        ("four green hearts", 0, 0),
        ("nonsense", 0, 0),
    ],
)
def test_truth_by_hand(text: str, precision: float, recall: float) -> None:
    expected = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    assert truth(read(text), SCENE) == pytest.approx(expected)


def test_questions_by_hand() -> None:
    assert queries(read("a large red circle at the top left and two blue crosses"), SCENE) == [
        Query("exists", (None, "circle")),
        Query("color", (None, "circle")),
        Query("exists", ("red", "circle")),
        Query("count", ("red", "circle")),
        Query("exists", (None, "cross")),
        Query("color", (None, "cross")),
        Query("exists", ("blue", "cross")),
        Query("count", ("blue", "cross")),
        Query("count"),
        Query("size", ("red", "circle")),
    ]
