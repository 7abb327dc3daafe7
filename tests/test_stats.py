"""The one place that resamples: exact values, intervals that respect clusters, and determinism."""

from __future__ import annotations

import math
from dataclasses import asdict
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapbench import stats


def width(estimate: stats.Estimate) -> float:
    return estimate.high - estimate.low


def test_mean_is_exact_and_counts_items_and_clusters() -> None:
    estimate = stats.mean([1, 0, 1, 1], ["a", "a", "b", "c"])
    assert (estimate.value, estimate.n, estimate.clusters) == (0.75, 4, 3)
    assert estimate.low <= 0.75 <= estimate.high


def test_ratio_of_nothing_is_zero() -> None:
    assert stats.ratio(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [0.75, 0.0]


def test_interval_of_independent_items_is_that_of_the_binomial() -> None:
    scores = np.tile([1.0, 0.0], 200)
    estimate = stats.mean(scores, range(400))
    assert width(estimate) == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 400), rel=0.1)


def test_clusters_widen_the_interval_of_correlated_items() -> None:
    # Ten copies of each of forty coin tosses carry the information of forty items, not of four hundred.
    scores = np.repeat(np.tile([1.0, 0.0], 20), 10)
    clustered = stats.mean(scores, np.repeat(np.arange(40), 10).tolist())
    naive = stats.mean(scores, range(400))
    assert clustered.value == naive.value
    assert width(clustered) == pytest.approx(np.sqrt(10) * width(naive), rel=0.15)


def test_same_numbers_whatever_the_order_of_the_items() -> None:
    rng = np.random.default_rng(3)
    scores, clusters = rng.random(120).round(2), [f"image {i % 17}" for i in range(120)]
    order = rng.permutation(120)
    first = stats.mean(scores, clusters)
    second = stats.mean(scores[order], [clusters[i] for i in order])
    assert first == stats.mean(scores, clusters)
    assert (first.value, first.low, first.high) == pytest.approx((second.value, second.low, second.high), abs=1e-12)


def test_seed_changes_the_interval_only() -> None:
    scores = np.random.default_rng(0).random(50)
    first, second = stats.mean(scores, range(50), seed=0), stats.mean(scores, range(50), seed=1)
    assert first.value == second.value
    assert first.low != second.low


def test_strata_keep_their_number_of_clusters() -> None:
    # All variation is between the strata; keeping their sizes therefore leaves none.
    scores = np.repeat([1.0, 0.0], 30)
    contributions = np.stack([scores, np.ones(60)], axis=-1)
    free = stats.estimate(contributions, range(60))
    stratified = stats.estimate(contributions, range(60), strata=["easy"] * 30 + ["hard"] * 30)
    assert width(free) > 0.2
    assert set(stratified.resamples) == {0.5}
    others = 1 - 0.025 ** (1 / 60)
    assert (stratified.low, stratified.high) == pytest.approx((0.5 - others / 2, 0.5 + others / 2))


def test_statistic_is_resampled_as_it_is_defined() -> None:
    contributions = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    estimate = stats.estimate(contributions, "abc", statistic=lambda sums: sums[:, 0] - sums[:, 1])
    assert estimate.value == 1.0


def test_no_items_and_no_cluster_are_errors() -> None:
    with pytest.raises(ValueError, match="no items"):
        stats.mean([], [])
    with pytest.raises(ValueError, match="item 1 has no cluster"):
        stats.mean([1, 0], ["a", ""])


# --- Intervals of few clusters, and of none that vary -----------------------------------------------------------------


def test_expanded_percentiles_by_hand() -> None:
    # 20 clusters that vary like a coin: 19 degrees of freedom, t = 2.0930, Phi(-2.0930 sqrt(20/19)) = 0.015881.
    resamples = np.arange(2001) / 2000
    low, high = stats.interval(0.5, resamples, 20)
    assert (low, high) == pytest.approx((0.015881, 1 - 0.015881), abs=1e-6)
    # Two strata: 18 degrees, t = 2.1009, Phi(-2.1009 sqrt(20/18)).
    assert stats.interval(0.5, resamples, 20, strata=2)[0] == pytest.approx(0.013395, abs=1e-6)


def test_degrees_of_freedom_are_those_of_the_clusters_that_vary() -> None:
    coin, rare = np.tile([0.01, -0.01], 25), np.where(np.arange(50) == 7, 0.49, -0.01)
    assert stats.effective_clusters(coin, 50) == pytest.approx(50)
    assert stats.degrees_of_freedom(50, 50) == 49
    assert stats.degrees_of_freedom(50, 50, strata=6) == 44
    assert stats.effective_clusters(rare, 50) == pytest.approx(1.04, abs=0.01)
    assert stats.degrees_of_freedom(1.0, 50) == pytest.approx(2 / (1 - 1 / 50))
    assert stats.effective_clusters(None, 50) == stats.effective_clusters(np.zeros(50), 50) == 50


