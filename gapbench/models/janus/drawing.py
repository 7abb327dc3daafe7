"""Text to image codes: one after another, with classifier-free guidance and one generator an item.

Source: the generation script of deepseek-ai/Janus. Guided logits are u + g (c - u), of prompted c and unprompted u, so
guidance 1 is none; a code is sampled from their whole softmax. A prompt's keys and values, and its unprompted row's,
are computed once for all images of it in a batch.

Shape suffixes: B images, R rows (B, or with guidance 2B: prompted, then unprompted), N codes of an image, C code book,
D width of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gapbench.models.janus.backbone import JanusBackbone
from gapbench.models.unified.backbone import prompt_cache
from gapbench.models.unified.sampling import guided, pick, uniforms


@dataclass(frozen=True, slots=True)
class Sampler:
    """guidance g; temperature 0 takes the likeliest code."""

    guidance: float = 5.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.guidance < 0 or self.temperature < 0:
            raise ValueError(f"guidance and temperature must be at least 0: {self}")


class Choice(Protocol):
    """Chooses the codes of a batch at one position."""

    def __call__(self, position: int, logits_BC: Tensor) -> Tensor:
        """Guided float32 logits -> codes (B,) int64."""
        ...


class ItemChoice:
    """A generator per item, so that an item's drawing does not depend on what is drawn beside it."""

    def __init__(self, seeds: Sequence[int], image_tokens: int, temperature: float, device: torch.device) -> None:
        self._uniform_NB = torch.stack(uniforms(seeds, image_tokens), dim=-1).to(device)
        self._temperature = temperature

    def __call__(self, position: int, logits_BC: Tensor) -> Tensor:
        if self._temperature == 0:
            return logits_BC.argmax(dim=-1)
        return pick((logits_BC / self._temperature).softmax(dim=-1), self._uniform_NB[position])


@torch.inference_mode()
def draw_codes(
    backbone: JanusBackbone,
    prompts: Sequence[Sequence[int]],
    unprompted: Sequence[Sequence[int]],
    image_tokens: int,
    guidance: float,
    choose: Choice,
) -> Tensor:
    """Codes (B,N) int64 of one image per prompt; both kinds of row are token ids up to and with [boi]."""
    rows = [*prompts] if guidance == 1 else [*prompts, *unprompted]
    cache, states_RD, pads_R = prompt_cache(backbone, rows, image_tokens - 1)
    seen_RK = torch.arange(cache.capacity, device=backbone.device) >= pads_R[:, None]
    codes = []
    for position in range(image_tokens):
        codes_B = choose(position, guided(backbone.code_logits(states_RD), guidance))
        codes.append(codes_B)
        if position < image_tokens - 1:
            inputs_R1D = backbone.embed_codes(codes_B[:, None]).repeat(len(rows) // len(prompts), 1, 1)
            visible = seen_RK[:, None, None, : cache.length + 1]
            at_R1 = (cache.length - pads_R)[:, None]
            states_RD = backbone.hidden(inputs_R1D, visible, at_R1, cache)[:, -1]
            cache.keep(1)
    return torch.stack(codes, dim=1)
