"""The recipe of `janus-mini`'s image tokenizer: transformers' VQ model of Janus, with `tiles.py`'s code book given.

Encoder and decoder share nothing but the code book, so each learns its own half alone: on pieces of three codes by
three first, which take an eighth of the time of whole pictures, then on whole pictures, for attention spans all codes
and each group of the norms is one channel over all pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import JanusForConditionalGeneration

from gapbench.miniature import eye, lessons, tiles
from gapbench.miniature.muon import MuonAndAdamW
from gapbench.miniature.world import SHAPES, scenes
from gapbench.models.janus import vision
from gapbench.models.unified.pictures import to_images

CONFIG: dict[str, Any] = {
    "base_channels": 32,
    "channel_multiplier": [1, 1, 1, 2, 4],
    "num_res_blocks": 1,
    "latent_channels": 32,
    "embed_dim": tiles.BITS,
    "double_latent": False,
    "num_embeddings": 2**tiles.BITS,
    "num_patches": tiles.SIDE,
}
PIECE = 3  # codes across
PICTURES = 16  # of a step
RATES = (5e-3, 2e-3)  # of Muon and AdamW, at their peak
Log = Callable[[str], None]


def train(
    network: JanusForConditionalGeneration,
    steps: dict[str, tuple[int, int]],
    seed: int,
    device: str,
    log: Log,
) -> None:
    """steps: of "encoder" and "decoder", on pieces and on whole pictures."""
    vq = network.model.vqmodel.to(device)
    book = F.normalize(vq.quantize.embedding.weight.detach(), dim=-1)
    for name in ("encoder", "decoder"):
        halves = [vq.encoder, vq.quant_conv] if name == "encoder" else [vq.post_quant_conv, vq.decoder]
        half, rng = torch.nn.Sequential(*halves).train(), np.random.default_rng(seed)
        total = sum(steps[name])
        convolutions = [p for p in half.parameters() if p.ndim == 4 and min(p.shape[:2]) > 3]  # not those of colors
        optimizer = MuonAndAdamW(half.parameters(), convolutions, RATES, 0.0, partial(_rate, total))
        log(f"vq {name}: {sum(p.numel() for p in half.parameters()):,} parameters")
        for step in range(1, total + 1):
            grids, pixels = pictures(rng, PIECE if step <= steps[name][0] else tiles.SIDE)
            pixels, codes = pixels.to(device), grids.flatten(1).to(device)
            with torch.autocast(device, torch.bfloat16):
                if name == "encoder":
                    # Codes that mean bare ground all look alike, so only one of them can be asked for.
                    codes = torch.where(codes & 7 >= len(SHAPES), tiles.BARE, codes)
                    said = half(pixels).float().flatten(2).transpose(1, 2)
                    loss = F.binary_cross_entropy_with_logits(said, (book[codes] > 0).float())
                else:
                    vectors = book[codes].transpose(1, 2).unflatten(2, grids.shape[1:])
                    loss = F.l1_loss(half(vectors).float(), pixels)
            optimizer.step(loss)
            if step % 100 == 0 or step == total:
                log(f"vq {name} {step}/{total} loss {loss:.5f}")
    check(network, device, log)


def _rate(total: int, step: int) -> float:
    """A twentieth of the steps up, then a half cosine down."""
    rising = total / 20
    return min((step + 1) / rising, (1 + math.cos(math.pi * max(0.0, step - rising) / (total - rising))) / 2)


def pictures(rng: np.random.Generator, across: int) -> tuple[Tensor, Tensor]:
    """Codes (16,across,across), of a piece of the grid that is the same for all, and its pixels (16,3,h,w)."""
    grids = lessons.code_grids(rng, PICTURES)
    pixels = pixels_of(grids)
    row, column = rng.integers(0, tiles.SIDE - across, 2, endpoint=True)
    of_codes = (slice(row, row + across), slice(column, column + across))
    size = tiles.CODE_PIXELS
    of_pixels = (slice(size * row, size * (row + across)), slice(size * column, size * (column + across)))
    codes = torch.from_numpy(grids).unflatten(1, (tiles.SIDE, tiles.SIDE))
    return codes[:, *of_codes], pixels[:, :, *of_pixels].contiguous()


def pixels_of(codes: np.ndarray) -> Tensor:
    """(count, 36) codes -> (count, 3, 96, 96) float32 in [-1, 1]."""
    return torch.from_numpy(tiles.picture_of(codes)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


@torch.inference_mode()
def check(network: JanusForConditionalGeneration, device: str, log: Log) -> None:
    """How many held-out pictures are encoded exactly, and how many decoded ones the exact eye reads back exactly."""
    vq, held_out = network.model.vqmodel.eval(), scenes("test", 500)
    encoded = read_back = 0
    for start in range(0, len(held_out), 100):
        some = held_out[start : start + 100]
        right = np.stack([tiles.codes_of(scene) for scene in some])
        encoded += (vision.encode(vq, pixels_of(right).to(device)).cpu().numpy() == right).all(axis=1).sum()
        pictures = to_images(vq.decode(torch.from_numpy(right).to(device)))
        read_back += sum(eye.read(picture) == scene for picture, scene in zip(pictures, some, strict=True))
    log(f"vq: of {len(held_out)} held-out scenes {encoded} encode exactly, {read_back} are read back from decoding")
