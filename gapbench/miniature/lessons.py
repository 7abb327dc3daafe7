"""What the miniature's models learn from: scenes, what is said and asked about them, and grids of image codes.

Everything is drawn from the generator that is given, and of scenes the training split alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from gapbench.miniature import eye, tiles, tokenizer
from gapbench.miniature.language import (
    EVENLY,
    NONE,
    Query,
    Visible,
    dense_caption,
    describe,
    noun,
    photo_caption,
    random_query,
)
from gapbench.miniature.world import COLORS, GRID, SHAPES, SIZES, Scene, random_scene, split_of

# How often each of `language.KINDS` is asked to teach counting and relations, which form last.
HARDER = (10, 12, 10, 4, 3, 24, 22, 15)
WHEREABOUTS = 0.15  # of what is asked then
ACROSS, DOWN = ("left", "center", "right"), ("top", "middle", "bottom")


def training_scene(rng: random.Random) -> Scene:
    while True:
        scene = random_scene(rng)
        if split_of(scene) == "train":
            return scene


def drawn_caption(scene: Scene, rng: random.Random, dense: bool) -> str:
    """To draw the scene by: each thing with size and cell, or one of the shorter forms."""
    caption = dense_caption(scene, rng) if dense else None
    if caption is None and rng.random() < 0.5:
        caption = photo_caption(scene, rng)
    return caption or describe(scene, rng).text


def exchange(scene: Scene, rng: random.Random, harder: bool = False) -> tuple[str, str]:
    """A question about a scene in one of the benchmarks' forms, and its answer.

    harder: counts and relations are asked more often, and also in which third of the picture a thing is, which no
    benchmark asks: with it relations are learnt, and without it, in the same time, they are not.
    """
    if harder and rng.random() < WHEREABOUTS and (found := _whereabouts(scene, rng)):
        return found
    kind = rng.random()
    if kind < 0.05:
        return rng.choice(tokenizer.CAPTION_QUESTIONS), describe(scene, rng).text
    query = random_query(scene, rng, HARDER if harder else EVENLY)
    answer = query.answer(scene.things)
    if kind < 0.12 and len(query.choices) > 2:
        return multiple_choice(query, answer, rng)
    if query.choices == ("yes", "no") and kind < 0.3:
        return query.text + tokenizer.YES_NO, answer
    return query.text + rng.choice(("", tokenizer.SHORT_ANSWER)), answer


def picture(scene: Scene, rng: random.Random, bad: float) -> tuple[np.ndarray, Sequence[Visible] | None]:
    """(36,) codes of the scene's picture and None; or, with probability `bad`, of a bad drawing of it, and what the
    eye sees there.
    """
    if not bad or rng.random() >= bad:
        return tiles.codes_of(scene), None
    codes = damaged(scene, rng)
    return codes, eye.detect(tiles.picture_of(codes))


def asked(scene: Scene, seen: Sequence[Visible] | None, rng: random.Random, harder: bool) -> tuple[str, str]:
    """A question and its answer about what `picture` gave."""
    while True:
        found = exchange(scene, rng, harder) if seen is None else verdict(scene, seen, rng)
        if found is not None:
            return found


def damaged(scene: Scene, rng: random.Random) -> np.ndarray:
    """(36,) codes of a picture as bad drawings are: of one to three things, or bare cells, some quadrants are another
    thing's, most often one of the same scene's.
    """
    codes = tiles.codes_of(scene).reshape(tiles.SIDE, tiles.SIDE)
    looks = [(SIZES.index(t.size), COLORS.index(t.color), SHAPES.index(t.shape)) for t in scene.things]
    cells = [thing.cell for thing in scene.things]
    for _ in range(rng.randint(1, 3)):
        cell = rng.choice(cells) if rng.random() < 0.7 else rng.randrange(GRID * GRID)
        own = rng.random() < 0.6
        look = rng.choice(looks) if own else tuple(rng.randrange(len(some)) for some in (SIZES, COLORS, SHAPES))
        bare = rng.random() < 0.25
        for quadrant in rng.sample(range(4), rng.randint(1, 3)):
            down, right = divmod(quadrant, 2)
            row, column = divmod(cell, GRID)
            codes[2 * row + down, 2 * column + right] = tiles.BARE if bare else tiles.code_at(quadrant, *look)
    return codes.reshape(-1)


def verdict(scene: Scene, seen: Sequence[Visible], rng: random.Random) -> tuple[str, str] | None:
    """A question about a scene, and its answer for what is seen in a bad picture of it, if it has one there.

    What is broken is not there, as a strict judge says and as the eye sees it.
    """
    query = random_query(scene, rng, HARDER)
    answer = query.answer(seen)
    return None if answer == NONE else (query.text + rng.choice(("", tokenizer.SHORT_ANSWER)), answer)


def multiple_choice(query: Query, answer: str, rng: random.Random) -> tuple[str, str]:
    options = [answer, *rng.sample([c for c in query.choices if c != answer], 3 if len(query.choices) > 3 else 2)]
    rng.shuffle(options)
    lines = [f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=False)]
    return "\n".join([query.text, *lines]) + tokenizer.LETTER, "ABCD"[options.index(answer)]


def _whereabouts(scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    """Asked of a thing that is the only one of its name; None where there is none."""
    single = [thing for thing in scene.things if len(scene.having(*thing.name)) == 1]
    if not single:
        return None
    thing = rng.choice(single)
    thirds, at = (ACROSS, thing.cell % GRID) if rng.random() < 0.5 else (DOWN, thing.cell // GRID)
    return f"Is the {noun(thing.name)} at the {thirds[0]}, {thirds[1]} or {thirds[2]} of the image?", thirds[at]


def code_grids(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 36) codes of pictures of any density, every second one with codes swapped as a bad drawing has them.

    Cells are filled independently, so a picture teaches up to nine things and not the four of a scene.
    """
    grids = np.full((count, tiles.SIDE, tiles.SIDE), tiles.BARE)
    filled = rng.random((count, GRID, GRID)) < rng.random((count, 1, 1))
    size, color, shape = (rng.integers(0, len(some), filled.shape) for some in (SIZES, COLORS, SHAPES))
    for quadrant in range(4):
        down, right = divmod(quadrant, 2)
        codes = tiles.code_at(quadrant, size, color, shape)
        grids[:, down::2, right::2] = np.where(filled, codes, tiles.BARE)
    swapped = rng.random(grids.shape) < rng.random((count, 1, 1)) * (np.arange(count) % 2)[:, None, None]
    grids[swapped] = rng.integers(0, 2**tiles.BITS, swapped.sum())
    return grids.reshape(count, -1)
