"""How often 95 % intervals hold the truth, on simulated answers whose truth is known.

    uv run python -m benchmarks.coverage             # four minutes on one core
    uv run python -m benchmarks.coverage --repetitions 500

A simulated benchmark has images with 5 to 20 questions each. An image's difficulty is drawn from a beta distribution,
and its answers are right with that chance, which gives two answers of one image the intra-cluster correlation that is
asked for. Each repetition is a model measured once. What is tested is `stats.estimates`, and of paired differences
`significance.difference`, as tasks and `gapbench compare` call them. Sizes and resamples are drawn anew for every 250
repetitions. With 2,000 repetitions the standard error of a coverage of 95 % is 0.5 %.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from gapbench import stats
from gapbench.records import Estimate
from gapbench.significance import difference

CLUSTERS, CORRELATIONS = (10, 50, 200, 1000), (0.0, 0.3, 0.9)
SMALLEST, LARGEST = 5, 20  # questions of an image
AT_ONCE = 250  # repetitions
SHARE = 0.7  # of right answers
NEARLY_ALL, SATURATED = 0.98, 0.999
YES, RECALL, FALSE_ALARM = 0.5, 0.8, 0.1  # of F1: how often the answer is yes, and is said where it is and is not


class Coverage(NamedTuple):
    """Of `repetitions` intervals: the share that held the truth, and their mean width."""

    held: float
    width: float
    repetitions: int


class Images(NamedTuple):
    """Of each question the number of its image, and a generator for what is answered."""

    of_question: np.ndarray
    rng: np.random.Generator

    def chances(self, share: float, correlation: float) -> np.ndarray:
        """(questions, AT_ONCE): chance of each answer, one for all questions of an image."""
        count = int(self.of_question[-1]) + 1
        if correlation == 0:
            return np.full((len(self.of_question), AT_ONCE), share)
        spread = 1 / correlation - 1
        return self.rng.beta(share * spread, (1 - share) * spread, (count, AT_ONCE))[self.of_question]

    def answers(self, share: float, correlation: float) -> np.ndarray:
        """(questions, AT_ONCE) of 0 and 1, float64."""
        return (self.rng.random((len(self.of_question), AT_ONCE)) < self.chances(share, correlation)).astype(float)


def images(clusters: int, seed: Sequence[int]) -> Images:
    rng = np.random.default_rng(seed)
    return Images(np.repeat(np.arange(clusters), rng.integers(SMALLEST, LARGEST + 1, clusters)), rng)


# --- What is measured -------------------------------------------------------------------------------------------------


def means(scores: np.ndarray, clusters: np.ndarray, seed: int) -> list[stats.Resampled]:
    """Of each column (questions, repetitions) its mean."""
    contributions = np.concatenate([scores, np.ones((len(scores), 1))], axis=1)
    return estimates(contributions, clusters, lambda sums: sums[..., :-1] / sums[..., -1:], scores.shape[1], seed)


def estimates(
    contributions: np.ndarray, clusters: np.ndarray, statistics: stats.Statistic, count: int, seed: int
) -> list[stats.Resampled]:
    counted = dict.fromkeys(map(str, range(count)), np.ones(len(contributions), dtype=bool))
    return list(stats.estimates(contributions, clusters.tolist(), statistics, counted, seed=seed).values())


def mean(drawn: Images, correlation: float, seed: int, share: float = SHARE) -> list[Estimate]:
    return list(means(drawn.answers(share, correlation), drawn.of_question, seed))


def mean_of_items(drawn: Images, correlation: float, seed: int) -> list[Estimate]:
    """Each question its own cluster: what an interval is that knows nothing of images."""
    return list(means(drawn.answers(SHARE, correlation), np.arange(len(drawn.of_question)), seed))


def sandwich(drawn: Images, correlation: float, seed: int) -> list[Estimate]:
    answers = drawn.answers(SHARE, correlation)
    one = np.ones(len(answers))
    clusters = drawn.of_question.tolist()
    return [stats.analytic(np.stack([answers[:, i], one], axis=-1), clusters) for i in range(AT_ONCE)]


def f1(drawn: Images, correlation: float, seed: int) -> list[Estimate]:
    """Of yes-or-no questions: recall and false alarms of an image vary together."""
    yes = (drawn.rng.random((len(drawn.of_question), AT_ONCE)) < YES).astype(float)
    said = np.where(yes == 1, drawn.answers(RECALL, correlation), drawn.answers(FALSE_ALARM, correlation))
    contributions = np.concatenate([yes * said, yes + said], axis=1)  # true positives; twice them and all that is wrong

    def of_sums(sums: np.ndarray) -> np.ndarray:
        return stats.ratio(np.stack([2 * sums[..., :AT_ONCE], sums[..., AT_ONCE:]], axis=-1))

    return list(estimates(contributions, drawn.of_question, of_sums, AT_ONCE, seed))


def paired(drawn: Images, correlation: float, seed: int) -> list[Estimate]:
    """Two models on the same images: half of what each knows of an image is the image's, half its own."""
    count = int(drawn.of_question[-1]) + 1
    own = [drawn.chances(SHARE, correlation) for _ in range(2)]
    same = drawn.rng.random((count, AT_ONCE))[drawn.of_question] < 0.5
    shared = drawn.chances(SHARE, correlation)
    scores = [(drawn.rng.random(shared.shape) < np.where(same, shared, each)).astype(float) for each in own]
    runs = zip(*(means(each, drawn.of_question, seed) for each in scores), strict=True)
    found = [difference(a, b) for a, b in runs]
    return [Estimate(d.value, d.low, d.high, len(same), d.clusters) for d in found]


