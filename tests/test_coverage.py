"""The simulation behind reports/statistics.md: its truth is the truth, and it would notice wrong intervals."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import coverage
from gapbench.records import Estimate


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.9])
def test_answers_have_the_mean_and_the_correlation_asked_for(correlation: float) -> None:
    drawn = coverage.images(100, (0,))
    answers = drawn.answers(0.7, correlation)
    sizes = np.bincount(drawn.of_question)
    assert (sizes.min(), sizes.max()) == (coverage.SMALLEST, coverage.LARGEST)
    assert answers.mean() == pytest.approx(0.7, abs=0.01)
    first = np.flatnonzero(np.diff(drawn.of_question, prepend=-1))
    one, other = answers[first].ravel(), answers[first + 1].ravel()
    assert np.corrcoef(one, other)[0, 1] == pytest.approx(correlation, abs=0.03)


def test_f1_is_the_true_one() -> None:
    found = coverage.f1(coverage.images(1000, (1,)), 0.3, 0)
    assert np.mean([estimate.value for estimate in found]) == pytest.approx(coverage.TRUE_F1, abs=0.001)


def test_coverage_is_the_share_of_intervals_that_hold_the_truth() -> None:
    def made_up(drawn: coverage.Images, correlation: float, seed: int) -> list[Estimate]:
        return [Estimate(0.5, 0.4, high, 1, 1) for high in (0.5, 0.6, 0.8, 0.9)]

    assert coverage.coverage(made_up, 0.6, 5, 0.0, 1) == (0.75, pytest.approx(0.3), 4)


def test_ignoring_clusters_is_noticed() -> None:
    right = coverage.coverage(coverage.mean, coverage.SHARE, 50, 0.3, coverage.AT_ONCE).held
    wrong = coverage.coverage(coverage.mean_of_items, coverage.SHARE, 50, 0.3, coverage.AT_ONCE).held
    assert 0.91 < right < 0.99
    assert wrong < 0.75


def test_differences_pair() -> None:
    held, width, _ = coverage.coverage(coverage.paired, 0.0, 50, 0.9, coverage.AT_ONCE)
    apart = coverage.coverage(coverage.mean, coverage.SHARE, 50, 0.9, coverage.AT_ONCE).width * 2**0.5
    assert 0.90 < held < 0.99
    assert width < 0.8 * apart
