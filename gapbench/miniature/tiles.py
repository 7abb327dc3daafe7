"""The miniature's code book: what each of the 512 image codes means.

A code covers 16 x 16 pixels, a quarter of a cell, and its nine bits say which: two for the quadrant, one for the size,
three for the color and three for the shape; the two shape patterns that no shape uses mean bare ground. The tokenizer
is taught this code book (see `train.py`), so a picture of the world has exactly one right grid of codes, and every grid
of codes, however incoherent, has exactly one right picture.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

import numpy as np

from gapbench.miniature.picture import GROUND, tile
from gapbench.miniature.world import CELL_PIXELS, COLORS, GRID, SHAPES, SIZES, Scene

BITS = 9
CODE_PIXELS = 16
SIDE = GRID * CELL_PIXELS // CODE_PIXELS  # codes along one side of a picture
BARE = 7

Index = TypeVar("Index", int, np.ndarray)


def code_at(quadrant: int, size: Index, color: Index, shape: Index) -> Index:
    """The code of places in SIZES, COLORS and SHAPES, numbers or arrays of them.

    Quadrants in reading order: 0 top left, 1 top right, 2 bottom left, 3 bottom right.
    """
    return quadrant << 7 | size << 6 | color << 3 | shape


def code(quadrant: int, size: str, color: str, shape: str) -> int:
    return code_at(quadrant, SIZES.index(size), COLORS.index(color), SHAPES.index(shape))


@lru_cache(maxsize=1)
def code_book() -> np.ndarray:
    """Pixels of every code: (512, 16, 16, 3) uint8."""
    book = np.empty((2**BITS, CODE_PIXELS, CODE_PIXELS, 3), dtype=np.uint8)
    book[:] = GROUND
    for size in SIZES:
        for color in COLORS:
            for shape in SHAPES:
                whole = tile(color, shape, size)
                for quadrant in range(4):
                    y, x = (CODE_PIXELS * step for step in divmod(quadrant, 2))
                    book[code(quadrant, size, color, shape)] = whole[y : y + CODE_PIXELS, x : x + CODE_PIXELS]
    return book


def codes_of(scene: Scene) -> np.ndarray:
    """The scene's right codes: (36,) int64, raster order."""
    grid = np.full((SIDE, SIDE), BARE, dtype=np.int64)
    for thing in scene.things:
        row, column = divmod(thing.cell, GRID)
        for quadrant in range(4):
            down, right = divmod(quadrant, 2)
            grid[2 * row + down, 2 * column + right] = code(quadrant, thing.size, thing.color, thing.shape)
    return grid.reshape(-1)


def picture_of(codes: np.ndarray) -> np.ndarray:
    """The right picture of any codes (..., 36): (..., 96, 96, 3) uint8."""
    tiles = code_book()[codes.reshape(*codes.shape[:-1], SIDE, SIDE)]  # (..., row, column, y, x, 3)
    tiles = np.moveaxis(tiles, -3, -4)  # (..., row, y, column, x, 3)
    return tiles.reshape(*codes.shape[:-1], SIDE * CODE_PIXELS, SIDE * CODE_PIXELS, 3)
