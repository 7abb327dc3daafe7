"""Pictures decoded ahead: the same ones, each once, a bounded number of them, and whatever is wrong with one."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
from PIL import Image

from gapbench import ahead
from gapbench.ahead import Ahead
from gapbench.records import Item, Picture, Prompt, Question, Weighing


class Album:
    """Pictures that note when they are decoded; number 13 is broken."""

    def __init__(self) -> None:
        self.decoded: Counter[str] = Counter()
        self.threads: set[int] = set()

    def picture(self, number: int) -> Picture:
        def decode() -> Image.Image:
            self.decoded[str(number)] += 1
            self.threads.add(threading.get_ident())
            if number == 13:
                raise OSError("image file is truncated")
            return Image.new("L", (1, 1), number)

        return Picture(str(number), decode)

    def chunks(self, pictures: int = 40, questions: int = 3, size: int = 5) -> list[list[Item]]:
        items = [
            Item(f"{n}/{q}", str(n), (), Question(f"{n}/{q}", "?", (self.picture(n),)))
            for n in range(pictures)
            for q in range(questions)
        ]
        return [items[i : i + size * questions] for i in range(0, len(items), size * questions)]


def settled(condition: Callable[[], bool]) -> bool:
    """Whether a condition comes true soon: threads take their time."""
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_the_pictures_are_the_same_and_decoded_once_elsewhere() -> None:
    album = Album()
    with Ahead() as pictures:
        for chunk in pictures.over(album.chunks()):
            for item in chunk:
                if item.cluster == "13":
                    with pytest.raises(OSError, match="truncated"):
                        item.ask.pictures[0].open()
                else:
                    assert item.ask.pictures[0].open().getpixel((0, 0)) == int(item.cluster)
    assert album.decoded == {str(number): 1 for number in range(40)}
    assert threading.get_ident() not in album.threads


def test_no_more_than_a_few_are_decoded_before_they_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "PICTURES_AHEAD", 4)
    album = Album()
    with Ahead() as pictures:
        chunks = pictures.over(album.chunks())
        first = next(chunks)
        assert settled(lambda: len(album.decoded) == 4)
        first[0].ask.pictures[0].open()
        assert settled(lambda: len(album.decoded) == 5)
        time.sleep(0.05)
        assert len(album.decoded) == 5
        # A chunk that a model never looks at holds up nothing.
        for chunk in chunks:
            chunk[-1].ask.pictures[0].open()
        assert len(pictures._begun) <= 4 + 4 + 1


def test_the_next_chunk_begins_while_this_one_is_worked_on() -> None:
    album = Album()
    with Ahead() as pictures:
        chunk = next(pictures.over(album.chunks()))
        for item in chunk:
            item.ask.pictures[0].open()
        assert settled(lambda: "5" in album.decoded)  # of the second chunk


def test_items_are_what_they_were() -> None:
    album = Album()
    chunks = [*album.chunks(), [Item("p", "p", (), Prompt("p", "a cat", 0)), Item("q", "q", (), Question("q", "?"))]]
    with Ahead() as pictures:
        assert list(pictures.over(chunks)) == chunks


def test_the_pictures_of_what_is_weighed_are_decoded_once_too() -> None:
    album = Album()
    items = []
    for n in range(30):
        asks = tuple((Question(f"{n}", "?", (album.picture(n),)), text) for text in (" yes", " no"))
        items.append(Item(str(n), str(n), (), Weighing(str(n), asks)))
    alone = Item("alone", "alone", (), Weighing("alone", ((Question("alone", "?"), "yes"),)))
    with Ahead() as pictures:
        for chunk in pictures.over([items[:10], [*items[10:], alone]]):
            for item in chunk[:-1]:
                for question, _ in item.ask.asks:
                    if item.id != "13":
                        assert question.pictures[0].open().getpixel((0, 0)) == int(item.id)
            assert chunk == ([*items[:10]] if len(chunk) == 10 else [*items[10:], alone])
    assert {album.decoded[str(number)] for number in range(29) if number != 13} == {1}
    assert threading.get_ident() not in album.threads
