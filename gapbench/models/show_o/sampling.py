"""MaskGIT sampling of image codes as Show-o does it, with the noise brought from outside.

Source: MaskGIT (arXiv 2202.04200) and `t2i_generate` of showlab/Show-o. Two habits of the reference are kept because
published pictures were drawn with them: the temperature of the re-masking noise decays cumulatively over the steps, and
the number of re-masked positions is floored in float32.

Shape suffixes: B images, N codes of an image, C code book, M masked positions of the whole batch in raster order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Protocol

import torch
from torch import Tensor

from gapbench.models.unified.sampling import pick, uniforms

MASKED = -1


@dataclass(frozen=True, slots=True)
class MaskGit:
    """steps T; guidance g (0 is none; logits are (1+g) cond - g uncond); temperature of the re-masking noise."""

    steps: int
    guidance: float
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.guidance < 0 or self.temperature < 0:
            raise ValueError(f"steps must be at least 1, guidance and temperature at least 0: {self}")


class Noise(Protocol):
    """All randomness of a drawing. Every step asks for codes first, then for uniforms."""

    def codes(self, step: int, probs_MC: Tensor, masked_BN: Tensor) -> Tensor:
        """One code per masked position: (M,) int64."""
        ...

    def uniforms(self, step: int, masked_BN: Tensor) -> Tensor:
        """(B,N) float32 in [0, 1)."""
        ...


class ItemNoise:
    """A generator per item, so that an item's drawing does not depend on what is drawn beside it."""

    def __init__(self, seeds: Sequence[int], steps: int, image_tokens: int, device: torch.device) -> None:
        self._uniform_TB2N = torch.stack(uniforms(seeds, steps, 2, image_tokens), dim=1).to(device)

    def codes(self, step: int, probs_MC: Tensor, masked_BN: Tensor) -> Tensor:
        return pick(probs_MC, self._uniform_TB2N[step, :, 0][masked_BN])

    def uniforms(self, step: int, masked_BN: Tensor) -> Tensor:
        return self._uniform_TB2N[step, :, 1]


class SharedNoise:
    """One generator for the whole batch, drawing in the reference's order: known positions draw too."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def codes(self, step: int, probs_MC: Tensor, masked_BN: Tensor) -> Tensor:
        everywhere = probs_MC.new_ones((masked_BN.numel(), probs_MC.shape[-1]))
        everywhere[masked_BN.flatten()] = probs_MC
        return torch.multinomial(everywhere, 1, generator=self._generator).squeeze(-1)[masked_BN.flatten()]

    def uniforms(self, step: int, masked_BN: Tensor) -> Tensor:
        return torch.zeros(masked_BN.shape, device=masked_BN.device).uniform_(0, 1, generator=self._generator)


class GivenNoise:
    """Recorded noise: exponentials (T,B*N,C), with code = argmax of probs / exponential, and uniforms (T,B,N)."""

    def __init__(self, exponentials: Tensor, uniforms: Tensor) -> None:
        self._exponentials, self._uniforms = exponentials, uniforms

    def codes(self, step: int, probs_MC: Tensor, masked_BN: Tensor) -> Tensor:
        return (probs_MC / self._exponentials[step][masked_BN.flatten()]).argmax(dim=-1)

    def uniforms(self, step: int, masked_BN: Tensor) -> Tensor:
        return self._uniforms[step]


def remask_count(step: int, steps: int, image_tokens: int) -> int:
    """floor(N cos(r pi / 2)) after step `step` of `steps`, r = (step + 1) / T; every operation in float32."""
    r = torch.tensor((step + 1) / steps, dtype=torch.float32)
    return int((image_tokens * torch.cos(r * math.pi * 0.5)).floor())


def noise_scales(steps: int, temperature: float) -> list[float]:
    """Of the re-masking noise after each step; 0 after the last."""
    factors = (1 - (step + 1) / steps for step in range(steps))
    return list(accumulate(factors, mul, initial=temperature))[1:]


@dataclass(slots=True)
class Trace:
    """How a batch was sampled: the step that fixed each code (B,N) int64, -1 where it was known before, the log of its
    probability then (B,N) float32, in nats, and the least score that each step but the last kept (B,T-1) float32.
    """

    step_BN: Tensor
    log_BN: Tensor
    threshold_BT: Tensor

    @staticmethod
    def of(codes_BN: Tensor, steps: int) -> Trace:
        """Nothing sampled yet."""
        at = codes_BN.device
        zeros = torch.zeros(codes_BN.shape, device=at)
        return Trace(torch.full_like(codes_BN, -1), zeros, torch.zeros((len(codes_BN), steps - 1), device=at))

    def nats(self, steps: int) -> Tensor:
        """(B,T) float32: -log p of the codes that each step fixed."""
        known_BN = self.step_BN < 0
        nats_BT = self.log_BN.new_zeros((len(self.log_BN), steps))
        return nats_BT.scatter_add(1, self.step_BN.clamp(min=0), -self.log_BN.masked_fill(known_BN, 0.0))


def sample_codes(
    logits: Callable[[Tensor, Tensor], Tensor],
    codes_BN: Tensor,
    settings: MaskGit,
    noise: Noise,
    trace: Trace | None = None,
) -> Tensor:
    """Fill the masked codes (-1) of `codes_BN` in `settings.steps` parallel steps; known codes stay.

    logits: (codes (B,N), masked (B,N) bool) -> guided float32 logits (M,C) at the masked positions. trace: written to.
    Returns (B,N) int64: the full sample of the last step.
    """
    known = torch.finfo(torch.float32).max
    image_tokens = codes_BN.shape[1]
    for step, tau in enumerate(noise_scales(settings.steps, settings.temperature)):
        masked_BN = codes_BN == MASKED
        probs_MC = logits(codes_BN, masked_BN).softmax(dim=-1)
        codes_M = noise.codes(step, probs_MC, masked_BN)
        uniform_BN = noise.uniforms(step, masked_BN)
        codes_BN = codes_BN.masked_scatter(masked_BN, codes_M)

        gumbel_BN = -torch.log((-torch.log(uniform_BN.clamp(min=1e-20))).clamp(min=1e-20))
        confidence_BN = torch.full(masked_BN.shape, known, device=codes_BN.device)
        confidence_BN = confidence_BN.masked_scatter(masked_BN, probs_MC.gather(1, codes_M[:, None]).squeeze(1))
        log_BN = torch.log(confidence_BN.clamp(min=1e-20))
        score_BN = log_BN + tau * gumbel_BN
        count_B1 = (masked_BN.sum(dim=1, keepdim=True) - 1).clamp(max=remask_count(step, settings.steps, image_tokens))
        threshold_B1 = score_BN.sort(dim=1).values.gather(1, count_B1.clamp(min=1))
        if step < settings.steps - 1:
            codes_BN = codes_BN.masked_fill(score_BN < threshold_B1, MASKED)
            if trace is not None:
                trace.threshold_BT[:, step] = threshold_B1[:, 0]
        if trace is not None:
            fixed_BN = masked_BN & (codes_BN != MASKED)
            trace.step_BN[fixed_BN] = step
            trace.log_BN[fixed_BN] = log_BN[fixed_BN]
    return codes_BN
