"""What the miniature's models are taught is true, and said in words that they have."""

from __future__ import annotations

import random
import re
from collections import Counter

import numpy as np
from PIL import Image
from transformers import AutoTokenizer

from gapbench.judges import judge
from gapbench.miniature import eye, lessons, tiles, tokenizer
from gapbench.miniature.language import parse
from gapbench.miniature.world import CELLS, GRID, split_of
from gapbench.records import Picture, Question

WHERE = re.compile(r"Is the (\w+) (\w+) at the .* of the image\?")


def test_harder_exchanges_ask_where_things_are_and_the_answers_are_true(tmp_path) -> None:
    tokenizer.build(tmp_path)
    words = AutoTokenizer.from_pretrained(tmp_path)
    rng, where = random.Random(0), 0
    for _ in range(400):
        scene = lessons.training_scene(rng)
        assert split_of(scene) == "train"
        question, answer = lessons.exchange(scene, rng, harder=True)
        assert words.unk_token_id not in words(f"{question} {answer}").input_ids
        if found := WHERE.fullmatch(question):
            where += 1
            (thing,) = scene.having(*found.groups())
            across, down = thing.cell % GRID, thing.cell // GRID
            assert answer in (lessons.ACROSS[across], lessons.DOWN[down])
            assert answer in CELLS[thing.cell] or answer in ("center", "middle")
    assert 30 < where < 90


def test_harder_exchanges_ask_more_of_counts_and_relations() -> None:
    asked = {harder: Counter[str]() for harder in (False, True)}
    for harder, counts in asked.items():
        rng = random.Random(1)
        for _ in range(600):
            question, _ = lessons.exchange(lessons.training_scene(rng), rng, harder)
            if not WHERE.fullmatch(question) and question not in tokenizer.CAPTION_QUESTIONS:
                counts[parse(question).skill] += 1
    for skill in ("count", "position"):
        assert asked[True][skill] > asked[False][skill]
    assert not any(WHERE.fullmatch(lessons.exchange(lessons.training_scene(rng), rng)[0]) for _ in range(200))


def test_bad_pictures_are_answered_as_the_eye_sees_them() -> None:
    rng, broken, asked = random.Random(3), 0, 0
    for _ in range(60):
        scene = lessons.training_scene(rng)
        codes = lessons.damaged(scene, rng)
        assert codes.shape == (tiles.SIDE**2,)
        seen = eye.detect(tiles.picture_of(codes))
        broken += len(seen) < len(scene.things)
        if said := lessons.verdict(scene, seen, rng):
            asked += 1
            question, answer = said
            (told,) = judge("eye").judge([Question("", question, (picture(codes),))])
            assert answer == told
    assert broken > 40
    assert asked > 40


def picture(codes: np.ndarray) -> Picture:
    return Picture("bad", lambda: Image.fromarray(tiles.picture_of(codes)))


def test_equal_generators_give_equal_lessons() -> None:
    def some() -> list[tuple[str, str]]:
        rng = random.Random(2)
        return [lessons.exchange(lessons.training_scene(rng), rng, harder=True) for _ in range(20)]

    assert some() == some()
