from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from api_asks import KEY, SCHEMA, chats, client_of, colored, echo, files_of, sequence, text_of
from openai_server import Status, completion, content_of, serving
from PIL import Image

from gapbench.api import Chat, Client, Endpoint, Reply, endpoint
from gapbench.records import Failure, InputError, Picture
from gapbench.replies import one_line

# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openai:gpt-4o", Endpoint("gpt-4o")),
        ("openai:org/a:b@http://localhost:8000/v1/", Endpoint("org/a:b", "http://localhost:8000/v1")),
        ("openai:a@https://x.org/v1", Endpoint("a", "https://x.org/v1")),
        ("openai:a@httpd@http://h/v1", Endpoint("a@httpd", "http://h/v1")),
    ],
)
def test_endpoint(name: str, expected: Endpoint) -> None:
    assert endpoint(name) == expected


@pytest.mark.parametrize(
    "name", ["gpt-4o", "openai:", "openai: ", "openai:@http://h/v1", "openai:a@http://", "openai:a@http://h:99999/v1"]
)
def test_endpoint_refuses(name: str) -> None:
    with pytest.raises(InputError, match=r"write (openai:NAME|http://HOST)"):
        endpoint(name)


@pytest.mark.parametrize("url", ["http://me:secret@h/v1", "https://h/v1?key=secret", "https://h/v1#secret"])
def test_secrets_in_an_address_are_refused_and_not_repeated(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="OPENAI_API_KEY") as error:
        endpoint(f"openai:m@{url}")
    assert "secret" not in str(error.value)
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(InputError, match="OPENAI_BASE_URL") as error:
        Client(Endpoint("m"))
    assert "secret" not in str(error.value)


def test_openai_itself_wants_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="OPENAI_API_KEY is not set; set it"):
        Client(Endpoint("gpt-4o"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert Client(Endpoint("gpt-4o"), cache=tmp_path).describe() == {"model": "gpt-4o", "server": "api.openai.com"}
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1")
    assert Client(Endpoint("m"), cache=tmp_path).describe() == {"model": "m", "server": "localhost:1"}
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\none")
    with pytest.raises(InputError, match="OPENAI_API_KEY") as error:
        Client(Endpoint("m"))
    assert "sk-" not in str(error.value)


def test_importing_it_imports_nothing_heavy() -> None:
    modules = "gapbench.api, gapbench.models.openai_api, gapbench.judges.api"
    code = f"import sys, {modules}; print([m for m in ('torch', 'openai', 'httpx2', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_a_request_as_it_is_sent(tmp_path: Path) -> None:
    sent = []

    def respond(path: str, asked: dict[str, Any]) -> dict[str, Any]:
        sent.append((path, asked))
        return completion("fine", "m")

    chat = Chat("what?", (colored("a", (1, 2, 3, 0), "RGBA"),), "be strict", SCHEMA, 0.5, 77, 3)
    with serving(respond) as server:
        (found,) = client_of(server, tmp_path).chat([chat], lambda reply: reply)
        assert server.received[0]["authorization"] == "Bearer none"
    assert found == Reply("fine", "m-snapshot", chat)
    ((path, asked),) = sent
    assert path == "/chat/completions"
    system, user = asked.pop("messages")
    assert asked == {
        "model": "m",
        "temperature": 0.5,
        "max_tokens": 77,
        "seed": 3,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "reply", "strict": True, "schema": SCHEMA},
        },
    }
    assert system == {"role": "system", "content": "be strict"}
    assert [part["type"] for part in user["content"]] == ["image_url", "text"]
    text, (image,) = content_of({"messages": [user]})
    assert (text, image.format, image.mode, image.size) == ("what?", "PNG", "RGB", (4, 3))
    assert image.getpixel((3, 2)) == (1, 2, 3)


