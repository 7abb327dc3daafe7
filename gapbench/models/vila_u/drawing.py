"""Text to image codes: position by position through the language model, depth by depth through the depth transformer.

A prompt's keys and values, and the unconditional prompt's, are computed once for all images of it in a batch. The
reference also draws a text token at every position, to no effect but on its generator; that is left out.

Shape suffixes: B images, R rows (B, or with guidance 2B: prompted, then unprompted), L positions of a prompt, N of an
image, D depths, C width of a code's vector, T width of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gapbench.models.unified.backbone import Backbone, prompt_cache
from gapbench.models.unified.sampling import guided
from gapbench.models.vila_u.depth import DepthTransformer
from gapbench.models.vila_u.sampling import Choice
from gapbench.models.vila_u.vision import Quantizer, VisionTokenizer


@torch.inference_mode()
def draw_codes(
    backbone: Backbone,
    projector: nn.Module,
    vision: VisionTokenizer,
    depth: DepthTransformer,
    prompts: Sequence[Sequence[int]],
    unprompted: Sequence[int],
    guidance: float,
    choose: Choice,
) -> Tensor:
    """Codes (B,N,D) int64 of one image per prompt; prompts are token ids up to and with <im_start>."""
    rows = [*prompts] if guidance == 1 else [*prompts, *[unprompted] * len(prompts)]
    cache, states_RT, pads_R = prompt_cache(backbone, rows, vision.positions - 1)
    seen_RK = torch.arange(cache.capacity, device=backbone.device) >= pads_R[:, None]
    codes = []
    for position in range(vision.positions):
        codes_BD, features_BC = _one_position(depth, vision.quantizer, states_RT, guidance, choose, position)
        codes.append(codes_BD)
        if position < vision.positions - 1:
            inputs_B1T = projector(features_BC.to(backbone.dtype))[:, None]
            inputs_R1T = inputs_B1T.repeat(len(rows) // len(prompts), 1, 1)
            visible = seen_RK[:, None, None, : cache.length + 1]
            at_R1 = (cache.length - pads_R)[:, None]
            states_RT = backbone.hidden(inputs_R1T, visible, at_R1, cache)[:, -1]
            cache.keep(1)
    return torch.stack(codes, dim=1)


def _one_position(
    depth: DepthTransformer, quantizer: Quantizer, states_RT: Tensor, guidance: float, choose: Choice, position: int
) -> tuple[Tensor, Tensor]:
    """Codes (B,D), and the sum of their vectors (B,C)."""
    past, sum_BC, codes = depth.begin(), None, []
    for number in range(quantizer.depth):
        sum_RC = sum_BC
        if sum_BC is not None and guidance != 1:
            sum_RC = sum_BC.repeat(2, 1)
        logits_BK = guided(depth.step(number, states_RT, sum_RC, past), guidance)
        code_B = choose(position, number, logits_BK)
        vector_BC = quantizer.book(number)[code_B]
        sum_BC = vector_BC if sum_BC is None else sum_BC + vector_BC
        codes.append(code_B)
    return torch.stack(codes, dim=-1), sum_BC
