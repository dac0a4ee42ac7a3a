"""Fréchet distance of two sets of features: FID, if the features are Inception's."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np

from maskgit_jax.configuration import require

_ROWS_AT_ONCE = 4096
_ROWS_OF_A_PRODUCT = 2048  # products of fewer rows spend their time on the D x D sum


class Gaussian(NamedTuple):
    """Mean and covariance of a set of features.

    Attributes:
        mean: float64 [D].
        covariance: float64 [D, D], unbiased (divided by count - 1).
        count: Number of images; 0 if unknown (statistics files of other programs).
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int


class Moments:
    """Running mean and covariance of features in constant memory.

    Rows are gathered until there are 2,048 of them. Such a block is centered before it is merged,
    so means far from zero cost no precision. The result does not depend on the sizes of batches.

    Args:
        dimensions: D.

    Source: Chan, Golub & LeVeque 1983, Algorithms for Computing the Sample Variance, eq. 2.1,
    with outer products in place of squares.
    """

    def __init__(self, dimensions: int):
        self._merged = 0
        self._mean = np.zeros(dimensions)
        self._scatter = np.zeros((dimensions, dimensions))
        self._pending = np.zeros((0, dimensions))

    @property
    def count(self) -> int:
        """Number of features added so far."""
        return self._merged + len(self._pending)

    def add(self, features: np.ndarray) -> None:
        """Adds a batch [B, D] of any floating type; B may vary between calls.

        Raises:
            InputError: The features have another width or are not finite.
        """
        dimensions = len(self._mean)
        require(
            features.ndim == 2 and features.shape[1] == dimensions,
            f"features of shape {features.shape} do not fit moments of {dimensions} dimensions",
        )
        features = features.astype(np.float64)
        require(bool(np.isfinite(features).all()), "features contain NaN or infinity")
        self._pending = np.concatenate([self._pending, features])
        while len(self._pending) >= _ROWS_OF_A_PRODUCT:
            block, self._pending = np.split(self._pending, [_ROWS_OF_A_PRODUCT])
            self._merged, self._mean, self._scatter = self._with(block)

    def _with(self, block: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
        """Returns count, mean and scatter of the merged features and these."""
        mean = block.mean(axis=0)
        centered = block - mean
        shift = mean - self._mean
        total = self._merged + len(block)
        between = np.outer(shift, shift) * (self._merged * len(block) / total)
        scatter = self._scatter + centered.T @ centered + between
        return total, self._mean + shift * (len(block) / total), scatter

    def gaussian(self) -> Gaussian:
        """Returns mean and covariance of all features added so far.

        Raises:
            InputError: Fewer than two images were added.
        """
        require(self.count >= 2, f"{self.count} images have no covariance; add at least 2")
        state = self._merged, self._mean, self._scatter
        count, mean, scatter = self._with(self._pending) if len(self._pending) else state
        return Gaussian(mean.copy(), scatter / (count - 1), count)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns the state as arrays that can be saved as NPZ."""
        return dict(
            count=np.asarray(self._merged),
            mean=self._mean,
            scatter=self._scatter,
            pending=self._pending,
        )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Returns the moments that `to_arrays` saved, bit for bit."""
        moments = cls(len(arrays["mean"]))
        moments._merged = int(arrays["count"])
        moments._mean = np.array(arrays["mean"], np.float64)
        moments._scatter = np.array(arrays["scatter"], np.float64)
        moments._pending = np.array(arrays.get("pending", moments._pending), np.float64)
        return moments


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """Returns |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), at least 0; symmetric to the bit.

    The eigenvalues of S1 S2 are those of S1^(1/2) S2 S1^(1/2), and their roots are the singular
    values of S1^(1/2) S2^(1/2). This function computes the singular values: the product would
    lose half of the digits of small eigenvalues.

    Raises:
        InputError: The dimensions differ, or a set has no more images than features, so that its
            covariance is singular and the distance meaningless.

    Source: Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule, eq. 6.
    """
    _check(one, other)
    return _distance(one, _square_root(one), other, _square_root(other))


def frechet_by_count(
    features: np.ndarray, reference: Gaussian, counts: Sequence[int], seed: int
) -> list[float]:
    """Returns the Fréchet distance to `reference` for several numbers of images.

    The distance of few images is biased upwards (Chong & Forsyth 2020); the curve shows by how
    much. The random subsets are nested.

    Args:
        features: [N, D].
        reference: Statistics of the reference images.
        counts: Numbers of images, each above D and at most N.
        seed: Seed of the random choice of images.

    Raises:
        InputError: A count is out of range.
    """
    order = np.random.default_rng(seed).permutation(len(features))
    sets = []
    for count in counts:
        require(
            0 < count <= len(features),
            f"{count} images cannot be drawn from {len(features)}; reduce the count",
        )
        moments = Moments(features.shape[1])
        for start in range(0, count, _ROWS_AT_ONCE):
            moments.add(features[order[start : min(start + _ROWS_AT_ONCE, count)]])
        sets.append(moments.gaussian())
        _check(sets[-1], reference)
    reference_root = _square_root(reference)
    return [_distance(drawn, _square_root(drawn), reference, reference_root) for drawn in sets]


def _check(one: Gaussian, other: Gaussian) -> None:
    require(
        one.covariance.shape == other.covariance.shape == 2 * (len(one.mean),)
        and one.mean.shape == other.mean.shape,
        f"features of {len(one.mean)} and {len(other.mean)} dimensions cannot be compared; "
        "use the same network for both sets",
    )
    for count in (one.count, other.count):
        require(
            count == 0 or count > len(one.mean),
            f"fewer images than features: {count} images, {len(one.mean)} features; take more "
            "images or a network with fewer features",
        )


def _square_root(gaussian: Gaussian) -> np.ndarray:
    """Returns a matrix R [D, D] with R R' = the covariance."""
    values, vectors = np.linalg.eigh(gaussian.covariance)
    # Values below the rounding error of the largest one count as zero: their roots are not small.
    floor = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return vectors * np.sqrt(np.where(values > floor, values, 0.0))


def _distance(one: Gaussian, root: np.ndarray, other: Gaussian, other_root: np.ndarray) -> float:
    if (
        other.covariance.tobytes() < one.covariance.tobytes()
    ):  # a canonical order makes the result symmetric
        one, root, other, other_root = other, other_root, one, root
    common = np.linalg.svd(root.T @ other_root, compute_uv=False).sum()
    shift = one.mean - other.mean
    traces = np.trace(one.covariance) + np.trace(other.covariance)
    return max(float(shift @ shift + traces - 2.0 * common), 0.0)
