"""Asks that arrive together are put to the model together: one thread owns it, others queue their asks and wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

from gapbench.records import Decoding, Failure, Prompt, Question, Sampling

ASKS_PER_CALL = 64
WAIT = 0.01  # seconds that each call waits for more asks, so that clients whose replies are just out can join
ROOM = 1024  # asks in the queue


@runtime_checkable
class Says(Protocol):
    """A model that tells how an answer ended, and decodes each question in its own way.

    What it says has `text`, `tokens` (generated ones, but for the end token) and `ended` (by itself, not at its limit).
    """

    def say(self, questions: Sequence[Question], ways: Sequence[Decoding]) -> Iterator[Any]: ...


@runtime_checkable
class CountsTokens(Protocol):
    """A model that tells how many positions a question takes, with its pictures and template."""

    def prompt_tokens(self, question: Question) -> int: ...


class Answer(NamedTuple):
    """An answer, and what is known of it: whether it ended by itself, how many tokens the question and it take."""

    text: str
    ended: bool | None = None
    prompt_tokens: int | None = None
    tokens: int | None = None


class Ask(NamedTuple):
    """A question and how it is answered, or a prompt and how it is drawn."""

    what: Question | Prompt
    way: Decoding | Sampling


class Full(Exception):
    """No room in the queue."""


class Closed(Exception):
    """Nothing is taken any more."""


@dataclass(slots=True, eq=False)
class _Job:
    ask: Ask
    result: Future[Any] = field(default_factory=Future)


class Batches:
    """The model's thread. A call has up to `most` asks of equal settings; the oldest ask's settings come first."""

    def __init__(self, model: Any, room: int = ROOM, most: int = ASKS_PER_CALL, wait: float = WAIT) -> None:
        self._model, self._room, self._most, self._wait = model, room, most, wait
        self._mixes_seeds = isinstance(model, Says)
        self._counts = isinstance(model, Says) and isinstance(model, CountsTokens)
        self._queue: list[_Job] = []
        self._closed = False
        self._changed = threading.Condition()
        # A daemon: a second Ctrl-C does not wait for the model.
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def submit(self, asks: Sequence[Ask]) -> list[Future[Any]]:
        """Futures of an Answer or an image each, or of a Failure; one that is cancelled in time is never asked.

        Raises Full where there is no room for all of them, Closed after `close`.
        """
        jobs = [_Job(ask) for ask in asks]
        with self._changed:
            if self._closed:
                raise Closed
            if len(self._queue) + len(jobs) > self._room:
                raise Full
            self._queue += jobs
            self._changed.notify_all()
        return [job.result for job in jobs]

    def close(self) -> None:
        """Take no more, answer what is queued, end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    # --- the model's thread ------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while jobs := self._next():
            self._settle([job for job in jobs if job.result.set_running_or_notify_cancel()])

    def _next(self) -> list[_Job]:
        """The next call's jobs; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            self._changed.wait_for(lambda: len(self._queue) >= self._most or self._closed, self._wait)
            settings = self._settings(self._queue[0].ask) if self._queue else None
            together = [job for job in self._queue if self._settings(job.ask) == settings][: self._most]
            chosen = set(together)
            self._queue = [job for job in self._queue if job not in chosen]
            return together

    def _settings(self, ask: Ask) -> Decoding | Sampling:
        """What asks of one call have in common."""
        if self._mixes_seeds and isinstance(ask.way, Decoding):
            return replace(ask.way, seed=0)
        return ask.way

    def _settle(self, jobs: Sequence[_Job]) -> None:
        """Give each job its result. Where a call of several raises, each is asked alone: one spoils no other."""
        if not jobs:
            return
        try:
            for job, result in zip(jobs, self._results([job.ask for job in jobs]), strict=True):
                job.result.set_result(result)
        except BaseException as error:  # whatever it is, whoever waits is to hear of it, and the thread goes on
            due = [job for job in jobs if not job.result.done()]
            if len(due) == 1:
                due[0].result.set_exception(error)
            else:
                for job in due:
                    self._settle([job])

    def _results(self, asks: Sequence[Ask]) -> Iterator[Any]:
        what, ways = [ask.what for ask in asks], [ask.way for ask in asks]
        if isinstance(ways[0], Sampling):
            yield from self._model.draw(what, ways[0])
        elif self._mixes_seeds:
            for question, said in zip(what, self._model.say(what, ways), strict=True):
                yield said if isinstance(said, Failure) else self._answer(question, said)
        else:
            for answer in self._model.answer(what, ways[0]):
                yield answer if isinstance(answer, Failure) else Answer(answer)

    def _answer(self, question: Question, said: Any) -> Answer:
        asked = self._model.prompt_tokens(question) if self._counts else None
        return Answer(said.text, said.ended, asked, len(said.tokens))
