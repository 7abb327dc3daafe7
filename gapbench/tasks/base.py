"""What a benchmark is: what is asked, how a response is judged, what is averaged over what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, Union

from gapbench.records import Decoding, Estimate, Failure, Item, Judgement, Picture, Record, TextLikelihood

if TYPE_CHECKING:
    from PIL import Image

Side = Literal["understanding", "generation", "both"]
Response: TypeAlias = Union[str, "Image.Image", tuple[TextLikelihood, ...], Failure]

# The drawing of an item and seed of this task that an earlier part made, or None where the model failed to draw it.
Drawings = Callable[[str, int], Picture | None]


@dataclass(frozen=True, slots=True)
class Options:
    """What a task is made with.

    seed: of the first drawing. data: a folder, see data/sources.py. allow_partial: data may be a part of the
    benchmark's. pictures: whether they must be there; without them a task can tell what it asks, and be scored.
    judge: where the judge lies or what it is called, if not the task's own; device: where judges run.
    matching: the rule by which an answer means a choice (tasks/matching.py), if not the task's own; weighs: whether the
    model under test can weigh texts.
    """

    seed: int = 0
    data: Path | None = None
    allow_partial: bool = False
    pictures: bool = True
    judge: str | None = None
    device: str | None = None
    matching: str | None = None
    weighs: bool = False


class Items(Protocol):
    """Items that can be gone through again and again; their number is known, but they need not all be in memory.

    Items of one cluster stand together.
    """

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Item]: ...


@dataclass(frozen=True, slots=True)
class Stream:
    """Items made anew whenever they are gone through."""

    count: int
    make: Callable[[], Iterator[Item]]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Item]:
        return self.make()


class Task(Protocol):
    """One benchmark. It knows records, judges and metrics; never models or runs.

    `parts` are asked in order. Most tasks have one, named ""; a part may ask about the drawings of an earlier one.
    `judge` takes items and responses in step, as many as the caller likes, so that heavy judges can batch. A response
    that the model failed to give is judged too: it is wrong, and its details are as complete as any other's.
    `decoding` is how answers are to be decoded, where any are asked for.
    `metrics` takes all records of the task, in the order of the items, and gives each metric's name and estimate;
    the first is the headline. A task that joins records to questions may say in `unjudged(records)` how many its judge
    could not decide; elsewhere it is the records without a score. One whose data may be a part of the benchmark's has
    the number of all in `whole`. `protocol` names what else can change a number: data, prompt, judge, scoring.
    """

    name: str
    version: str
    side: Side
    parts: tuple[str, ...]
    decoding: Decoding | None

    def items(self, part: str, drawings: Drawings) -> Items: ...

    def judge(self, items: Sequence[Item], responses: Sequence[Response]) -> list[Judgement]: ...

    def metrics(self, records: Sequence[Record]) -> dict[str, Estimate]: ...

    def protocol(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class QuestionTask:
    """A benchmark that asks questions: `asked` are its items, `whole` how many the complete benchmark has.

    `judge_item` judges one response, `of_records` makes metrics of records, and `told` is the protocol.
    """

    name: str
    version: str
    asked: Items
    whole: int
    decoding: Decoding
    judge_item: Callable[[Item, Response], Judgement]
    of_records: Callable[[Sequence[Record]], dict[str, Estimate]]
    told: Mapping[str, Any]

    side = "understanding"
    parts = ("",)

    def items(self, part: str, drawings: Drawings) -> Items:
        return self.asked

    def judge(self, items: Sequence[Item], responses: Sequence[Response]) -> list[Judgement]:
        return [self.judge_item(item, response) for item, response in zip(items, responses, strict=True)]

    def metrics(self, records: Sequence[Record]) -> dict[str, Estimate]:
        return self.of_records(records)

    def protocol(self) -> Mapping[str, Any]:
        return self.told


def by_picture(items: Iterable[Item]) -> list[Item]:
    """Items with those of one cluster together, clusters in the order of their first items: models share prefixes."""
    items = list(items)
    order = {cluster: i for i, cluster in enumerate(dict.fromkeys(item.cluster for item in items))}
    return sorted(items, key=lambda item: order[item.cluster])
