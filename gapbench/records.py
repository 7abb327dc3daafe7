"""The words that every room shares: plain frozen dataclasses, no behaviour beyond their own consistency.

A task turns its data into items; an item carries a question or a prompt for the model; the model's response is judged;
what was judged is written down as a record; metrics turn records into estimates. Nothing here imports anything of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from PIL import Image


class InputError(ValueError):
    """Wrong input of the user's: one line that names the file, item or flag and says what to do. Exit status 2."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image by reference: `key` says which one (equal keys, equal pixels), `open` decodes it.

    Models group questions by `key` to share the image prefix; pixels are loaded only when they are needed.
    `open` may raise OSError, which becomes the item's error.
    """

    key: str
    open: Callable[[], Image.Image] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Question:
    """A text about zero or more pictures, to be answered with a text. `text` is the benchmark's full prompt.

    `template` False: `text` is the whole prompt as it stands, and the model puts no chat template around it.
    """

    id: str
    text: str
    pictures: tuple[Picture, ...] = ()
    choices: tuple[str, ...] = ()
    template: bool = True


@dataclass(frozen=True, slots=True)
class Weighing:
    """Texts to be weighed: how likely is each of them after its question? Answered with a TextLikelihood for each."""

    id: str
    asks: tuple[tuple[Question, str], ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text to be drawn. The drawing depends on `text` and `seed` alone."""

    id: str
    text: str
    seed: int


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers are decoded. `temperature` 0 is greedy; `top_k` None keeps the whole vocabulary."""

    max_new_tokens: int = 32
    temperature: float = 0.0
    top_k: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Sampling:
    """How images are sampled. None leaves a setting to the model's own default, which the manifest then names."""

    steps: int | None = None
    guidance: float | None = None
    temperature: float | None = None


class TextLikelihood(NamedTuple):
    """Natural logarithm of the probability of a continuation, over how many tokens, and whether greedy decoding would
    give it.
    """

    total: float
    tokens: int
    greedy: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """What a model yields in place of a response that it could not give; the run goes on."""

    reason: str


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that a task asks. `truth` is what the task's own judge needs and no model sees."""

    id: str
    cluster: str
    skills: tuple[str, ...]
    ask: Question | Weighing | Prompt
    truth: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""

    @property
    def seed(self) -> int:
        return self.ask.seed if isinstance(self.ask, Prompt) else 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """`score` in [0, 1], or None where the judge itself failed and the item counts on no side."""

    score: float | None
    details: Mapping[str, Any] = field(default_factory=dict)


class RecordKey(NamedTuple):
    part: str
    item: str
    seed: int


@dataclass(frozen=True, slots=True)
class Record:
    """One judged response: all that metrics, tables, tests and the trainer ever read.

    `response` is the answer, or the drawing's path relative to the run folder, or of what was weighed the JSON of
    [[total, tokens, greedy], ...]. `part` tells apart what a task asks of
    one item (the gap asks about the real picture, draws, and asks about the drawing). A response that the model failed
    to give has score 0 and says why in `error`.
    """

    task: str
    item: str
    cluster: str
    skills: tuple[str, ...]
    seed: int
    response: str
    score: float | None
    details: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""
    error: str | None = None

    @property
    def key(self) -> RecordKey:
        return RecordKey(self.part, self.item, self.seed)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval, the count of what it averages, and of the clusters that vary independently."""

    value: float
    low: float
    high: float
    n: int
    clusters: int
