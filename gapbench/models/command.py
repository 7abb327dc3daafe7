"""A program in an environment of its own, which speaks JSON lines: for systems that pin old versions of everything.

`--model "command:PROGRAM ARGS..."` starts the program, without a shell. It reads requests on its standard input and
writes replies on its standard output, one JSON object a line, in UTF-8; what it has to tell people goes to its standard
error. command_example.py is a program to begin with.

First it writes what it is, once it is ready for requests:

    {"gapbench": 1, "name": "next-gpt-7b", "answers": true, "draws": true, "describe": {"weights": "..."}}

describe: whatever else can change a number; it goes into the run's manifest, and is the same at every start. Optional
are "window", how many requests it likes to have at once (16), and "seconds", how long it may take to its next reply
(600). Then come requests:

    {"id": 7, "kind": "answer", "item": "random/12", "text": "Is there a dog?", "template": true, "choices": [],
     "pictures": ["<base64 of a PNG>"], "max_new_tokens": 32, "temperature": 0.0, "top_k": null, "seed": 0}
    {"id": 8, "kind": "draw", "item": "00000", "text": "a photo of a bench", "seed": 3,
     "steps": null, "guidance": null, "temperature": null}

null leaves a setting to the program. Where "template" is false, the text is the whole prompt as it stands. A response
may depend on its request alone, never on its id, nor on what was asked before or beside it. Each request wants one
reply, in any order:

    {"id": 7, "text": "yes"}
    {"id": 8, "png": "<base64 of a PNG>"}   or   {"id": 8, "path": "/absolute/path.png"}
    {"id": 8, "error": "why there is no response"}

The end of its standard input is the end: it should then exit. A program that exits before, is silent for too long or
writes anything else is started again. What it was working on is then asked once more, one by one, and what breaks it
again fails alone.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gapbench.data.pictures import UNREADABLE
from gapbench.models.command_process import Broken, Hello, Program
from gapbench.records import Decoding, Failure, InputError, Picture, Prompt, Question, Sampling

if TYPE_CHECKING:
    from PIL import Image

    from gapbench.models.zoo import Entry

RESTARTS = 5  # in a row, without a reply in between

A = TypeVar("A", Question, Prompt)
T = TypeVar("T")


def load(entry: Entry, device: str | None, dtype: str | None) -> Command:
    """The program, started. It has the methods of what it can do. Raises InputError where it does not start well."""
    if dtype is not None:
        raise InputError(f"--dtype {dtype}: the program of {entry.name} has its own; leave --dtype out")
    try:
        words = shlex.split(entry.target)
    except ValueError as error:
        raise InputError(f"--model {entry.name}: {error}") from None
    if not words:
        raise InputError(f"--model {entry.name}: no program follows the colon")
    program = Program(words)
    try:
        hello = program.start()
    except Broken as error:
        raise InputError(f"--model {entry.name}: the program {error}") from None
    kinds = {(True, True): AnswersAndDraws, (True, False): Answers, (False, True): Draws}
    return kinds[hello.answers, hello.draws](entry.name, program, hello)


class Command:
    """What programs share, whatever they can do."""

    def __init__(self, name: str, program: Program, hello: Hello) -> None:
        self._name, self._program, self._hello = name, program, hello
        self._asked = 0  # the last request's id
        self._restarts = 0  # since the last reply

    def describe(self) -> dict[str, Any]:
        told = self._hello.describe
        command = shlex.join(self._program.words)
        of_all = {"name": self._hello.name, "family": "command", "command": command, "weights": told.get("weights")}
        return {**of_all, "describe": told}

    def settings(self, sampling: Sampling) -> Sampling:
        """None leaves a setting to the program."""
        return sampling

    def close(self) -> None:
        """Stops the program; it is started again when it is asked something."""
        self._program.stop()

    def _exchange(
        self,
        asks: Sequence[A],
        request: Callable[[A], dict[str, Any]],
        response: Callable[[dict[str, Any]], T | None],
    ) -> Iterator[T | Failure]:
        """Responses in the order of `asks`, while the next of them are under way.

        request: raises one of UNREADABLE where a picture of it cannot be read. response: None where a reply holds none.
        """
        done: dict[int, T | Failure] = {}
        todo = deque(range(len(asks)))
        suspects: deque[int] = deque()  # what the program was working on when it broke
        waiting: dict[int, int] = {}  # request -> its number in `asks`

        def ask(number: int) -> None:
            try:
                content = request(asks[number])
            except UNREADABLE as error:
                done[number] = Failure(str(error))
                return
            self._asked += 1
            waiting[self._asked] = number
            self._program.send({"id": self._asked, **content})

        try:
            for due in range(len(asks)):
                while due not in done:
                    try:
                        self._restart_if_ended()
                        if suspects and not waiting:
                            ask(suspects[0])
                        while not suspects and todo and len(waiting) < self._hello.window:
                            ask(todo.popleft())
                        if waiting:
                            number, done_one = self._reply(waiting, response)
                            done[number] = done_one
                            self._restarts = 0
                    except Broken as error:
                        if suspects and waiting:
                            done[suspects[0]] = Failure(f"the program {error}")
                        suspects.extend(waiting.values() if not suspects else ())
                        waiting.clear()
                        self._note_restart(error)
                    while suspects and suspects[0] in done:
                        suspects.popleft()
                yield done.pop(due)
        finally:
            if waiting:  # nobody wants these replies any more, and they must not meet later requests
                self._program.stop()

    def _restart_if_ended(self) -> None:
        if not self._program.running and self._program.start() != self._hello:
            raise InputError(
                f"--model {self._name}: started again, the program says in its first line that it is another"
            )

    def _note_restart(self, error: Broken) -> None:
        self._restarts += 1
        if self._restarts > RESTARTS:
            tried = f"the program broke {self._restarts} times without a reply in between; at last it"
            raise InputError(f"--model {self._name}: {tried} {error}") from None

    def _reply(
        self, waiting: dict[int, int], response: Callable[[dict[str, Any]], T | None]
    ) -> tuple[int, T | Failure]:
        """The next reply, and what it replies to."""
        message = self._program.receive(self._hello.seconds)
        asked = message.get("id")
        if type(asked) is not int or asked not in waiting:
            raise self._program.broken(f"replies to {json.dumps(asked)[:80]}, which no request waits for")
        if isinstance(message.get("error"), str):
            found = Failure(message["error"] or "the program told no reason")
        elif (found := response(message)) is None:
            raise self._program.broken(f"replies to {asked} with none of what it was asked for")
        return waiting.pop(asked), found


class Answers(Command):
    """A program that answers."""

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> Iterator[str | Failure]:
        encoded = _Encoded()

        def request(question: Question) -> dict[str, Any]:
            return {
                "kind": "answer",
                "item": question.id,
                "text": question.text,
                "template": question.template,
                "choices": question.choices,
                "pictures": [encoded(picture) for picture in question.pictures],
                **asdict(decoding),
            }

        def response(reply: dict[str, Any]) -> str | None:
            if not isinstance(reply.get("text"), str):
                return None
            return reply["text"].encode(errors="replace").decode().strip()  # JSON can hold what UTF-8 cannot

        return self._exchange(questions, request, response)


class Draws(Command):
    """A program that draws."""

    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Image.Image | Failure]:
        """RGB, of the size that the program draws."""

        def request(prompt: Prompt) -> dict[str, Any]:
            if not prompt.text.strip():
                raise ValueError("the prompt is empty")
            return {"kind": "draw", "item": prompt.id, "text": prompt.text, "seed": prompt.seed, **asdict(sampling)}

        return self._exchange(prompts, request, _drawing)


class AnswersAndDraws(Answers, Draws):
    """A program that does both."""


class _Encoded:
    """Pictures as base64 of a PNG. Questions about one picture stand together: the last one is remembered."""

    def __init__(self) -> None:
        self._key, self._text = "", ""

    def __call__(self, picture: Picture) -> str:
        if picture.key != self._key:
            image = picture.open()
            if image.mode not in ("RGB", "RGBA", "L"):
                image = image.convert("RGB")
            buffer = BytesIO()
            image.save(buffer, "PNG", compress_level=1)
            self._key, self._text = picture.key, base64.b64encode(buffer.getvalue()).decode()
        return self._text


def _drawing(reply: dict[str, Any]) -> Image.Image | Failure | None:
    from PIL import Image

    png, path = reply.get("png"), reply.get("path")
    if not isinstance(png, str) and not isinstance(path, str):
        return None
    try:
        source = BytesIO(base64.b64decode(png, validate=True)) if isinstance(png, str) else Path(path)
        return Image.open(source, formats=("PNG",)).convert("RGB")
    except UNREADABLE as error:
        return Failure(f"the program's picture cannot be read: {error}")
