"""Homologous items: an image, its caption, and questions with answers about both.

What the gap is measured on and what hermesflow trains on. As a file: a folder with `homologous.jsonl` and its images.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gapbench.records import Picture


@dataclass(frozen=True, slots=True)
class HomologousQuestion:
    """`choices`: all the answers to choose from, `answer` one of them; none where any short answer may be given."""

    text: str
    answer: str
    skill: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Homologous:
    """`caption` is what is drawn. `cluster`: what this item shares with others (JourneyDB's prompt), else its id."""

    id: str
    picture: Picture
    caption: str
    questions: tuple[HomologousQuestion, ...]
    cluster: str = field(default="")

    def __post_init__(self) -> None:
        if not self.cluster:
            object.__setattr__(self, "cluster", self.id)
