"""Show-o's image tokenizer: MAGVIT-v2 with lookup-free quantisation.

Method: MAGVIT-v2, arXiv 2310.05737; layout and state-dict names of showlab/magvitv2.

An image becomes a grid of codes, one per 16 x 16 pixels. The encoder ends in `bits` channels and the code is the
pattern of their signs, so nothing is looked up.

Shape suffixes: B images, H W pixels, h w codes (H = 16 h), N = h * w codes in raster order, D bits, C channels.

Codes are exact in float32 only: TF32 (which cuDNN convolutions use unless told otherwise) and bfloat16 flip those bits
whose channel is near zero.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gapbench.models.unified.convolutions import Resample, ResBlock, middle


@dataclass(frozen=True)
class MagvitConfig:
    """Sizes of the tokenizer; the defaults are the published model (95 M parameters).

    A level has `channels * mult` channels; level 0 works on pixels, and each further level at half the resolution.
    """

    channels: int = 128
    encoder_mult: tuple[int, ...] = (1, 2, 2, 4, 4)
    decoder_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    encoder_blocks: tuple[int, ...] = (4, 3, 4, 3, 4)
    decoder_blocks: tuple[int, ...] = (4, 4, 3, 4, 3)
    bits: int = 13
    groups: int = 32

    def __post_init__(self) -> None:
        per_level = ("encoder_mult", "decoder_mult", "encoder_blocks", "decoder_blocks")
        for name in per_level:
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON knows lists only
        if len({len(getattr(self, name)) for name in per_level}) != 1:
            raise ValueError(f"each of {', '.join(per_level)} needs one entry per level: {self}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MagvitConfig:
        """Keys that begin with "_" are the hub's bookkeeping; absent keys take the published value."""
        values = {key: value for key, value in values.items() if not key.startswith("_")}
        unknown = sorted(values.keys() - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"unknown keys in the MAGVIT-v2 config: {', '.join(unknown)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def level(ins: int, outs: int, blocks: int, groups: int, **resample: nn.Module) -> nn.Sequential:
    """Residual blocks of one resolution, then the way to the next one unless this level is the last to run."""
    block = nn.Sequential(*(ResBlock(ins if j == 0 else outs, outs, groups) for j in range(blocks)))
    return nn.Sequential(OrderedDict(block=block, **resample))


class Encoder(nn.Module):
    """Pixels (B,3,H,W) -> (B,D,h,w), the values whose signs are the code."""

    def __init__(self, config: MagvitConfig) -> None:
        super().__init__()
        widths = [config.channels * mult for mult in config.encoder_mult]
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        self.down = nn.Sequential()
        for i, (ins, outs) in enumerate(zip([config.channels, *widths[:-1]], widths, strict=True)):
            resample = {"downsample": Resample(outs, up=False)} if i < len(widths) - 1 else {}
            self.down.append(level(ins, outs, config.encoder_blocks[i], config.groups, **resample))
        self.mid = middle(widths[-1], config.groups)
        self.norm_out = nn.GroupNorm(config.groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], config.bits, 3, padding=1)
        self.quant_conv = nn.Conv2d(config.bits, config.bits, 1)

    def forward(self, pixels_B3HW: Tensor) -> Tensor:
        x = self.mid(self.down(self.conv_in(pixels_B3HW)))
        return self.quant_conv(self.conv_out(F.silu(self.norm_out(x))))


