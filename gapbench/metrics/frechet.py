"""The Fréchet distance of two Gaussians, which is FID when they are fitted to Inception features (Heusel et al. 2017).

FID = |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2)), with covariances over n - 1.

FID depends on the number of images: it falls towards its limit as n grows, and in 2,048 dimensions is far above it
under 10,000. Two FIDs compare only at equal n and against the same reference statistics.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
from scipy.linalg.blas import dsyrk

from gapbench.records import InputError
from gapbench.stats import LEVEL, Resampled, bootstrap, cluster_sums

BIASED_BELOW = 10_000
"""Images. With fewer, a FID says more about their number than about them; whoever prints it says so."""
COCO_30K = 30_000


def require_coco_30k(n: int) -> None:
    """Raises InputError unless `n` images may be called COCO-30K."""
    if n != COCO_30K:
        raise InputError(f"COCO-30K is a FID of {COCO_30K:,} images, not of {n:,}: draw them all, or call it otherwise")


@dataclass(frozen=True, slots=True)
class Gaussian:
    """mean (d,) and covariance (d, d), float64."""

    mean: np.ndarray
    covariance: np.ndarray


class Moments:
    """Mean and covariance of features that come in chunks; 33.5 MB at 2,048 dimensions, however many they are.

    Chunks are centred on their own means and joined by Chan's update. So large means cost no digits, and chunking,
    order and sharding change the result by rounding only.
    """

    def __init__(self, dimensions: int) -> None:
        self.n = 0
        self.mean = np.zeros(dimensions)
        self._scatter = np.zeros((dimensions, dimensions), order="F")  # of centred features; its upper triangle

    def add(self, features: np.ndarray) -> None:
        """(n, d) of any float type. Raises ValueError on another shape, on NaN and on infinity."""
        features = np.asarray(features, dtype=np.float64)
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(f"features of shape {features.shape}, not (n, {len(self.mean)})")
        if not np.isfinite(features).all():
            raise ValueError("features that are not finite: the images or the network are broken")
        if len(features):
            mean = features.mean(axis=0)
            self._join(len(features), mean, features - mean)

    def merge(self, other: Moments) -> None:
        """Take in another shard's."""
        if other.n:
            self._join(other.n, other.mean, np.empty((0, len(other.mean))))
            self._scatter += other._scatter

    def _join(self, n: int, mean: np.ndarray, centred: np.ndarray) -> None:
        """`n` features of mean `mean`, and what of them is added to the scatter row by row."""
        total, step = self.n + n, mean - self.mean
        between = step * math.sqrt(self.n * n / total)  # its outer product is what the two means' distance adds
        rows = np.vstack([centred, between])
        self._scatter = dsyrk(1.0, rows.T, beta=1.0, c=self._scatter, overwrite_c=True)
        self.mean = self.mean + step * (n / total)
        self.n = total

    def gaussian(self) -> Gaussian:
        """Raises ValueError where fewer than two features leave no covariance."""
        if self.n < 2:
            raise ValueError(f"a covariance needs at least two images, not {self.n}")
        upper = np.triu(self._scatter) / (self.n - 1)
        return Gaussian(self.mean.copy(), upper + np.triu(upper, 1).T)


