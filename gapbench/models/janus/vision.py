"""Pictures as Janus sees them, and the image tokenizer that it draws through.

The two have nothing in common: SigLIP sees the whole picture on a grey square; the image tokenizer, LlamaGen's VQ-16,
works on codes of its own.

Shape suffixes: B pictures, S side, N codes of an image, C code book, d width of a code's vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers.models.janus.modeling_janus import JanusVQVAE


@dataclass(frozen=True)
class Frame:
    """How a picture becomes pixels: its longer side to `side`, none below `min_size`, the rest in the mean colour."""

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    min_size: int

    def pixels(self, image: Image.Image) -> Tensor:
        """Picture of any mode and size -> (3,S,S) float32, as JanusImageProcessor makes them."""
        image = image.convert("RGB")
        scale = self.side / max(image.size)
        width, height = (max(round(side * scale), self.min_size) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        square = Image.new("RGB", (self.side, self.side), tuple(int(mean * 255) for mean in self.mean))
        square.paste(image, ((self.side - width) // 2, (self.side - height) // 2))
        pixels_SS3 = torch.from_numpy(np.array(square)).float().div(255)
        pixels_SS3 = pixels_SS3.sub(torch.tensor(self.mean)).div(torch.tensor(self.std))
        return pixels_SS3.permute(2, 0, 1).contiguous()


def downsampling(vq: JanusVQVAE) -> int:
    """Pixels per code along one side."""
    return 2 ** (len(vq.config.channel_multiplier) - 1)


@torch.inference_mode()
def encode(vq: JanusVQVAE, pixels_B3SS: Tensor) -> Tensor:
    """Pixels in [-1,1] -> codes (B,N) int64, raster order: of all directions in the code book the nearest.

    Not `vq.encode`, which compares lengths too, while the reference normalises both and decoding normalises the rows.
    """
    vectors_BdHW = vq.quant_conv(vq.encoder(pixels_B3SS))
    vectors_BNd = F.normalize(vectors_BdHW.flatten(2).transpose(1, 2), dim=-1)
    book_Cd = F.normalize(vq.quantize.embedding.weight, dim=-1)
    return (vectors_BNd @ book_Cd.T).argmax(dim=-1)
