"""Show-o run as its reference runs it: every position recomputed at every step, the whole vocabulary at every position.

The yardstick of `show_o_speed.py` and of the tests that hold the cached paths to the same outputs. Rows are padded to
the fixed length, prompts and pads are recomputed in each of the sampler's steps, and text is generated one question at
a time without a cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gapbench.models.show_o.layout import Layout, visible_answering, visible_drawing
from gapbench.models.show_o.sampling import MASKED, MaskGit, Noise, sample_codes
from gapbench.models.unified.backbone import Backbone
from gapbench.models.unified.sampling import Choice, greedy


@torch.inference_mode()
def draw_codes(
    backbone: Backbone,
    layout: Layout,
    texts: Sequence[Sequence[int]],
    settings: MaskGit,
    noise: Noise,
    initial_BN: Tensor | None = None,
) -> Tensor:
    count, device = len(texts), backbone.device
    texts = [*texts, *[[]] * (count if settings.guidance > 0 else 0)]
    pads = torch.tensor([layout.max_text + 1 - len(layout.prompt_block(text)) for text in texts], device=device)
    blank = [layout.mask] * layout.image_tokens
    rows = torch.tensor([layout.drawing_row(text, blank) for text in texts], device=device)
    length, soi = rows.shape[1], layout.max_text + 1
    visible = visible_drawing(pads, soi, length)[:, None]
    positions = torch.arange(length, device=device)[None]
    image = slice(soi + 1, length - 1)
    book = slice(layout.image_offset, layout.image_offset + layout.codebook_size)

    def logits(codes_BN: Tensor, masked_BN: Tensor) -> Tensor:
        rows[:, image] = layout.image_block(codes_BN)[:, 1:-1].repeat(len(rows) // count, 1)
        everything = backbone.logits(backbone.hidden(rows, visible, positions))
        logits_BNC = everything[:count, image, book]
        if settings.guidance > 0:
            logits_BNC = (1 + settings.guidance) * logits_BNC - settings.guidance * everything[count:, image, book]
        return logits_BNC[masked_BN]

    if initial_BN is None:
        initial_BN = torch.full((count, layout.image_tokens), MASKED)
    return sample_codes(logits, initial_BN.to(device), settings, noise)


@torch.inference_mode()
def answer(
    backbone: Backbone,
    layout: Layout,
    codes_N: Tensor,
    text: Sequence[int],
    max_new_tokens: int,
    choose: Choice = greedy,
    stop: bool = True,
) -> list[int]:
    """Tokens generated after one picture and one text, up to and including the end of text if that is to `stop` it."""
    prefix = layout.picture_prefix(codes_N[None].to(backbone.device))
    row = torch.cat([prefix, torch.tensor([list(text)], device=backbone.device)], dim=1)
    answered: list[int] = []
    for step in range(max_new_tokens):
        length = row.shape[1]
        visible = visible_answering(prefix.shape[1], length, backbone.device)[None, None]
        positions = torch.arange(length, device=backbone.device)[None]
        last = backbone.logits(backbone.hidden(row, visible, positions))[:, -1]
        token = choose(step, last, torch.zeros(1, dtype=torch.long, device=backbone.device))
        answered.append(int(token))
        if stop and answered[-1] == layout.eot:
            break
        row = torch.cat([row, token[None]], dim=1)
    return answered
