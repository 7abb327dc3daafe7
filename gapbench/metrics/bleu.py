"""BLEU-1 to BLEU-4 of a set of captions (Papineni et al., ACL 2002), as pycocoevalcap 1.2 computes it.

A set's BLEU is no mean over captions: n-gram matches and lengths are summed over the set first. So a caption gives
its `statistics`, and `bleu` is a function of their sum, which a bootstrap calls with the sums of its resamples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from gapbench.metrics.cider import words

ORDERS = 4
# Two lengths, then for n = 1..4 the hypothesis's n-grams, then those of them that a reference has.
STATISTICS = 2 + 2 * ORDERS

# Those of pycocoevalcap, which keep a set without a single match from dividing by zero or taking the log of it.
_TINY, _SMALL = 1e-15, 1e-9


def statistics(hypothesis: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """What a caption adds to BLEU: (STATISTICS,) counts, to be summed over captions.

    An n-gram matches as often as in the reference that has most of it. The reference length is the one closest to the
    hypothesis's, the shorter one of two. Raises ValueError without references.
    """
    if not references:
        raise ValueError("BLEU needs at least one reference caption an image")
    ours, theirs = words(hypothesis), [words(reference) for reference in references]
    length = len(ours)
    closest = min((len(reference) for reference in theirs), key=lambda other: (abs(other - length), other))
    guessed = [max(0, length - n + 1) for n in range(1, ORDERS + 1)]
    matched = []
    for n in range(1, ORDERS + 1):
        most: Counter[tuple[str, ...]] = Counter()
        for reference in theirs:
            most |= _ngrams(reference, n)
        matched.append((_ngrams(ours, n) & most).total())
    return np.array([length, closest, *guessed, *matched], dtype=float)


def bleu(sums: np.ndarray) -> np.ndarray:
    """Summed statistics (..., STATISTICS) -> BLEU-1..4 (..., 4), each in [0, 1]."""
    sums = np.asarray(sums, dtype=float)
    lengths, closest = sums[..., 0], sums[..., 1]
    guessed, matched = sums[..., 2 : 2 + ORDERS], sums[..., 2 + ORDERS :]
    precisions = (matched + _TINY) / (guessed + _SMALL)
    geometric = np.cumprod(precisions, axis=-1) ** (1 / np.arange(1, ORDERS + 1))
    ratio = (lengths + _TINY) / (closest + _SMALL)
    return geometric * np.exp(np.minimum(0.0, 1 - 1 / ratio))[..., None]


def _ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
