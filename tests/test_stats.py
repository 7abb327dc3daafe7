"""The one place that resamples: exact values, intervals that respect clusters, and determinism."""

from __future__ import annotations

import numpy as np
import pytest

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
    assert (stratified.low, stratified.value, stratified.high) == (0.5, 0.5, 0.5)


def test_statistic_is_resampled_as_it_is_defined() -> None:
    contributions = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    estimate = stats.estimate(contributions, "abc", statistic=lambda sums: sums[:, 0] - sums[:, 1])
    assert estimate.value == 1.0


def test_no_items_and_no_cluster_are_errors() -> None:
    with pytest.raises(ValueError, match="no items"):
        stats.mean([], [])
    with pytest.raises(ValueError, match="item 1 has no cluster"):
        stats.mean([1, 0], ["a", ""])
