"""The exact eye: reads a picture of the miniature world, also a bad one, back into its things.

It is the detector and the judge of the miniature, and as strict as a judge is asked to be: what is blurred, broken,
fragmentary, of mixed or of no color of the world is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from gapbench.metrics.relations import Box
from gapbench.miniature.language import parse
from gapbench.miniature.picture import GROUND, RGB, coverage
from gapbench.miniature.world import CELL_PIXELS, COLORS, GRID, PICTURE_PIXELS, RADIUS, SHAPES, SIZES, Scene, Thing
from gapbench.records import Decoding, Failure, Picture, Question

# Measured on 750 scenes and more, least score of a thing: 0.99 as rendered or enlarged to 512, 0.98 with Gaussian noise
# of 6 in 255, 0.97 blurred by 0.7 pixels, 0.91 as a JPEG of quality 90. Of 720 things with a quadrant of another shape,
# 4 % pass, those that look alike (a square's and a heart's upper corners); of 96 with one of the other size, none.
THRESHOLD = 0.9

# All distances are Euclidean, in levels of RGB.
# To a color of the world, for a pixel to be surely of it. Just under half of 79, from orange to yellow, the nearest
# two: no pixel is surely of two. It keeps edges out as well: the mixture with the ground that comes nearest to another
# color is that of red, 41 from pink.
REACH = 39.0
# To the nearest mixture of a color with the ground, for a pixel to be in part of it. At 50 the smeared chroma of JPEG
# breaks small blue stars (least score 0.83); 60 makes them whole and lets no more noise pass.
STRAY = 60.0
FAINT = 0.25  # share of a color that connects pixels; above what weak noise gives the ground
SURE = 25  # pixels that a thing surely has; a small black star has 80, blurred by 1 pixel 38
RIM = 2  # pixels around a thing where foreign colors count against it; things in neighbouring cells are 5 apart
_PATCH = CELL_PIXELS + 4
_SHIFTS = tuple(product((-1, 0, 1), repeat=2))  # what rounding two centres can leave
_KINDS = tuple(product(SHAPES, SIZES))

_GROUND = np.array(GROUND, dtype=np.float32)
_DIRECTIONS = np.array([RGB[color] for color in COLORS], dtype=np.float32) - _GROUND
_SQUARES = (_DIRECTIONS**2).sum(axis=1)[:, None]
_WITHIN = ndimage.generate_binary_structure(3, 1)  # neighbours within one color's mask only
_WITHIN[[0, 2]] = False


@dataclass(frozen=True)
class Detection:
    """A thing that was seen. `box` is the square that such a shape is drawn in, in pixels of the 96 x 96 picture."""

    shape: str
    color: str
    size: str
    box: Box
    score: float


def frame(picture: Image.Image | np.ndarray) -> np.ndarray:
    """Any picture as (96, 96, 3) uint8: transparency shows the ground, other sizes are averaged over areas."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*GROUND, 255)), image)
    image = image.convert("RGB")
    if image.size != (PICTURE_PIXELS, PICTURE_PIXELS):
        image = image.resize((PICTURE_PIXELS, PICTURE_PIXELS), Image.Resampling.BOX)
    return np.asarray(image)


def detect(picture: Image.Image | np.ndarray, threshold: float = THRESHOLD) -> list[Detection]:
    """The things in a picture, best first.

    A pixel is taken as a mixture of the ground and a color of the world, which gives its share of that color, so that
    the pale edge of a red thing is a little red and not pink. A thing is a connected region with a share of one color,
    enough of it surely of that color. It is compared with every shape at its true size, so that a wrong size or aspect
    is a mismatch like any other.
    """
    present, sure, share, foreign = _shares(frame(picture))
    if not present:
        return []
    labels, count = ndimage.label(share > FAINT, _WITHIN)
    areas = np.bincount(labels[sure], minlength=count + 1)
    areas[0] = 0
    regions = ndimage.find_objects(labels)
    found = []
    for number in np.flatnonzero(areas >= SURE):
        which, rows, columns = regions[number - 1]
        if max(rows.stop - rows.start, columns.stop - columns.start) > CELL_PIXELS:
            continue
        top, left = max(rows.start - RIM, 0), max(columns.start - RIM, 0)
        window = which.start, slice(top, rows.stop + RIM), slice(left, columns.stop + RIM)
        mask = share[window] * (labels[window] == number)
        score, shape, size, (y, x) = _match(mask, foreign[window])
        if score >= threshold:
            y, x, radius = y + top, x + left, RADIUS[size]
            box = Box(x - radius, y - radius, x + radius, y + radius)
            found.append(Detection(shape, present[which.start], size, box, score))
    return sorted(found, key=lambda thing: -thing.score)


