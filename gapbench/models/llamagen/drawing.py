"""A condition to image codes, one after another.

A condition's keys and values, and those of its unconditional twin, are computed once for all images of it in a batch.

Shape suffixes: B images, P conditions, R rows (B, or with guidance 2B: conditional, then unconditional), T slots, N
codes of an image, K key positions, D width, V code book.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gapbench.models.llamagen.gpt import Condition, Gpt, visible_causal
from gapbench.models.llamagen.sampling import Choice, Sampler, code_probs
from gapbench.models.unified.backbone import KeyValues
from gapbench.models.unified.sampling import guided


@torch.inference_mode()
def draw_codes(gpt: Gpt, condition: Condition, of_B: Tensor, how: Sampler, choose: Choice) -> Tensor:
    """Codes (B,N) int64 of images, each of the condition whose number `of_B` names."""
    is_guided, positions, count = how.guidance > 1, gpt.config.block_size, len(of_B)
    inputs_PTD, visible_PT = condition.rows(both=is_guided)
    slots = inputs_PTD.shape[1]
    cache = KeyValues(slots)
    visible = visible_causal(visible_PT, slots)[:, None]
    states_PD = gpt.hidden(inputs_PTD, visible, gpt.config.slots - slots, cache)[:, -1]
    cache.keep(slots)

    rows_R = torch.cat([of_B, of_B + len(condition.visible)]) if is_guided else of_B
    cache, states_RD = cache.select(rows_R, slots + positions - 1), states_PD[rows_R]
    seen_RK = F.pad(visible_PT[rows_R], (0, positions - 1), value=True)
    codes = []
    for position in range(positions):
        logits_RV = gpt.logits(states_RD)
        logits_BV = guided(logits_RV, how.guidance) if how.guides(position) else logits_RV[:count]
        codes.append(choose(position, code_probs(logits_BV, how)))
        if position < positions - 1:
            inputs_R1D = gpt.tok_embeddings(codes[-1])[:, None].repeat(len(rows_R) // count, 1, 1)
            seen = seen_RK[:, None, None, : cache.length + 1]
            states_RD = gpt.hidden(inputs_R1D, seen, gpt.config.slots + position, cache)[:, -1]
            cache.keep(1)
    return torch.stack(codes, dim=1)
