"""A local OpenAI-compatible server for tests: the miniature model and the exact eye, or any function, with faults.

As a process, from this folder: `python -m openai_server --port 0 --model show-o-mini --model eye --faults 429,cut,-`.
It prints its URL, which ends in /v1. In a test: `with process(...) as url`, or, in this process, `with serving(...)`.

Each distinct request meets one fault of the list, chosen by a hash of its path and body, when it comes first; from then
on it is answered. `-` is no fault. Every request received is a line of the log, so calls = distinct requests + faults.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from gapbench.prompts import SHORT_ANSWER
from gapbench.records import Decoding, Failure, Picture, Prompt, Question, Sampling

FAULTS = ("429", "500", "503", "408", "409", "timeout", "cut", "malformed", "empty", "-")


class Status(Exception):
    """An error that the server answers with."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        self.body = {"error": {"message": message, "type": "error", "param": None, "code": None, **more}}


Responder = Callable[[str, dict[str, Any]], dict[str, Any] | bytes]
"""Path (after /v1) and request -> reply; raises Status."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        respond: Responder,
        faults: Sequence[str] = (),
        log: Path | None = None,
        port: int = 0,
        slow: float = 1.0,
        models: Sequence[str] = (),
    ) -> None:
        """`slow`: seconds that a `timeout` lasts."""
        super().__init__(("127.0.0.1", port), _Handler)
        self.respond, self.faults, self.slow, self.models = respond, tuple(faults), slow, tuple(models)
        self.received: list[dict[str, Any]] = []  # the log's lines
        self._log, self._lock, self._met = log, threading.Lock(), set[str]()
        self._under_way = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def begin(self, path: str, body: bytes, authorization: str) -> str:
        """Note a request; the fault that it is to meet."""
        name = hashlib.sha256(path.encode() + body).hexdigest()
        with self._lock:
            fault = "-"
            if self.faults and name not in self._met:
                self._met.add(name)
                fault = self.faults[int(name[:8], 16) % len(self.faults)]
            self._under_way += 1
            line = {"path": path, "sha256": name, "fault": fault, "under_way": self._under_way}
            self.received.append({**line, "authorization": authorization})
            if self._log is not None:
                with self._log.open("a") as log:
                    log.write(json.dumps(line) + "\n")
        return fault

    def end(self) -> None:
        with self._lock:
            self._under_way -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # a reply leaves in one piece
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            models = [{"id": name, "object": "model", "owned_by": "tests"} for name in self.server.models]
            self._send(200, {"object": "list", "data": models})
        else:
            self._send(404, Status(404, f"no {self.path}").body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        path = self.path.removeprefix("/v1")
        fault = self.server.begin(path, body, self.headers.get("authorization", ""))
        # Before the reply is out: a client that has it may send the next request at once.
        ended = False
        try:
            if fault == "cut":
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [{"mess')
                self.close_connection = True
                return
            status, headers, found = self._answered(path, body, fault)
            self.server.end()
            ended = True
            self._send(status, found, headers)
        finally:
            if not ended:
                self.server.end()

    def _answered(self, path: str, body: bytes, fault: str) -> tuple[int, dict[str, str], dict[str, Any] | bytes]:
        if fault == "timeout":
            time.sleep(self.server.slow)
        if fault == "malformed":
            return 200, {}, b'{"choices": [{"mess'
        if fault == "empty":
            return 200, {}, completion("", "none")
        if fault.isdigit():
            return int(fault), {}, Status(int(fault), f"fault {fault}").body
        try:
            return 200, {}, self.server.respond(path, json.loads(body))
        except Status as status:
            return status.status, status.headers, status.body

    def _send(self, status: int, found: dict[str, Any] | bytes, headers: dict[str, str] | None = None) -> None:
        content = found if isinstance(found, bytes) else json.dumps(found).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def completion(text: str | None, model: str, **message: Any) -> dict[str, Any]:
    """A chat's reply."""
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": f"{model}-snapshot",
        "system_fingerprint": "fp_test",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text, **message}}
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def content_of(asked: dict[str, Any]) -> tuple[str, list[Image.Image]]:
    """The text of a request's last message, and its pictures."""
    content = asked["messages"][-1]["content"]
    if isinstance(content, str):
        return content, []
    pictures = []
    for part in content:
        if part["type"] == "image_url":
            data = part["image_url"]["url"].removeprefix("data:image/png;base64,")
            pictures.append(Image.open(BytesIO(base64.b64decode(data, validate=True))))
    return "\n".join(part["text"] for part in content if part["type"] == "text"), pictures


