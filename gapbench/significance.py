"""Two runs, or many: is a difference more than chance, and how large must one be to be seen?

Two runs over the same items share their difficulty, so that tests are paired, and what varies independently is the
cluster, not the item. Over a table of tests, Holm's correction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gapbench.stats import TAIL, Resampled, degrees_of_freedom, effective_clusters, interval

POWER = 0.8
_FLIPS_AT_ONCE = 2_000_000  # signs: 16 MB of float64


@dataclass(frozen=True, slots=True)
class Difference:
    """value = a - b with its 95 % interval, the two-sided p of no difference, and the paired clusters.

    error: the standard error of value.
    """

    value: float
    low: float
    high: float
    p: float
    clusters: int
    error: float


def difference(a: Resampled, b: Resampled) -> Difference:
    """a - b of two runs over the same clusters, strata and seed: the paired cluster bootstrap.

    A resample draws the same clusters for both, so its difference is that of the same items (Koehn 2004 does so
    with sentences). The interval is that of `stats.interval` for the differences. p is of Student's t of
    value / error, error the resamples' standard deviation times sqrt(C / (C - H)), with the interval's degrees of
    freedom. Without any variation p is that of `sign_flip`: 1 where the runs are equal, else 2^(1 - C).

    Raises ValueError where the two are not of the same clusters, strata and number of resamples.
    """
    if list(a.ids) != list(b.ids):
        raise ValueError(f"runs over other clusters do not pair: {len(a.ids)} and {len(b.ids)}, or of other ids")
    if (a.strata, len(a.resamples)) != (b.strata, len(b.resamples)):
        raise ValueError("runs that were resampled in other strata, or in another number, do not pair")
    from scipy.special import stdtr

    value, resamples = a.value - b.value, a.resamples - b.resamples
    clusters, strata = min(a.clusters, b.clusters), a.strata
    influence = None if a.influence is None or b.influence is None else a.influence - b.influence
    bounds = None
    if a.bounds is not None and b.bounds is not None:
        bounds = a.bounds[0] - b.bounds[1], a.bounds[1] - b.bounds[0]
    low, high = interval(value, resamples, clusters, strata, influence, bounds)
    slack = 1e-9 * max(1.0, abs(value))
    if np.ptp(resamples) <= slack:
        return Difference(value, low, high, 1.0 if abs(value) <= slack else 2.0 ** (1 - clusters), clusters, 0.0)
    error = float(np.std(resamples)) * math.sqrt(clusters / max(1, clusters - strata))
    freedom = degrees_of_freedom(effective_clusters(influence, clusters), clusters, strata)
    return Difference(value, low, high, float(2 * stdtr(freedom, -abs(value) / error)), clusters, error)


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> float:
    """Exact two-sided p that two runs are right alike often, of items that each got right or wrong.

    Of the n items that only one got right, the binomial tail of a half at the smaller count, doubled (McNemar 1947;
    exact: Fagerland, Lydersen and Laake 2013). Takes items for independent; with several in a cluster use `sign_flip`.
    """
    from scipy.special import bdtr

    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"{a.size} items and {b.size} do not pair")
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    if only_a == only_b:
        return 1.0
    return float(2 * bdtr(min(only_a, only_b), only_a + only_b, 0.5))


def sign_flip(differences: Sequence[float], seed: int = 0, flips: int = 10_000) -> float:
    """Two-sided p that clusters' differences are symmetric about 0, by flipping their signs (Fisher 1935, section 21).

    differences: of each cluster, the sum of its items' differences. All 2^C patterns where they are at most `flips`,
    C the clusters that differ at all; else so many random ones, and p = (k + 1) / (n + 1), k of n of them at least as
    extreme as what was seen (Phipson and Smyth 2010). Never 0.
    """
    values = np.asarray(differences, dtype=float)
    values = values[values != 0]
    count, seen = len(values), abs(values.sum())
    seen -= 1e-12 * np.abs(values).sum()  # the same sum in another order is as extreme
    if 2**count <= flips:
        patterns = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        return float(np.mean(np.abs((1 - 2 * patterns) @ values) >= seen))
    rng, extreme = np.random.default_rng(seed), 0
    chunk = max(1, _FLIPS_AT_ONCE // count)
    for start in range(0, flips, chunk):
        signs = 1.0 - 2.0 * rng.integers(2, size=(min(chunk, flips - start), count), dtype=np.int8)
        extreme += int(np.sum(np.abs(signs @ values) >= seen))
    return (extreme + 1) / (flips + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p, in the order given: all below a level are significant with that family-wise error (Holm 1979)."""
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = worst
    return adjusted


# --- Power ------------------------------------------------------------------------------------------------------------


def power(effect: float, deviation: float, clusters: int) -> float:
    """Probability that C clusters show a true difference `effect` at level 0.05, two-sided.

    deviation: of one cluster's difference, so that the standard error is deviation / sqrt(C). The t of C clusters has
    Student's noncentral distribution with d = |effect| sqrt(C) / deviation and C - 1 degrees of freedom:
    power = 1 - F(t; d) + F(-t; d), t the 97.5 % quantile of the central one (Cohen 1988, ch. 2).
    """
    from scipy.special import nctdtr, stdtrit

    freedom, shift = clusters - 1, abs(effect) * math.sqrt(clusters) / deviation
    reach = float(stdtrit(freedom, 1 - TAIL))
    return float(1 - nctdtr(freedom, shift, reach) + nctdtr(freedom, shift, -reach))


def needed(seen: Difference, effect: float) -> int:
    """The fewest clusters that show a true difference `effect` with power 0.8, if they vary as those of `seen` do.

    Raises ValueError for an effect of 0, which no number shows, and where `seen` does not vary.
    """
    deviation = _deviation(seen)
    if effect == 0:
        raise ValueError("no number of clusters shows a difference of 0")
    few, enough = 1, 2
    while power(effect, deviation, enough) < POWER:
        few, enough = enough, 2 * enough
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if power(effect, deviation, middle) >= POWER else (middle, enough)
    return enough


def detectable(seen: Difference) -> float:
    """The smallest true difference that as many clusters as `seen` has show with power 0.8.

    Raises ValueError where `seen` does not vary.
    """
    deviation, low, high = _deviation(seen), 0.0, 1.0
    while power(high * seen.error, deviation, seen.clusters) < POWER:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle * seen.error, deviation, seen.clusters) >= POWER else (middle, high)
    return high * seen.error


def _deviation(seen: Difference) -> float:
    """Standard deviation of one cluster's difference."""
    if not seen.error or seen.clusters < 2:
        raise ValueError("clusters of which none differs from the others tell nothing of what could be seen")
    return seen.error * math.sqrt(seen.clusters)
