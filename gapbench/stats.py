"""Uncertainty: every number has an interval, and the interval respects what varies together.

Questions about one image, or drawings of one prompt, are not independent; resampling them one by one gives intervals
that are too narrow. So the unit that is resampled is the cluster (the image, the prompt, the homologous item).

All of it rests on sufficient statistics: an item contributes a small vector (score and 1 for a mean; TP, FP, FN for
F1), vectors are summed within a cluster, and a bootstrap resample is a weighted sum over clusters. A statistic is a
function of such a sum, so metrics that are not means are resampled exactly as they are defined.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

from gapbench.records import Estimate

RESAMPLES = 2000
LEVEL = 0.95
_CHUNK = 500_000  # weights held at once: 4 MB of float64

Statistic = Callable[[np.ndarray], np.ndarray]


class Resampled(Estimate):
    """An estimate that still knows the values that its statistic took in the resamples (RESAMPLES,).

    Of two runs over the same clusters (and strata) with the same seed they are values of the same resamples: their
    differences are the paired bootstrap of the difference.
    """

    __slots__ = ("resamples",)
    resamples: np.ndarray

    def __init__(self, value: float, low: float, high: float, n: int, clusters: int, resamples: np.ndarray) -> None:
        super().__init__(value, low, high, n, clusters)
        object.__setattr__(self, "resamples", resamples)


def ratio(sums: np.ndarray) -> np.ndarray:
    """sums[..., 0] / sums[..., 1]; 0 where nothing was counted, so that an empty resample does not poison the rest."""
    return np.divide(sums[..., 0], sums[..., 1], out=np.zeros(sums.shape[:-1]), where=sums[..., 1] != 0)


def cluster_sums(contributions: np.ndarray, clusters: Sequence[Hashable]) -> tuple[np.ndarray, list[Hashable]]:
    """Sum (n, k) contributions within clusters: a (clusters, k) array, clusters in sorted order, and their ids.

    Raises ValueError when an item has no cluster id, naming its position.
    """
    for position, cluster in enumerate(clusters):
        if cluster is None or cluster == "":
            raise ValueError(f"item {position} has no cluster id")
    ids = sorted(set(clusters), key=str)
    index = {cluster: i for i, cluster in enumerate(ids)}
    sums = np.zeros((len(ids), contributions.shape[1]))
    np.add.at(sums, [index[cluster] for cluster in clusters], contributions)
    return sums, ids


def bootstrap(
    sums: np.ndarray, statistic: Statistic, strata: Sequence[Hashable] | None = None, seed: int = 0
) -> np.ndarray:
    """Cluster bootstrap: RESAMPLES values of `statistic` over resampled rows of `sums` (clusters, k).

    With `strata`, one id per cluster, every stratum keeps its number of clusters (GenEval's six tasks, for instance).
    Deterministic in `seed` and in the order of the rows.
    """
    rng = np.random.default_rng(seed)
    labels = np.zeros(len(sums), dtype=int)
    if strata is not None:
        names = {name: i for i, name in enumerate(sorted(set(strata), key=str))}
        labels = np.array([names[name] for name in strata])
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    chunk = max(1, _CHUNK // max(1, len(sums)))
    values = []
    for start in range(0, RESAMPLES, chunk):
        size = min(chunk, RESAMPLES - start)
        total = np.zeros((size, sums.shape[1]))
        for rows in groups:
            weights = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=size)
            total += weights.astype(float) @ sums[rows]
        values.append(statistic(total))
    return np.concatenate(values)


def estimates(
    contributions: np.ndarray,
    clusters: Sequence[Hashable],
    statistics: Statistic,
    counted: Mapping[str, np.ndarray],
    strata: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> dict[str, Resampled]:
    """Several statistics of the same items at once, from one set of resamples.

    contributions: (n, k), one sufficient vector per item; clusters: n ids; strata: n ids, equal within a cluster.
    statistics: sums (..., k) -> (..., m). counted: the names of the m statistics in order, each with a bool (n,) array
    of the items that it averages. Intervals are percentiles of the cluster bootstrap.
    Raises ValueError on no items: a metric of nothing is not 0.
    """
    contributions = np.asarray(contributions, dtype=float)
    if len(contributions) == 0:
        raise ValueError("no items to estimate from")
    sums, ids = cluster_sums(contributions, clusters)
    stratum_of = None
    if strata is not None:
        by_cluster = dict(zip(clusters, strata, strict=True))
        stratum_of = [by_cluster[cluster] for cluster in ids]
    values = statistics(sums.sum(axis=0, keepdims=True))[0]
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    resamples = bootstrap(sums, statistics, stratum_of, seed)
    lows, highs = np.quantile(resamples, tails, axis=0)
    result = {}
    for (name, items), value, low, high, column in zip(counted.items(), values, lows, highs, resamples.T, strict=True):
        members = {cluster for cluster, counts in zip(clusters, items, strict=True) if counts}
        result[name] = Resampled(float(value), float(low), float(high), int(np.sum(items)), len(members), column)
    return result


def estimate(
    contributions: np.ndarray,
    clusters: Sequence[Hashable],
    statistic: Statistic = ratio,
    strata: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Resampled:
    """One statistic, sums (..., k) -> (...), of all items, with its interval; arguments as for `estimates`."""
    everything = {"": np.ones(len(contributions), dtype=bool)}
    return estimates(contributions, clusters, lambda sums: statistic(sums)[..., None], everything, strata, seed)[""]


def mean(scores: Sequence[float], clusters: Sequence[Hashable], seed: int = 0) -> Resampled:
    """Mean over items, interval over clusters."""
    scores = np.asarray(scores, dtype=float)
    return estimate(np.stack([scores, np.ones_like(scores)], axis=-1), clusters, seed=seed)


def means(
    scores: Sequence[float], clusters: Sequence[Hashable], groups: Mapping[str, np.ndarray], seed: int = 0
) -> dict[str, Resampled]:
    """Mean score of each group, a bool (n,) array over the items, from one set of resamples; empty ones left out."""
    groups = {name: np.asarray(members) for name, members in groups.items() if np.any(members)}
    members = np.stack(list(groups.values()), axis=-1)
    contributions = np.concatenate([members * np.asarray(scores, dtype=float)[:, None], members], axis=-1)

    def of_groups(sums: np.ndarray) -> np.ndarray:
        return ratio(np.stack(np.split(sums, 2, axis=-1), axis=-1))

    return estimates(contributions, clusters, of_groups, groups, seed=seed)