# --- The miniature behind it ------------------------------------------------------------------------------------------


class Miniature:
    """show-o-mini and the eye, asked plainly or as our judge asks."""

    def __init__(self, names: Sequence[str]) -> None:
        from gapbench.miniature.eye import Eye
        from gapbench.models import zoo

        self._models = {name: Eye() if name == "eye" else zoo.load(name, "cpu") for name in names}
        self._lock = threading.Lock()

    def __call__(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked.get("model")
        model = self._models.get(name)
        if model is None:
            raise Status(404, f"The model `{name}` does not exist", code="model_not_found")
        with self._lock:
            if path == "/chat/completions":
                return completion(self._said(model, asked), name)
            if path == "/images/generations" and hasattr(model, "draw"):
                return {"created": 0, "data": [{"b64_json": self._drawn(model, asked["prompt"])}]}
        raise Status(404, f"{name} has no {path}")

    def _said(self, model: Any, asked: dict[str, Any]) -> str:
        text, images = content_of(asked)
        decoding = Decoding(asked["max_tokens"], asked["temperature"], seed=asked["seed"])
        judged = re.match(r"Question: (.*?)\n\n(?:Options:\n(.*?)\n\n)?", text, re.DOTALL)
        if judged is None:
            return self._answer(model, text, images, decoding)
        answer = self._answer(model, judged[1] + SHORT_ANSWER, images, Decoding())
        if judged[2] is None:
            return json.dumps({"reason": "It is seen.", "answer": answer})
        letters = {choice: letter for letter, choice in (line.split(". ", 1) for line in judged[2].splitlines())}
        return json.dumps({"reason": "It is seen.", "choice": letters.get(answer, "none")})

    @staticmethod
    def _answer(model: Any, text: str, images: Sequence[Image.Image], decoding: Decoding) -> str:
        keys = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
        pictures = tuple(Picture(key, lambda image=image: image) for key, image in zip(keys, images, strict=True))
        (answer,) = model.answer([Question("asked", text, pictures)], decoding)
        if isinstance(answer, Failure):
            raise Status(400, answer.reason)
        return answer

    @staticmethod
    def _drawn(model: Any, prompt: str) -> str:
        (drawing,) = model.draw([Prompt("asked", prompt, 0)], Sampling())
        if isinstance(drawing, Failure):
            raise Status(400, drawing.reason)
        png = BytesIO()
        drawing.save(png, "PNG")
        return base64.b64encode(png.getvalue()).decode()


# --- Start and stop ---------------------------------------------------------------------------------------------------


@contextmanager
def serving(respond: Responder, **how: Any) -> Iterator[Server]:
    """A server in threads of this process."""
    server = Server(respond, **how)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def process(*arguments: str) -> Iterator[str]:
    """A server as a process of its own, with the command line's arguments; its URL."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "openai_server", *arguments]
    here = Path(__file__).parent
    with subprocess.Popen(command, cwd=here, env=environment, stdout=subprocess.PIPE, text=True) as running:
        try:
            url = running.stdout.readline().strip()
            if not url:
                raise RuntimeError("the server did not start")
            yield url
        finally:
            running.kill()


def calls(log: Path) -> list[dict[str, Any]]:
    """The lines of a log: path, sha256 of the request, fault, and how many requests were under way."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", action="append", choices=("show-o-mini", "eye"))
    parser.add_argument("--faults", default="", help=f"comma separated, of {', '.join(FAULTS)}")
    parser.add_argument("--slow", type=float, default=1.0, help="seconds that a timeout lasts")
    parser.add_argument("--log", type=Path)
    given = parser.parse_args()
    faults = [fault for fault in given.faults.split(",") if fault]
    if unknown := set(faults) - set(FAULTS):
        parser.error(f"--faults: unknown {', '.join(sorted(unknown))}")
    models = given.model or ["show-o-mini", "eye"]
    server = Server(Miniature(models), faults, given.log, given.port, given.slow, models)
    print(server.url, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
