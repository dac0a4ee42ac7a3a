"""Fréchet distance of two sets of features: FID, where the features are Inception's."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np

from maskgit_jax.configuration import require

_ROWS_AT_ONCE = 4096


class Gaussian(NamedTuple):
    """A set of features as the distance sees it.

    Attributes:
        mean: float64 [D].
        covariance: float64 [D, D], unbiased (divided by count - 1).
        count: Number of images behind it; 0 where a foreign statistics file does not tell.
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int


class Moments:
    """Running mean and covariance of features; the memory does not grow with the images.

    Each batch is centred by itself and merged into the whole, so that means far from zero cost
    no digits.

    Args:
        dimensions: D.

    Source: Chan, Golub & LeVeque 1983, Algorithms for Computing the Sample Variance, eq. 2.1,
    with outer products in place of squares.
    """

    def __init__(self, dimensions: int):
        self.count = 0
        self._mean = np.zeros(dimensions)
        self._scatter = np.zeros((dimensions, dimensions))

    def add(self, features: np.ndarray) -> None:
        """Takes in a batch [B, D] of any floating type; B may differ from call to call.

        Raises:
            InputError: The features are of another width, or not finite.
        """
        dimensions = len(self._mean)
        require(
            features.ndim == 2 and features.shape[1] == dimensions,
            f"features of shape {features.shape} do not fit moments of {dimensions} dimensions",
        )
        if not len(features):
            return
        features = features.astype(np.float64)
        require(bool(np.isfinite(features).all()), "features contain NaN or infinity")
        mean = features.mean(axis=0)
        centred = features - mean
        shift = mean - self._mean
        total = self.count + len(features)
        self._scatter += centred.T @ centred
        self._scatter += np.outer(shift, shift) * (self.count * len(features) / total)
        self._mean = self._mean + shift * (len(features) / total)
        self.count = total

    def gaussian(self) -> Gaussian:
        """Returns what was taken in so far.

        Raises:
            InputError: There are fewer than two images.
        """
        require(self.count >= 2, f"{self.count} images have no covariance; at least 2 are needed")
        return Gaussian(self._mean.copy(), self._scatter / (self.count - 1), self.count)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns the whole state, to be saved as NPZ."""
        return dict(
            count=np.asarray(self.count), mean=self._mean.copy(), scatter=self._scatter.copy()
        )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Returns moments that go on, to the bit, where `to_arrays` was called."""
        moments = cls(len(arrays["mean"]))
        moments.count = int(arrays["count"])
        moments._mean = np.array(arrays["mean"], np.float64)
        moments._scatter = np.array(arrays["scatter"], np.float64)
        return moments


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """Returns |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), at least 0, whatever the order.

    The eigenvalues of S1 S2 are those of S1^(1/2) S2 S1^(1/2), and their roots are the singular
    values of S1^(1/2) S2^(1/2). Those are taken: forming the product first would cost half of
    the digits of small ones.

    Raises:
        InputError: The dimensions differ, or a set has no more images than features: its
            covariance is then singular by lack of images and the distance says nothing.

    Source: Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule, eq. 6.
    """
    _check(one, other)
    return _distance(one, _root(one), other, _root(other))


def frechet_by_count(
    features: np.ndarray, reference: Gaussian, counts: Sequence[int], seed: int
) -> list[float]:
    """Returns the distance to `reference` of as many random images as each of `counts` says.

    The distance of few images is too large on average (Chong & Forsyth 2020); the curve shows
    by how much. A smaller set is part of every larger one.

    Args:
        features: [N, D].
        reference: What to compare with.
        counts: Each above D and at most N.
        seed: Chooses the images.

    Raises:
        InputError: A count is out of range.
    """
    order = np.random.default_rng(seed).permutation(len(features))
    sets = []
    for count in counts:
        require(
            0 < count <= len(features),
            f"{count} images cannot be drawn from {len(features)}; lower the count",
        )
        moments = Moments(features.shape[1])
        for start in range(0, count, _ROWS_AT_ONCE):
            moments.add(features[order[start : min(start + _ROWS_AT_ONCE, count)]])
        sets.append(moments.gaussian())
        _check(sets[-1], reference)
    reference_root = _root(reference)
    return [_distance(drawn, _root(drawn), reference, reference_root) for drawn in sets]


def _check(one: Gaussian, other: Gaussian) -> None:
    require(
        one.covariance.shape == other.covariance.shape == 2 * (len(one.mean),)
        and one.mean.shape == other.mean.shape,
        f"features of {len(one.mean)} and {len(other.mean)} dimensions cannot be compared; "
        "both sets must come from the same network",
    )
    for count in (one.count, other.count):
        require(
            count == 0 or count > len(one.mean),
            f"fewer images than features: {count} images, {len(one.mean)} features; take more "
            "images or a network with fewer features",
        )


def _root(gaussian: Gaussian) -> np.ndarray:
    """Returns a matrix R [D, D] with R R' = the covariance."""
    values, vectors = np.linalg.eigh(gaussian.covariance)
    # What lies below the rounding error of the largest one is zero: its root would not be small.
    floor = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return vectors * np.sqrt(np.where(values > floor, values, 0.0))


def _distance(one: Gaussian, root: np.ndarray, other: Gaussian, other_root: np.ndarray) -> float:
    if other.covariance.tobytes() < one.covariance.tobytes():  # an order of their own: symmetry
        one, root, other, other_root = other, other_root, one, root
    common = np.linalg.svd(root.T @ other_root, compute_uv=False).sum()
    shift = one.mean - other.mean
    traces = np.trace(one.covariance) + np.trace(other.covariance)
    return max(float(shift @ shift + traces - 2.0 * common), 0.0)
