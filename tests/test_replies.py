from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from api_asks import KEY, chats, client_of, echo, files_of, sequence, text_of
from openai_server import Status, completion, content_of, serving
from PIL import Image

from gapbench.api import Chat, Client, Endpoint
from gapbench.records import Picture, Prompt
from gapbench.replies import Replies, hash_of

# --- what is kept -----------------------------------------------------------------------------------------------------


def test_replies_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    picture = Picture("p", lambda: Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)))
    asks = [Chat("what is it?", (picture,), "be strict"), Chat("b")]
    with serving(echo) as server:
        first = list(client_of(server, tmp_path).chat(asks, text_of))
        again = client_of(server, tmp_path)
        assert list(again.chat(asks, text_of)) == first
        assert again.calls == 0
        assert list(Client(Endpoint("other", server.url), cache=tmp_path).chat(asks[1:], text_of)) == ["b"]
        assert len(server.received) == 3
    kept = files_of(tmp_path)
    assert len(kept) == 3
    for path in kept:
        assert path.parent.name == path.name[:2]
        assert len(path.stem) == 64
        assert path.stat().st_size < 1000  # no picture
        assert KEY not in path.read_text()
        told = json.loads(path.read_text())
        assert told.pop("time").endswith("Z")
        assert told.keys() == {
            *("schema", "asked", "text", "model", "finish_reason", "system_fingerprint", "usage", "response_format")
        }
        assert told["model"] in ("m-snapshot", "other-snapshot")
        assert (told["system_fingerprint"], told["finish_reason"]) == ("fp_test", "stop")
        assert told["usage"]["total_tokens"] == 2


def test_bad_replies_are_not_kept(tmp_path: Path) -> None:
    with serving(echo, faults=["empty"]) as server:
        list(client_of(server, tmp_path).chat(chats(1), lambda reply: int(reply.text)))
    assert files_of(tmp_path) == []


@pytest.mark.parametrize(
    "content", [b"", b'{"schema": 1, "te', b"[]", b"\xff\xfe", b'{"schema": 1}', b'{"schema": 99}']
)
def test_torn_and_foreign_files_are_asked_again_and_replaced(tmp_path: Path, content: bytes) -> None:
    with serving(echo) as server:
        assert list(client_of(server, tmp_path).chat(chats(1), text_of)) == ["q0"]
        (path,) = files_of(tmp_path)
        whole = json.loads(path.read_bytes())
        path.write_bytes(content)
        assert list(client_of(server, tmp_path).chat(chats(1), text_of)) == ["q0"]
        assert len(server.received) == 2
        assert json.loads(path.read_bytes())["text"] == whole["text"]
        # Another request's reply, under this one's name.
        path.write_text(json.dumps(whole | {"asked": "0" * 64, "text": "foreign"}))
        assert list(client_of(server, tmp_path).chat(chats(1), text_of)) == ["q0"]


def test_a_kept_reply_that_its_reader_refuses_is_asked_again(tmp_path: Path) -> None:
    with serving(sequence(completion("seven", "m"), completion("7", "m"))) as server:
        assert list(client_of(server, tmp_path).chat(chats(1), text_of)) == ["seven"]
        assert list(client_of(server, tmp_path).chat(chats(1), lambda reply: int(reply.text))) == [7]
        assert list(client_of(server, tmp_path).chat(chats(1), text_of)) == ["7"]
        assert len(server.received) == 2


def test_where_replies_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    places = [tmp_path / "ours" / "api", tmp_path / "xdg" / "gapbench" / "api", tmp_path / "home/.cache/gapbench/api"]
    monkeypatch.setenv("GAPBENCH_CACHE", str(tmp_path / "ours"))
    with serving(echo) as server:
        for place, unset in zip(places, ("GAPBENCH_CACHE", "XDG_CACHE_HOME", "HOME"), strict=True):
            list(Client(Endpoint("m", server.url)).chat(chats(1), text_of))
            assert len(files_of(place)) == 1
            monkeypatch.delenv(unset)


def test_names_tell_all_that_decides_a_reply_apart() -> None:
    assert hash_of({"a": 1, "schema": {"x": 1, "y": 2}}) != hash_of({"a": 1, "schema": {"y": 2, "x": 1}})
    assert hash_of({"a": 1}) == hash_of({"a": 1})
    assert Replies(Path("/nowhere")).find("0" * 64) is None


# A child of a job in the background would ignore Ctrl-C.
CHILD = """
import signal, sys
from pathlib import Path
from gapbench.api import Chat, Client, Endpoint
signal.signal(signal.SIGINT, signal.default_int_handler)
client = Client(Endpoint("m", sys.argv[1]), concurrency=2, cache=Path(sys.argv[2]))
for found in client.chat([Chat(f"q{n}") for n in range(40)], lambda reply: reply.text):
    print(found, flush=True)
"""


