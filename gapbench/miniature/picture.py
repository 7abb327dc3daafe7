"""Scenes as pictures: 96 x 96 pixels, anti-aliased shapes on a light ground."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

from gapbench.miniature.world import CELL_PIXELS, GRID, PICTURE_PIXELS, RADIUS, Scene

GROUND = (242, 242, 238)
RGB = {
    "red": (214, 40, 40),
    "orange": (247, 140, 20),
    "yellow": (250, 216, 40),
    "green": (44, 150, 60),
    "blue": (36, 84, 214),
    "purple": (130, 50, 170),
    "pink": (250, 150, 200),
    "black": (30, 30, 34),
}
_OVERSAMPLING = 8


def _polygon(points: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Even-odd rule."""
    inside = np.zeros(u.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        crosses = ((v >= y0) != (v >= y1)) & (u < (x1 - x0) * (v - y0) / (y1 - y0) + x0)
        inside ^= crosses
    return inside


def _inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Whether points of the square [-1, 1] x [-1, 1] (v down) belong to the shape."""
    if shape == "circle":
        return u**2 + v**2 <= 1
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) <= 0.92
    if shape == "triangle":
        return _polygon(np.array([(0, -1), (1, 0.86), (-1, 0.86)]), u, v)
    if shape == "star":
        angles = -np.pi / 2 + np.arange(10) * np.pi / 5
        radii = np.where(np.arange(10) % 2 == 0, 1.08, 0.45)
        return _polygon(np.stack([radii * np.cos(angles), radii * np.sin(angles) + 0.08], axis=1), u, v)
    if shape == "cross":
        return np.minimum(np.abs(u), np.abs(v)) <= 0.34
    if shape == "heart":
        x, y = 1.18 * u, 0.14 - 1.16 * v
        return (x**2 + y**2 - 1) ** 3 - x**2 * y**3 <= 0
    raise ValueError(f"no shape is called {shape!r}")


@cache
def coverage(shape: str, radius: float, pixels: int = CELL_PIXELS) -> np.ndarray:
    """Share of each pixel of a (pixels, pixels) cell that a centred shape covers, float64."""
    steps = (np.arange(pixels * _OVERSAMPLING) + 0.5) / _OVERSAMPLING - pixels / 2
    u, v = np.meshgrid(steps / radius, steps / radius)
    inside = _inside(shape, u, v) & (np.abs(u) <= 1) & (np.abs(v) <= 1)
    cells = inside.reshape(pixels, _OVERSAMPLING, pixels, _OVERSAMPLING)
    return cells.mean(axis=(1, 3))


@cache
def tile(color: str, shape: str, size: str) -> np.ndarray:
    """One cell with its thing: (32, 32, 3) uint8."""
    alpha = coverage(shape, RADIUS[size])[..., None]
    return np.rint(np.array(GROUND) * (1 - alpha) + np.array(RGB[color]) * alpha).astype(np.uint8)


def render_array(scene: Scene) -> np.ndarray:
    """(96, 96, 3) uint8."""
    canvas = np.empty((PICTURE_PIXELS, PICTURE_PIXELS, 3), dtype=np.uint8)
    canvas[:] = GROUND
    for thing in scene.things:
        row, column = divmod(thing.cell, GRID)
        y, x = row * CELL_PIXELS, column * CELL_PIXELS
        canvas[y : y + CELL_PIXELS, x : x + CELL_PIXELS] = tile(thing.color, thing.shape, thing.size)
    return canvas


def render(scene: Scene) -> Image.Image:
    return Image.fromarray(render_array(scene))
