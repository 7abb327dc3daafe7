"""VILA-U's vision tokenizer: SigLIP's features, quantised residually, and a decoder from them back to pixels.

Source: VILA-U (arXiv 2409.04429) and mit-han-lab/vila-u; quantisation after RQ-VAE (arXiv 2203.01941). State-dict names
are the published ones below `rqvaesiglip.` (of SigLIP, below `siglip_model.vision_model.`).

A picture becomes a grid of positions with D codes each. Depth by depth, the nearest vector of a code book is taken away
from what is left of the position's feature; the sum of the D vectors is what the language model reads and what the
decoder draws.

Shape suffixes: B images, H W pixels, h w grid, N = h * w positions in raster order, D depths, K codes, C width.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from gapbench.models.unified.convolutions import Attention, Resample, ResBlock, middle
from gapbench.models.vila_u import config

GROUPS = 32  # of the decoder's normalisation


class Encoder(nn.Module):
    """Pixels (B,3,H,W) -> features (B,N,C): SigLIP up to its last but one layer, without a final norm."""

    def __init__(self, sizes: config.Siglip) -> None:
        super().__init__()
        of_layer = SiglipVisionConfig(
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.intermediate_size,
            num_attention_heads=sizes.num_attention_heads,
            hidden_act="gelu_pytorch_tanh",
            layer_norm_eps=1e-6,
            attn_implementation="sdpa",
        )
        self.embeddings, self.encoder = nn.Module(), nn.Module()
        self.embeddings.patch_embedding = nn.Conv2d(3, sizes.hidden_size, sizes.patch_size, sizes.patch_size)
        self.embeddings.position_embedding = nn.Embedding(sizes.side**2, sizes.hidden_size)
        self.encoder.layers = nn.ModuleList(SiglipEncoderLayer(of_layer) for _ in range(sizes.num_hidden_layers - 1))

    def forward(self, pixels_B3HW: Tensor) -> Tensor:
        x_BNC = self.embeddings.patch_embedding(pixels_B3HW).flatten(2).transpose(1, 2)
        x_BNC = x_BNC + self.embeddings.position_embedding.weight
        for layer in self.encoder.layers:
            x_BNC = layer(x_BNC, None)
        return x_BNC


class Quantizer(nn.Module):
    """D code books of K vectors, or one for all depths. A book has a row more, padding, which is never chosen."""

    def __init__(self, depth: int, codes: int, width: int, shared: bool) -> None:
        super().__init__()
        self.depth, self.codes = depth, codes
        self.codebooks = nn.ModuleList(nn.Embedding(codes + 1, width) for _ in range(1 if shared else depth))
        self.requires_grad_(False)

    def book(self, depth: int) -> Tensor:
        """(K,C)."""
        return self.codebooks[depth if len(self.codebooks) > 1 else 0].weight[:-1]

    @torch.no_grad()
    def encode(self, features_BNC: Tensor) -> Tensor:
        """(B,N,C) -> codes (B,N,D) int64."""
        left_MC = features_BNC.flatten(0, 1)
        codes = []
        for depth in range(self.depth):
            book_KC = self.book(depth)
            norms_MK = left_MC.square().sum(1, keepdim=True) + book_KC.square().sum(1)
            code_M = torch.addmm(norms_MK, left_MC, book_KC.T, alpha=-2.0).argmin(dim=1)
            left_MC = left_MC - book_KC[code_M]
            codes.append(code_M)
        return torch.stack(codes, dim=1).unflatten(0, features_BNC.shape[:2])

    def vectors(self, codes: Tensor) -> Tensor:
        """Codes (...,d) int64 of the first d depths -> their vectors (...,d,C) float32."""
        return torch.stack([self.book(depth)[code] for depth, code in enumerate(codes.unbind(-1))], dim=-2)

    def features(self, codes: Tensor) -> Tensor:
        """Codes (...,D) int64 -> (...,C) float32."""
        return self.vectors(codes).sum(dim=-2)

    def check(self, codes: Tensor) -> None:
        """Raises ValueError for what are no codes (...,D) int64."""
        if codes.shape[-1] != self.depth:
            raise ValueError(f"codes of shape {tuple(codes.shape)}: a position has {self.depth}")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codes:
            raise ValueError(f"codes must lie in 0..{self.codes - 1}")


class Level(nn.Module):
    """Residual blocks of one resolution, attention after each where it has any, and the way to twice the size."""

    def __init__(self, ins: int, outs: int, blocks: int, attends: bool, up: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResBlock(outs if j else ins, outs, GROUPS) for j in range(blocks))
        self.attn = nn.ModuleList(Attention(outs, GROUPS) for _ in range(blocks if attends else 0))
        if up:
            self.upsample = Resample(outs, up=True)
        self.up = up

    def forward(self, x: Tensor) -> Tensor:
        for number, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[number](x)
        return self.upsample(x) if self.up else x


class Decoder(nn.Module):
    """(B,z,h,w) -> pixels (B,3,H,W), about [-1,1]. Levels run from the last, the coarsest, to level 0."""

    def __init__(self, sizes: config.Decoder) -> None:
        super().__init__()
        widths = [sizes.ch * mult for mult in sizes.ch_mult]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(sizes.z_channels, widths[last], 3, padding=1)
        self.mid = middle(widths[last], GROUPS)
        self.up = nn.ModuleList()
        for i, (ins, outs) in enumerate(zip([*widths[1:], widths[last]], widths, strict=True)):
            attends = (sizes.resolution >> last) << (last - i) in sizes.attn_resolutions
            self.up.append(Level(ins, outs, sizes.num_res_blocks + 1, attends, up=i > 0))
        self.norm_out = nn.GroupNorm(GROUPS, widths[0], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[0], sizes.out_ch, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class VisionTokenizer(nn.Module):
    """Pictures to codes and back, in float32: in bfloat16, codes flip and pictures show bands."""

    def __init__(self, sizes: config.Vision) -> None:
        super().__init__()
        self.sizes = sizes
        width = sizes.siglip.hidden_size
        self.encoder = Encoder(sizes.siglip)
        self.quantizer = Quantizer(sizes.depth, sizes.codes, width, sizes.shared_codebook)
        self.post_quant_conv = nn.Conv2d(width, sizes.decoder.z_channels, 1)
        self.decoder = Decoder(sizes.decoder)

    @property
    def positions(self) -> int:
        """N."""
        return self.sizes.siglip.side**2

    @torch.no_grad()
    def encode(self, pixels_B3HW: Tensor) -> Tensor:
        """(B,3,H,W) in [-1,1] -> codes (B,N,D) int64."""
        return self.quantizer.encode(self.encoder(pixels_B3HW))

    def decode(self, codes_BND: Tensor) -> Tensor:
        """Codes (B,N,D) int64 -> (B,3,H,W), about [-1,1] but not clamped."""
        self.quantizer.check(codes_BND)
        side = self.sizes.siglip.side
        x_BChw = self.quantizer.features(codes_BND).transpose(1, 2).unflatten(2, (side, side))
        if self.sizes.latent is not None:
            x_BChw = F.interpolate(x_BChw, size=self.sizes.latent, mode="bilinear", align_corners=False)
        return self.decoder(self.post_quant_conv(x_BChw))


def to_pixels(image: Image.Image, side: int) -> Tensor:
    """Picture of any mode and size -> (3,S,S) float32 in [-1,1]: both sides to S (bicubic), whatever its shape was."""
    image = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    pixels_SS3 = torch.from_numpy(np.array(image))
    return pixels_SS3.permute(2, 0, 1).contiguous().float().div(255).sub(0.5).div(0.5)


def to_levels(decoded_B3HW: Tensor) -> Tensor:
    """Decoder output -> grey levels 0..255, float32."""
    return ((decoded_B3HW.detach().float() + 1) * 127.5).clamp(0, 255)


def to_images(decoded_B3HW: Tensor) -> list[Image.Image]:
    """Decoder output (B,3,H,W) -> RGB pictures; fractions of a grey level are cut off, as in the reference."""
    pictures_BHW3 = to_levels(decoded_B3HW).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pictures_BHW3]
