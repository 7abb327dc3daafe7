"""A model of which everything is known, and a server in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from openai import OpenAI
from PIL import Image

from gapbench.records import Decoding, Failure, Prompt, Question, Sampling
from gapbench.serve.batching import Batches
from gapbench.serve.http import Server
from gapbench.serve.service import Service


class Echo:
    """Answers with what it was asked, draws its seed as a colour; notes its calls, and waits in them at a closed gate.

    It yields a failure for a question or prompt that begins with "fail", and raises for one that begins with "raise".
    """

    def __init__(self, name: str = "echo") -> None:
        self.name = name
        self.calls: list[list[str]] = []
        self.entered, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "resolution": 8}

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> Iterator[str | Failure]:
        self._begin(questions)
        for question in questions:
            sizes = ["{}x{}".format(*picture.open().size) for picture in question.pictures]
            told = f"{decoding.max_new_tokens} {decoding.temperature:g} {decoding.seed}"
            yield self._given(question, " | ".join([question.text, *sizes, told]))

    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Image.Image | Failure]:
        self._begin(prompts)
        for prompt in prompts:
            yield self._given(prompt, Image.new("RGB", (8, 8), (prompt.seed % 256, len(prompt.text), 0)))

    def _begin(self, asks: Sequence[Question | Prompt]) -> None:
        self.calls.append([ask.text for ask in asks])
        self.entered.set()
        assert self.gate.wait(60)

    def _given(self, ask: Question | Prompt, given: Any) -> Any:
        if ask.text.startswith("raise"):
            raise RuntimeError("told to\nraise")
        return Failure("told to fail") if ask.text.startswith("fail") else given


@contextmanager
def served(model: Any, *, key: str | None = None, name: str = "echo", **how: Any) -> Iterator[Server]:
    """A server of `model` at a free port. how: of Batches."""
    server = Server("127.0.0.1", 0, key)
    with server.serving(Service(name, model, batches=Batches(model, **how))):
        yield server


def client_of(server: Server, key: str = "none") -> OpenAI:
    return OpenAI(api_key=key, base_url=server.url, max_retries=0, timeout=60)