Simulation = Callable[[Images, float, int], list[Estimate]]


def coverage(simulation: Simulation, truth: float, clusters: int, correlation: float, repetitions: int) -> Coverage:
    held, width, count = 0, 0.0, 0
    for batch in range(math.ceil(repetitions / AT_ONCE)):
        drawn = images(clusters, (batch, clusters, round(100 * correlation)))
        for estimate in simulation(drawn, correlation, batch):
            # A truth at the edge of an interval is held, whatever the last digit.
            held += estimate.low - 1e-12 <= truth <= estimate.high + 1e-12
            width += estimate.high - estimate.low
            count += 1
    return Coverage(held / count, width / count, count)


def nearly_all(drawn: Images, correlation: float, seed: int) -> list[Estimate]:
    return mean(drawn, correlation, seed, NEARLY_ALL)


def plain_percentiles(drawn: Images, correlation: float, seed: int) -> list[Estimate]:
    """From the 2.5 % to the 97.5 % quantile of the same resamples, and no more."""
    found = means(drawn.answers(NEARLY_ALL, correlation), drawn.of_question, seed)
    tails = np.quantile([e.resamples for e in found], [stats.TAIL, 1 - stats.TAIL], axis=1).T.tolist()
    return [Estimate(e.value, low, high, e.n, e.clusters) for e, (low, high) in zip(found, tails, strict=True)]


def saturated(drawn: Images, correlation: float, seed: int) -> list[Estimate]:
    return mean(drawn, correlation, seed, SATURATED)


TRUE_F1 = 2 * YES * RECALL / (YES + YES * RECALL + (1 - YES) * FALSE_ALARM)
SIMULATIONS: dict[str, tuple[Simulation, float]] = {
    f"mean, {SHARE}": (mean, SHARE),
    "the same, clusters ignored": (mean_of_items, SHARE),
    "the same, analytic": (sandwich, SHARE),
    f"F1, {TRUE_F1:.3f}": (f1, TRUE_F1),
    "paired difference, 0": (paired, 0.0),
    f"mean, {NEARLY_ALL}": (nearly_all, NEARLY_ALL),
    "the same, plain percentiles": (plain_percentiles, NEARLY_ALL),
    f"mean, {SATURATED}": (saturated, SATURATED),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000, help=f"in steps of {AT_ONCE}")
    args = parser.parse_args()
    started = time.perf_counter()
    print(f"coverage in percent, with the mean width; {platform.machine()} CPU, numpy {np.__version__}")
    print("| estimate | correlation |" + "".join(f" {clusters:,} clusters |" for clusters in CLUSTERS))
    print("| --- | ---: |" + " ---: |" * len(CLUSTERS), flush=True)
    for name, (simulation, truth) in SIMULATIONS.items():
        for correlation in CORRELATIONS:
            cells = []
            for clusters in CLUSTERS:
                found = coverage(simulation, truth, clusters, correlation, args.repetitions)
                cells.append(f"{100 * found.held:.1f} ({found.width:.3f})")
            print(f"| {name} | {correlation} | " + " | ".join(cells) + " |", flush=True)
    print(f"{time.perf_counter() - started:.0f} seconds")


if __name__ == "__main__":
    main()
