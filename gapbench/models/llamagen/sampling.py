"""How a code is chosen: guidance, temperature, top-k, top-p, as in the reference, and one generator an item.

Source: `generate.py` of FoundationVision/LlamaGen. Guided logits are u + g (c - u), of conditional c and unconditional
u; guidance of 1 or less is none.

Shape suffixes: B images, N codes of an image, V code book.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gapbench.models.llamagen.config import CLASS, TEXT
from gapbench.models.unified.sampling import pick, uniforms


@dataclass(frozen=True, slots=True)
class Sampler:
    """guidance g; top_k 0 keeps all codes, top_p 1 too; temperatures below 1e-5 count as that, which is greedy.

    cfg_interval: the last step that is guided, the second code's step being 0; -1 guides all.
    """

    guidance: float
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    cfg_interval: int = -1

    def __post_init__(self) -> None:
        if self.guidance < 0 or self.temperature < 0 or self.top_k < 0 or self.cfg_interval < -1:
            raise ValueError(f"guidance, temperature and top_k must be at least 0, cfg_interval -1: {self}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1]: {self}")

    def guides(self, position: int) -> bool:
        """Whether the code at `position` is drawn from guided logits."""
        return self.guidance > 1 and (self.cfg_interval == -1 or position - 1 <= self.cfg_interval)


PUBLISHED = {TEXT: Sampler(7.5, top_k=1000), CLASS: Sampler(4.0, top_k=2000)}
"""Of `sample_t2i.py` and `sample_c2i.py`."""


class Choice(Protocol):
    """Chooses the codes of a batch at one position."""

    def __call__(self, position: int, probs_BV: Tensor) -> Tensor:
        """float32 probabilities -> codes (B,) int64."""
        ...


def code_probs(logits_BV: Tensor, how: Sampler) -> Tensor:
    """(B,V) float32: of what remains after top-k (ties with the k-th stay) and then top-p.

    top-p drops the codes before which more than `top_p` has been gathered, likeliest first; the first one always stays.
    """
    logits_BV = logits_BV / max(how.temperature, 1e-5)
    if how.top_k > 0:
        kth_B1 = logits_BV.topk(min(how.top_k, logits_BV.shape[-1])).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < kth_B1, -torch.inf)
    if how.top_p < 1:
        sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True)
        beyond_BV = sorted_BV.softmax(dim=-1).cumsum(dim=-1) > how.top_p
        dropped_BV = torch.zeros_like(beyond_BV)
        dropped_BV[:, 1:] = beyond_BV[:, :-1]
        logits_BV = logits_BV.masked_fill(torch.zeros_like(dropped_BV).scatter(-1, order_BV, dropped_BV), -torch.inf)
    return logits_BV.softmax(dim=-1)


class ItemChoice:
    """A generator per item, so that an item's drawing does not depend on what is drawn beside it."""

    def __init__(self, seeds: Sequence[int], positions: int, device: torch.device) -> None:
        self._uniform_NB = torch.stack(uniforms(seeds, positions), dim=-1).to(device)

    def __call__(self, position: int, probs_BV: Tensor) -> Tensor:
        return pick(probs_BV, self._uniform_NB[position])
