"""Text to image codes: MaskGIT over Show-o's drawing rows.

A prompt's text never looks at the image, so its keys and values are computed once per prompt, for all steps and all
images of that prompt; a step then runs [soi] codes [eoi] alone, and the head only where a code is masked.

Shape suffixes: B images (2B rows with guidance: conditional, then unconditional), N codes, C code book, M masked.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gapbench.models.show_o.layout import Layout
from gapbench.models.show_o.sampling import MASKED, MaskGit, Noise, Trace, sample_codes
from gapbench.models.unified.backbone import Backbone, prompt_cache


@torch.inference_mode()
def draw_codes(
    backbone: Backbone,
    layout: Layout,
    texts: Sequence[Sequence[int]],
    settings: MaskGit,
    noise: Noise,
    initial_BN: Tensor | None = None,
    trace: Trace | None = None,
) -> Tensor:
    """Codes (B,N) int64 of one image per text (token ids of the bare prompt, empty for none).

    initial_BN: codes to start from, -1 where free (inpainting); by default all are free. trace: written to.
    """
    device = backbone.device
    count, image_tokens = len(texts), layout.image_tokens
    if initial_BN is None:
        initial_BN = torch.full((count, image_tokens), MASKED)
    blocks = [layout.prompt_block(text) for text in texts]
    if settings.guidance > 0:
        blocks += [layout.prompt_block([])] * count
    cache, _, pads = prompt_cache(backbone, blocks, image_tokens + 2)

    text_length, rows = cache.length, len(blocks)
    offset_R1 = text_length - pads[:, None]
    positions = torch.arange(image_tokens + 2, device=device) + offset_R1
    visible = (torch.arange(cache.capacity, device=device) >= pads[:, None])[:, None, None]
    visible = visible.expand(rows, 1, image_tokens + 2, cache.capacity)
    columns = slice(layout.image_offset, layout.image_offset + layout.codebook_size)

    def logits(codes_BN: Tensor, masked_BN: Tensor) -> Tensor:
        image = layout.image_block(codes_BN).repeat(rows // count, 1)
        hidden = backbone.hidden(image, visible, positions, cache)[:, 1:-1]
        logits_MC = backbone.logits(hidden[:count][masked_BN], columns)
        if settings.guidance == 0:
            return logits_MC
        return (1 + settings.guidance) * logits_MC - settings.guidance * backbone.logits(
            hidden[count:][masked_BN], columns
        )

    return sample_codes(logits, initial_BN.to(device), settings, noise, trace)
