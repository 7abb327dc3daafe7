"""Which answer a model gave, by each rule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gapbench.homologous import HomologousQuestion
from gapbench.judges.sentences import Sentences
from gapbench.records import (
    Failure,
    InputError,
    TextLikelihood,
)
from gapbench.tasks.base import Response
from gapbench.tasks.matching import Exact, Likelihood, Nearest, matches, matching


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        ("red", "red", True),
        ("Red.", "red", True),
        ("  RED \n", "red", True),
        ("red .", "red", True),
        ("top  left", "Top left", True),
        ("it is red", "red", False),
        ("re d", "red", False),
        ("3", "three", False),
        ("", "red", False),
        (Failure("red"), "red", False),
    ],
)
def test_matching(said: str | Failure, answer: str, right: bool) -> None:
    assert matches(said, answer) is right


COLOR = HomologousQuestion("color?", "dark red", "color", ("dark red", "blue", "light green"))
FREE = HomologousQuestion("what?", "red", "color")


def test_exact_takes_what_was_said() -> None:
    responses: list[Response] = ["Blue.", "violet", Failure("no"), "red"]
    assert Exact().said([COLOR, COLOR, COLOR, FREE], responses) == ["Blue.", "violet", None, "red"]


def test_likelihood_is_per_token_and_of_equals_the_first() -> None:
    def weighed(*pairs: tuple[float, int]) -> tuple[TextLikelihood, ...]:
        return tuple(TextLikelihood(total, tokens, False) for total, tokens in pairs)

    responses = [
        weighed((-3.0, 3), (-2.0, 1), (-9.0, 2)),  # the sum would choose blue
        weighed((-9.0, 3), (-2.0, 1), (-9.0, 2)),
        weighed((-4.0, 2), (-2.0, 1), (-4.0, 2)),
        weighed((0.0, 0), (-2.0, 1), (-4.0, 2)),
        Failure("no"),
    ]
    assert Likelihood().said([COLOR] * 5, responses) == ["dark red", "blue", "dark red", "dark red", None]


class Lengths(Sentences):
    """Calls nearest what is nearest in length."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, tuple[str, ...]]] = []

    def nearest(self, asked: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
        self.seen += asked
        return [min(choices, key=lambda choice: abs(len(choice) - len(text))) for text, choices in asked]

    def describe(self) -> dict[str, Any]:
        return {"name": "lengths"}


def test_nearest_embeds_only_answers_that_are_no_choice() -> None:
    rule = Nearest(Lengths())
    questions = [COLOR, COLOR, FREE, COLOR, COLOR, COLOR]
    responses: list[Response] = ["Dark Red.", "teal", "it is red", Failure("no"), " . ", "it is greenish"]
    assert rule.said(questions, responses) == ["Dark Red.", "blue", "it is red", None, " . ", "light green"]
    assert rule.sentences.seen == [("teal", COLOR.choices), ("it is greenish", COLOR.choices)]
    assert (rule.describe()["rule"], rule.describe()["name"]) == ("nearest", "lengths")


def test_rules_by_name(tmp_path: Path) -> None:
    assert isinstance(matching("exact"), Exact)
    assert isinstance(matching("likelihood"), Likelihood)
    assert matching("nearest").sentences.model == "sentence-transformers/all-mpnet-base-v2"
    assert matching(f"nearest:{tmp_path}", "cpu").sentences.model == str(tmp_path)
    for name in ("", "near", "nearest:", "exact:here", "likelihood:x"):
        with pytest.raises(
            InputError, match=r"--matching .*unknown; there is likelihood, nearest, nearest:FOLDER, exact"
        ):
            matching(name)
