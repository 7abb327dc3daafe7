"""What of a stage is fixed before its first step: how much each pair counts, when it comes, and how far a step goes.

Functions of a seed and of the number of a step alone, so a stage that was killed goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from gapbench.records import InputError
from hermesflow.records import Pair


class Visit(NamedTuple):
    """The pair with this number, seen for the `visit`-th time, from 0."""

    pair: int
    visit: int


def visits(weights: Sequence[float], count: int, seed: int) -> list[Visit]:
    """`count` visits, pass by pass, every pass in an order of its own.

    In a pass over n pairs, pair i comes n * weight_i / sum(weights) times, rounded up or down by one draw for all of
    them (systematic sampling): as often on average, and exactly once each where all weights are equal.
    """
    shares = np.cumsum(np.asarray(weights, dtype=np.float64))
    shares *= len(weights) / shares[-1]
    shares = np.concatenate([[0.0], np.where(np.abs(shares - shares.round()) < 1e-9, shares.round(), shares)])
    seen: Counter[int] = Counter()
    found: list[Visit] = []
    number = 0
    while len(found) < count:
        rng = np.random.default_rng((seed, number))
        times = np.diff(np.floor(shares + rng.random()).astype(int))
        for pair in rng.permutation(np.repeat(np.arange(len(weights)), times)).tolist():
            found.append(Visit(pair, seen[pair]))
            seen[pair] += 1
        number += 1
    return found[:count]


def learning_rate(step: int, steps: int, peak: float, warm_up: float) -> float:
    """Of step `step` in 0 .. steps - 1: linear over the share `warm_up` of the steps, then a half cosine toward 0.

    The peak is reached however few the steps are, and the last step still learns.
    """
    rising = min(max(1, round(warm_up * steps)), max(1, steps - 1))
    if step < rising:
        return peak * ((step + 1) / rising)
    return peak * (1 + math.cos(math.pi * (step - rising + 1) / (steps - rising + 1))) / 2


def with_weight(pairs: Sequence[Pair], product: bool) -> tuple[list[Pair], dict[str, int]]:
    """The pairs without sides of weight 0, and how many sides, and whole pairs, that leaves out."""
    kept, without = [], Counter({"captions": 0, "drawings": 0, "pairs": 0})
    for pair in pairs:
        for weight in (pair.understanding_weight, pair.generation_weight):
            if not 0 <= weight < math.inf:
                raise InputError(f"pair {pair.id}: a weight is {weight}; give a number of at least 0")
        captions = pair.captions if pair.understanding_weight else None
        images = pair.images if pair.generation_weight else None
        without["captions"] += captions is not pair.captions
        without["drawings"] += images is not pair.images
        without["pairs"] += captions is None and images is None
        if captions or images:
            kept.append(replace(pair, captions=captions, images=images))
    if not kept:
        raise InputError(f"no pairs to train on: {len(pairs)} given, none has a side with a weight above 0")
    twice = [name for name, times in Counter(pair.id for pair in kept).items() if times > 1]
    if twice:
        raise InputError(f"pair {twice[0]} is there twice; keep one of them")
    if product and (single := [pair.id for pair in kept if not (pair.captions and pair.images)]):
        raise InputError(f"pair {single[0]}: product needs both sides of a pair; leave out those with one")
    return kept, dict(without)


def frequency(pair: Pair) -> float:
    """How often a pair should come: the mean weight of its sides."""
    sides = [(pair.captions, pair.understanding_weight), (pair.images, pair.generation_weight)]
    weights = [weight for side, weight in sides if side is not None]
    return sum(weights) / len(weights)


def reweighted(pairs: Sequence[Pair], shares: Sequence[float]) -> list[Pair]:
    """What coming more often already gives a pair is taken from its weights."""
    mean = sum(shares) / len(shares)
    return [
        replace(
            pair,
            understanding_weight=pair.understanding_weight * mean / share,
            generation_weight=pair.generation_weight * mean / share,
        )
        for pair, share in zip(pairs, shares, strict=True)
    ]
