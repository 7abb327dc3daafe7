"""Uncertainty: every number has an interval, and the interval respects what varies together.

Questions about one image, or drawings of one prompt, are not independent; resampling them one by one gives intervals
that are too narrow. So the unit that is resampled is the cluster (the image, the prompt, the homologous item).

All of it rests on sufficient statistics: an item contributes a small vector (score and 1 for a mean; TP, FP, FN for
F1), vectors are summed within a cluster, and a bootstrap resample is a weighted sum over clusters. A statistic is a
function of such a sum, so metrics that are not means are resampled exactly as they are defined.

Intervals are `interval`'s. How often they cover is measured in reports/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import numpy as np

from gapbench.records import Estimate

RESAMPLES = 2000
LEVEL = 0.95
TAIL = (1 - LEVEL) / 2
RARE = 3
"""Effective clusters. With fewer, resamples know too little."""
METHOD = (
    f"{LEVEL:.0%} expanded percentile interval of {RESAMPLES:,} cluster resamples; exact binomial where none varies"
)
_CHUNK = 500_000  # numbers held at once: 4 MB of float64
_STEP = 2.0**-10  # of a cluster's weight, in numerical derivatives

Statistic = Callable[[np.ndarray], np.ndarray]
Bounds = tuple[float, float]
SHARE: Bounds = (0.0, 1.0)


class Resampled(Estimate):
    """An estimate that still knows the values that its statistic took in the resamples, float64 (RESAMPLES,).

    Of two runs over the same clusters (and strata) with the same seed they are values of the same resamples: their
    differences are the paired bootstrap of the difference.

    ids: all clusters that were resampled, in order, those too that the metric does not average. influence: of each,
    float64 (len(ids),), how fast the value changes with its weight; None where that is not known. strata: number of
    strata that the metric averages. bounds: the least and the greatest value that the metric can have, if it has both.
    """

    __slots__ = ("bounds", "ids", "influence", "resamples", "strata")
    resamples: np.ndarray
    ids: Sequence[Hashable]
    influence: np.ndarray | None
    strata: int
    bounds: Bounds | None

    def __init__(
        self,
        value: float,
        low: float,
        high: float,
        n: int,
        clusters: int,
        resamples: np.ndarray,
        ids: Sequence[Hashable],
        influence: np.ndarray | None = None,
        strata: int = 1,
        bounds: Bounds | None = None,
    ) -> None:
        super().__init__(value, low, high, n, clusters)
        kept = {"resamples": resamples, "ids": ids, "influence": influence, "strata": strata, "bounds": bounds}
        for name, what in kept.items():
            object.__setattr__(self, name, what)

    def valued(self, value: float) -> Resampled:
        """The same estimate, its value added up in another order."""
        kept = (self.resamples, self.ids, self.influence, self.strata, self.bounds)
        return Resampled(value, self.low, self.high, self.n, self.clusters, *kept)


def ratio(sums: np.ndarray) -> np.ndarray:
    """sums[..., 0] / sums[..., 1]; 0 where nothing was counted, so that an empty resample does not poison the rest."""
    return np.divide(sums[..., 0], sums[..., 1], out=np.zeros(sums.shape[:-1]), where=sums[..., 1] != 0)


# --- Resampling -------------------------------------------------------------------------------------------------------


def _numbered(clusters: Sequence[Hashable]) -> tuple[np.ndarray, list[Hashable]]:
    """Of each item the number of its cluster, and the clusters' ids in sorted order."""
    for position, cluster in enumerate(clusters):
        if cluster is None or cluster == "":
            raise ValueError(f"item {position} has no cluster id")
    ids = sorted(set(clusters), key=str)
    index = {cluster: i for i, cluster in enumerate(ids)}
    return np.array([index[cluster] for cluster in clusters], dtype=int), ids


def cluster_sums(contributions: np.ndarray, clusters: Sequence[Hashable]) -> tuple[np.ndarray, list[Hashable]]:
    """Sum (n, k) contributions within clusters: a (clusters, k) array, clusters in sorted order, and their ids.

    Raises ValueError when an item has no cluster id, naming its position.
    """
    numbers, ids = _numbered(clusters)
    sums = np.zeros((len(ids), contributions.shape[1]))
    np.add.at(sums, numbers, contributions)
    return sums, ids


