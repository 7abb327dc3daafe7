"""Whether a benchmark's data are whole: every question is read and every picture decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gapbench import tasks
from gapbench.ahead import Ahead
from gapbench.data import sources
from gapbench.data.pictures import UNREADABLE
from gapbench.run import Progress, chunks
from gapbench.tasks.base import Options


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found; `faults` names each picture that cannot be decoded."""

    items: int
    whole: int
    pictures: int
    data: str
    faults: tuple[str, ...]

    def __str__(self) -> str:
        state = f"{len(self.faults)} broken" if self.faults else "all of them decode"
        return f"{self.items} of {self.whole} questions, {self.pictures} pictures, {state}; {self.data}"


def check(name: str, data: Path | None, progress: Progress) -> Checked:
    """Raises InputError for what is wrong with the questions, or where pictures are missing."""
    task = tasks.load(name, Options(data=sources.find(name, data, fetch=False).folder))
    items = task.items("", lambda item, seed: None)
    pictures, faults = 0, []
    progress.start(name, len(items), 0)
    with Ahead() as ahead:
        last = None
        for chunk in ahead.over(chunks(items)):
            for item in chunk:
                progress.advance(1)
                keys = [picture.key for picture in item.ask.pictures]
                if keys == last:  # the questions of a picture stand together
                    continue
                last = keys
                for picture in item.ask.pictures:
                    pictures += 1
                    try:
                        picture.open()
                    except UNREADABLE as error:
                        faults.append(f"{picture.key}: {error}")
    progress.stop()
    return Checked(len(items), task.whole, pictures, task.protocol()["data"], tuple(faults))


def asked(name: str, data: Path | None, allow_partial: bool = False) -> Iterator[dict[str, Any]]:
    """id, pictures and text of each question; the pictures need not be there."""
    task = tasks.load(name, Options(data=data, allow_partial=allow_partial, pictures=False))
    for item in task.items("", lambda item, seed: None):
        yield {"id": item.id, "pictures": [picture.key for picture in item.ask.pictures], "prompt": item.ask.text}