def test_killed_and_started_again_nothing_answered_is_asked_twice(tmp_path: Path) -> None:
    answered: Counter[str] = Counter()

    def respond(path: str, asked: dict[str, Any]) -> dict[str, Any]:
        text = content_of(asked)[0]
        time.sleep(0.01)
        answered[text] += 1
        return completion(text, "m")

    with serving(respond) as server:
        command = [sys.executable, "-c", CHILD, server.url, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            for _ in range(15):
                child.stdout.readline()
            os.kill(child.pid, signal.SIGKILL)
        kept = {json.loads(path.read_text())["text"] for path in files_of(tmp_path) if path.suffix == ".json"}
        before = sum(answered.values())
        assert 15 <= len(kept) < 40
        client = client_of(server, tmp_path)
        assert list(client.chat(chats(40), text_of)) == [f"q{n}" for n in range(40)]
        assert client.calls == 40 - len(kept)
    assert all(answered[text] == 1 for text in kept)
    assert before - len(kept) <= 2  # those under way


def test_an_interrupted_program_does_not_wait_for_replies(tmp_path: Path) -> None:
    begun, go = threading.Event(), threading.Event()

    def respond(path: str, asked: dict[str, Any]) -> dict[str, Any]:
        begun.set()
        go.wait(60)
        return echo(path, asked)

    with serving(respond) as server:
        command = [sys.executable, "-c", CHILD, server.url, str(tmp_path)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
            assert begun.wait(30)
            child.send_signal(signal.SIGINT)
            try:
                _, told = child.communicate(timeout=30)
            finally:
                child.kill()
        assert "KeyboardInterrupt" in told
        go.set()


# --- drawings ---------------------------------------------------------------------------------------------------------


def drawn(color: tuple[int, int, int], kind: str = "PNG") -> dict[str, Any]:
    data = BytesIO()
    Image.new("RGB", (8, 8), color).save(data, kind)
    return {"data": [{"b64_json": base64.b64encode(data.getvalue()).decode()}]}


def pixel(png: bytes) -> tuple[int, ...]:
    image = Image.open(BytesIO(png))
    assert image.format == "PNG"
    return image.getpixel((0, 0))


def test_drawings(tmp_path: Path) -> None:
    sent = []

    def respond(path: str, asked: dict[str, Any]) -> dict[str, Any]:
        sent.append((path, asked))
        return drawn((len(asked["prompt"]), 0, len(sent)))

    asks = [Prompt("a", "one", 0), Prompt("b", "one", 0), Prompt("c", "one", 1), Prompt("d", "three", 0)]
    with serving(respond) as server:
        found = list(client_of(server, tmp_path, concurrency=1).draw(asks, "8x8"))
        again = client_of(server, tmp_path)
        assert list(again.draw(asks, "8x8")) == found
        assert again.calls == 0
        assert [pixel(png) for png in found] == [(3, 0, 1), (3, 0, 1), (3, 0, 2), (5, 0, 3)]
        path = next(path for path in files_of(tmp_path) if path.suffix == ".png")
        path.write_bytes(b"torn")
        assert [pixel(png)[0] for png in again.draw(asks, "8x8")] == [3, 3, 3, 5]
        assert again.calls == 1
    assert sent[0] == (
        "/images/generations",
        {"model": "m", "prompt": "one", "size": "8x8", "n": 1, "response_format": "b64_json"},
    )


def test_servers_that_refuse_to_be_asked_for_base64(tmp_path: Path) -> None:
    def respond(path: str, asked: dict[str, Any]) -> dict[str, Any]:
        if "response_format" in asked:
            raise Status(400, "Unknown parameter: 'response_format'.", param="response_format")
        return drawn((0, 9, 0))

    with serving(respond) as server:
        found = list(client_of(server, tmp_path, concurrency=1).draw([Prompt(p, p, 0) for p in "abc"], "8x8"))
        assert [pixel(png) for png in found] == [(0, 9, 0)] * 3
        assert len(server.received) == 4


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ({"data": [{"url": "http://h/x.png"}]}, "a reply without an image in base64"),
        ({"data": []}, "a reply without an image in base64"),
        ({"data": [{"b64_json": "bm8gaW1hZ2U="}]}, "an image that cannot be read"),
    ],
)
def test_drawings_that_are_none(tmp_path: Path, reply: dict[str, Any], reason: str) -> None:
    with serving(lambda path, asked: reply) as server:
        (found,) = client_of(server, tmp_path, tries=2).draw([Prompt("a", "a", 0)], "8x8")
    assert reason in found.reason
    assert files_of(tmp_path) == []


def test_drawings_in_other_formats_become_png(tmp_path: Path) -> None:
    with serving(lambda path, asked: drawn((10, 200, 30), "WEBP")) as server:
        (found,) = client_of(server, tmp_path).draw([Prompt("a", "a", 0)], "8x8")
    assert np.abs(np.subtract(pixel(found), (10, 200, 30))).max() < 20
