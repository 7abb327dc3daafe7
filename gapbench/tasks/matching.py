"""Which answer a model gave: what it said, or of the choices the one that it means, or the one that is likeliest.

HermesFlow (arXiv 2502.12148), as TIFA before it, asks the bare question, lets the model answer freely and takes the
choice whose sentence embedding is nearest. That is `nearest`. A model that can weigh texts need not speak at all:
`likelihood` asks it how likely each choice is after the same prompt. `exact` takes an answer as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from gapbench.homologous import HomologousQuestion, normal
from gapbench.records import InputError, TextLikelihood
from gapbench.tasks.base import Response

if TYPE_CHECKING:
    from gapbench.judges.sentences import Sentences

RULES = ("likelihood", "nearest", "nearest:FOLDER", "exact")


class Matching(Protocol):
    """`weighs`: whether the model is to weigh the choices, in place of answering."""

    weighs: bool

    def said(self, questions: Sequence[HomologousQuestion], responses: Sequence[Response]) -> list[str | None]:
        """The answer that each response gives to its question; None where there is no response."""
        ...

    def describe(self) -> Mapping[str, Any]: ...


def matches(said: object, answer: str) -> bool:
    """Whether what was said, if it is a text, is the answer, but for case, spaces and a final full stop."""
    return isinstance(said, str) and normal(said) == normal(answer)


class Exact:
    weighs = False

    def said(self, questions: Sequence[HomologousQuestion], responses: Sequence[Response]) -> list[str | None]:
        return [response if isinstance(response, str) else None for response in responses]

    def describe(self) -> Mapping[str, Any]:
        return {"rule": "exact", "equal": "after lower-casing, collapsing spaces and dropping a final full stop"}


class Likelihood:
    """The choice with the greatest log-probability per token; of equals the first.

    Per token, for the sum would hold it against a choice that it takes more words: JourneyDB's are phrases.
    """

    weighs = True

    def said(self, questions: Sequence[HomologousQuestion], responses: Sequence[Response]) -> list[str | None]:
        return [
            max(zip(map(_per_token, response), question.choices, strict=True), key=lambda pair: pair[0])[1]
            if isinstance(response, tuple)
            else None
            for question, response in zip(questions, responses, strict=True)
        ]

    def describe(self) -> Mapping[str, Any]:
        return {"rule": "likelihood", "of": "mean log-probability per token of ' ' + choice"}


def _per_token(likelihood: TextLikelihood) -> float:
    return likelihood.total / max(1, likelihood.tokens)


class Nearest:
    """As `Exact` where an answer is one of the choices or there are none; else the choice nearest to it by `sentences`.

    Who says nothing chooses nothing.
    """

    weighs = False

    def __init__(self, sentences: Sentences) -> None:
        self.sentences = sentences

    def said(self, questions: Sequence[HomologousQuestion], responses: Sequence[Response]) -> list[str | None]:
        said = Exact().said(questions, responses)
        unclear = [
            number
            for number, (question, text) in enumerate(zip(questions, said, strict=True))
            if text is not None
            and normal(text)
            and question.choices
            and not any(matches(text, choice) for choice in question.choices)
        ]
        found = self.sentences.nearest([(said[number], questions[number].choices) for number in unclear])
        for number, choice in zip(unclear, found, strict=True):
            said[number] = choice
        return said

    def describe(self) -> Mapping[str, Any]:
        exact = Exact().describe()["equal"]
        return {"rule": "nearest", "equal": exact, "else": "choice of greatest cosine", **self.sentences.describe()}


def matching(rule: str, device: str | None = None) -> Matching:
    """By the name of a rule; `nearest:` may be followed by the embedding model's folder or repository.

    Raises InputError where there is no such rule.
    """
    name, _, place = rule.partition(":")
    if rule == "exact":
        return Exact()
    if rule == "likelihood":
        return Likelihood()
    if name == "nearest" and (place or rule == name):
        from gapbench.judges.sentences import DEFAULT, Sentences

        return Nearest(Sentences(place or DEFAULT, device))
    raise InputError(f"--matching {rule}: unknown; there is {', '.join(RULES)}")
