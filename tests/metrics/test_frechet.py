"""FID's numbers: exact statistics in any chunks, the distance of other libraries, and an interval that covers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapbench.metrics.frechet import (
    Gaussian,
    Moments,
    frechet_distance,
    interval,
    read_npz,
    require_coco_30k,
    write_npz,
)
from gapbench.records import InputError
from gapbench.significance import difference


def moments(*chunks: np.ndarray) -> Moments:
    found = Moments(chunks[0].shape[1])
    for chunk in chunks:
        found.add(chunk)
    return found


def fitted(features: np.ndarray) -> Gaussian:
    return Gaussian(features.mean(axis=0), np.atleast_2d(np.cov(features.astype(np.float64), rowvar=False)))


# ---------------------------------------------------------------------------------------------------------------------
# Moments


@given(
    st.integers(0, 2**32),
    st.lists(st.integers(0, 40), max_size=6),
    st.integers(1, 3),
    st.sampled_from([0.0, 1e3]),
    st.integers(1, 9),
)
def test_moments_are_numpys_for_any_chunks_shards_and_mean(
    seed: int, cuts: list[int], shards: int, mean: float, d: int
) -> None:
    rng = np.random.default_rng(seed)
    features = mean + rng.normal(size=(41, d)) @ rng.normal(size=(d, d))
    parts = [Moments(d) for _ in range(shards)]
    chunks = np.split(features, sorted(cuts))
    for number, chunk in enumerate(chunks):
        parts[number % shards].add(chunk)
    whole = Moments(d)
    for part in reversed(parts):
        whole.merge(part)
    found, wanted = whole.gaussian(), fitted(features)
    assert whole.n == 41
    np.testing.assert_allclose(found.mean, wanted.mean, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found.covariance, wanted.covariance, atol=1e-10)
    assert np.array_equal(found.covariance, found.covariance.T)


def test_float32_features_are_summed_in_float64() -> None:
    features = (1e4 + np.random.default_rng(0).normal(size=(3000, 3))).astype(np.float32)
    found = moments(*np.array_split(features, 7)).gaussian()
    np.testing.assert_allclose(found.covariance, np.cov(features.astype(np.float64), rowvar=False), atol=1e-10)


def test_merging_leaves_the_other_shard_as_it_was() -> None:
    rng = np.random.default_rng(0)
    one, two = moments(rng.normal(size=(5, 3))), moments(rng.normal(size=(6, 3)))
    before = two.gaussian().covariance
    one.merge(two)
    one.add(rng.normal(size=(4, 3)))
    assert np.array_equal(two.gaussian().covariance, before)
    assert (one.n, two.n) == (15, 6)


def test_broken_features_are_refused() -> None:
    found = Moments(3)
    with pytest.raises(ValueError, match=r"shape \(2, 4\), not \(n, 3\)"):
        found.add(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="finite"):
        found.add(np.array([[0.0, np.nan, 1.0]]))
    found.add(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="at least two images, not 1"):
        found.gaussian()


# ---------------------------------------------------------------------------------------------------------------------
# Distance


def test_golden_distances(shared: Path) -> None:
    golden = json.loads((shared / "golden/generation/fid_numeric_golden.json").read_text())
    assert len(golden) == 3
    for case in golden:
        arrays = np.load(shared / "golden/generation" / case.pop("file"))
        found = frechet_distance(moments(arrays["a"]).gaussian(), moments(arrays["b"]).gaussian())
        for library, wanted in case.items():
            assert found == pytest.approx(wanted, rel=1e-6, abs=1e-9), library


@pytest.mark.parametrize("d", [1, 2, 16])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_distance_of_commuting_gaussians_is_known(d: int, scale: float) -> None:
    """|m1 - m2|^2 + sum (s1 - s2)^2 in the common axes."""
    rng = np.random.default_rng(d)
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
    (m1, m2), (s1, s2) = rng.normal(size=(2, d)) * scale, rng.uniform(0.1, 3, (2, d)) * scale
    a, b = (Gaussian(m, (axes * s**2) @ axes.T) for m, s in ((m1, s1), (m2, s2)))
    wanted = ((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(wanted, rel=1e-9)


def test_distance_to_itself_is_zero_and_never_below() -> None:
    features = np.random.default_rng(0).normal(size=(20, 64))  # rank 19
    assert 0 <= frechet_distance(fitted(features), fitted(features)) < 1e-5


def test_distance_against_scipys_root_of_the_product() -> None:
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(1)
    a, b = (fitted(rng.normal(size=(n, 32)) @ rng.normal(size=(32, 32))) for n in (100, 90))
    wanted = ((a.mean - b.mean) ** 2).sum()
    wanted += np.trace(a.covariance + b.covariance - 2 * sqrtm(a.covariance @ b.covariance).real)
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-9)


def test_different_dimensions_have_no_distance() -> None:
    with pytest.raises(ValueError, match="of 2 and of 3 dimensions"):
        frechet_distance(Gaussian(np.zeros(2), np.eye(2)), Gaussian(np.zeros(3), np.eye(3)))


# ---------------------------------------------------------------------------------------------------------------------
# Interval

D = 8
REFERENCE = Gaussian(np.linspace(-1, 1, D), np.diag(np.linspace(0.2, 2, D)))
MIX = np.eye(D) + 0.4 * np.linalg.qr(np.random.default_rng(5).normal(size=(D, D)))[0]


def drawn(rng: np.random.Generator, n: int) -> np.ndarray:
    """Skewed, as rectified features are."""
    return rng.gamma(2.0, 0.5, (n, D)) @ MIX


def test_influence_is_the_derivative_by_an_images_weight() -> None:
    """The width with one image in a cluster of its own, against finite differences of the distance itself."""
    features = drawn(np.random.default_rng(0), 200)
    n = len(features)

    def weighted(weights: np.ndarray) -> float:
        """FID of the weighted images, with covariances over sum(weights)."""
        mean = weights @ features / weights.sum()
        centred = features - mean
        return frechet_distance(Gaussian(mean, (centred.T * weights) @ centred / weights.sum()), REFERENCE)

    influences = np.zeros(n)
    for image in range(n):
        step = np.zeros(n)
        step[image] = 1e-4 * n
        influences[image] = (weighted(1 + step) - weighted(1 - step)) / (2e-4)
    found = interval(moments(features), REFERENCE, [features])
    assert abs(influences.mean()) < 1e-3 * influences.std()
    width = 2 * 1.959964 * influences.std(ddof=1) / np.sqrt(n)
    assert found.high - found.low == pytest.approx(width, rel=0.01)  # n against n - 1 in the covariance


def test_interval_agrees_with_the_bootstrap_and_with_repetition() -> None:
    rng = np.random.default_rng(1)
    features = drawn(rng, 400)
    found = interval(moments(features), REFERENCE, np.array_split(features, 3))
    resampled = [frechet_distance(fitted(features[rng.integers(0, 400, 400)]), REFERENCE) for _ in range(300)]
    repeated = [frechet_distance(fitted(drawn(rng, 400)), REFERENCE) for _ in range(300)]
    error = (found.high - found.low) / 2 / 1.959964
    assert found.value == pytest.approx(frechet_distance(fitted(features), REFERENCE), rel=1e-10)
    assert (found.n, found.clusters) == (400, 400)
    assert error == pytest.approx(np.std(resampled), rel=0.2)
    assert error == pytest.approx(np.std(repeated), rel=0.2)


def test_interval_covers_the_mean_of_repetitions() -> None:
    rng = np.random.default_rng(2)
    estimates = []
    for _ in range(300):
        features = drawn(rng, 100)
        estimates.append(interval(moments(features), REFERENCE, [features]))
    mean = np.mean([e.value for e in estimates])
    covered = np.mean([e.low <= mean <= e.high for e in estimates])
    assert 0.90 <= covered <= 0.99


def test_copies_in_one_cluster_count_once() -> None:
    features = drawn(np.random.default_rng(3), 300)
    copies = np.repeat(features, 4, axis=0)
    single = interval(moments(features), REFERENCE, [features])
    wrong = interval(moments(copies), REFERENCE, [copies])
    right = interval(moments(copies), REFERENCE, [copies], [f"image-{i // 4}" for i in range(1200)])
    assert (right.n, right.clusters) == (1200, 300)
    assert right.high - right.low == pytest.approx(single.high - single.low, rel=0.02)
    assert wrong.high - wrong.low == pytest.approx((single.high - single.low) / 2, rel=0.02)


def test_two_models_over_the_same_captions_pair() -> None:
    rng = np.random.default_rng(7)
    shared, captions = drawn(rng, 300), [f"caption {i}" for i in rng.permutation(300)]
    one, two = (shared + 0.3 * drawn(rng, 300) for _ in range(2))
    a, b = (interval(moments(features), REFERENCE, [features], captions) for features in (one, two))
    found = difference(a, b)
    assert found.value == a.value - b.value
    assert a.resamples.mean() == pytest.approx(a.value, abs=0.1 * (a.high - a.low))
    assert np.std(a.resamples) * 2 * 1.96 == pytest.approx(a.high - a.low, rel=0.07)

    # As wide as the bootstrap of both distances over the same captions, and narrower than the two apart.
    def again(rows: np.ndarray) -> float:
        return frechet_distance(fitted(one[rows]), REFERENCE) - frechet_distance(fitted(two[rows]), REFERENCE)

    resampled = np.std([again(rng.integers(0, 300, 300)) for _ in range(300)])
    assert found.error == pytest.approx(resampled, rel=0.2)
    assert found.error < 0.8 * math.hypot(np.std(a.resamples), np.std(b.resamples))


def test_a_feature_that_never_varies_changes_nothing() -> None:
    features = drawn(np.random.default_rng(4), 200)
    dead = np.pad(features, ((0, 0), (0, 1)))
    reference = Gaussian(np.append(REFERENCE.mean, 0), np.pad(REFERENCE.covariance, ((0, 1), (0, 1))))
    one, two = interval(moments(features), REFERENCE, [features]), interval(moments(dead), reference, [dead])
    assert (one.value, one.low, one.high) == pytest.approx((two.value, two.low, two.high), rel=1e-9)


def test_no_interval_where_the_covariance_is_singular() -> None:
    features = drawn(np.random.default_rng(5), D + 1)
    assert interval(moments(features[:D]), REFERENCE, [features[:D]]) is None
    assert interval(moments(features), REFERENCE, [features]) is not None
    assert interval(moments(features), REFERENCE, [features], ["one"] * (D + 1)) is None


def test_the_second_pass_must_be_of_the_same_images() -> None:
    features = drawn(np.random.default_rng(6), 30)
    with pytest.raises(ValueError, match="29 features the second time, 30 the first"):
        interval(moments(features), REFERENCE, [features[1:]])
    with pytest.raises(ValueError, match="3 cluster ids for 30 features"):
        interval(moments(features), REFERENCE, [features], ["a", "b", "c"])


# ---------------------------------------------------------------------------------------------------------------------
# Files and names


def test_statistics_are_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "stats"
    write_npz(path, REFERENCE)
    with np.load(path) as file:
        assert sorted(file) == ["mu", "sigma"]
    found = read_npz(path)
    assert np.array_equal(found.mean, REFERENCE.mean)
    assert np.array_equal(found.covariance, REFERENCE.covariance)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"mu": np.zeros(3)}, "mu and sigma"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"mu has shape \(3,\) and sigma \(4, 4\)"),
        ({"mu": np.zeros((3, 3)), "sigma": np.zeros(3)}, r"mu has shape \(3, 3\)"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "not finite"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 2], [0, 1]])}, "not symmetric"),
        ({"mu": np.zeros(2), "sigma": -np.eye(2)}, "negative variance"),
        ({"mu": np.array([{}]), "sigma": np.eye(1)}, "damaged"),
        ({"mu": np.array(["x"]), "sigma": np.eye(1)}, "damaged"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, arrays: dict[str, np.ndarray], told: str) -> None:
    path = tmp_path / "stats.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=told) as error:
        read_npz(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_missing_and_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    with pytest.raises(InputError, match="no such file"):
        read_npz(path)
    write_npz(path, REFERENCE)
    whole = path.read_bytes()
    array = tmp_path / "array.npz"
    with array.open("wb") as file:
        np.save(file, np.eye(3))
    for content in (b"", whole[:100], b"text", array.read_bytes(), whole[:-200]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="damaged"):
            read_npz(path)


def test_only_30000_images_are_coco_30k() -> None:
    require_coco_30k(30_000)
    for n in (0, 29_999, 30_001):
        with pytest.raises(InputError, match=f"not of {n:,}"):
            require_coco_30k(n)
