"""What a benchmark is: what is asked, how a response is judged, what is averaged over what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, Union

from gapbench.records import Estimate, Failure, Item, Judgement, Picture, Record

if TYPE_CHECKING:
    from PIL import Image

Side = Literal["understanding", "generation", "both"]
Response: TypeAlias = Union[str, "Image.Image", Failure]

# The drawing of an item and seed of this task that an earlier part made, or None where the model failed to draw it.
Drawings = Callable[[str, int], Picture | None]


def file_picture(path: Path, key: str | None = None) -> Picture:
    """A picture that is decoded from its file when it is opened; by default its path tells it from others."""

    def decode() -> Image.Image:
        from PIL import Image

        return Image.open(path)

    return Picture(key or str(path), decode)


class Task(Protocol):
    """One benchmark. It knows records, judges and metrics; never models or runs.

    `parts` are asked in order. Most tasks have one, named ""; a part may ask about the drawings of an earlier one.
    `judge` takes items and responses in step, as many as the caller likes, so that heavy judges can batch. A response
    that the model failed to give is judged too: it is wrong, and its details are as complete as any other's.
    `metrics` takes all records of the task, in the order of the items, and gives each metric's name and estimate;
    the first is the headline. A task that joins records to questions may say in `unjudged(records)` how many its judge
    could not decide; elsewhere it is the records without a score. `protocol` names everything that can change a number:
    data, prompt, judge, scoring.
    """

    name: str
    version: str
    side: Side
    parts: tuple[str, ...]

    def items(self, part: str, drawings: Drawings) -> Sequence[Item]: ...

    def judge(self, items: Sequence[Item], responses: Sequence[Response]) -> list[Judgement]: ...

    def metrics(self, records: Sequence[Record]) -> dict[str, Estimate]: ...

    def protocol(self) -> Mapping[str, Any]: ...
