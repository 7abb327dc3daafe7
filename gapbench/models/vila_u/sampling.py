"""How a code is chosen from guided logits: temperature, top-k, top-p, as in the reference, and one generator an item.

Source: `sample_from_logits` of mit-han-lab/vila-u. Guided logits are u + g (c - u), of prompted c and unprompted u, so
guidance 1 is none.

Shape suffixes: B images, N positions, D depths, K codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gapbench.models.unified.sampling import pick, uniforms


@dataclass(frozen=True, slots=True)
class Sampler:
    """guidance g; temperature 0 takes the likeliest code. top_k and top_p are the reference's."""

    guidance: float = 3.0
    temperature: float = 1.0
    top_k: int = 900
    top_p: float = 0.96

    def __post_init__(self) -> None:
        if self.guidance < 0 or self.temperature < 0 or self.top_k < 1 or not 0 < self.top_p <= 1:
            raise ValueError(f"guidance and temperature must be at least 0, top_k 1, top_p in (0, 1]: {self}")


class Choice(Protocol):
    """Chooses the codes of a batch at one position and depth."""

    def __call__(self, position: int, depth: int, logits_BK: Tensor) -> Tensor:
        """Guided float32 logits -> codes (B,) int64."""
        ...


def code_probs(logits_BK: Tensor, how: Sampler) -> Tensor:
    """(B,K) float32: what remains after top-k (ties with the k-th stay) and then top-p, rescaled to sum to 1.

    top-p keeps the codes before which less than `top_p` has been gathered, likeliest first; the first always.
    """
    logits_BK = logits_BK / how.temperature
    kth_B1 = logits_BK.topk(min(how.top_k, logits_BK.shape[-1])).values[:, -1:]
    probs_BK = logits_BK.masked_fill(logits_BK < kth_B1, -torch.inf).softmax(dim=-1)
    sorted_BK, order_BK = probs_BK.sort(dim=-1, descending=True)
    reached_BK = sorted_BK.cumsum(dim=-1) >= how.top_p
    dropped_BK = torch.zeros_like(reached_BK)
    dropped_BK[:, 1:] = reached_BK[:, :-1]
    probs_BK = probs_BK.masked_fill(torch.zeros_like(dropped_BK).scatter(-1, order_BK, dropped_BK), 0.0)
    return probs_BK / probs_BK.sum(dim=-1, keepdim=True)


class ItemChoice:
    """A generator per item, so that an item's drawing does not depend on what is drawn beside it."""

    def __init__(self, seeds: Sequence[int], positions: int, depths: int, how: Sampler, device: torch.device) -> None:
        self._uniform_NDB = torch.stack(uniforms(seeds, positions, depths), dim=-1).to(device)
        self._how = how

    def __call__(self, position: int, depth: int, logits_BK: Tensor) -> Tensor:
        if self._how.temperature == 0:
            return logits_BK.argmax(dim=-1)
        return pick(code_probs(logits_BK, self._how), self._uniform_NDB[position, depth])
