"""A served model, asked by the official client and by our own."""

from __future__ import annotations

import base64
import http.client
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from echo_model import Echo, client_of, served
from openai import OpenAI
from PIL import Image

from gapbench.api import Client, Endpoint
from gapbench.miniature import benchmarks
from gapbench.models import zoo
from gapbench.models.openai_api import OpenAIModel
from gapbench.prompts import SHORT_ANSWER
from gapbench.records import Decoding, Prompt, Question, Sampling
from gapbench.serve import http as serving
from gapbench.serve.http import Server
from gapbench.serve.service import Service

USER = {"role": "user", "content": "hello"}


@pytest.fixture(scope="module")
def mini() -> Any:
    return zoo.load("show-o-mini", "cpu")


@pytest.fixture(scope="module")
def mini_server(mini: Any) -> Iterator[Server]:
    with served(mini, name="show-o-mini") as server:
        yield server


@pytest.fixture(scope="module")
def echo_server() -> Iterator[Server]:
    with served(Echo(), wait=0) as server:
        yield server


@pytest.fixture
def client(echo_server: Server) -> OpenAI:
    return client_of(echo_server)


def sent(image: Image.Image) -> dict[str, Any]:
    png = BytesIO()
    image.save(png, "PNG")
    return {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()},
    }


def pixels(drawing: Any) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(base64.b64decode(drawing.b64_json))), dtype=int)


def plain(server: Server, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, Any]:
    """Status, headers and JSON of one plain request."""
    connection = http.client.HTTPConnection(*server.server_address, timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, reply.headers, json.loads(content) if content else None


# --- the miniature behind it ------------------------------------------------------------------------------------------


def test_our_own_client_measures_what_the_model_is(mini: Any, mini_server: Server, tmp_path: Path) -> None:
    questions = [
        Question(f"{item.id}/{number}", query.text + SHORT_ANSWER, (item.picture,), query.choices)
        for item in benchmarks.homologous_scenes()[:3]
        for number, query in enumerate(item.queries)
    ]
    api = Client(Endpoint("show-o-mini", mini_server.url), cache=tmp_path, pause=lambda seconds: None)
    through = OpenAIModel(f"openai:show-o-mini@{mini_server.url}", api)
    directly = list(mini.answer(questions, Decoding()))
    assert len(set(directly)) > 3
    assert list(through.answer(questions, Decoding())) == directly
    assert api.calls == len({(question.text, question.pictures[0].key) for question in questions})


def test_chat_with_a_picture(mini: Any, mini_server: Server) -> None:
    item = benchmarks.homologous_scenes()[0]
    text = item.queries[0].text + SHORT_ANSWER
    content = [{"type": "text", "text": text}, sent(item.picture.open())]
    asked = {"model": "show-o-mini", "messages": [{"role": "user", "content": content}], "max_tokens": 32}
    client = client_of(mini_server)
    reply = client.chat.completions.create(**asked)
    (answer,) = mini.answer([Question("q", text, (item.picture,))], Decoding())
    (choice,) = reply.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (answer, "assistant", "stop")
    assert (reply.model, reply.object) == ("show-o-mini", "chat.completion")
    assert reply.system_fingerprint.startswith("fp_")
    one = client.chat.completions.create(**asked | {"max_tokens": 1})
    assert one.choices[0].finish_reason == "length"


def test_the_same_seed_is_the_same_answer(mini_server: Server) -> None:
    content = [{"type": "text", "text": "What is there?"}, sent(benchmarks.homologous_scenes()[0].picture.open())]
    client = client_of(mini_server)
    warm = {"model": "show-o-mini", "messages": [{"role": "user", "content": content}], "temperature": 2.0}
    warm |= {"seed": 3, "n": 4, "max_tokens": 12}
    first, again = (client.chat.completions.create(**warm).choices for _ in range(2))
    assert [choice.message.content for choice in first] == [choice.message.content for choice in again]
    assert len({choice.message.content for choice in first}) > 1
    alone = client.chat.completions.create(**warm | {"seed": 5, "n": 1}).choices[0]
    assert alone.message.content == first[2].message.content


def test_the_same_seed_is_the_same_drawing(mini: Any, mini_server: Server) -> None:
    prompt = benchmarks.homologous_scenes()[0].caption
    client = client_of(mini_server)
    asked = {"model": "show-o-mini", "prompt": prompt}
    both = client.images.generate(**asked, n=2, extra_body={"seed": 11})
    second = client.images.generate(**asked, extra_body={"seed": 12})
    assert [drawing.seed for drawing in both.data] == [11, 12]
    assert both.data[1].b64_json == second.data[0].b64_json != both.data[0].b64_json
    assert both.size == f"{mini.resolution}x{mini.resolution}"
    (direct,) = mini.draw([Prompt("", prompt, 12)], Sampling())
    # The codes are equal; how their pixels round depends on the threads that decode them.
    assert np.abs(pixels(second.data[0]) - np.asarray(direct, dtype=int)).max() <= 1
    unseeded = client.images.generate(**asked, size=both.size, response_format="b64_json").data[0]
    seeded = client.images.generate(**asked, extra_body={"seed": unseeded.seed}).data[0]
    assert unseeded.b64_json == seeded.b64_json


# --- the protocol over HTTP -------------------------------------------------------------------------------------------


def test_a_stream_says_the_same(client: OpenAI) -> None:
    asked = {"model": "echo", "messages": [USER], "n": 2, "seed": 1, "temperature": 1.0}
    whole = client.chat.completions.create(**asked)
    texts, ends = ["", ""], ["", ""]
    pieces = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    for piece in pieces:
        assert piece.object == "chat.completion.chunk"
        for choice in piece.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] += choice.finish_reason or ""
    assert texts == [choice.message.content for choice in whole.choices] == ["hello | 512 1 1", "hello | 512 1 2"]
    assert ends == ["stop", "stop"]
    assert len({piece.id for piece in pieces}) == 1
    assert whole.usage is None  # this model does not tell
    assert all(piece.usage is None for piece in pieces)