def read_npz(path: Path) -> Gaussian:
    """Statistics with the keys `mu` and `sigma`, as pytorch-fid, clean-fid and text2image-benchmark write them."""
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = (np.asarray(file[key], dtype=np.float64) for key in ("mu", "sigma"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except KeyError as error:
        raise InputError(f"{path}: {error.args[0]}; FID statistics have the arrays mu and sigma") from None
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile):
        raise InputError(f"{path}: no .npz file of FID statistics, or a damaged one; download it again") from None
    if mean.ndim != 1 or not len(mean) or covariance.shape != mean.shape * 2:
        raise InputError(f"{path}: mu has shape {mean.shape} and sigma {covariance.shape}, not (d,) and (d, d)")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise InputError(f"{path}: mu or sigma has values that are not finite")
    scale = np.abs(covariance).max()
    if np.abs(covariance - covariance.T).max() > 1e-6 * scale or covariance.diagonal().min() < -1e-6 * scale:
        raise InputError(f"{path}: sigma is no covariance: not symmetric, or with a negative variance")
    return Gaussian(mean, covariance)


def write_npz(path: Path, gaussian: Gaussian) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:  # savez would add .npz to another name
        np.savez(file, mu=gaussian.mean, sigma=gaussian.covariance)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Raises ValueError where the dimensions differ.

    tr((S1 S2)^(1/2)) = tr((h S2 h)^(1/2)) with h = S1^(1/2): symmetric, so no complex parts and nothing to give up on;
    what rounding makes negative in a rank-deficient covariance is 0.
    """
    _same_dimensions(a, b)
    root = _root(a.covariance)
    return _distance(a, b, np.linalg.eigvalsh(root @ b.covariance @ root))


def interval(
    generated: Moments, reference: Gaussian, features: Iterable[np.ndarray], clusters: Sequence[Hashable] | None = None
) -> Resampled | None:
    """FID of the images in `generated` with a 95 % interval; the reference statistics count as fixed.

    features: all of them once more, in chunks (n, d). clusters: an id for each, in step, where images vary together.

    By the delta method. With h = S2^(1/2), M = h S1 h and T = h M^(-1/2) h, the optimal transport map,
    d tr(M^(1/2)) = tr(M^(-1/2) dM) / 2 = tr(T dS1) / 2, so dFID = 2 (m1 - m2).dm1 + tr((I - T) dS1); one image x moves
    m1 by x - m1 and S1 by (x - m1)(x - m1)^T - S1 (each over n), which makes its influence
    IF(x) = 2 (m1 - m2).(x - m1) + (x - m1)^T (I - T) (x - m1) - tr((I - T) S1), and SE^2 = var(IF) / n.

    What is covered is the FID that such a model has on average with this many images (in simulations of 8 to 128
    dimensions from n = 1.5 d on; where model and reference are nearly one the interval is up to half too wide). The
    excess over the limit of many images is no part of it, and may be many times wider.

    The resamples are linearised too: value + sum (w - 1) IF / n with the weights w that `stats.weights` gives clusters,
    so those of two models over the same clusters pair. To second order a resample's own FID is higher; of a difference
    most of that cancels.

    None where n <= d or all is one cluster: then S1 is singular, the distance has no derivative there, and there is no
    honest interval. Raises ValueError where `features` or `clusters` are not those of `generated`.
    """
    ours = generated.gaussian()
    _same_dimensions(ours, reference)
    if generated.n <= len(ours.mean):
        return None
    root = _root(reference.covariance)
    values, vectors = np.linalg.eigh(root @ ours.covariance @ root)
    kept = values > values[-1] * 1e-12  # below is rounding; a direction in which nothing varies adds no influence
    half = root @ (vectors[:, kept] * values[kept] ** -0.25)
    curvature, slope = np.eye(len(root)) - half @ half.T, 2 * (ours.mean - reference.mean)
    influences = []
    for chunk in features:
        centred = np.asarray(chunk, dtype=np.float64) - ours.mean
        influences.append(centred @ slope + np.einsum("nd,nd->n", centred @ curvature, centred))
    influence = np.concatenate(influences) if influences else np.zeros(0)
    if len(influence) != generated.n:
        raise ValueError(f"{len(influence)} features the second time, {generated.n} the first")
    influence -= influence.mean()
    clusters = range(generated.n) if clusters is None else clusters
    if len(clusters) != generated.n:
        raise ValueError(f"{len(clusters)} cluster ids for {generated.n} features")
    sums, ids = cluster_sums(influence[:, None] / generated.n, clusters)
    count = len(ids)
    if count < 2:
        return None
    error = math.sqrt(count / (count - 1) * np.sum(sums**2))
    value, reach = _distance(ours, reference, values), NormalDist().inv_cdf((1 + LEVEL) / 2) * error
    low, high, resamples = max(0.0, value - reach), value + reach, value + bootstrap(sums, lambda total: total[:, 0])
    return Resampled(value, low, high, generated.n, count, resamples, ids, influence=sums[:, 0])


def _same_dimensions(a: Gaussian, b: Gaussian) -> None:
    if len(a.mean) != len(b.mean):
        raise ValueError(f"statistics of {len(a.mean)} and of {len(b.mean)} dimensions have no distance")


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def _distance(a: Gaussian, b: Gaussian, values: np.ndarray) -> float:
    """`values`: the eigenvalues of the product of the covariances."""
    shift = a.mean - b.mean
    overlap = np.sqrt(values.clip(0)).sum()
    return max(0.0, float(shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap))
