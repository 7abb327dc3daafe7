"""Pixels as each FID library gives them to Inception: the libraries differ here and nowhere else.

Every mode takes (H,W,3) uint8 of any size and gives (299,299,3) float32. On images of 512x512 two modes' features
differ by up to 3 %, and the FIDs with them, so a FID without its mode is not a number.

    torch-fidelity   torch-fidelity 0.4, torchmetrics < 1.8, TensorFlow: bilinear as TF 1 has it, corner aligned
    pytorch-fid      pytorch-fid 0.3: bilinear between pixel centres
    torchmetrics     torchmetrics >= 1.8 as it comes: bilinear, widened when shrinking (antialias)
    clean-fid        clean-fid 0.1: bicubic, widened when shrinking, in float, clipped to [0, 255]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
from PIL import Image

SIDE = 299


def torch_fidelity(pixels_HW3: np.ndarray) -> np.ndarray:
    return (_bilinear(pixels_HW3, half=0.0) - 128) / 128


def pytorch_fid(pixels_HW3: np.ndarray) -> np.ndarray:
    return _bilinear(pixels_HW3, half=0.5) / np.float32(127.5) - 1


def torchmetrics(pixels_HW3: np.ndarray) -> np.ndarray:
    return (_by_pil(pixels_HW3, Image.Resampling.BILINEAR) - 128) / 128


def clean_fid(pixels_HW3: np.ndarray) -> np.ndarray:
    return (_by_pil(pixels_HW3, Image.Resampling.BICUBIC).clip(0, 255) - 128) / 128


MODES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "torch-fidelity": torch_fidelity,
    "pytorch-fid": pytorch_fid,
    "torchmetrics": torchmetrics,
    "clean-fid": clean_fid,
}


def _bilinear(pixels_HW3: np.ndarray, half: float) -> np.ndarray:
    """Between the two nearest pixels on each axis, however much it shrinks. `half`: where in a pixel its value lies."""
    (top, bottom, down), (left, right, across) = (_neighbours(length, half) for length in pixels_HW3.shape[:2])
    above, below = pixels_HW3[top], pixels_HW3[bottom]
    corners = (above[:, left], above[:, right], below[:, left], below[:, right])
    a, b, c, d = (corner.astype(np.float32) for corner in corners)
    upper = a + (b - a) * across[None, :, None]
    lower = c + (d - c) * across[None, :, None]
    return upper + (lower - upper) * down[:, None, None]


@lru_cache(maxsize=64)
def _neighbours(length: int, half: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each of the 299 places: the pixel before, the one after, and how far it is on the way.

    The scale is float32, and the place is rounded to float32 once, as in the libraries.
    """
    scale = float(np.float32(length / SIDE))
    place = np.maximum((np.arange(SIDE) + half) * scale - half, 0).astype(np.float32)
    before = np.minimum(place.astype(np.int64), length - 1)
    return before, np.minimum(before + 1, length - 1), place - before.astype(np.float32)


def _by_pil(pixels_HW3: np.ndarray, filter: Image.Resampling) -> np.ndarray:
    """Channel by channel in PIL's float mode, which rounds nothing."""
    channels = (Image.fromarray(pixels_HW3[:, :, c].astype(np.float32)) for c in range(3))
    return np.stack([np.asarray(channel.resize((SIDE, SIDE), filter)) for channel in channels], axis=-1)
