"""MMMU's and Flickr30k's forms of the miniature: the prompts that the model was trained on, and true answers."""

from __future__ import annotations

import random
from collections import Counter

from gapbench.miniature import benchmarks, eye, tokenizer
from gapbench.miniature.language import parse
from gapbench.miniature.lessons import multiple_choice
from gapbench.miniature.world import split_of
from gapbench.tasks import flickr30k, mmmu


def test_choices_are_asked_in_the_form_of_training() -> None:
    forms: set[str] = set()
    for row in benchmarks.choice_rows(20):
        query = parse(row.question)
        answer = row.options["ABCD".index(row.answer)]
        prompt = mmmu.prompt(row.question, mmmu.lettered(row.options))
        trained, letter = multiple_choice(query, answer, Fixed(row.options))
        assert (prompt, row.answer) == (trained, letter)
        forms.add(row.subject)
    assert forms == set(mmmu.MINIATURE)


class Fixed(random.Random):
    """Chooses and orders the options as given."""

    def __init__(self, options: tuple[str, ...]) -> None:
        super().__init__(0)
        self.options = options

    def sample(self, population, k):
        wrong = [option for option in self.options if option in population]
        assert len(wrong) == k
        return wrong

    def shuffle(self, x) -> None:
        assert sorted(x) == sorted(self.options)
        x[:] = self.options


def test_the_letter_is_the_only_right_one() -> None:
    rows = benchmarks.choice_rows()
    assert len({row.picture.key for row in rows}) == benchmarks.MMMU_SCENES
    numbers: Counter[str] = Counter()
    for row in rows:
        scene = eye.read(row.picture.open())
        assert split_of(scene) == "test"
        answer = parse(row.question).answer(scene.things)
        assert row.options["ABCD".index(row.answer)] == answer
        assert len(set(row.options)) == 4
        numbers[row.subject] += 1
        assert row.number == numbers[row.subject]
    assert min(numbers.values()) > 60
    assert min(Counter(row.answer for row in rows).values()) > 40


def test_the_words_are_in_the_models_vocabulary() -> None:
    assert flickr30k.PROMPT in tokenizer.CAPTION_QUESTIONS
    assert mmmu.prompt("q", {"A": "x"}).endswith(tokenizer.LETTER)


def test_captions_are_five_and_of_the_scene() -> None:
    found = benchmarks.captioned_scenes()
    assert len({one.id for one in found}) == len({one.picture.key for one in found}) == benchmarks.FLICKR_SCENES
    assert found[:10] == benchmarks.captioned_scenes(10)
    for one in found:
        scene = eye.read(one.picture.open())
        assert split_of(scene) == "test"
        assert len(one.captions) == flickr30k.CAPTIONS
        for thing in scene.things:
            assert thing.color in one.captions[0]
            assert f"{thing.size} {thing.color} {thing.shape}" in one.captions[3]
