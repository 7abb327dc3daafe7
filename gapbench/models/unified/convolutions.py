"""The convolutional blocks that image tokenizers of the VQGAN kind are built of.

Source: taming-transformers (arXiv 2012.09841), whose names of modules the published state dicts keep.

Shape suffixes: B images, H W pixels, h w codes, N = h * w, C channels.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F


class ResBlock(nn.Module):
    """(B,ins,H,W) -> (B,outs,H,W): norm, swish, conv, twice, around a shortcut that is 1x1 where the width changes."""

    def __init__(self, ins: int, outs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, ins, eps=1e-6)
        self.conv1 = nn.Conv2d(ins, outs, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, outs, eps=1e-6)
        self.conv2 = nn.Conv2d(outs, outs, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(ins, outs, 1) if ins != outs else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x_BCHW)))
        return self.nin_shortcut(x_BCHW) + self.conv2(F.silu(self.norm2(y)))


class Attention(nn.Module):
    """(B,C,h,w) -> same: one head as wide as the channels, every position sees every position."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x_BChw: Tensor) -> Tensor:
        y = self.norm(x_BChw)
        q_B1NC, k_B1NC, v_B1NC = (conv(y).flatten(2).transpose(1, 2).unsqueeze(1) for conv in (self.q, self.k, self.v))
        y_B1NC = F.scaled_dot_product_attention(q_B1NC, k_B1NC, v_B1NC)
        return x_BChw + self.proj_out(y_B1NC.squeeze(1).transpose(1, 2).reshape(x_BChw.shape))


def middle(width: int, groups: int) -> nn.Sequential:
    block_1, block_2 = (ResBlock(width, width, groups) for _ in range(2))
    return nn.Sequential(OrderedDict(block_1=block_1, attn_1=Attention(width, groups), block_2=block_2))


class Resample(nn.Module):
    """(B,C,H,W) -> halved (padded on the right and at the bottom only) or doubled (nearest neighbour), and a conv."""

    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if up else nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0) if self.up else F.pad(x, (0, 1, 0, 1)))
