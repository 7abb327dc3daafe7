"""Drawings made elsewhere, scored: exactly what is wrong with them, and what is there, judged.

Every image is decoded before any is judged, for judging takes hours and a torn file should be known at once. An image
must be a plain RGB one: what a judge sees of transparency, of grey values or of 16 bits differs between programs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from gapbench.ahead import THREADS
from gapbench.data.drawn import Open, name_of, opened
from gapbench.data.pictures import UNREADABLE
from gapbench.records import InputError, Item, Record
from gapbench.responses import Answers, Found, match
from gapbench.run import PROMPTS_PER_CHUNK
from gapbench.tasks.base import Task


def checked(expected: Iterable[Item], found: Sequence[Found], bad: Sequence[str], open_image: Open = opened) -> Answers:
    """The images of the expected items, and what is missing, extra, twice there, broken or not RGB."""

    def fault(image: Found) -> str | None:
        try:
            mode = open_image(image.response).mode
        except InputError as error:
            return str(error)
        except UNREADABLE as error:
            return f"{image.response}: {error}"
        return None if mode == "RGB" else f"{image.response}: mode {mode}, not RGB; convert it as it is to be seen"

    with ThreadPoolExecutor(THREADS) as pool:
        faults = list(pool.map(fault, found))
    whole = [image for image, wrong in zip(found, faults, strict=True) if wrong is None]
    return match(names_of(expected), whole, [*bad, *filter(None, faults)])


def names_of(items: Iterable[Item]) -> list[str]:
    """The images that items of prompts ask for, each prompt's numbered from 0."""
    names: list[str] = []
    last, number = None, 0
    for item in items:
        number = number + 1 if item.id == last else 0
        last = item.id
        names.append(name_of(item.id, number))
    return names


def judged(task: Task, items: Sequence[Item], answers: Answers, open_image: Open = opened) -> Iterator[Record]:
    """A record of each image that is there, judged a chunk at a time."""
    there = [(item, name) for item, name in zip(items, names_of(items), strict=True) if name in answers.given]
    for start in range(0, len(there), PROMPTS_PER_CHUNK):
        chunk = there[start : start + PROMPTS_PER_CHUNK]
        with ThreadPoolExecutor(THREADS) as pool:
            images = list(pool.map(lambda pair: open_image(answers.given[pair[1]]), chunk))
        for (item, name), judgement in zip(chunk, task.judge([item for item, _ in chunk], images), strict=True):
            yield Record(
                task.name, item.id, item.cluster, item.skills, item.seed, answers.given[name], judgement.score,
                dict(judgement.details), item.part,
            )  # fmt: skip
