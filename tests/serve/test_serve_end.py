"""How a server bears load, and how it ends: a full queue, clients that leave, signals; and the command line."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from echo_model import Echo, client_of, served
from openai import OpenAI

from gapbench import cli
from gapbench.models import zoo
from gapbench.serve import protocol
from gapbench.serve.http import Server
from gapbench.serve.service import Service

USER = {"role": "user", "content": "hello"}
# The command line with a model that is there at once.
QUICK = """
from gapbench import cli
from gapbench.models import zoo

class Model:
    def answer(self, questions, decoding):
        yield from (question.text.upper() for question in questions)

zoo.load = lambda *_: Model()
cli.main()
"""


def test_a_full_queue(echo: Echo) -> None:
    echo.gate.clear()
    with served(echo, room=1, wait=0) as server, ThreadPoolExecutor(1) as clients:
        client = client_of(server)
        first = clients.submit(client.chat.completions.create, model="echo", messages=[USER])
        assert echo.entered.wait(60)
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(model="echo", messages=[USER], n=2, temperature=1.0)
        assert int(refused.value.response.headers["retry-after"]) > 0
        echo.gate.set()
        assert first.result(60).choices[0].message.content == "hello | 512 0 0"


def test_a_client_that_leaves_is_not_answered(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gapbench.serve.service.LOOK", 0.01)
    echo.gate.clear()
    with served(echo, wait=0) as server:
        body = json.dumps({"model": "echo", "messages": [USER]}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with ThreadPoolExecutor(1) as clients:
            first = clients.submit(client_of(server).chat.completions.create, model="echo", messages=[USER])
            assert echo.entered.wait(60)
            submit, left = server.service.batches.submit, threading.Event()

            def watched(asks: Any) -> Any:
                futures = submit(asks)
                futures[0].add_done_callback(lambda future: future.cancelled() and left.set())
                return futures

            monkeypatch.setattr(server.service.batches, "submit", watched)
            with socket.create_connection(server.server_address) as raw:
                raw.sendall(head + body)
            left.wait(20)
            echo.gate.set()
            first.result(60)
    assert left.is_set()
    assert len(echo.calls) == 1


def test_a_stop_lets_requests_finish(echo: Echo) -> None:
    echo.gate.clear()
    server = Server("127.0.0.1", 0)
    up, end = threading.Event(), threading.Event()

    def life() -> None:
        with server.serving(Service("echo", echo)):
            up.set()
            end.wait(60)

    living = threading.Thread(target=life)
    living.start()
    assert up.wait(60)
    kept = http.client.HTTPConnection(*server.server_address, timeout=60)
    kept.request("GET", "/health")
    kept.getresponse().read()
    with ThreadPoolExecutor(1) as clients:
        asked = clients.submit(client_of(server).chat.completions.create, model="echo", messages=[USER])
        assert echo.entered.wait(60)
        end.set()
        assert server.stopping.wait(60)
        kept.request("GET", "/health")
        refused = kept.getresponse()
        assert (refused.status, refused.getheader("connection")) == (503, "close")
        assert living.is_alive()
        echo.gate.set()
        assert asked.result(60).choices[0].message.content == "hello | 512 0 0"
    living.join(60)
    assert not living.is_alive()
    kept.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(server.server_address)


def test_a_stop_waits_for_the_last_reply(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    server, service = Server("127.0.0.1", 0), Service("echo", echo)
    asked, closed, order = threading.Event(), threading.Event(), []
    complete, close = protocol.completion, service.close

    def late(*of: Any) -> dict[str, Any]:
        asked.set()
        server.stopping.wait(60)
        closed.wait(0.5)  # is not to happen before this has returned
        order.append("replied")
        return complete(*of)

    def noted() -> None:
        order.append("closed")
        closed.set()
        close()

    monkeypatch.setattr(protocol, "completion", late)
    monkeypatch.setattr(service, "close", noted)
    with ThreadPoolExecutor(1) as clients:
        with server.serving(service):
            reply = clients.submit(client_of(server).chat.completions.create, model="echo", messages=[USER])
            assert asked.wait(60)
        assert order == ["replied", "closed"]
        assert reply.result(60).choices[0].message.content == "hello | 512 0 0"


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_it_is_told_to_stop(number: int) -> None:
    command = [sys.executable, "-c", QUICK, "serve", "--port", "0"]
    environment = {**os.environ, "GAPBENCH_API_KEY": "k"}
    how = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **how) as running:
        try:
            line = running.stdout.readline()
            assert line.startswith("show-o-mini answers at http://127.0.0.1:")
            client = OpenAI(api_key="k", base_url=line.split(" at ")[1].split(",")[0], max_retries=0)
            reply = client.chat.completions.create(model="show-o-mini", messages=[USER])
            assert reply.choices[0].message.content == "HELLO"
            running.send_signal(number)
            assert running.wait(60) == 0
            assert running.stderr.read() == "stopping: requests under way finish first\n"
        finally:
            running.kill()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--model", "nothing-like-it"), "no such model or folder"),
        (("--port", "70000"), "--port"),
        (("--host", "203.0.113.1", "--port", "0"), "--host 203.0.113.1: no address of this machine"),
        (("--api-key", "a b", "--port", "0"), "--api-key"),
        (("--api-key", "", "--port", "0"), "--api-key"),
        (("--port", "TAKEN"), "already in use at 127.0.0.1; give another"),
    ],
)
def test_what_is_wrong_is_one_line(
    words: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(zoo, "load", lambda *_: pytest.fail("a model is loaded for nothing"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = [str(taken.getsockname()[1]) if word == "TAKEN" else word for word in words]
        monkeypatch.setattr(sys, "argv", ["gapbench", "serve", *given])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert end.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert says in said.err
    assert said.err.count("\n") == 1
