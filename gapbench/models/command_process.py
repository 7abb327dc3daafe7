"""A child process that speaks JSON lines, in the protocol that command.py tells.

Nothing runs beside us: we write and read while replies are waited for, so no pipe is ever full on both sides.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

PROTOCOL = 1
WINDOW = 16
SECONDS = 600.0
START_SECONDS = 1800.0  # until it says what it is: some load 60 GB first
STOP_SECONDS = 5.0  # from the end of its input, and again from SIGTERM
LINE_LIMIT = 64 * 2**20  # bytes of a reply
LAST_LINES = 5  # of standard error, in messages


class Broken(Exception):
    """The program has ended, hangs, or does not keep to the protocol."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What a program says that it is."""

    name: str
    answers: bool
    draws: bool
    describe: dict[str, Any]
    window: int
    seconds: float


class Program:
    """A child process and what goes to and fro; started again after it was stopped."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Hello:
        """Raises Broken where it cannot be started, and where it does not say what it is."""
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115, it is read as long as the process lives
        try:
            # In a group of its own: Ctrl-C is for us, who then stop it and all that it has started.
            process = subprocess.Popen(
                self.words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise Broken(f"cannot be started: {error.strerror}: {error.filename}") from None
        self._process, self._sending, self._received = process, bytearray(), bytearray()
        self._end = weakref.finalize(self, _stop, process)  # also when the interpreter exits
        for stream in (process.stdin, process.stdout):
            os.set_blocking(stream.fileno(), False)
        self._streams = selectors.DefaultSelector()
        self._streams.register(process.stdout, selectors.EVENT_READ)
        message = self.receive(START_SECONDS)
        try:
            return _hello(message)
        except ValueError as error:
            raise self.broken(str(error)) from None

    @property
    def running(self) -> bool:
        return self._process is not None

    def stop(self) -> None:
        """Ends it: by the end of its input, then by force."""
        if self._process is not None:
            self._streams.close()
            self._end()
            self._said.close()
            self._process = None

    def send(self, message: dict[str, Any]) -> None:
        """It is written while replies are waited for, as far as the program reads."""
        if not self._sending:
            self._streams.register(self._process.stdin, selectors.EVENT_WRITE)
        self._sending += json.dumps(message).encode() + b"\n"

    def receive(self, seconds: float) -> dict[str, Any]:
        """Its next line. Raises Broken where there is none for so long, or one that is no JSON object."""
        until = time.monotonic() + seconds
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if searched > LINE_LIMIT:
                raise self.broken(f"writes a line of more than {LINE_LIMIT} bytes")
            ready = self._streams.select(max(0.0, until - time.monotonic()))
            if not ready:
                raise self.broken(f"has not replied for {seconds:g} seconds")
            for key, _ in ready:
                if key.fileobj is self._process.stdout:
                    self._read()
                else:
                    self._write()
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise self.broken(f"writes what is no JSON object: {line[:80].decode(errors='replace')!r}")
        return message

    def _read(self) -> None:
        chunk = self._process.stdout.read(2**16)
        if chunk:
            self._received += chunk
        elif chunk is not None:  # the end, not merely nothing yet
            raise self.broken(self._ended())

    def _write(self) -> None:
        try:
            written = self._process.stdin.write(self._sending[: 2**16]) or 0
        except BrokenPipeError:  # how it has ended its output will tell
            written = len(self._sending)
        del self._sending[:written]
        if not self._sending:
            self._streams.unregister(self._process.stdin)

    def _ended(self) -> str:
        try:
            status = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return "has closed its standard output"
        return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"has exited with status {status}"

    def broken(self, why: str) -> Broken:
        """With the last that it said on its standard error. It is stopped by force."""
        self._process.stdin.close()
        _end_group(self._process, signal.SIGKILL)
        self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - 4096))
        lines = [" ".join(line.split()) for line in self._said.read().decode(errors="replace").splitlines()]
        told = " | ".join([line[:200] for line in lines if line][-LAST_LINES:])
        self.stop()
        return Broken(f"{why}; the last on its standard error: {told or 'nothing'}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.stdin.close()
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        try:
            process.wait(STOP_SECONDS)
            break
        except subprocess.TimeoutExpired:
            _end_group(process, signal_number)
    process.wait()
    process.stdout.close()


def _end_group(process: subprocess.Popen[bytes], signal_number: int) -> None:
    """Signals the process and all that it has started, unless it has been waited for: its number may be another's."""
    if process.returncode is None:
        os.killpg(process.pid, signal_number)


def _hello(message: dict[str, Any]) -> Hello:
    """Raises ValueError where the first line of a program is not as the protocol has it."""
    told = {"describe": {}, "window": WINDOW, "seconds": SECONDS, **message}
    if told.get("gapbench") != PROTOCOL:
        raise ValueError(f'does not begin with {{"gapbench": {PROTOCOL}, "name": ...}}: {json.dumps(message)[:80]}')
    kinds = {"name": str, "answers": bool, "draws": bool, "describe": dict, "window": int, "seconds": (int, float)}
    for key, kind in kinds.items():
        if not isinstance(told.get(key), kind):
            raise ValueError(f'says "{key}": {json.dumps(told.get(key))[:80]} in its first line')
    if not (told["answers"] or told["draws"]) or told["window"] < 1 or told["seconds"] <= 0:
        raise ValueError("says in its first line that it can do nothing, or takes no requests, or has no time for any")
    return Hello(**{key: told[key] for key in kinds})