def test_order_and_concurrency(tmp_path: Path) -> None:
    lock, under_way, most = threading.Lock(), 0, 0

    def respond(path: str, asked: dict[str, Any]) -> dict[str, Any]:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(random.Random(content_of(asked)[0]).uniform(0.01, 0.04))
        with lock:
            under_way -= 1
        return echo(path, asked)

    with serving(respond) as server:
        client = client_of(server, tmp_path, concurrency=3)
        first, second = client.chat(chats(12), text_of), client.chat([Chat(f"r{n}") for n in range(12)], text_of)
        assert list(second) == [f"r{n}" for n in range(12)]
        assert list(first) == [f"q{n}" for n in range(12)]
        assert client.calls == len(server.received) == 24
    assert most == 3


def test_it_starts_at_once_and_ends_when_nobody_waits(tmp_path: Path) -> None:
    begun, go = threading.Semaphore(0), threading.Event()

    def respond(path: str, asked: dict[str, Any]) -> dict[str, Any]:
        begun.release()
        assert go.wait(10)
        return echo(path, asked)

    with serving(respond) as server:
        results = client_of(server, tmp_path, concurrency=2).chat(chats(50), text_of)
        assert begun.acquire(timeout=10)
        assert begun.acquire(timeout=10)  # two are under way, and no result was asked for
        del results
        go.set()
        assert not begun.acquire(timeout=0.3)
        assert len(server.received) == 2


def test_equal_requests_are_sent_once(tmp_path: Path) -> None:
    red, also_red, blue = colored("a", (255, 0, 0)), colored("b", (255, 0, 0)), colored("c", (0, 0, 255))
    asks = [Chat("x", (red,)), Chat("x", (also_red,)), Chat("x", (blue,)), Chat("x", (red, blue)), Chat("x")] * 3
    asks += [Chat("x", seed=1), Chat("x", temperature=1.0), Chat("x", system="s"), Chat("x", schema=SCHEMA)]
    with serving(echo) as server:
        found = list(client_of(server, tmp_path).chat(asks, text_of))
        assert len(server.received) == 4 + 4
    assert found[:5] == ["x [(255, 0, 0)]"] * 2 + ["x [(0, 0, 255)]", "x [(255, 0, 0), (0, 0, 255)]", "x"]
    assert found[5:10] == found[10:15] == found[:5]


def test_pictures_are_read_when_they_are_sent_and_then_forgotten(tmp_path: Path) -> None:
    opened: Counter[str] = Counter()
    go, begun = threading.Event(), threading.Semaphore(0)

    def picture(number: int) -> Picture:
        def decode() -> Image.Image:
            opened[f"p{number}"] += 1
            return Image.new("RGB", (4, 4), (number, 0, 0))

        return Picture(f"p{number}", decode)

    def respond(path: str, asked: dict[str, Any]) -> dict[str, Any]:
        begun.release()
        assert go.wait(10)
        return echo(path, asked)

    pictures = [picture(number) for number in range(40)]
    asks = [Chat(f"q{k}", (picture,)) for picture in pictures for k in range(3)]
    asks.append(Chat("again", (pictures[0],)))
    with serving(respond) as server:
        results = client_of(server, tmp_path, concurrency=2).chat(asks, text_of)
        begun.acquire(timeout=10)
        begun.acquire(timeout=10)
        assert len(opened) <= 2
        go.set()
        expected = [f"q{k} [({n}, 0, 0)]" for n in range(40) for k in range(3)]
        assert list(results) == [*expected, "again [(0, 0, 0)]"]
    assert opened.pop("p0") == 2
    assert set(opened.values()) == {1}


def test_a_picture_that_cannot_be_opened_fails_alone(tmp_path: Path) -> None:
    def refuse() -> Image.Image:
        raise OSError("truncated file")

    with serving(echo) as server:
        found = list(client_of(server, tmp_path).chat([Chat("a", (Picture("bad", refuse),)), Chat("b")], text_of))
        assert found == [Failure("picture bad cannot be read: truncated file"), "b"]
        assert len(server.received) == 1