def test_groups_count_their_own_clusters() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(100).round(2)
    few = np.arange(100) < 6
    found = stats.means(scores, range(100), {"all": np.ones(100, dtype=bool), "few": few})
    alone = stats.mean(scores[few], range(6))
    assert (found["few"].clusters, found["few"].n) == (6, 6)
    # Of six clusters among a hundred the number in a resample varies too, which adds a little.
    assert width(found["few"]) == pytest.approx(width(alone), rel=0.35)
    assert width(found["few"]) > 3 * width(found["all"])


def test_a_resample_without_a_groups_clusters_is_not_a_zero() -> None:
    found = stats.means([1.0] * 100, range(100), {"few": np.arange(100) < 3})["few"]
    assert set(found.resamples) == {1.0}
    assert (found.low, found.high) == (pytest.approx(0.025 ** (1 / 3)), 1)


@pytest.mark.parametrize("clusters", [1, 2, 50])
def test_what_never_varies_has_the_exact_binomial_bound(clusters: int) -> None:
    share = 1 - 0.025 ** (1 / clusters)
    perfect, failed = stats.mean([1.0] * clusters, range(clusters)), stats.mean([0.0] * clusters, range(clusters))
    assert (perfect.low, perfect.high) == (pytest.approx(1 - share), 1)
    assert (failed.low, failed.high) == (0, pytest.approx(share))
    contributions = np.stack([np.zeros(clusters), np.ones(clusters)], axis=-1)
    gap = stats.estimate(contributions, range(clusters), bounds=(-1, 1))
    assert (gap.low, gap.high) == (pytest.approx(-share), pytest.approx(share))
    full = np.stack([np.full(clusters, 100.0), np.ones(clusters)], axis=-1)
    percent = stats.estimate(full, range(clusters), bounds=(0, 100))
    assert (percent.low, percent.high) == (pytest.approx(100 * (1 - share)), 100)


def test_items_of_one_cluster_are_one_trial() -> None:
    found = stats.mean([1.0] * 40, np.repeat(np.arange(4), 10).tolist())
    assert found.low == pytest.approx(0.025**0.25)


def test_one_rare_cluster_leaves_no_less_doubt_than_none() -> None:
    # One item wrong of 1,000 in 50 images must not tell more than none wrong.
    perfect = stats.mean([1.0] * 1000, np.repeat(np.arange(50), 20).tolist())
    nearly = stats.mean([0.0] + [1.0] * 999, np.repeat(np.arange(50), 20).tolist())
    assert nearly.low < perfect.low
    assert nearly.high == 1


def test_bounds_that_cannot_be_are_none() -> None:
    assert stats.mean([3, 3, 3], "abc").low == 3
    assert stats.mean([3, 3, 3], "abc", bounds=(0, 4)).low == pytest.approx(3 * 0.025 ** (1 / 3))
    loss = stats.estimates(np.ones((2, 1)), "ab", lambda sums: -sums, {"loss": np.ones(2, bool)})["loss"]
    assert (loss.low, loss.high, loss.bounds) == (-2, -2, None)
    free = stats.estimates(np.ones((2, 1)), "ab", lambda s: s / 2, {"x": np.ones(2, bool)}, bounds={"x": None})["x"]
    assert (free.low, free.high) == (1, 1)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=40))
def test_intervals_hold_the_value_and_stay_in_bounds(items: list[tuple[int, int]]) -> None:
    found = stats.mean([score / 4 for _, score in items], [str(cluster) for cluster, _ in items])
    assert -1e-12 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1 + 1e-12


# --- Pairing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strata", [None, ["a"] * 4 + ["b"] * 3])
def test_every_resample_draws_as_many_clusters(strata: list[str] | None) -> None:
    drawn = np.concatenate(list(stats.weights(7, strata)))
    assert drawn.shape == (stats.RESAMPLES, 7)
    assert (drawn.sum(axis=1) == 7).all()
    assert np.abs(drawn.mean(axis=0) - 1).max() < 0.1
    assert drawn[:, 0].var() == pytest.approx(6 / 7 if strata is None else 3 / 4, rel=0.1)
    if strata:
        assert (drawn[:, :4].sum(axis=1) == 4).all()