def test_a_stream_ends_as_streams_do(echo_server: Server) -> None:
    body = json.dumps({"model": "echo", "messages": [USER], "stream": True}).encode()
    connection = http.client.HTTPConnection(*echo_server.server_address, timeout=60)
    connection.request("POST", "/v1/chat/completions", body)
    reply = connection.getresponse()
    assert (reply.status, reply.getheader("content-type")) == (200, "text/event-stream")
    events = reply.read().decode().split("\n\n")
    connection.close()
    assert all(event.startswith("data: {") for event in events[:-2])
    assert events[-2:] == ["data: [DONE]", ""]


def test_models_and_health(client: OpenAI, echo_server: Server) -> None:
    assert [model.id for model in client.models.list()] == ["echo"]
    assert client.models.retrieve("echo").owned_by == "gapbench"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other/model")
    assert plain(echo_server, "GET", "/health")[::2] == (200, {"status": "ok"})


def test_several_pictures(client: OpenAI) -> None:
    content = [sent(Image.new("RGB", (2, 3))), sent(Image.new("RGBA", (5, 4))), {"type": "text", "text": "which?"}]
    reply = client.chat.completions.create(model="echo", messages=[{"role": "user", "content": content}], max_tokens=9)
    assert reply.choices[0].message.content == "which? | 2x3 | 5x4 | 9 0 0"


@pytest.mark.parametrize(
    ("error", "param", "more"),
    [
        (openai.NotFoundError, "model", {"model": "gpt-4o"}),
        (openai.BadRequestError, "model", {"model": 3}),
        (openai.BadRequestError, "top_p", {"top_p": 0.5}),
        (openai.BadRequestError, "messages", {"messages": []}),
        (openai.BadRequestError, "messages", {"messages": [{"role": "user", "content": "fail"}]}),
        (openai.BadRequestError, "guided_choice", {"extra_body": {"guided_choice": ["a"]}}),
        (openai.InternalServerError, None, {"messages": [{"role": "user", "content": "raise"}]}),
    ],
)
def test_a_wrong_request_names_what_is_wrong(client: OpenAI, error: Any, param: str | None, more: Any) -> None:
    with pytest.raises(error) as refused:
        client.chat.completions.create(**{"model": "echo", "messages": [USER], **more})
    assert refused.value.param == param
    assert "\n" not in refused.value.body["message"]
    assert "Traceback" not in refused.value.body["message"]


def test_a_wrong_prompt_names_what_is_wrong(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="give auto or 8x8") as refused:
        client.images.generate(model="echo", prompt="x", size="1024x1024")
    assert refused.value.param == "size"
    with pytest.raises(openai.BadRequestError, match="told to fail"):
        client.images.generate(model="echo", prompt="fail")
    with pytest.raises(openai.NotFoundError):
        client.images.generate(model="dall-e-2", prompt="x")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/", None, 404, "unknown_url"),
        ("POST", "/v1/completions", b"{}", 404, "unknown_url"),
        ("GET", "/v1/chat/completions", None, 405, "method_not_supported"),
        ("DELETE", "/v1/models/echo", None, 405, "method_not_supported"),
        ("POST", "/v1/models", b"{}", 405, "method_not_supported"),
        ("BREW", "/v1/models", None, 501, None),
        ("POST", "/v1/chat/completions", b"", 400, "invalid_json"),
        ("POST", "/v1/chat/completions", b"{", 400, "invalid_json"),
        ("POST", "/v1/images/generations", b"[]", 400, "invalid_json"),
        ("POST", "/v1/images/generations?x=1", b"{}", 400, "missing_required_parameter"),
    ],
)
def test_a_request_that_is_none(
    echo_server: Server, method: str, path: str, body: bytes | None, status: int, code: str | None
) -> None:
    got, headers, reply = plain(echo_server, method, path, body)
    assert (got, reply["error"]["code"]) == (status, code)
    assert set(reply["error"]) == {"message", "type", "param", "code"}
    assert headers["content-type"] == "application/json"
    assert (headers["allow"] is not None) == (status == 405)