def _shares(pixels: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """The colors that are there, and for each (colors, 96, 96): surely it; how much of it; neither it nor ground.

    With the ground at the origin a color is a direction d, and a pixel p has share s = p.d / d.d, |p - s d| off it.
    """
    p = (pixels.astype(np.float32) - _GROUND).reshape(-1, 3).T
    along, squares = _DIRECTIONS @ p, (p**2).sum(axis=0)
    sure = squares - 2 * along + _SQUARES <= REACH**2
    present = np.flatnonzero(sure.sum(axis=1) >= SURE)
    sure, along, lengths = sure[present], along[present], _SQUARES[present]
    share = np.clip(along / lengths, 0, 1)
    foreign = squares - share * (2 * along - share * lengths) > STRAY**2
    share[foreign] = 0
    shape = (len(present), PICTURE_PIXELS, PICTURE_PIXELS)
    return [COLORS[i] for i in present], sure.reshape(shape), share.reshape(shape), foreign.reshape(shape)


def _match(mask: np.ndarray, foreign: np.ndarray) -> tuple[float, str, str, tuple[int, int]]:
    """The shape and size that a region fits best, how well it fits, and where the drawn shape's middle lies.

    The fit of soft masks a and t is their intersection over union in Tanimoto's form, a.t / (a.a + t.t - a.t), with the
    foreign pixels outside of t added to the union. The best fit names the shape; its score is the fit of its worst
    quadrant, for a thing with one quadrant of another shape still fits well as a whole.
    """
    y, x = _centre(mask)
    a, f = _patch(mask, y, x), _patch(foreign, y, x)
    templates, squares, middles = _templates()
    common = templates @ a.reshape(-1)
    union = (a * a).sum() + squares - common + f.sum() - templates @ f.reshape(-1)
    best = int((common / union).argmax())
    t = templates[best].reshape(a.shape)
    down, right = middles[best]
    row, column = _PATCH // 2 + down, _PATCH // 2 + right
    quadrants = [(r, c) for r in (slice(0, row), slice(row, None)) for c in (slice(0, column), slice(column, None))]
    score = min(_fit(a[q], t[q], f[q]) for q in quadrants)
    return score, *_KINDS[best // len(_SHIFTS)], (y + down, x + right)


def _fit(a: np.ndarray, t: np.ndarray, f: np.ndarray) -> float:
    common = (a * t).sum()
    # Rounding can lift a perfect fit above 1.
    return min(1.0, float(common / ((a * a).sum() + (t * t).sum() - common + f.sum() - (t * f).sum())))


@lru_cache(maxsize=1)
def _templates() -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
    """Every shape and size at every shift: masks (108, 36 * 36), squares, ways from centre of mass to middle."""
    masks, middles = [], []
    for (shape, size), (down, right) in product(_KINDS, _SHIFTS):
        cell = coverage(shape, RADIUS[size])
        y, x = _centre(cell)
        masks.append(_patch(cell, y - down, x - right).reshape(-1))
        middles.append((CELL_PIXELS // 2 - y + down, CELL_PIXELS // 2 - x + right))
    stacked = np.stack(masks)
    return stacked, (stacked**2).sum(axis=1), middles


def _centre(mask: np.ndarray) -> tuple[int, int]:
    """The corner of pixels nearest to the centre of mass, which the tips of a star move less than they do its box."""
    total = mask.sum()
    rows, columns = np.arange(mask.shape[0]) + 0.5, np.arange(mask.shape[1]) + 0.5
    return round(float(mask.sum(axis=1) @ rows / total)), round(float(mask.sum(axis=0) @ columns / total))


def _patch(mask: np.ndarray, y: int, x: int) -> np.ndarray:
    """The square around (y, x), with nothing beyond the mask."""
    half = _PATCH // 2
    patch = np.zeros((_PATCH, _PATCH), dtype=np.float32)
    top, left = max(y - half, 0), max(x - half, 0)
    inside = mask[top : y + half, left : x + half]
    patch[top - y + half :, left - x + half :][: inside.shape[0], : inside.shape[1]] = inside
    return patch


def read(picture: Image.Image | np.ndarray, threshold: float = THRESHOLD) -> Scene:
    """The scene that a picture shows: each thing in the cell nearest to it, the best where two fall into one."""
    things: dict[int, Thing] = {}
    for seen in detect(picture, threshold):
        x, y = ((low + high) / 2 / CELL_PIXELS for low, high in (seen.box[::2], seen.box[1::2]))
        row, column = (min(max(int(at), 0), GRID - 1) for at in (y, x))
        cell = row * GRID + column
        things.setdefault(cell, Thing(cell, seen.color, seen.shape, seen.size))
    return Scene(tuple(sorted(things.values())))


class Eye:
    """Answers the questions of the miniature world from what is detected in their pictures."""

    def __init__(self, threshold: float = THRESHOLD) -> None:
        self.threshold = threshold
        # Pictures are equal by key, so that questions about one picture share one detection.
        self._see = lru_cache(maxsize=64)(self._detect)

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> Iterator[str | Failure]:
        """Answers are exact: `decoding` changes nothing."""
        for question in questions:
            yield self._answer(question)

    def describe(self) -> dict[str, Any]:
        return {"name": "eye", "version": "1", "threshold": self.threshold}

    def _answer(self, question: Question) -> str | Failure:
        try:
            query = parse(question.text)
        except ValueError as error:
            return Failure(str(error))
        if len(question.pictures) != 1:
            return Failure(f"the eye answers about one picture, not {len(question.pictures)}")
        seen = self._see(question.pictures[0])
        return seen if isinstance(seen, Failure) else query.answer(seen)

    def _detect(self, picture: Picture) -> list[Detection] | Failure:
        try:
            pixels = frame(picture.open())
        except Exception as error:  # decoders raise much besides OSError on broken files, and one file stops no run
            return Failure(f"picture {picture.key} cannot be read: {error}")
        return detect(pixels, self.threshold)
