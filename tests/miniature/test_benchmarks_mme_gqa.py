"""The miniature's MME and GQA: what is asked is answerable, true and as those benchmarks are made."""

from __future__ import annotations

from collections import Counter

from gapbench.metrics.relations import OPPOSITE
from gapbench.miniature import benchmarks
from gapbench.miniature.eye import detect
from gapbench.miniature.language import parse
from gapbench.miniature.tokenizer import YES_NO


def test_mme_asks_two_questions_an_image_of_which_the_first_is_true() -> None:
    rows = benchmarks.mme_rows()
    assert Counter(row.subtask for row in rows) == dict.fromkeys(benchmarks.MME_SUBTASKS, 60)
    assert len({row.picture.key for row in rows}) == 90
    for yes, no in zip(rows[::2], rows[1::2], strict=True):
        assert (yes.subtask, yes.image, yes.picture) == (no.subtask, no.image, no.picture)
        assert (yes.answer, no.answer) == ("Yes", "No")
        assert yes.text.endswith(YES_NO)
        assert no.text.endswith(YES_NO)
        seen = detect(yes.picture.open())
        asked, other = parse(yes.text), parse(no.text)
        assert (asked.answer(seen), other.answer(seen)) == ("yes", "no")
        if yes.subtask == "position":
            assert (asked.a, asked.b, OPPOSITE[asked.relation]) == (other.a, other.b, other.relation)
        elif yes.subtask == "color":
            assert asked.a[1] == other.a[1]
            assert None not in (asked.a[0], other.a[0])
        else:
            assert asked.a[0] is other.a[0] is None


def test_mme_begins_alike_however_long_it_is() -> None:
    few, all_of_them = benchmarks.mme_rows(5), benchmarks.mme_rows()
    assert len(few) == 30
    for subtask in benchmarks.MME_SUBTASKS:
        assert [row for row in few if row.subtask == subtask] == [row for row in all_of_them if row.subtask == subtask][
            :10
        ]


def test_gqa_asks_different_true_questions_of_all_kinds() -> None:
    rows = benchmarks.gqa_rows()
    assert len({row.id for row in rows}) == len(rows) == 400
    assert set(Counter(row.image for row in rows).values()) == {benchmarks.GQA_QUESTIONS}
    assert len({(row.image, row.text) for row in rows}) == 400
    for row in rows:
        assert parse(row.text).answer(detect(row.picture.open())) == row.answer != "none"
    kinds = Counter(parse(row.text).kind for row in rows)
    assert set(kinds) == {"exists", "related", "color", "shape", "count", "size", "side"}
    assert min(kinds.values()) >= 45
    said = Counter(row.answer for row in rows if row.structural == "verify")
    assert 0.4 < said["yes"] / said.total() < 0.6


def test_gqa_types_say_what_is_asked() -> None:
    types = {
        (parse(row.text).kind, bool(parse(row.text).a[0]), row.structural, row.semantic)
        for row in benchmarks.gqa_rows()
    }
    by_kind = {(kind, structural, semantic) for kind, _, structural, semantic in types if kind != "exists"}
    assert by_kind == {
        ("related", "verify", "rel"),
        ("side", "choose", "rel"),
        ("size", "choose", "attr"),
        ("color", "query", "attr"),
        ("shape", "query", "attr"),
        ("count", "query", "obj"),
    }
    exists = {(colored, structural, semantic) for kind, colored, structural, semantic in types if kind == "exists"}
    assert exists == {(False, "verify", "obj"), (True, "verify", "attr")}