def test_what_is_no_http_is_told_so_in_json(echo_server: Server) -> None:
    with socket.create_connection(echo_server.server_address, timeout=60) as raw:
        raw.sendall(b"nonsense\r\n\r\n")
        assert b'"type": "invalid_request_error"' in raw.makefile("rb").read()
    status, _, reply = plain(echo_server, "POST", "/v1/chat/completions", b"", Content_Length="many")
    assert (status, "Content-Length" in reply["error"]["message"]) == (400, True)
    status, _, _ = plain(echo_server, "POST", "/v1/chat/completions", b"0\r\n\r\n", Transfer_Encoding="chunked")
    assert status == 411


def test_a_body_that_is_too_long(echo_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "LONGEST_BODY", 1000)
    status, _, reply = plain(echo_server, "POST", "/v1/chat/completions", b" " * 1_000_000)
    assert (status, reply["error"]["code"]) == (413, "request_too_large")
    with pytest.raises(openai.APIStatusError, match="the body has") as refused:
        client_of(echo_server).chat.completions.create(model="echo", messages=[{**USER, "content": "x" * 1000}])
    assert refused.value.status_code == 413


def test_a_connection_goes_on_after_errors(echo_server: Server) -> None:
    connection = http.client.HTTPConnection(*echo_server.server_address, timeout=60)
    connection.connect()
    one = connection.sock
    for path, body, status in (
        ("/v1/nowhere", b"{}" * 99, 404),
        ("/v1/chat/completions", b"{", 400),
        ("/v1/chat/completions", json.dumps({"model": "echo", "messages": [USER]}).encode(), 200),
    ):
        connection.request("POST", path, body)
        reply = connection.getresponse()
        reply.read()
        assert reply.status == status
        assert connection.sock is one
    connection.close()


def test_the_key(echo: Echo) -> None:
    with served(echo, key="right-key", wait=0) as server:
        assert client_of(server, "right-key").models.list().data[0].id == "echo"
        for wrong in ("wrong-key", "right-ke", "right-key2"):
            with pytest.raises(openai.AuthenticationError) as refused:
                client_of(server, wrong).chat.completions.create(model="echo", messages=[USER])
            assert refused.value.code == "invalid_api_key"
            assert "right-key" not in str(refused.value)
        assert plain(server, "GET", "/v1/models")[0] == 401
        assert plain(server, "GET", "/v1/models", Authorization="Basic right-key")[0] == 401
        assert plain(server, "GET", "/health")[0] == 200
    assert echo.calls == []


def test_a_model_that_does_one_thing(echo: Echo) -> None:
    server = Server("127.0.0.1", 0)
    with server.serving(Service("echo", echo, answers=False)):
        with pytest.raises(openai.NotFoundError, match="only draws") as refused:
            client_of(server).chat.completions.create(model="echo", messages=[USER])
        assert refused.value.param == "model"
    server = Server("127.0.0.1", 0)
    with (
        server.serving(Service("echo", echo, draws=False)),
        pytest.raises(openai.BadRequestError, match="only answers"),
    ):
        client_of(server).images.generate(model="echo", prompt="x")


# --- many at once -----------------------------------------------------------------------------------------------------


def test_64_at_once_are_one_call(echo: Echo) -> None:
    # The model waits for all 64: what comes after that is a batch, however slow the machine.
    with served(echo, most=64, wait=60) as server, ThreadPoolExecutor(64) as clients:
        client = client_of(server)

        def ask(number: int) -> str:
            messages = [
                {"role": "user", "content": [sent(Image.new("RGB", (number + 1, 1))), {"type": "text", "text": "?"}]}
            ]
            reply = client.chat.completions.create(model="echo", messages=messages, seed=number)
            return reply.choices[0].message.content

        assert list(clients.map(ask, range(64))) == [f"? | {number + 1}x1 | 512 0 0" for number in range(64)]
    assert [len(call) for call in echo.calls] == [64]


def test_64_at_once_at_the_miniature(mini: Any, mini_server: Server) -> None:
    scenes = benchmarks.homologous_scenes()[:8]
    questions = [Question("q", query.text + SHORT_ANSWER, (item.picture,)) for item in scenes for query in item.queries]
    questions = (questions * 64)[:64]
    client = client_of(mini_server)

    def ask(question: Question) -> str:
        content = [sent(question.pictures[0].open()), {"type": "text", "text": question.text}]
        messages = [{"role": "user", "content": content}]
        reply = client.chat.completions.create(model="show-o-mini", messages=messages, max_tokens=32)
        return reply.choices[0].message.content

    with ThreadPoolExecutor(64) as clients:
        assert list(clients.map(ask, questions)) == list(mini.answer(questions, Decoding()))
