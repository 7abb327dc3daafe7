"""Work that waits for others, done by threads: results in the order of what was asked, equal asks done once."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

R = TypeVar("R")
T = TypeVar("T")


def in_step(work: Callable[[R, threading.Event], T], asks: Sequence[R], threads: int) -> Iterator[T]:
    """What `work` makes of each ask, in step, `threads` at a time from now on.

    What `work` raises ends it all and is raised here. Then, and when nobody waits for results any more, the event that
    `work` is handed is set and no more is begun. The threads hold up no exit: Ctrl-C ends a program that waits.
    """
    results: dict[int, T] = {}
    errors: list[BaseException] = []
    changed, stop = threading.Condition(), threading.Event()
    todo = iter(enumerate(asks))

    def run() -> None:
        while not stop.is_set():
            with changed:
                number, ask = next(todo, (-1, None))
            if number < 0:
                return
            try:
                result = work(ask, stop)
            except BaseException as error:
                stop.set()
                with changed:
                    errors.append(error)
                    changed.notify_all()
                return
            with changed:
                results[number] = result
                changed.notify_all()

    def given() -> Iterator[T]:
        for number in range(len(asks)):
            with changed:
                changed.wait_for(lambda number=number: number in results or errors)
                if number not in results:
                    raise errors[0]
                result = results.pop(number)
            yield result

    for _ in range(min(threads, len(asks))):
        threading.Thread(target=run, daemon=True).start()
    waiting = given()
    weakref.finalize(waiting, stop.set)
    return waiting


class Once:
    """Results by what was asked: who asks again meanwhile or later gets the first one's result, or its exception."""

    def __init__(self) -> None:
        self._results: dict[str, Future[Any]] = {}
        self._lock = threading.Lock()

    def __call__(self, asked: str, work: Callable[[], T]) -> T:
        with self._lock:
            first = asked not in self._results
            result = self._results.setdefault(asked, Future())
        if first:
            try:
                result.set_result(work())
            except BaseException as error:
                result.set_exception(error)
        return result.result()
