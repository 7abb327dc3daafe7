"""What gapbench asks of a model: protocols, nothing to inherit.

Shared promises of every implementation:

- A response depends on the item, its seed and the settings, never on batch size, order, sharding or what ran before.
- Many items may be handed over at once; the model groups, batches and caches as it likes and yields in the given order.
- An item that cannot be answered or drawn (unreadable picture, empty prompt) yields a `Failure`; it never raises.
- A batch that does not fit the device's memory is halved and tried again (`in_batches`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from gapbench.records import Decoding, Failure, Prompt, Question, Sampling, TextLikelihood

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")
R = TypeVar("R")


@runtime_checkable
class Answers(Protocol):
    def answer(self, questions: Sequence[Question], decoding: Decoding) -> Iterator[str | Failure]: ...


@runtime_checkable
class ScoresText(Protocol):
    """How likely a model is to go on after a question with a given text; one continuation a question, in step.

    White space at the end of the prompt counts as the continuation's. A prompt that is too long loses its beginning.
    """

    def log_likelihood(
        self, questions: Sequence[Question], continuations: Sequence[str]
    ) -> Iterator[TextLikelihood | Failure]: ...


@runtime_checkable
class Draws(Protocol):
    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[Image.Image | Failure]: ...


@runtime_checkable
class Described(Protocol):
    """What the manifest says about a model: everything that can change a number."""

    def describe(self) -> dict[str, Any]: ...


def in_batches(items: Sequence[T], size: int, work: Callable[[Sequence[T]], Sequence[R]]) -> Iterator[R]:
    """Yield `work`'s results for `items` in order, at most `size` at a time, halving the size when memory runs out.

    Raises torch.OutOfMemoryError when a single item does not fit.
    """
    import torch

    start = 0
    while start < len(items):
        batch = items[start : start + size]
        try:
            results = work(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            size = (len(batch) + 1) // 2
            torch.cuda.empty_cache()
            continue
        yield from results
        start += len(batch)


def in_order(found: Iterable[tuple[int, R]]) -> Iterator[R]:
    """Of numbers 0, 1, ... and results in any order: the results in their order, each once all before it are there."""
    done: dict[int, R] = {}
    due = 0
    for number, result in found:
        done[number] = result
        while due in done:
            yield done.pop(due)
            due += 1
