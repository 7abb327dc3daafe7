"""A strict judge behind an OpenAI-compatible server: GPT-4o, as HermesFlow's gap has it, or any that sees.

HermesFlow (arXiv 2502.12148) publishes no judge prompt, only that an object too blurred or incomplete to be recognised
counts as absent. So the wording is ours. The judge sees the picture, the question and its choices, and never the
caption; it reasons before it decides, may say that it cannot tell, and is asked one question at a time, for answers
given together influence each other.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

from gapbench.api import Chat, Client, Reply, endpoint
from gapbench.records import Failure, Question

VERSION = "1"  # of all wording below
STRICT = """\
You check what a picture really shows. You are given one picture and one question about it.

- Look closely at the whole picture before you decide, small things and the background too.
- Go by what can be seen alone. Do not go by what such pictures usually show, by what the question or its options \
suggest, or by what somebody may have meant to draw.
- Be strict. A thing that is so blurred, broken, deformed, merged with others or incomplete that it cannot be \
recognized for certain is not there: do not count it, and say of nothing that it belongs to it.
- A color, material, number, place or action counts as right only if it is plainly so for the very thing asked about.
- If the picture does not settle the question, say that it cannot be told. Do not guess.

Reply with one JSON object and nothing else."""
AMONG = 'First "reason", in one short sentence what you see; then "choice", one of the letters, or "none".'
FREELY = 'First "reason", in one short sentence what you see; then "answer", a word or short phrase, or "cannot tell".'
CANNOT_TELL = "cannot tell"
NONE = "none"
_BARE = re.compile(r"\(?(\w+)\)?(?:[.:)].*)?", re.DOTALL)  # `B`, `(b)`, `B. red`, where no schema is enforced


class Verdict(str):
    """What a judge answers: one of the question's choices, CANNOT_TELL, or free words.

    `reason` is what it says it saw, `snapshot` the model as its server names it.
    """

    __slots__ = ("reason", "snapshot")

    def __new__(cls, answer: str, reason: str, snapshot: str) -> Verdict:
        verdict = super().__new__(cls, answer)
        verdict.reason, verdict.snapshot = reason, snapshot
        return verdict


class ApiJudge:
    """Answers with `Verdict`s. "Cannot tell" is one: an answer that is none of the choices, and no failure to judge."""

    def __init__(self, name: str, client: Client | None = None) -> None:
        self.name = name
        self._client = client or Client(endpoint(name))

    def judge(self, questions: Sequence[Question]) -> Iterator[Verdict | Failure]:
        """Yields a Failure for a question that got no reply of the form asked for, or has too many choices."""
        fits = [len(question.choices) <= len(ascii_uppercase) for question in questions]
        said = self._client.chat([chat_of(q) for q, fit in zip(questions, fits, strict=True) if fit], _read)
        for question, fit in zip(questions, fits, strict=True):
            if not fit:
                yield Failure(f"{len(question.choices)} choices are more than there are letters")
                continue
            found = next(said)
            yield found if isinstance(found, Failure) else _verdict(found, question)

    def describe(self) -> Mapping[str, Any]:
        wording = "\n".join((STRICT, AMONG, FREELY)).encode()
        plain = Chat("")
        return {
            "name": self.name,
            **self._client.describe(),
            "prompt": f"strict {VERSION}",
            "prompt_sha256": hashlib.sha256(wording).hexdigest(),
            "choices": "lettered, in an order that depends on the question and on nothing else",
            "decoding": {"temperature": plain.temperature, "max_tokens": plain.max_tokens, "seed": plain.seed},
        }


def lettered(question: Question) -> dict[str, str]:
    """Letter -> choice, in an order made of the question's text and its choices, whatever order they come in."""

    def place(choice: str) -> bytes:
        return hashlib.sha256(json.dumps([question.text, choice]).encode()).digest()

    return dict(zip(ascii_uppercase, sorted(question.choices, key=place), strict=False))


def chat_of(question: Question) -> Chat:
    """The request: picture and question, and the choices by letter."""
    text = f"Question: {question.text}"
    if not question.choices:
        return Chat(f"{text}\n\n{FREELY}", question.pictures, STRICT, _schema("answer", {"type": "string"}))
    choices = lettered(question)
    options = "\n".join(f"{letter}. {choice}" for letter, choice in choices.items())
    among = {"type": "string", "enum": [*choices, NONE]}
    asked = f"{text}\n\nOptions:\n{options}\n{NONE}. {CANNOT_TELL}\n\n{AMONG}"
    return Chat(asked, question.pictures, STRICT, _schema("choice", among))


def _schema(field: str, kind: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"reason": {"type": "string"}, field: kind},
        "required": ["reason", field],
        "additionalProperties": False,
    }


class _Said(NamedTuple):
    reason: str
    decided: str
    snapshot: str


def _read(reply: Reply) -> _Said:
    """Raises ValueError where the reply does not decide among what it was offered."""
    field, kind = list(reply.asked.schema["properties"].items())[1]
    found = _last_object(reply.text, field)
    decided = found[field].strip()
    if "enum" in kind:
        bare = _BARE.fullmatch(decided)
        decided = next((offer for offer in kind["enum"] if bare and bare[1].upper() == offer.upper()), "")
    if not decided:
        raise ValueError(f"{field} {found[field]!r} was not offered")
    return _Said(str(found.get("reason", "")), decided, reply.model)


def _last_object(text: str, field: str) -> dict[str, Any]:
    """The last JSON object in a text that holds `field` as a string; servers put fences and prose around."""
    decoder, at, found = json.JSONDecoder(), 0, None
    while (at := text.find("{", at)) >= 0:
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at += 1
            continue
        if isinstance(value.get(field), str):
            found = value
    if found is None:
        raise ValueError(f"no JSON object with {field}")
    return found


def _verdict(said: _Said, question: Question) -> Verdict:
    if not question.choices:
        unable = said.decided.lower().rstrip(" .") == CANNOT_TELL
        return Verdict(CANNOT_TELL if unable else said.decided, said.reason, said.snapshot)
    return Verdict(lettered(question).get(said.decided, CANNOT_TELL), said.reason, said.snapshot)
