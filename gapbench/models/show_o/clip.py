"""The picture prefix of the CLIP-ViT variant: continuous features in place of image codes.

Source: section "w_clip_vit" of showlab/Show-o: openai/clip-vit-large-patch14-336, the hidden states before the last
layer without the class token, projected by Linear, GELU, Linear; a system prompt stands before them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from gapbench.models.show_o.layout import Layout, visible_clip
from gapbench.models.unified.backbone import Backbone, KeyValues, picture_cache

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(image: Image.Image, side: int) -> Tensor:
    """(3,side,side) float32: shorter side to `side` (bicubic), centre crop, CLIP's normalisation."""
    image = image.convert("RGB")
    width, height = image.size
    scale = side / min(width, height)
    size = (side, int(height * scale)) if width <= height else (int(width * scale), side)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    pixels = np.asarray(image.crop((left, top, left + side, top + side)), dtype=np.float32) / 255
    return torch.from_numpy((pixels - np.float32(MEAN)) / np.float32(STD)).permute(2, 0, 1)


def clip_picture_cache(
    backbone: Backbone,
    layout: Layout,
    clip: nn.Module,
    projector: nn.Module,
    system: Sequence[int],
    images: Sequence[Image.Image],
) -> KeyValues:
    """Keys and values of [mmu] system [soi] features [eoi], one row per image."""
    pixels = torch.stack([clip_pixels(image, clip.config.image_size) for image in images])
    return picture_cache(backbone, *clip_prefix(backbone, layout, clip, projector, system, pixels))


@torch.inference_mode()
def clip_prefix(
    backbone: Backbone,
    layout: Layout,
    clip: nn.Module,
    projector: nn.Module,
    system: Sequence[int],
    pixels_P3HW: Tensor,
) -> tuple[Tensor, Tensor]:
    """Embeddings (P,L,D) of the prefix and its mask (L,L)."""
    pixels = pixels_P3HW.to(backbone.device, clip.dtype)
    features = clip(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    features = projector(features.to(backbone.dtype))
    before = torch.tensor([[layout.special("mmu"), *system, layout.soi]], device=backbone.device)
    after = torch.tensor([[layout.eoi]], device=backbone.device)
    rows = len(pixels)
    embeddings = torch.cat(
        [backbone.embed(before).expand(rows, -1, -1), features, backbone.embed(after).expand(rows, -1, -1)], dim=1
    )
    return embeddings, visible_clip(len(system), features.shape[1], embeddings.shape[1], backbone.device)
