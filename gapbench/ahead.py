"""Pictures decoded in the background, a bounded number ahead of the model that looks at them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

from gapbench.records import Item, Picture, Question, Weighing

if TYPE_CHECKING:
    from PIL import Image

PICTURES_AHEAD = 24  # decoded and not looked at yet: 22 MB at COCO's size
THREADS = 2
T = TypeVar("T")


class Ahead:
    """Decodes the pictures of chunks in their order: while a model works on some, the next are decoded.

    Each is decoded once as long as its questions stand together, and forgotten after PICTURES_AHEAD others. Usable as a
    context manager, which ends the threads.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="decode")
        self._due: OrderedDict[str, Picture] = OrderedDict()  # not begun yet, in order
        self._begun: OrderedDict[str, Future[Image.Image]] = OrderedDict()
        self._opened: OrderedDict[str, None] = OrderedDict()
        self._lock = Lock()

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def over(self, chunks: Iterable[Sequence[Item]]) -> Iterator[list[Item]]:
        """The chunks, with pictures that come from the threads; the next chunk's are known while one is worked on."""
        for chunk in _one_ahead(self._taken(chunk) for chunk in chunks):
            self._begin()
            yield chunk

    def _taken(self, chunk: Sequence[Item]) -> list[Item]:
        items = []
        for item in chunk:
            if isinstance(item.ask, Question):
                item = replace(item, ask=self._awaited(item.ask))
            elif isinstance(item.ask, Weighing):
                asks = tuple((self._awaited(question), text) for question, text in item.ask.asks)
                item = replace(item, ask=replace(item.ask, asks=asks))
            items.append(item)
        return items

    def _awaited(self, question: Question) -> Question:
        """The question with pictures that come from the threads."""
        if not question.pictures:
            return question
        with self._lock:
            for picture in question.pictures:
                self._due.setdefault(picture.key, picture)
        pictures = (Picture(picture.key, partial(self._open, picture)) for picture in question.pictures)
        return replace(question, pictures=tuple(pictures))

    def _open(self, picture: Picture) -> Image.Image:
        with self._lock:
            if picture.key not in self._begun:
                self._submit(picture)
            future = self._begun[picture.key]
            self._opened[picture.key] = None
            while len(self._opened) > PICTURES_AHEAD:
                key, _ = self._opened.popitem(last=False)
                del self._begun[key]
        self._begin()
        return future.result()

    def _begin(self) -> None:
        with self._lock:
            while self._due and len(self._begun) - len(self._opened) < PICTURES_AHEAD:
                _, picture = self._due.popitem(last=False)
                if picture.key not in self._begun:
                    self._submit(picture)

    def _submit(self, picture: Picture) -> None:
        self._due.pop(picture.key, None)
        self._begun[picture.key] = self._pool.submit(_decoded, picture)


def _decoded(picture: Picture) -> Image.Image:
    image = picture.open()
    image.load()
    return image


def _one_ahead(values: Iterable[T]) -> Iterator[T]:
    """The values, each after the next one has been made."""
    values = iter(values)
    for value in values:
        for following in values:
            yield value
            value = following
        yield value
