"""The miniature's VQAv2: true answers, people who mostly agree, and VQAv2's own question types."""

from __future__ import annotations

from collections import Counter

import pytest

from gapbench.metrics.vqa_accuracy import accuracy, normalise
from gapbench.miniature import benchmarks
from gapbench.miniature.eye import detect
from gapbench.miniature.language import parse


@pytest.fixture(scope="module")
def rows() -> list[benchmarks.VqaRow]:
    return benchmarks.vqa_rows()


def test_five_different_questions_a_picture_with_ids_as_in_vqav2(rows) -> None:
    assert len(rows) == 400
    assert [row.question_id for row in rows[:6]] == [0, 1, 2, 3, 4, 1000]
    assert all(row.question_id // 1000 == row.image_id for row in rows)
    assert len({row.question_id for row in rows}) == len({(row.image_id, row.text) for row in rows}) == 400
    assert len({row.picture.key for row in rows}) == 80
    assert {row.picture.key for row in rows[10:15]} == {"miniature-vqa-2"}


def test_it_is_the_same_every_time_and_begins_alike_however_long_it_is(rows) -> None:
    assert benchmarks.vqa_rows(7) == rows[:35]


def test_most_people_see_what_the_exact_eye_sees(rows) -> None:
    right = {row: parse(row.text).answer(detect(row.picture.open())) for row in rows}
    soft = [accuracy(answer, row.answers) for row, answer in right.items()]
    assert 0.95 < sum(soft) / 400 < 0.99
    assert set(soft) >= {0.3, 0.6, 0.9, 1.0}
    first = [Counter(map(normalise, row.answers)).most_common(1)[0][0] for row in rows]
    assert sum(word == normalise(right[row]) for word, row in zip(first, rows, strict=True)) > 360


def test_answer_types_are_all_there_and_fit(rows) -> None:
    assert set(Counter(row.answer_type for row in rows)) == {"yes/no", "number", "other"}
    assert min(Counter(row.answer_type for row in rows).values()) > 50
    for row in rows:
        choices = parse(row.text).choices
        kind = "yes/no" if choices == ("yes", "no") else "number" if choices[0] == "0" else "other"
        assert row.answer_type == kind


def test_people_differ_in_words_and_now_and_then_in_the_answer(rows) -> None:
    unanimous = [row for row in rows if len(set(row.answers)) == 1]
    assert 100 < len(unanimous) < 180
    said = Counter(answer for row in rows for answer in row.answers)
    assert all(len(row.answers) == 10 for row in rows)
    assert 100 < said["unsure"] < 200
    assert min(said[word] for word in ("two", "a circle", "circle shape", "big", "left", "yes.", "No")) > 0
    # Some words are made equal by VQAv2's rules, and some are not.
    assert normalise("two") == "2"
    assert normalise("a circle") == "circle"
    assert normalise("circle shape") != "circle"


def test_question_types_are_vqav2s_longest_that_the_question_begins_with(rows, shared) -> None:
    official = (shared / "data/understanding/vqa/mscoco_question_types.txt").read_text().split("\n")
    official = [name.strip() for name in official if name.strip()]
    assert len(official) == 65
    assert set(benchmarks.VQA_TYPES) <= set(official)
    for row in rows:
        assert row.question_type == max((t for t in official if row.text.lower().startswith(f"{t} ")), key=len)
    assert {row.question_type for row in rows} == set(benchmarks.VQA_TYPES)
