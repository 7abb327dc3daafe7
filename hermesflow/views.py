"""What of a pair's drawings is hidden, and what is predicted, at each of the pair's visits.

`Masks` are random, as in Show-o's training (arXiv 2408.12528) and HermesFlow's (arXiv 2502.12148): the hidden codes are
predicted from the others. `States` are those that sampling itself went through: what a step fixed is predicted from
what was fixed before, so that the sum over all steps is the likelihood of the drawing as it was drawn. Random masks ask
for codes in contexts that the sampler never meets, and preferences learnt there need not help where it does.

A step samples a code at every hidden place and keeps the most confident ones alone. The others tell something too: that
what was sampled there was less confident than the least that was kept. Without that part, a mean over a model's own
drawings of the gradient of their log-likelihood is not zero, as it is for every likelihood, but six times as large as
what winners and losers differ by, and teaches what the sampler selects instead of what is preferred.

Shape suffixes: K views, 2 winner and loser, N codes of an image, T sampling steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gapbench.models.show_o.sampling import noise_scales
from gapbench.models.unified.sampling import seed_of
from gapbench.records import InputError
from hermesflow.records import ImageCandidate, Pair

FLOOR = 0.25  # of the mean step's nats, added to each step's: all may be visited


class Views(NamedTuple):
    """hidden_K2N, scored_K2N: bool, what is hidden and what of it is predicted. weight_K2: float32, how much the sum
    over a view's codes counts in the drawing's log-likelihood.

    What is hidden and not predicted was sampled and not kept: its log-probability and noise of the scale noise_K2 came
    to less than threshold_K2, float32. Both are None where all that is hidden is predicted.
    """

    hidden_K2N: Tensor
    scored_K2N: Tensor
    weight_K2: Tensor
    threshold_K2: Tensor | None = None
    noise_K2: Tensor | None = None

    @staticmethod
    def of_masks(masked_KN: Tensor) -> Views:
        """All that is hidden is predicted, of winner and loser alike; the mean over the masks."""
        both = masked_KN[:, None].expand(-1, 2, -1)
        return Views(both, both, torch.full((len(masked_KN), 2), 1 / len(masked_KN)))

    @property
    def tokens(self) -> list[float]:
        """How many codes the log-likelihoods of winner and loser are the sum over."""
        return (self.scored_K2N.sum(dim=2) * self.weight_K2).sum(dim=0).tolist()


@dataclass(frozen=True, slots=True)
class Masks:
    """Random masks, the same for winner and loser; drawn from seed, pair and visit alone.

    count: masks per visit, K. rates: lowest and highest share of hidden codes; within, cos(pi u / 2) of a uniform u, as
    Show-o was trained. condition_dropout: share of visits at which the prompt is empty, for winner and loser alike.
    sets: after so many visits the same masks come again; None is never.
    """

    seed: int = 0
    count: int = 4
    rates: tuple[float, float] = (0.0, 1.0)
    condition_dropout: float = 0.1
    sets: int | None = None

    def __post_init__(self) -> None:
        if self.count < 1 or (self.sets is not None and self.sets < 1):
            raise InputError(f"masks: {self.count} per visit in {self.sets} sets; give at least 1 of each")
        low, high = self.rates
        if not 0 <= low <= high <= 1:
            raise InputError(f"masks: rates from {low} to {high}; give two shares, the lower first")
        if not 0 <= self.condition_dropout <= 1:
            raise InputError(f"masks: condition_dropout is {self.condition_dropout}; give a share")

    def of(self, visit: int) -> int:
        """The first visit that has the same masks."""
        return visit if self.sets is None else visit % self.sets

    def check(self, pair: Pair) -> None:
        """A mask fits any drawing."""

    def draw(self, pair: str, visit: int, image_tokens: int) -> Tensor:
        """(K,N) bool, True where hidden; in each mask one code at least.

        The rates are stratified: of K equal parts of their distribution each mask has one, so that few masks cover it.
        """
        random = torch.Generator().manual_seed(seed_of(f"masks {self.of(visit)} of {pair}", self.seed))
        low, high = (2 / math.pi * math.acos(rate) for rate in reversed(self.rates))
        within_K = (torch.arange(self.count) + torch.rand(self.count, generator=random)) / self.count
        hidden_K = (image_tokens * torch.cos(math.pi / 2 * (low + (high - low) * within_K))).round().clamp(min=1)
        rank_KN = torch.rand((self.count, image_tokens), generator=random).argsort(dim=1).argsort(dim=1)
        return rank_KN < hidden_K[:, None]

    def views(self, pair: Pair, visit: int) -> Views:
        return Views.of_masks(self.draw(pair.id, visit, len(pair.images.win.codes)))

    def without_prompt(self, pair: str, visit: int) -> bool:
        random = torch.Generator().manual_seed(seed_of(f"prompt {self.of(visit)} of {pair}", self.seed))
        return bool(torch.rand((), generator=random) < self.condition_dropout)


@dataclass(frozen=True, slots=True)
class States:
    """Of the states that a drawing was sampled through, K at each visit, drawn from seed, pair and visit alone.

    A step is visited the more often, the more nats its codes took, and counts the less then (importance sampling, one
    draw for all K): on average over visits the log-likelihood is that of all steps. count: K; with as many as there
    are steps, each is seen once. sets: after so many visits the same states come again; None is never. temperature: of
    the sampler's re-masking noise.
    """

    seed: int = 0
    count: int = 4
    sets: int | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.count < 1 or (self.sets is not None and self.sets < 1):
            raise InputError(f"states: {self.count} per visit in {self.sets} sets; give at least 1 of each")

    def of(self, visit: int) -> int:
        """The first visit that has the same states."""
        return visit if self.sets is None else visit % self.sets

    def check(self, pair: Pair) -> None:
        """Raises InputError where it is not known how a drawing was sampled."""
        for image in (pair.images.win, pair.images.lose):
            steps = len(image.nats)
            known = len(image.steps) == len(image.codes) and len(image.thresholds) == steps - 1
            if not known or not all(0 <= step < steps for step in image.steps):
                raise InputError(f"pair {pair.id}: does not tell the steps of its drawings; curate anew, or --states 0")

    def views(self, pair: Pair, visit: int) -> Views:
        sides = [
            self._side(image, f"states {self.of(visit)} of {pair.id} {name}")
            for name, image in (("win", pair.images.win), ("lose", pair.images.lose))
        ]
        return Views(*(torch.stack(parts, dim=1) for parts in zip(*sides, strict=True)))

    def _side(self, image: ImageCandidate, name: str) -> tuple[Tensor, ...]:
        """hidden (K,N), scored (K,N), and (K,) each: weight, threshold, noise."""
        fixed_N, nats_T = torch.tensor(image.steps), torch.tensor(image.nats, dtype=torch.float64)
        if self.count >= len(nats_T):
            step_K = torch.arange(len(nats_T))
            weight_K = torch.ones(len(nats_T))
        else:
            random = torch.Generator().manual_seed(seed_of(name, self.seed))
            share_T = nats_T + FLOOR * nats_T.mean() + 1e-6
            share_T /= share_T.sum()
            at_K = (torch.arange(self.count) + torch.rand((), generator=random, dtype=torch.float64)) / self.count
            step_K = torch.searchsorted(share_T.cumsum(dim=0), at_K, right=True).clamp(max=len(nats_T) - 1)
            weight_K = (1 / (self.count * share_T[step_K])).float()
        threshold_T = torch.tensor([*image.thresholds, -math.inf])  # the last step keeps all
        noise_T = torch.tensor(noise_scales(len(nats_T), self.temperature))
        hidden_KN, scored_KN = fixed_N >= step_K[:, None], fixed_N == step_K[:, None]
        return hidden_KN, scored_KN, weight_K, threshold_T[step_K], noise_T[step_K]

    def without_prompt(self, pair: str, visit: int) -> bool:
        """Never: under guidance the state without its prompt is part of every view."""
        return False
