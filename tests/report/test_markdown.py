"""Markdown: marks, arrows, intervals, and names that break nothing."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapbench.report.markdown import escaped, markdown
from gapbench.report.table import Column, Figure, Row, Table

TABLE = Table(
    "Scores",
    "model",
    [Column("FID", "lower"), Column("accuracy", "higher"), Column("n")],
    [
        Row("a", (Figure(9.25, 9.0, 9.5, 2, "best"), Figure(0.5, mark="tied"), "20")),
        Row("b", (Figure(-0.0001), None, "0.5 (7/20)")),
        Row("c", (None, Figure(0.25, digits=2), None), "Paper 1"),
    ],
    ["Intervals: told", "a note"],
)


def test_a_table_by_hand() -> None:
    assert (
        markdown([TABLE])
        == """### Scores

| model | FID ↓ | accuracy ↑ | n |
| --- | ---: | ---: | ---: |
| a | **9.25** [9.00, 9.50] | <ins>0.500</ins> | 20 |
| b | 0.000 | - | 0.5 (7/20) |
| c (reported) | - | 0.25 | - |

Reported by Paper 1: c

Intervals: told

a note
"""
    )


def test_without_intervals_nothing_speaks_of_them() -> None:
    text = markdown([TABLE], intervals=False)
    assert "| a | **9.25** | <ins>0.500</ins> | 20 |" in text
    assert "Intervals" not in text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a|b<script>\\|\nc", "a\\|b&lt;script>\\\\\\| c"),
        ("show_o_mini", "show_o_mini"),
        ("_a_ __b__", "\\_a\\_ \\_\\_b\\_\\_"),
        ("*a* `b` ~~c~~", "\\*a\\* \\`b\\` \\~~c\\~~"),
        ("[0.1, 0.2]", "[0.1, 0.2]"),
        ("[a](http://b) [a][b] [a]: b", "[a\\](http://b) [a\\][b] [a\\]: b"),
        ("a & b &lt; &#60;", "a & b &amp;lt; &amp;#60;"),
    ],
)
def test_characters(text: str, written: str) -> None:
    assert escaped(text) == written


@given(st.lists(st.text(), min_size=4, max_size=4))
def test_no_text_makes_another_cell_or_line(texts: list[str]) -> None:
    label, name, cell, note = texts
    table = Table("t", label, [Column(name)], [Row(label, [cell])], [note])
    lines = markdown([table]).split("\n")
    assert len(lines) == 8
    for line in lines[2:5]:
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3
    assert "<" not in "".join(lines)