def test_a_text_that_cannot_be_sent_fails_alone(tmp_path: Path) -> None:
    with serving(echo) as server:
        found = list(client_of(server, tmp_path).chat([Chat("\ud800"), Chat("b")], text_of))
    assert isinstance(found[0], Failure)
    assert found[1] == "b"


# --- servers that take less -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("takes", "calls"), [("json_schema", 0), ("json_object", 1), ("", 2)])
def test_schemas_fall_back_once(tmp_path: Path, takes: str, calls: int) -> None:
    sent = []

    def respond(path: str, asked: dict[str, Any]) -> dict[str, Any]:
        form = asked.get("response_format", {}).get("type", "")
        if form not in (takes, ""):
            raise Status(400, f"{form} is not supported")
        sent.append((form, content_of(asked)[0]))
        return completion('{"n": 1}', "m")

    with serving(respond) as server:
        client = client_of(server, tmp_path, concurrency=1)
        found = list(client.chat([Chat(f"q{n}", schema=SCHEMA) for n in range(3)], lambda r: json.loads(r.text)["n"]))
        assert len(server.received) == calls + 3
    assert found == [1, 1, 1]
    assert {form for form, _ in sent} == {takes}
    # Without a schema that is enforced, the text says what is wanted; and OpenAI wants the word JSON there.
    assert all((json.dumps(SCHEMA) in text and "JSON" in text) == (takes != "json_schema") for _, text in sent)


def test_a_request_refused_in_every_form_is_no_sign_of_the_server(tmp_path: Path) -> None:
    forms = []

    def respond(path: str, asked: dict[str, Any]) -> dict[str, Any]:
        forms.append(asked.get("response_format", {}).get("type", ""))
        if "bad" in content_of(asked)[0]:
            raise Status(400, "content policy")
        return completion('{"n": 1}', "m")

    asks = [Chat(text, schema=SCHEMA) for text in ("bad 1", "good", "bad 2")]
    with serving(respond) as server:
        found = list(client_of(server, tmp_path, concurrency=1).chat(asks, text_of))
    assert ["content policy" in getattr(each, "reason", "") for each in found] == [True, False, True]
    assert forms == ["json_schema", "json_object", "", "json_schema", "json_schema"]


def test_the_newer_name_of_the_token_limit(tmp_path: Path) -> None:
    def respond(path: str, asked: dict[str, Any]) -> dict[str, Any]:
        if "max_tokens" in asked:
            raise Status(400, "use max_completion_tokens", param="max_tokens", code="unsupported_parameter")
        return completion(str(asked["max_completion_tokens"]), "m")

    with serving(respond) as server:
        client = client_of(server, tmp_path, concurrency=1)
        assert list(client.chat(chats(3), text_of)) == ["512"] * 3
        assert client.calls == 4


# --- small things -----------------------------------------------------------------------------------------------------


def test_one_line() -> None:
    assert one_line(f" a\n b {KEY}", KEY) == "a b [key]"
    assert one_line("a" * 1000).endswith("a ...")


@pytest.mark.parametrize("how", [{"concurrency": 0}, {"tries": 0}, {"timeout": 0}])
def test_settings_that_make_no_sense(how: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="more than 0"):
        Client(Endpoint("m", "http://h/v1"), **how)


def test_the_key_is_in_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    texts = []
    replies: list[Callable[[], Any]] = [
        lambda: Status(400, f"your key {KEY}"),
        lambda: Status(500, f"Authorization: Bearer {KEY}"),
        lambda: {"error": {"message": KEY}},
    ]
    for reply in replies:
        with serving(sequence(*[reply()] * 99)) as server:
            client = client_of(server, tmp_path, tries=2, concurrency=1)
            texts += [str(each) for each in client.chat(chats(3), text_of)]
            texts += [repr(client), str(client.describe())]
    assert all(KEY not in text for text in texts)
    assert any("[key]" in text for text in texts)
    assert all(KEY.encode() not in path.read_bytes() for path in files_of(tmp_path))
    assert KEY not in "".join(capfd.readouterr())
