"""How one of many is chosen: token by token or code by code, with a generator an item.

Shape suffixes: B rows, M distributions, C code book, V vocabulary, N positions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from gapbench.records import Decoding, InputError, Sampling

S = TypeVar("S")


def seed_of(text: str, seed: int) -> int:
    """The generator seed of an item. Mixing the text in keeps different prompts of one seed independent."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{text}".encode()).digest()[:8]) >> 1


def uniforms(seeds: Sequence[int], *shape: int) -> list[Tensor]:
    """float32 in [0, 1) of each seed's own generator, so that an item does not depend on what stands beside it.

    They are drawn on the CPU, so that devices see the same noise.
    """
    return [torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]


def pick(probs_MC: Tensor, uniform_M: Tensor) -> Tensor:
    """One sample of each distribution, (M,) int64, by inverting it: one uniform a row, not one a row and column."""
    cumulative_MC = probs_MC.cumsum(dim=-1)
    target_M1 = uniform_M[:, None] * cumulative_MC[:, -1:]
    # The first column to exceed the target, so that one of probability 0 is never picked.
    return torch.searchsorted(cumulative_MC, target_M1, right=True).squeeze(-1).clamp(max=probs_MC.shape[-1] - 1)


# --- Codes ------------------------------------------------------------------------------------------------------------


def guided(logits: Tensor, guidance: float) -> Tensor:
    """(B,...): u + g (c - u) of prompted rows c and then as many unprompted ones u (2B,...); guidance 1 wants no u."""
    if guidance == 1:
        return logits
    prompted, unprompted = logits.chunk(2)
    return unprompted + guidance * (prompted - unprompted)


def chosen(name: str, *sources: Any) -> Any:
    """The first value of that name among the sources' that is not None."""
    return next((value for source in sources if (value := getattr(source, name)) is not None), None)


def code_after_code(model: str, own: S, defaults: Sampling, given: Sampling) -> S:
    """A sampler with the guidance and temperature that are given, else the checkpoint's, else its `own`.

    Raises InputError for a number of steps: codes are drawn one after another.
    """
    if given.steps is not None:
        raise InputError(f"--steps {given.steps}: {model} draws code after code; leave --steps out")
    return replace(own, **{name: chosen(name, given, defaults, own) for name in ("guidance", "temperature")})


# --- Tokens -----------------------------------------------------------------------------------------------------------


class Choice(Protocol):
    """Picks the next token of every row."""

    def __call__(self, step: int, logits_BV: Tensor, rows_B: Tensor) -> Tensor:
        """Raw float32 logits of the rows still decoding, and which rows of the batch these are -> tokens (B,)."""
        ...


def greedy(step: int, logits_BV: Tensor, rows_B: Tensor) -> Tensor:
    return logits_BV.argmax(dim=-1)


def next_token_probs(logits_BV: Tensor, temperature: float, top_k: int | None) -> Tensor:
    """Softmax of logits / temperature over the `top_k` largest (ties with the k-th stay, as in the reference)."""
    logits_BV = logits_BV / temperature
    if top_k is not None:
        smallest = logits_BV.topk(min(top_k, logits_BV.shape[-1])).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < smallest, -torch.inf)
    return logits_BV.softmax(dim=-1)


class Sampled:
    """Sampling with one generator per question, one uniform a token; each question is decoded in its own way."""

    def __init__(self, seeds: Sequence[int], ways: Sequence[Decoding]) -> None:
        length = max(way.max_new_tokens for way in ways)
        self._uniform_BT = torch.stack(uniforms(seeds, length))
        settings = [(way.temperature, way.top_k) for way in ways]
        self._settings = list(dict.fromkeys(settings))
        self._setting_B = torch.tensor([self._settings.index(each) for each in settings])

    def __call__(self, step: int, logits_BV: Tensor, rows_B: Tensor) -> Tensor:
        tokens_B = greedy(step, logits_BV, rows_B)
        rows_B = rows_B.cpu()
        for number, (temperature, top_k) in enumerate(self._settings):
            at = (self._setting_B[rows_B] == number).nonzero().squeeze(-1)
            if temperature > 0 and len(at):
                uniform = self._uniform_BT[rows_B[at], step].to(logits_BV.device)
                at = at.to(logits_BV.device)
                tokens_B[at] = pick(next_token_probs(logits_BV[at], temperature, top_k), uniform)
        return tokens_B