def test_resamples_depend_on_clusters_and_strata_alone() -> None:
    rng = np.random.default_rng(0)
    ids, strata = [f"image {i}" for i in range(30)], ["easy", "hard", "odd"] * 10
    index = {cluster: place for place, cluster in enumerate(sorted(ids))}
    numbers = np.array([index[cluster] for cluster in ids], dtype=float)

    def linear(contributions: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Resampled sums of the clusters' numbers, whatever else is contributed and in whatever order."""
        rows = np.concatenate([contributions, numbers[:, None]], axis=1)[order]
        clusters, of = [ids[i] for i in order], [strata[i] for i in order]
        return stats.estimate(rows, clusters, lambda sums: sums[..., -1], of, bounds=None).resamples

    one = linear(rng.random((30, 1)), np.arange(30))
    other = linear(rng.random((30, 5)) * 1000, rng.permutation(30))
    assert len(set(one)) > 50
    assert np.array_equal(one, other)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = np.random.default_rng(0).random((50, 2))
    strata = ["a", "b"] * 25
    whole = stats.bootstrap(sums, stats.ratio, strata), stats.influences(sums, stats.ratio, strata)
    monkeypatch.setattr(stats, "_CHUNK", 321)
    assert stats.bootstrap(sums, stats.ratio, strata) == pytest.approx(whole[0], abs=1e-14)
    assert stats.influences(sums, stats.ratio, strata) == pytest.approx(whole[1], abs=1e-12)


def test_memory_does_not_grow_with_clusters() -> None:
    assert max(drawn.size for drawn in islice(stats.weights(400_000), 3)) <= stats._CHUNK


def test_another_order_of_adding_up_keeps_all_else() -> None:
    found = stats.mean([1, 0, 1], "abc")
    again = found.valued(0.67)
    assert (again.value, again.low, again.high, again.clusters) == (0.67, found.low, found.high, 3)
    assert again.resamples is found.resamples
    assert (again.ids, again.bounds, again.strata) == (["a", "b", "c"], (0, 1), 1)
    assert again.influence is found.influence
    assert set(asdict(found)) == {"value", "low", "high", "n", "clusters"}


# --- Cross-checks -----------------------------------------------------------------------------------------------------


def clustered(seed: int, clusters: int) -> tuple[np.ndarray, list[int]]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(5, 21, clusters)
    chances = np.repeat(rng.beta(2, 2, clusters), sizes)
    scores = (rng.random(len(chances)) < chances).astype(float)
    return np.stack([scores, np.ones_like(scores)], axis=-1), np.repeat(np.arange(clusters), sizes).tolist()


def test_analytic_by_hand() -> None:
    # Clusters (1 of 2), (2 of 2), (0 of 1): r = 3/5, residuals -0.2, 0.8, -0.6; t of 2 degrees is 4.3027.
    found = stats.analytic(np.array([[1, 1], [0, 1], [1, 1], [1, 1], [0, 1]]), "aabbc")
    error = math.sqrt(3 / 2 * (0.04 + 0.64 + 0.36)) / 5
    assert (found.value, found.n, found.clusters) == (0.6, 5, 3)
    assert found.high - found.value == pytest.approx(4.302653 * error)
    with pytest.raises(ValueError, match="at least two, not 1"):
        stats.analytic(np.ones((3, 2)), "aaa")


@pytest.mark.parametrize("clusters", [60, 400])
def test_bootstrap_agrees_with_the_sandwich(clusters: int) -> None:
    contributions, ids = clustered(clusters, clusters)
    resampled, linearised = stats.estimate(contributions, ids), stats.analytic(contributions, ids)
    assert resampled.value == linearised.value
    assert width(resampled) == pytest.approx(width(linearised), rel=0.07)


def test_influences_are_the_linearised_residuals() -> None:
    contributions, ids = clustered(1, 40)
    sums, _ = stats.cluster_sums(contributions, ids)
    total = sums.sum(axis=0)
    found = stats.estimate(contributions, ids)
    linearised = (sums[:, 0] - found.value * sums[:, 1]) / total[1]
    assert found.influence == pytest.approx(linearised, rel=1e-4, abs=1e-8)
    assert np.sqrt(np.sum(found.influence**2)) == pytest.approx(found.resamples.std(), rel=0.07)


def test_influences_are_of_their_stratum() -> None:
    scores = np.repeat([1.0, 0.0], 30)
    sums = np.stack([scores, np.ones(60)], axis=-1)
    assert np.abs(stats.influences(sums, stats.ratio)).min() > 0.008
    assert np.abs(stats.influences(sums, stats.ratio, ["easy"] * 30 + ["hard"] * 30)).max() < 1e-12
