"""The words that the stages of hermesflow share: candidates that a model made of an item, and pairs chosen of them.

Codes of images are kept as the model sampled them, int in [0, codebook); training never encodes a picture anew.
Nothing here knows a model.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from gapbench.records import InputError

T = TypeVar("T")

Codes = tuple[int, ...]  # of one image, in raster order


@dataclass(frozen=True, slots=True)
class CaptionCandidate:
    """A caption that the model gave of the real image: its text, the tokens that it sampled, without the end token,
    and whether it ended by itself. top_k None is the whole vocabulary; 1 is greedy.
    """

    text: str
    tokens: tuple[int, ...]
    ended: bool
    score: float
    top_k: int | None
    temperature: float


@dataclass(frozen=True, slots=True)
class ImageCandidate:
    """A drawing of the item's caption: its codes, its seed, which of the item's questions are answered rightly about it
    (None where that could not be judged), and the share of those.

    steps: of each code, the sampling step that fixed it; nats: of each step, -log p of the codes that it fixed;
    thresholds: of each step but the last, the least score that it kept. All are empty where the sampler has no steps,
    or where it is not known.
    """

    codes: Codes
    seed: int
    right: tuple[bool | None, ...]
    score: float
    steps: Codes = ()
    nats: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidates:
    """All that one model made of one homologous item. skills: of each of its questions.

    understood: where it judged its drawings itself, whether it answers each question rightly about the real image.
    """

    id: str
    cluster: str
    caption: str
    skills: tuple[str, ...]
    codes: Codes  # of the real image
    captions: tuple[CaptionCandidate, ...]
    images: tuple[ImageCandidate, ...]
    understood: tuple[bool | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Preference(Generic[T]):
    """One side of a pair. win.score > lose.score always."""

    win: T
    lose: T


@dataclass(frozen=True, slots=True)
class Pair:
    """A homologous pair: captions of the real image, drawings of its caption; a side may be absent, not both.

    weights: of the understanding side (captions) and of the generation side (drawings).
    """

    id: str
    cluster: str
    caption: str
    skills: tuple[str, ...]
    codes: Codes
    captions: Preference[CaptionCandidate] | None
    images: Preference[ImageCandidate] | None
    understanding_weight: float = 1.0
    generation_weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs, and why items gave none, or only one side: counts by reason."""

    pairs: Sequence[Pair]
    dropped: Mapping[str, int] = field(default_factory=dict)


class NoPairs(InputError):
    """There is nothing to train on: no pair, or none with a side that has a weight."""


# --- As JSON ----------------------------------------------------------------------------------------------------------


def to_json(value: Candidates | Pair) -> str:
    """One line; codes and their steps as base64 of little-endian uint16."""
    return json.dumps(_plain(value), ensure_ascii=False)


def candidates_from(line: str) -> Candidates:
    """Raises ValueError, KeyError or TypeError for what is no line of `to_json`."""
    row = json.loads(line)
    captions = tuple(map(_caption, row.pop("captions")))
    images = tuple(map(_image, row.pop("images")))
    told = {"skills": tuple(row["skills"]), "understood": tuple(row["understood"]), "codes": _codes(row["codes"])}
    return Candidates(**{**row, **told}, captions=captions, images=images)


def pair_from(line: str) -> Pair:
    """Raises ValueError, KeyError or TypeError for what is no line of `to_json`."""
    row = json.loads(line)
    sides = {}
    for name, made in (("captions", _caption), ("images", _image)):
        side = row.pop(name)
        sides[name] = side and Preference(made(side["win"]), made(side["lose"]))
    return Pair(**{**row, "skills": tuple(row["skills"]), "codes": _codes(row["codes"])}, **sides)


def _plain(value: Any, name: str = "") -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name), f.name) for f in dataclasses.fields(value)}
    if name in ("codes", "steps"):
        return base64.b64encode(np.asarray(value, dtype="<u2").tobytes()).decode()
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value


def _codes(text: str) -> Codes:
    return tuple(np.frombuffer(base64.b64decode(text, validate=True), dtype="<u2").tolist())


def _caption(row: Mapping[str, Any]) -> CaptionCandidate:
    return CaptionCandidate(**{**row, "tokens": tuple(row["tokens"])})


def _image(row: Mapping[str, Any]) -> ImageCandidate:
    sampled = {"steps": _codes(row.get("steps", "")), **{k: tuple(row.get(k, ())) for k in ("nats", "thresholds")}}
    return ImageCandidate(**{**row, "codes": _codes(row["codes"]), "right": tuple(row["right"]), **sampled})
