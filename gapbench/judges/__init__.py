"""Heavy models that judge, behind small functions; each is loaded on first use.

`judge(name)` gives who answers questions about drawings: the miniature's exact eye (`eye`), a model behind an
OpenAI-compatible server (`openai:NAME`, `openai:NAME@URL`), or any model that answers, by its name or folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Protocol

from gapbench.prompts import SHORT_ANSWER
from gapbench.records import Decoding, Failure, Question

if TYPE_CHECKING:
    from gapbench.models.base import Answers

DECODING = Decoding(max_new_tokens=32)
# What `--judge gap=NAME` and `--judge dpg=NAME` take; the drawings of GenEval and COCO are for other networks to judge.
KNOWN = {
    "eye": "the miniature's exact eye, which reads its pictures alone",
    "openai:NAME[@URL]": "a model behind an OpenAI-compatible server, asked strictly; the gap's own is openai:gpt-4o",
    "NAME or FOLDER": "any model that answers (`gapbench list models`)",
}


class Judge(Protocol):
    """Answers bare questions: how they are put is the judge's own business, and told by `describe`.

    An answer is one of the question's choices where it has any and the judge keeps to them. A question that could not
    be judged yields a Failure, and counts on no side.
    """

    def judge(self, questions: Sequence[Question]) -> Iterator[str | Failure]: ...

    def describe(self) -> Mapping[str, Any]: ...


class ModelJudge:
    """Any model that answers, asked as benchmarks ask for short answers."""

    def __init__(self, model: Answers) -> None:
        self.model = model

    def judge(self, questions: Sequence[Question]) -> Iterator[str | Failure]:
        return self.model.answer([replace(q, text=q.text + SHORT_ANSWER) for q in questions], DECODING)

    def describe(self) -> Mapping[str, Any]:
        told = {key: value for key, value in self.model.describe().items() if key != "device"}  # which GPU it was
        return {**told, "prompt": "{question}" + SHORT_ANSWER, "decoding": asdict(DECODING)}


def judge(name: str, device: str | None = None) -> Judge:
    """Raises InputError where there is no such judge."""
    if name == "eye":
        from gapbench.miniature.eye import Eye

        return ModelJudge(Eye())
    if name.startswith("openai:"):
        from gapbench.judges.api import ApiJudge

        return ApiJudge(name)
    return ModelJudge(answerer(name, device))


def answerer(name: str, device: str | None = None) -> Answers:
    """Any model that answers, by its name or folder, as the judge of another's drawings."""
    from gapbench.models import zoo

    return zoo.load(name, device)