class Decoder(nn.Module):
    """Code vectors (B,D,h,w) -> pixels (B,3,H,W). Levels run from the last, the coarsest, to level 0."""

    def __init__(self, config: MagvitConfig) -> None:
        super().__init__()
        widths = [config.channels * mult for mult in config.decoder_mult]
        self.conv_in = nn.Conv2d(config.bits, widths[-1], 3, padding=1)
        self.mid = middle(widths[-1], config.groups)
        self.up = nn.ModuleList()
        for i, (ins, outs) in enumerate(zip([*widths[1:], widths[-1]], widths, strict=True)):
            resample = {"upsample": Resample(outs, up=True)} if i > 0 else {}
            self.up.append(level(ins, outs, config.decoder_blocks[i], config.groups, **resample))
        self.norm_out = nn.GroupNorm(config.groups, widths[0], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)
        self.post_quant_conv = nn.Conv2d(config.bits, config.bits, 1)

    def forward(self, vectors_BDhw: Tensor) -> Tensor:
        x = self.mid(self.conv_in(self.post_quant_conv(vectors_BDhw)))
        for up in reversed(self.up):
            x = up(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class LookupFree(nn.Module):
    """Signs <-> codes. Channel 0 is the most significant bit; +1 is a set bit, and exactly 0 counts as unset.

    `embedding` (2**D, D) is the table of all vectors, kept because checkpoints carry it; only its dtype is read.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        powers_D = 2 ** torch.arange(bits - 1, -1, -1)
        signs = (torch.arange(2**bits)[:, None] & powers_D) != 0
        self.register_buffer("embedding", signs.float() * 2 - 1)
        self.register_buffer("power_vals", powers_D)

    def codes(self, values_BDhw: Tensor) -> Tensor:
        """(B,D,h,w) float -> (B,h,w) int64."""
        return ((values_BDhw > 0) * self.power_vals[:, None, None]).sum(1)

    def vectors(self, codes: Tensor) -> Tensor:
        """(B,...) int64 -> (B,D,...) of +-1."""
        powers = self.power_vals.view(-1, *[1] * (codes.ndim - 1))
        return ((codes.unsqueeze(1) & powers) != 0).to(self.embedding.dtype) * 2 - 1


class Magvit(nn.Module):
    """The tokenizer. `hidden` and `decoder` carry gradients; a trainer puts its straight-through sign between them."""

    def __init__(self, config: MagvitConfig | None = None) -> None:
        super().__init__()
        self.config = config or MagvitConfig()
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)
        self.quantize = LookupFree(self.config.bits)

    @property
    def downsampling(self) -> int:
        """Pixels per code along one side."""
        return 2 ** (len(self.config.encoder_mult) - 1)

    @property
    def codebook_size(self) -> int:
        return 2**self.config.bits

    def hidden(self, pixels_B3HW: Tensor) -> Tensor:
        """(B,3,H,W) in [-1,1] -> (B,D,h,w): what the encoder says before the sign is taken."""
        height, width = pixels_B3HW.shape[-2:]
        if height % self.downsampling or width % self.downsampling:
            raise ValueError(f"pixels are {height} x {width}; both sides must be multiples of {self.downsampling}")
        return self.encoder(pixels_B3HW)

    @torch.no_grad()
    def encode(self, pixels_B3HW: Tensor) -> Tensor:
        """(B,3,H,W) in [-1,1] -> codes (B,N) int64, raster order."""
        return self.quantize.codes(self.hidden(pixels_B3HW)).flatten(1)

    def code_vectors(self, codes: Tensor) -> Tensor:
        """Codes (B,h,w) int64 -> (B,D,h,w) of +-1 in the model's dtype. Any grid shape will do, (B,N) too."""
        return self.quantize.vectors(codes)

    def decode(self, codes_BN: Tensor, height: int, width: int) -> Tensor:
        """Codes (B,N) int64 on a grid of height x width codes -> (B,3,H,W), about [-1,1] but not clamped."""
        if codes_BN.ndim != 2 or codes_BN.shape[1] != height * width:
            raise ValueError(f"codes of shape {tuple(codes_BN.shape)} are no batch of {height} x {width} grids")
        if codes_BN.numel() and not 0 <= int(codes_BN.min()) <= int(codes_BN.max()) < self.codebook_size:
            raise ValueError(f"codes must lie in 0..{self.codebook_size - 1}; take token offset and mask ids out first")
        return self.decoder(self.code_vectors(codes_BN.unflatten(1, (height, width))))
