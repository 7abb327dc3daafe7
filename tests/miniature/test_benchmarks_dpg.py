"""The miniature's DPG-Bench: captions that fit the miniature model, and questions that a right drawing answers yes."""

from __future__ import annotations

from collections import Counter

import pytest

from gapbench.miniature import prompts
from gapbench.miniature.eye import detect
from gapbench.miniature.language import parse
from gapbench.miniature.picture import render
from gapbench.miniature.world import CELLS, Scene, scenes


@pytest.fixture(scope="module")
def rows() -> list[prompts.DpgRow]:
    return prompts.dpg_rows()


def test_forty_prompts_with_questions_of_three_categories(rows) -> None:
    assert len({row.item for row in rows}) == len({row.text for row in rows}) == 40
    counts = Counter(row.category for row in rows)
    assert set(counts) == {"entity - whole", "attribute - color", "relation - spatial"}
    assert min(counts.values()) > 30


def test_a_right_drawing_answers_every_question_yes_and_an_empty_one_none(rows) -> None:
    scene_of = {str(number): scene for number, scene in enumerate(scenes("test", 40, seed=9))}
    nothing = detect(render(Scene(())))
    for row in rows:
        query = parse(row.query.text)
        assert query == row.query
        assert query.answer(detect(render(scene_of[row.item]))) == "yes"
        assert query.answer(nothing) == "no"


def test_prompts_name_every_thing_with_its_size_color_shape_and_cell(rows) -> None:
    for number, scene in enumerate(scenes("test", 40, seed=9)):
        text = next(row.text for row in rows if row.item == str(number))
        for thing in scene.things:
            assert f"{thing.size} {thing.color} {thing.shape} at the {CELLS[thing.cell]}" in text


def test_a_question_stands_below_those_that_it_takes_for_granted(rows) -> None:
    questions = {(row.item, row.number): row for row in rows}
    numbers: dict[str, list[int]] = {}
    for row in rows:
        numbers.setdefault(row.item, []).append(row.number)
        above = [questions[row.item, parent].query for parent in row.parents]
        if row.category == "entity - whole":
            assert not above
        elif row.category == "attribute - color":
            assert [query.a for query in above] == [(None, row.query.a[1])]
        else:
            for query, name in zip(above, (row.query.a, row.query.b), strict=True):
                assert query.a[1] == name[1]
                assert name[0] in (None, query.a[0])
    assert any(row.query.a[0] for row in rows if row.category == "relation - spatial")
    assert any(row.query.a[0] is None for row in rows if row.category == "relation - spatial")
    assert all(found == list(range(1, len(found) + 1)) for found in numbers.values())


def test_prompts_fit_the_miniature_model(rows) -> None:
    from transformers import AutoTokenizer

    from gapbench.models import zoo

    folder = zoo.entries()["show-o-mini"].folder
    tokenizer = AutoTokenizer.from_pretrained(next(folder.rglob("tokenizer.json")).parent)
    assert max(len(tokenizer(row.text)["input_ids"]) for row in rows) <= 46


def test_it_is_the_same_every_time_and_begins_alike_however_long_it_is(rows) -> None:
    few = prompts.dpg_rows(5)
    assert rows[: len(few)] == few
