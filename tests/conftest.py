"""Fixtures that several test files share."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from PIL import Image

from gapbench.miniature.picture import render
from gapbench.miniature.world import random_scene
from gapbench.records import Decoding, Failure, Prompt, Question, Sampling, TextLikelihood

# The same examples in every run, however slow the machine: what fails here fails for everyone.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the benchmarks' public data and golden vectors: GAPBENCH_SHARED, or ../shared of the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("GAPBENCH_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set GAPBENCH_SHARED")
    return folder


@pytest.fixture(autouse=True)
def no_data_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GAPBENCH_DATA", raising=False)


@pytest.fixture(autouse=True)
def no_servers_of_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("GAPBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


class FakeModel:
    """Answers and draws by chance, from a seed made of the ask and of all that it is handed with it.

    So a response changes as soon as a chunk does, which no real model's should: what depends on chunks shows.
    """

    def __init__(self, name: str = "fake", fails: Callable[[Question | Prompt], bool] = lambda ask: False) -> None:
        self.name, self.fails = name, fails
        self.batches: list[tuple[str, ...]] = []

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "weights": {"transformer": {"file": "none", "sha256": "0" * 64}}, "device": "cpu"}

    def settings(self, sampling: Sampling) -> Sampling:
        return Sampling(sampling.steps or 7, sampling.guidance or 2.0, 1.0)

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> Iterator[str | Failure]:
        batch = self._noted(questions)
        for question in questions:
            if self.fails(question):
                yield Failure("told to fail")
                continue
            try:
                pixels = b"".join(picture.open().tobytes() for picture in question.pictures[:1])
            except OSError as error:
                yield Failure(str(error))
                continue
            rng = random.Random(f"{batch}/{question.id}/{zlib.crc32(pixels)}")
            yield rng.choice(question.choices or ("Yes", "no"))

    def log_likelihood(
        self, questions: Sequence[Question], continuations: Sequence[str]
    ) -> Iterator[TextLikelihood | Failure]:
        batch = self._noted(questions)
        for question, text in zip(questions, continuations, strict=True):
            if self.fails(question):
                yield Failure("told to fail")
                continue
            try:
                pixels = b"".join(picture.open().tobytes() for picture in question.pictures[:1])
            except OSError as error:
                yield Failure(str(error))
                continue
            rng = random.Random(f"{batch}/{question.id}/{question.text}/{text}/{zlib.crc32(pixels)}")
            yield TextLikelihood(-9 * rng.random(), len(text.split()), rng.random() < 0.3)

    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Image.Image | Failure]:
        batch = self._noted(prompts)
        for prompt in prompts:
            if self.fails(prompt):
                yield Failure("told to fail")
            else:
                rng = random.Random(f"{batch}/{prompt.text}/{prompt.seed}")
                yield render(random_scene(rng))

    def _noted(self, asks: Sequence[Question | Prompt]) -> tuple[str, ...]:
        self.batches.append(tuple(f"{ask.id}@{getattr(ask, 'seed', '')}" for ask in asks))
        return self.batches[-1]


@pytest.fixture(scope="session")
def fake_model() -> type[FakeModel]:
    return FakeModel


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_show_o import write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def miniature_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """URL and log of a server process with show-o-mini and the eye, whose first replies to requests are faulty."""
    from openai_server import process

    log = tmp_path_factory.mktemp("server") / "calls.jsonl"
    with process("--faults", "429,500,cut,malformed,-", "--log", str(log)) as url:
        yield url, log