def weights(clusters: int, strata: Sequence[Hashable] | None = None, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each cluster is drawn in each resample: float64 (some, clusters), RESAMPLES rows in all.

    With `strata`, one id per cluster, every stratum keeps its number of clusters (GenEval's six tasks, for instance).
    They depend on the number of clusters, the strata and the seed alone, which is what pairing two runs rests on.
    """
    groups = _groups(clusters, strata)
    generators = np.random.default_rng(seed).spawn(len(groups))
    chunk = max(1, _CHUNK // max(1, clusters))
    for start in range(0, RESAMPLES, chunk):
        size = min(chunk, RESAMPLES - start)
        drawn = np.empty((size, clusters))
        for rows, rng in zip(groups, generators, strict=True):
            count = len(rows)
            places = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
            drawn[:, rows] = np.bincount(places.ravel(), minlength=size * count).reshape(size, count)
        yield drawn


def _groups(clusters: int, strata: Sequence[Hashable] | None) -> list[np.ndarray]:
    """The rows of each stratum, strata in sorted order."""
    if strata is None:
        return [np.arange(clusters)]
    numbers, ids = _numbered(strata)
    return [np.flatnonzero(numbers == number) for number in range(len(ids))]


def bootstrap(
    sums: np.ndarray, statistic: Statistic, strata: Sequence[Hashable] | None = None, seed: int = 0
) -> np.ndarray:
    """Cluster bootstrap: RESAMPLES values of `statistic` over resampled rows of `sums` (clusters, k).

    Strata and seed as for `weights`; deterministic in these and in the order of the rows.
    """
    return np.concatenate([statistic(drawn @ sums) for drawn in weights(len(sums), strata, seed)])


def influences(sums: np.ndarray, statistics: Statistic, strata: Sequence[Hashable] | None = None) -> np.ndarray:
    """Derivative of each statistic by each cluster's weight, less its mean in the stratum: float64 (clusters, m).

    The infinitesimal jackknife (Jaeckel 1972; Efron 1982, ch. 6): the sum of their squares is the bootstrap's variance
    to first order, and for a ratio just the sandwich variance.
    """
    total, found = sums.sum(axis=0), []
    chunk = max(1, _CHUNK // sums.shape[1])
    for start in range(0, len(sums), chunk):
        step = _STEP * sums[start : start + chunk]
        found.append((statistics(total + step) - statistics(total - step)) / (2 * _STEP))
    influence = np.concatenate(found)
    for rows in _groups(len(sums), strata):
        influence[rows] -= influence[rows].mean(axis=0)
    return influence


# --- Intervals --------------------------------------------------------------------------------------------------------


def effective_clusters(influence: np.ndarray | None, clusters: int) -> float:
    """How many clusters make up the variance: (sum I^2)^2 / sum I^4 of their influences I, at most `clusters`.

    All of them where they vary alike, 1 where one image of 50 is wrong. `clusters` where no influence is known.
    """
    if influence is None or not influence.any():
        return float(clusters)
    squares = (influence / np.abs(influence).max()) ** 2
    return min(float(clusters), float(np.sum(squares) ** 2 / np.sum(squares**2)))


def degrees_of_freedom(effective: float, clusters: int, strata: int = 1) -> float:
    """Of the variance that C clusters in H strata show: C - H, and fewer where `effective` E of them make it up.

    A variance v estimated with f degrees of freedom varies by 2 v^2 / f (Satterthwaite 1946), that of C draws with
    kurtosis K = C / E by v^2 (K - 1) / C; so f = 2 / (1/E - 1/C). One image wrong of 50 leaves 2 of 49.
    """
    most = float(max(1, clusters - strata))
    spare = 1 / effective - 1 / clusters
    return min(most, 2 / spare) if spare > 0 else most


def interval(
    value: float,
    resamples: np.ndarray,
    clusters: int,
    strata: int = 1,
    influence: np.ndarray | None = None,
    bounds: Bounds | None = None,
) -> tuple[float, float]:
    """The 95 % interval of a value that C clusters in H strata gave, from its `resamples`.

    The expanded percentile interval (Hesterberg 2015, "What Teachers Should Know About the Bootstrap"): from quantile p
    to 1 - p of the resamples, p = Phi(sqrt(C / (C - H)) t), t the 2.5 % quantile of Student's t with
    `degrees_of_freedom`. It makes up for what plain percentiles lack where clusters are few: the resamples' variance
    divides by C, and counts as known.

    Where all resamples are equal they say nothing. All C clusters agree then, so the share of clusters that do not is
    at most s = 1 - 0.025^(1/C) (Clopper and Pearson 1934, none of C). Those could have any value in `bounds`, and the
    interval goes s of the way from the value to either bound: [1 - s, 1] for a perfect share, [-s, s] for a gap of 0,
    and nearly all that is possible for one cluster. Where fewer than RARE clusters make up the variance the resamples
    know little of how much a rare one can differ: the interval is then no narrower than that. Without bounds there is
    no such statement; the interval of what does not vary is the value alone.
    """
    share = 1 - TAIL ** (1 / clusters)
    least, most = bounds or (value, value)
    agreed = value - share * (value - least), value + share * (most - value)
    if np.ptp(resamples) <= 1e-9 * max(1.0, abs(value)):
        return agreed
    from scipy.special import ndtr, stdtrit

    effective = effective_clusters(influence, clusters)
    freedom = degrees_of_freedom(effective, clusters, strata)
    tail = ndtr(math.sqrt(clusters / max(1, clusters - strata)) * stdtrit(freedom, TAIL))
    low, high = np.quantile(resamples, [tail, 1 - tail]).tolist()
    return (min(low, agreed[0]), max(high, agreed[1])) if effective < RARE else (low, high)


def _holding(value: float, bounds: Bounds | None) -> Bounds | None:
    """`bounds`, or none where the value shows that they are not the metric's."""
    if bounds is None:
        return None
    slack = 1e-9 * (bounds[1] - bounds[0])
    return bounds if bounds[0] - slack <= value <= bounds[1] + slack else None


def estimates(
    contributions: np.ndarray,
    clusters: Sequence[Hashable],
    statistics: Statistic,
    counted: Mapping[str, np.ndarray],
    strata: Sequence[Hashable] | None = None,
    seed: int = 0,
    bounds: Mapping[str, Bounds | None] | None = None,
) -> dict[str, Resampled]:
    """Several statistics of the same items at once, from one set of resamples.

    contributions: (n, k), one sufficient vector per item; clusters: n ids; strata: n ids, equal within a cluster.
    statistics: sums (..., k) -> (..., m). counted: the names of the m statistics in order, each with a bool (n,) array
    of the items that it averages; the clusters of these are those that its interval counts. bounds: the least and
    greatest value of statistics that are no shares from 0 to 1, None where there is none; a gap's are (-1, 1).
    A resample without any of a statistic's clusters tells nothing of it, and has the value of the whole.
    Raises ValueError on no items: a metric of nothing is not 0.
    """
    contributions = np.asarray(contributions, dtype=float)
    if len(contributions) == 0:
        raise ValueError("no items to estimate from")
    numbers, ids = _numbered(clusters)
    sums = np.zeros((len(ids), contributions.shape[1]))
    np.add.at(sums, numbers, contributions)
    members = np.stack([np.bincount(numbers[items], minlength=len(ids)) > 0 for items in counted.values()], axis=-1)
    stratum_of = None
    if strata is not None:
        by_cluster = dict(zip(clusters, strata, strict=True))
        stratum_of = [by_cluster[cluster] for cluster in ids]

    width = sums.shape[1]
    values = statistics(sums.sum(axis=0, keepdims=True))[0]

    def of_resample(total: np.ndarray) -> np.ndarray:
        return np.where(total[:, width:] > 0, statistics(total[:, :width]), values)

    resamples = bootstrap(np.concatenate([sums, members], axis=1), of_resample, stratum_of, seed)
    influence = influences(sums, statistics, stratum_of)
    result = {}
    for m, (name, items) in enumerate(counted.items()):
        value, size = float(values[m]), int(members[:, m].sum())
        held = 1 if stratum_of is None else len({stratum_of[i] for i in np.flatnonzero(members[:, m])})
        within = _holding(value, (bounds or {}).get(name, SHARE))
        low, high = interval(value, resamples[:, m], size, held, influence[:, m], within)
        kept = (resamples[:, m], ids, influence[:, m], held, within)
        result[name] = Resampled(value, low, high, int(np.sum(items)), size, *kept)
    return result


def estimate(
    contributions: np.ndarray,
    clusters: Sequence[Hashable],
    statistic: Statistic = ratio,
    strata: Sequence[Hashable] | None = None,
    seed: int = 0,
    bounds: Bounds | None = SHARE,
) -> Resampled:
    """One statistic, sums (..., k) -> (...), of all items, with its interval; arguments as for `estimates`."""
    everything = {"": np.ones(len(contributions), dtype=bool)}

    def statistics(sums: np.ndarray) -> np.ndarray:
        return statistic(sums)[..., None]

    return estimates(contributions, clusters, statistics, everything, strata, seed, {"": bounds})[""]


def mean(
    scores: Sequence[float], clusters: Sequence[Hashable], seed: int = 0, bounds: Bounds | None = SHARE
) -> Resampled:
    """Mean over items, interval over clusters. Scores that leave the bounds have none."""
    scores = np.asarray(scores, dtype=float)
    if bounds is not None and len(scores) and not bounds[0] <= scores.min() <= scores.max() <= bounds[1]:
        bounds = None
    return estimate(np.stack([scores, np.ones_like(scores)], axis=-1), clusters, seed=seed, bounds=bounds)


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


def analytic(contributions: np.ndarray, clusters: Sequence[Hashable]) -> Estimate:
    """Ratio of two sums, contributions (n, 2), with a cluster-robust 95 % interval that resamples nothing.

    The linearised ("sandwich") variance C / (C - 1) sum_c (s_c - r n_c)^2 / N^2 (Cochran 1977, ch. 6; Liang and
    Zeger 1986), and Student's t with C - 1 degrees of freedom. A cross-check of the bootstrap: it agrees where clusters
    are many and the ratio is far from its bounds. Raises ValueError where fewer than two clusters leave no variance.
    """
    from scipy.special import stdtrit

    contributions = np.asarray(contributions, dtype=float)
    sums, ids = cluster_sums(contributions, clusters)
    count = len(ids)
    if count < 2:
        raise ValueError(f"a variance between clusters needs at least two, not {count}")
    value = float(ratio(sums.sum(axis=0)))
    residuals = sums[:, 0] - value * sums[:, 1]
    error = math.sqrt(count / (count - 1) * float(residuals @ residuals)) / sums[:, 1].sum()
    reach = float(stdtrit(count - 1, 1 - TAIL)) * error
    return Estimate(value, float(value - reach), float(value + reach), len(contributions), count)
