"""Pictures as a family reads and draws them: pixels, codes, and what cannot be read.

Shape suffixes: B pictures, H W pixels, R side, N codes of a picture.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gapbench.data.pictures import UNREADABLE
from gapbench.models.base import in_batches
from gapbench.records import Failure, Picture

ENCODED_AT_ONCE = 16

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CodedPicture(Picture):
    """A picture of which the codes (N,...) int64 are known: who reads codes reads these, not its pixels."""

    codes: Tensor = field(kw_only=True, compare=False, repr=False)

    @staticmethod
    def of(codes: Tensor, decode: Callable[[Sequence[Tensor]], Iterator[Image.Image]]) -> CodedPicture:
        """decode: to pixels, for who asks for these. Equal codes are one picture."""
        key = f"codes {hashlib.sha256(codes.cpu().numpy().tobytes()).hexdigest()[:32]}"
        return CodedPicture(key, lambda: next(decode([codes])), codes=codes)


# --- Reading ----------------------------------------------------------------------------------------------------------


def loaded(picture: Picture) -> Image.Image:
    image = picture.open()
    image.load()
    return image


def read(pictures: Iterable[Picture], look: Callable[[Picture], T]) -> dict[str, T | Failure]:
    """What `look` makes of pictures, by their keys, and why some cannot be read."""
    found: dict[str, T | Failure] = {}
    for picture in pictures:
        if picture.key not in found:
            try:
                found[picture.key] = look(picture)
            except UNREADABLE as error:
                found[picture.key] = Failure(f"{picture.key}: {error}")
    return found


def read_codes(
    pictures: Iterable[Picture],
    remembered: OrderedDict[str, Tensor],
    most: int,
    encode: Callable[[Sequence[Image.Image]], Iterable[Tensor]],
) -> dict[str, Tensor | Failure]:
    """Codes of pictures by their keys, and why some cannot be read; `most` codes are remembered, the latest."""

    def look(picture: Picture) -> Tensor | Image.Image:
        if isinstance(picture, CodedPicture):
            return picture.codes.cpu()
        return remembered[picture.key] if picture.key in remembered else loaded(picture)

    found = read(pictures, look)
    fresh = {key: image for key, image in found.items() if isinstance(image, Image.Image)}
    for key, codes in zip(fresh, encode(list(fresh.values())), strict=True):
        found[key] = remembered[key] = codes
    while len(remembered) > most:
        remembered.popitem(last=False)
    return found


# --- Codes ------------------------------------------------------------------------------------------------------------


def encoded(
    images: Sequence[Image.Image],
    to_pixels: Callable[[Image.Image], Tensor],
    encode: Callable[[Tensor], Tensor],
    device: torch.device,
) -> Iterator[Tensor]:
    """Codes of pictures of any size. Full float32: with TF32, codes near a boundary flip."""

    def work(batch: Sequence[Image.Image]) -> list[Tensor]:
        pixels = torch.stack([to_pixels(image) for image in batch])
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return list(encode(pixels.to(device)).cpu())

    return in_batches(images, ENCODED_AT_ONCE, work)


def decoded(
    codes: Sequence[Tensor], decode: Callable[[Tensor], list[Image.Image]], device: torch.device
) -> Iterator[Image.Image]:
    """The pictures of codes."""

    @torch.inference_mode()
    def work(batch: Sequence[Tensor]) -> list[Image.Image]:
        return decode(torch.stack(list(batch)).to(device))

    return in_batches(codes, ENCODED_AT_ONCE, work)


def drawn(
    items: Sequence[T], refusals: Sequence[Failure | None], size: int, work: Callable[[Sequence[T]], Sequence[Tensor]]
) -> Iterator[Tensor | Failure]:
    """What `work` draws of items, at most `size` at a time, but for those that have a refusal."""
    drawable = [item for item, refusal in zip(items, refusals, strict=True) if refusal is None]
    drawings = in_batches(drawable, size, work)
    for refusal in refusals:
        yield next(drawings) if refusal is None else refusal


def shown(
    drawings: Iterable[Tensor | Failure], decode: Callable[[Sequence[Tensor]], Iterator[Image.Image]]
) -> Iterator[Image.Image | Failure]:
    """The pictures of drawings that come as codes, each as soon as it is there."""
    for drawing in drawings:
        if isinstance(drawing, Failure):
            yield drawing
        else:
            yield from decode([drawing])


# --- Pixels -----------------------------------------------------------------------------------------------------------


def to_pixels(image: Image.Image, resolution: int) -> Tensor:
    """Picture of any mode and size -> (3,R,R) float32 in [-1,1]: shorter side to R (bicubic), centre crop, normalise.

    Sides and crop are rounded as torchvision's Resize and CenterCrop round them, so codes agree with the reference.
    """
    image = image.convert("RGB")
    width, height = image.size
    longer = int(resolution * max(width, height) / min(width, height))
    size = (resolution, longer) if width <= height else (longer, resolution)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (round((side - resolution) / 2) for side in size)
    image = image.crop((left, top, left + resolution, top + resolution))
    pixels_HW3 = torch.from_numpy(np.array(image))
    return pixels_HW3.permute(2, 0, 1).contiguous().float().div(255).sub(0.5).div(0.5)


def to_images(decoded_B3HW: Tensor) -> list[Image.Image]:
    """Decoder output (B,3,H,W) -> RGB pictures; fractions of a grey level are cut off, not rounded, as in Show-o."""
    levels = ((decoded_B3HW.detach().float() + 1) / 2).clamp(0, 1) * 255
    pictures_BHW3 = levels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pictures_BHW3]
