"""Paired tests by hand, against each other and against simulation; and how many clusters a difference needs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_1samp

from gapbench import stats
from gapbench.significance import Difference, detectable, difference, holm, mcnemar, needed, power, sign_flip


def run(scores: np.ndarray, **how) -> stats.Resampled:
    return stats.mean(scores, range(len(scores)), **how)


# --- Paired bootstrap -------------------------------------------------------------------------------------------------


def test_difference_is_the_interval_of_the_differences() -> None:
    """A difference of means is the mean of differences, and has the same resamples."""
    rng = np.random.default_rng(0)
    a, b = rng.random(80), rng.random(80)
    found = difference(run(a), run(b))
    alone = run((a - b + 1) / 2)
    assert found.value == pytest.approx(np.mean(a - b))
    assert ((found.low + 1) / 2, (found.high + 1) / 2) == pytest.approx((alone.low, alone.high), abs=1e-6)
    assert found.error == pytest.approx(np.std(a - b, ddof=1) / math.sqrt(80), rel=0.06)
    assert found.clusters == 80


def test_p_is_that_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(1)
    a = rng.random(200)
    b = np.clip(a + rng.normal(0.03, 0.15, 200), 0, 1)
    found, wanted = difference(run(b), run(a)), ttest_1samp(b - a, 0).pvalue
    assert 0.001 < wanted < 0.5
    assert found.p == pytest.approx(wanted, rel=0.2)
    assert found.p == difference(run(a), run(b)).p


def test_pairing_is_narrower_than_two_runs_apart() -> None:
    rng = np.random.default_rng(2)
    difficulty = rng.random(300)
    a, b = ((rng.random(300) < chance).astype(float) for chance in (difficulty**4, difficulty**4))
    c = np.where(rng.random(300) < 0.05, 1 - a, a)
    like, unlike = difference(run(c), run(a)), difference(run(b), run(a))
    assert like.high - like.low < 0.6 * (unlike.high - unlike.low)


def test_runs_that_are_equal_have_no_difference_but_may_have_one() -> None:
    scores = np.random.default_rng(3).random(50)
    found = difference(run(scores), run(scores))
    share = 1 - 0.025 ** (1 / 50)
    assert (found.value, found.p, found.error) == (0, 1, 0)
    assert (found.low, found.high) == pytest.approx((-share, share))
    apart = difference(run(np.ones(5)), run(np.zeros(5)))
    assert (apart.value, apart.p, apart.high) == (1, 2**-4, 1)
    assert apart.low == pytest.approx(1 - 2 * (1 - 0.025 ** (1 / 5)))
    assert apart.p == sign_flip([1] * 5)


def test_one_cluster_that_differs_is_no_evidence_however_the_runs_vary() -> None:
    scores = np.random.default_rng(8).random(50)
    scores[7] = 0
    found = difference(run(np.where(np.arange(50) == 7, 1, scores)), run(scores))
    share = 1 - 0.025 ** (1 / 50)
    assert found.value == pytest.approx(1 / 50)
    assert found.low == pytest.approx(found.value - share * (found.value + 1))
    assert found.p == pytest.approx(0.42, abs=0.01)  # t = 1 with 2 degrees of freedom, not 49


def test_a_difference_of_metrics_that_are_no_means() -> None:
    rng = np.random.default_rng(4)
    cells = np.eye(4)[rng.integers(4, size=400)][:, :3], np.eye(4)[rng.integers(4, size=400)][:, :3]

    def f1(sums: np.ndarray) -> np.ndarray:
        return stats.ratio(np.stack([2 * sums[..., 0], 2 * sums[..., 0] + sums[..., 1] + sums[..., 2]], axis=-1))

    clusters, strata = [f"image {i % 40}" for i in range(400)], [str(i % 40 % 2) for i in range(400)]
    a, b = (stats.estimate(each, clusters, f1, strata) for each in cells)
    found = difference(a, b)
    assert found.value == a.value - b.value
    assert found.low < found.value < found.high
    assert found.error == pytest.approx(np.std(a.resamples - b.resamples) * math.sqrt(40 / 38))


def test_other_clusters_strata_and_resamples_do_not_pair() -> None:
    a = stats.mean([1, 0, 1], "abc")
    with pytest.raises(ValueError, match="do not pair"):
        difference(a, stats.mean([1, 0, 1], "abd"))
    contributions = np.array([[1.0, 1], [0, 1], [1, 1]])
    with pytest.raises(ValueError, match="strata"):
        difference(a, stats.estimate(contributions, "abc", strata=["x", "x", "y"]))
    fewer = stats.Resampled(a.value, a.low, a.high, 3, 3, a.resamples[:200], a.ids)
    with pytest.raises(ValueError, match="another number"):
        difference(a, fewer)
    assert difference(fewer, fewer).low == difference(fewer, fewer).high == 0  # no bounds, no statement


# --- Right and wrong --------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_mcnemar_is_the_binomial_test_of_the_discordant(pairs: list[tuple[bool, bool]]) -> None:
    a, b = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    only_a, only_b = pairs.count((True, False)), pairs.count((False, True))
    wanted = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1
    assert mcnemar(a, b) == pytest.approx(wanted)
    assert mcnemar(a, b) == mcnemar(b, a)
    # With one item a cluster, flipping signs is the same test.
    if only_a + only_b <= 13:
        assert sign_flip([int(x) - int(y) for x, y in pairs]) == pytest.approx(wanted)


def test_mcnemar_by_hand() -> None:
    assert mcnemar([True] * 5 + [False], [False] * 5 + [True]) == pytest.approx(2 * 7 / 64)
    with pytest.raises(ValueError, match="2 items and 1 do not pair"):
        mcnemar([True, False], [True])


def test_sign_flips_by_hand() -> None:
    # Of +-3 +-2 +-1 +-0: as extreme as 3 + 2 - 1 = 4 are +-6 and +-4.
    assert sign_flip([3, 2, -1, 0]) == 4 / 8
    assert sign_flip([3, 2, -1] + [0] * 100) == 4 / 8  # flipping nothing is no other pattern
    assert sign_flip([0.0, 0.0]) == sign_flip([]) == 1
    assert sign_flip([0.1, 0.2, 0.3, -0.6]) == 1


def test_random_sign_flips_agree_with_all_of_them() -> None:
    values = np.random.default_rng(5).normal(0.35, 1, 13)
    exact, random = sign_flip(values), sign_flip(values, flips=8000)
    assert exact != random
    assert random == pytest.approx(exact, abs=0.015)
    assert sign_flip(values, flips=8000) == random != sign_flip(values, seed=1, flips=8000)


def test_sign_flips_are_never_impossible() -> None:
    assert sign_flip(np.ones(40), flips=999) == 1 / 1000
    assert sign_flip(np.ones(4)) == 2 / 16


# --- Many tests -------------------------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1, 1]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1, len(p_values) * p) + 1e-15
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()
    assert holm(p_values[::-1]) == adjusted[::-1]


# --- Power ------------------------------------------------------------------------------------------------------------

SEEN = Difference(value=0.04, low=-0.02, high=0.10, p=0.19, clusters=100, error=0.03)  # deviation 0.3


def test_needed_and_detectable_are_each_others_inverse() -> None:
    # Normal approximation: ((1.960 + 0.842) 0.3 / 0.1)^2 = 70.6; Student's t asks for two more.
    assert needed(SEEN, 0.1) == needed(SEEN, -0.1) == 73
    assert power(0.1, 0.3, 73) >= 0.8 > power(0.1, 0.3, 72)
    least = detectable(SEEN)
    assert least == pytest.approx(2.8 * 0.03, rel=0.02)
    assert power(least, 0.3, 100) == pytest.approx(0.8)
    assert needed(SEEN, least) == 100
    assert power(0, 0.3, 100) == pytest.approx(0.05)


@pytest.mark.parametrize("clusters", [8, 73])
def test_power_is_that_of_simulated_tests(clusters: int) -> None:
    rng = np.random.default_rng(6)
    effect = detectable(Difference(0, 0, 0, 1, clusters, 0.3 / math.sqrt(clusters)))
    samples = rng.normal(effect, 0.3, (20_000, clusters))
    assert np.mean(ttest_1samp(samples, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.01)


def test_power_needs_an_effect_and_variation() -> None:
    with pytest.raises(ValueError, match="difference of 0"):
        needed(SEEN, 0)
    same = Difference(0, -0.1, 0.1, 1, 40, 0)
    for ask in (lambda: needed(same, 0.1), lambda: detectable(same)):
        with pytest.raises(ValueError, match="tell nothing"):
            ask()
