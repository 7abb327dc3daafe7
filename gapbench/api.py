"""OpenAI-compatible servers: many requests at once, each asked until it is answered, and none paid for twice.

Whoever asks - a judge, a model under test, a question writer - hands over all its requests; they are sent `concurrency`
at a time, tried again with growing pauses where the server is busy, broken or answers nonsense, and every good reply is
kept on disk under a hash of what was asked, so that a restart asks only what is missing. The key is the environment's
(OPENAI_API_KEY) and is written nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from gapbench.records import Failure, Picture, Prompt

T = TypeVar("T")


class Endpoint(NamedTuple):
    """A model at a server; no `url` is OPENAI_BASE_URL's, else OpenAI's own."""

    model: str
    url: str | None = None


def endpoint(name: str) -> Endpoint:
    """Of `openai:NAME` or `openai:NAME@URL`. Raises InputError for any other text."""
    raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Chat:
    """One request: a text with pictures before it. `schema`: the JSON schema that the reply is to follow."""

    text: str
    pictures: tuple[Picture, ...] = ()
    system: str = ""
    schema: Mapping[str, Any] | None = None
    temperature: float = 0.0
    max_tokens: int = 512
    seed: int = 0


class Reply(NamedTuple):
    """What the server said, and the snapshot of the model that said it, as the server names it."""

    text: str
    model: str


class Client:
    """Requests to one endpoint, with replies kept in `cache` (a folder; by default in the user's cache folder)."""

    def __init__(self, endpoint: Endpoint, concurrency: int = 8, cache: Path | None = None, tries: int = 6) -> None:
        raise NotImplementedError

    def chat(self, requests: Sequence[Chat], read: Callable[[Reply], T]) -> Iterator[T | Failure]:
        """What `read` makes of each reply, in step. Where it raises ValueError, the reply is none: it is asked again.

        A request that has no good reply after all tries, or whose picture cannot be opened, yields a Failure. Raises
        InputError, one line, where asking on is of no use: a wrong key, an unknown model, no money left, no server.
        """
        raise NotImplementedError

    def draw(self, prompts: Sequence[Prompt], size: str) -> Iterator[bytes | Failure]:
        """A PNG of each prompt. A server has no seeds; replies of different seeds are asked for and kept apart."""
        raise NotImplementedError
