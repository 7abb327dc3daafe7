"""A headless Chromium for tests, without a network, driven over its DevTools pipe: no driver, no dependency."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SECONDS = 60


class Page:
    """`complaints`: what the page wrote to the console as an error, or threw, or was refused."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._read, self._number = to, back, b"", 0
        self._session: str | None = None
        self.complaints: list[str] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            piece = os.read(self._back, 1 << 20)
            assert piece, "the browser went away"
            self._read += piece
        line, _, self._read = self._read.partition(b"\0")
        told = json.loads(line)
        match told.get("method"), told.get("params"):
            case "Runtime.exceptionThrown", params:
                self.complaints.append(str(params["exceptionDetails"]))
            case "Log.entryAdded", params if params["entry"]["level"] == "error":
                self.complaints.append(params["entry"]["text"])
            case "Runtime.consoleAPICalled", params if params["type"] in ("error", "assert"):
                self.complaints.append(str(params["args"]))
        return told

    def open(self, address: str) -> None:
        """Returns when the page has loaded."""
        if self._session is None:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Runtime", "Log", "Page"):
                self.call(f"{domain}.enable")
        self.call("Page.navigate", url=address)
        until = time.monotonic() + SECONDS
        while self.run("location.href + document.readyState") != f"{address}complete":
            assert time.monotonic() < until, f"{address} does not load"
            time.sleep(0.05)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, after the events that it caused."""
        wrapped = f"new Promise(done => {{ const value = ({expression}); setTimeout(() => done(value), 30); }})"
        found = self.call("Runtime.evaluate", expression=wrapped, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")


def _moved_up(descriptor: int) -> int:
    """The same, out of the way of 3 and 4."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return moved


@contextmanager
def browser(profile: Path, *switches: str) -> Iterator[Page]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium on the path")
    (into, to), (back, out) = os.pipe(), os.pipe()
    into, out = (_moved_up(descriptor) for descriptor in (into, out))
    command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-pipe", f"--user-data-dir={profile}"]

    def plug() -> None:
        os.dup2(into, 3)  # whence the browser reads its commands
        os.dup2(out, 4)  # where it answers

    running = subprocess.Popen(
        [*command, *switches, "about:blank"],
        preexec_fn=plug,
        pass_fds=(3, 4),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(into)
    os.close(out)
    try:
        yield Page(to, back)
    finally:
        running.kill()
        running.wait()
        os.close(to)
        os.close(back)
