"""LlamaGen's image tokenizer: a VQGAN whose codes are directions, 16,384 of 8 values.

Source: LlamaGen (arXiv 2406.06525), `vq_model.py` of FoundationVision/LlamaGen; normalised codes after ViT-VQGAN (arXiv
2110.04627). State-dict names are the published ones.

Shape suffixes: B images, H W pixels, h w grid, N = h * w codes in raster order, K code book, D values of a code.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from gapbench.models.llamagen.config import VqConfig
from gapbench.models.unified.convolutions import Attention, Resample, ResBlock

GROUPS = 32
BLOCKS = 2  # of a level, and one more in the decoder


class Level(nn.Module):
    """Residual blocks of one resolution, attention after each where it has any, and the way to the next one."""

    def __init__(self, ins: int, outs: int, blocks: int, attends: bool, **resample: nn.Module) -> None:
        super().__init__()
        self.res = nn.ModuleList(ResBlock(outs if number else ins, outs, GROUPS) for number in range(blocks))
        self.attn = nn.ModuleList(Attention(outs, GROUPS) for _ in range(blocks if attends else 0))
        self.resample = tuple(resample)
        for name, module in resample.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        for number, block in enumerate(self.res):
            x = block(x)
            if self.attn:
                x = self.attn[number](x)
        for name in self.resample:
            x = self.get_submodule(name)(x)
        return x


def middle(width: int) -> nn.Sequential:
    return nn.Sequential(ResBlock(width, width, GROUPS), Attention(width, GROUPS), ResBlock(width, width, GROUPS))


class Encoder(nn.Module):
    """Pixels (B,3,H,W) -> (B,z,h,w). Levels run from the finest; only the last one attends."""

    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        widths = [config.ch * mult for mult in config.ch_mult]
        self.conv_in = nn.Conv2d(3, config.ch, 3, padding=1)
        self.conv_blocks, last = nn.Sequential(), len(widths) - 1
        for number, (ins, outs) in enumerate(zip([config.ch, *widths[:-1]], widths, strict=True)):
            resample = {"downsample": Resample(outs, up=False)} if number < last else {}
            self.conv_blocks.append(Level(ins, outs, BLOCKS, attends=number == last, **resample))
        self.mid = middle(widths[-1])
        self.norm_out = nn.GroupNorm(GROUPS, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], config.z_channels, 3, padding=1)

    def forward(self, pixels_B3HW: Tensor) -> Tensor:
        x = self.mid(self.conv_blocks(self.conv_in(pixels_B3HW)))
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """(B,z,h,w) -> pixels (B,3,H,W), about [-1,1]. Levels run from the coarsest, which alone attends."""

    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        widths = [config.ch * mult for mult in reversed(config.ch_mult)]
        self.conv_in = nn.Conv2d(config.z_channels, widths[0], 3, padding=1)
        self.mid = middle(widths[0])
        self.conv_blocks = nn.Sequential()
        for number, (ins, outs) in enumerate(zip([widths[0], *widths[:-1]], widths, strict=True)):
            resample = {"upsample": Resample(outs, up=True)} if number < len(widths) - 1 else {}
            self.conv_blocks.append(Level(ins, outs, BLOCKS + 1, attends=number == 0, **resample))
        self.norm_out = nn.GroupNorm(GROUPS, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, x_Bzhw: Tensor) -> Tensor:
        x = self.conv_blocks(self.mid(self.conv_in(x_Bzhw)))
        return self.conv_out(F.silu(self.norm_out(x)))


class Quantizer(nn.Module):
    """The code book (K,D). Its stored rows are of any length: only their directions count."""

    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.codebook_size, config.codebook_embed_dim)

    def book(self) -> Tensor:
        """(K,D) of unit rows."""
        return F.normalize(self.embedding.weight, dim=-1)

    def codes(self, values_BDhw: Tensor) -> Tensor:
        """The codes (B,h,w) int64 whose directions are nearest."""
        directions_BhwD = F.normalize(values_BDhw, dim=1).movedim(1, -1)
        return (directions_BhwD @ self.book().T).argmax(dim=-1)

    def vectors(self, codes_Bhw: Tensor) -> Tensor:
        """(B,h,w) int64 -> (B,D,h,w)."""
        return self.book()[codes_Bhw].movedim(-1, 1)


class VqTokenizer(nn.Module):
    """Pictures to codes and back, in float32 as in the reference."""

    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder, self.quantize = Encoder(config), Decoder(config), Quantizer(config)
        self.quant_conv = nn.Conv2d(config.z_channels, config.codebook_embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.codebook_embed_dim, config.z_channels, 1)

    def hidden(self, pixels_B3HW: Tensor) -> Tensor:
        """(B,3,H,W) in [-1,1] -> (B,D,h,w), of which the directions are quantised."""
        height, width = pixels_B3HW.shape[-2:]
        if height % (step := self.config.downsampling) or width % step:
            raise ValueError(f"pixels are {height} x {width}; both sides must be multiples of {step}")
        return self.quant_conv(self.encoder(pixels_B3HW))

    @torch.no_grad()
    def encode(self, pixels_B3HW: Tensor) -> Tensor:
        """(B,3,H,W) in [-1,1] -> codes (B,N) int64."""
        return self.quantize.codes(self.hidden(pixels_B3HW)).flatten(1)

    def check(self, codes_BN: Tensor, positions: int) -> None:
        """Raises ValueError for what are no codes (B,N) int64 of images of that many positions."""
        if codes_BN.ndim != 2 or codes_BN.shape[1] != positions:
            raise ValueError(f"codes of shape {tuple(codes_BN.shape)} are no batch of {positions} codes each")
        if codes_BN.numel() and not 0 <= int(codes_BN.min()) <= int(codes_BN.max()) < self.config.codebook_size:
            raise ValueError(f"codes must lie in 0..{self.config.codebook_size - 1}")

    def decode(self, codes_BN: Tensor, height: int, width: int) -> Tensor:
        """Codes (B,N) int64 on a grid of height x width codes -> (B,3,H,W), about [-1,1] but not clamped."""
        self.check(codes_BN, height * width)
        return self.decoder(self.post_quant_conv(self.quantize.vectors(codes_BN.unflatten(1, (height, width)))))


def crop(image: Image.Image, side: int) -> Image.Image:
    """The middle square of a picture of any mode and size, as RGB: halved while that leaves enough, then resized.

    Source: `center_crop_arr` of openai/guided-diffusion, with which the reference prepared its training images.
    """
    image = image.convert("RGB")
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def to_pixels(image: Image.Image, side: int) -> Tensor:
    """(3,S,S) float32 in [-1,1]."""
    pixels_SS3 = torch.from_numpy(np.array(crop(image, side)))
    return pixels_SS3.permute(2, 0, 1).contiguous().float() / 127.5 - 1


def to_levels(decoded: Tensor) -> Tensor:
    """Decoder output of any shape -> grey levels, uint8, rounded to the nearest."""
    return ((decoded.detach().float().clamp(-1, 1) + 1) / 2 * 255 + 0.5).to(torch.uint8)


def to_images(decoded_B3HW: Tensor) -> list[Image.Image]:
    return [Image.fromarray(picture) for picture in to_levels(decoded_B3HW).permute(0, 2, 3, 1).cpu().numpy()]
