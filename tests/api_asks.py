"""What tests of the client share: asks, readers, servers that say given things."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai_server import Responder, Server, Status, completion, content_of
from PIL import Image

from gapbench.api import Chat, Client, Endpoint, Reply
from gapbench.records import InputError, Picture

KEY = "sk-test-0123456789abcdef"
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


def echo(path: str, asked: dict[str, Any]) -> dict[str, Any]:
    text, images = content_of(asked)
    return completion(f"{text} {[image.getpixel((0, 0)) for image in images]}".removesuffix(" []"), asked["model"])


def text_of(reply: Reply) -> str:
    return reply.text


def colored(key: str, color: tuple[int, ...], mode: str = "RGB") -> Picture:
    return Picture(key, lambda: Image.new(mode, (4, 3), color))


class Pauses(list[float]):
    """In place of sleeping."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def client_of(server: Server, cache: Path, **how: Any) -> Client:
    how = {"pause": Pauses(), "timeout": 10.0, **how}
    return Client(Endpoint("m", server.url), cache=cache, **how)


def chats(count: int) -> list[Chat]:
    return [Chat(f"q{number}") for number in range(count)]


def raised(results: Iterator[Any]) -> str:
    with pytest.raises(InputError) as error:
        list(results)
    assert "\n" not in str(error.value)
    return str(error.value)


def sequence(*replies: Any) -> Responder:
    """These replies in turn, then echoes; Status is raised."""
    left = iter(replies)

    def respond(path: str, asked: dict[str, Any]) -> dict[str, Any] | bytes:
        reply = next(left, None)
        if isinstance(reply, Status):
            raise reply
        return echo(path, asked) if reply is None else reply

    return respond


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
