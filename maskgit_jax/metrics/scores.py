"""Inception Score of class probabilities that arrive in batches."""

from collections.abc import Mapping
from typing import Self

import numpy as np
from scipy.special import softmax, xlogy

from maskgit_jax.configuration import require


def softmax64(logits: np.ndarray) -> np.ndarray:
    """Returns probabilities float64 [..., K] of logits [..., K] of any floating type."""
    return softmax(np.asarray(logits, np.float64), axis=-1)


class InceptionScore:
    """Accumulates the Inception Score, exp of the mean of KL(p(y|x) || p(y)).

    Args:
        num_classes: K.
        num_images: Total number of images; image i belongs to split i * splits // num_images.
        splits: Number of parts that are scored separately.

    Raises:
        InputError: There are more splits than images.

    Source: Salimans et al. 2016, Improved Techniques for Training GANs, section 4. The KL of a
    split is the mean of sum_y p log p minus sum_y q log q, where q is the mean of p.
    """

    def __init__(self, num_classes: int, num_images: int, splits: int = 10):
        require(
            1 <= splits <= num_images,
            f"splits is {splits}; it must be 1 to {num_images}, the number of images",
        )
        self.num_images = num_images
        self._counts = np.zeros(splits, np.int64)
        self._sums = np.zeros((splits, num_classes))
        self._negative_entropies = np.zeros(splits)

    def add(self, probabilities: np.ndarray, start: int) -> None:
        """Adds a batch.

        Args:
            probabilities: [B, K]; rows sum to 1.
            start: Index of the first image.

        Raises:
            InputError: The rows are not probabilities of K classes, or too many.
        """
        splits, num_classes = self._sums.shape
        end = start + len(probabilities)
        require(
            probabilities.ndim == 2 and probabilities.shape[1] == num_classes,
            f"probabilities have shape {probabilities.shape}; the score has {num_classes} classes",
        )
        require(
            start >= 0 and end <= self.num_images,
            f"images {start} to {end - 1} were added; num_images is {self.num_images}",
        )
        probabilities = probabilities.astype(np.float64)
        require(
            bool((probabilities >= 0).all() and (abs(probabilities.sum(1) - 1) < 1e-3).all()),
            "rows are not probabilities (negative, or sum not 1); apply softmax64 to logits",
        )
        split = np.arange(start, end) * splits // self.num_images
        np.add.at(self._counts, split, 1)
        np.add.at(self._sums, split, probabilities)
        np.add.at(self._negative_entropies, split, xlogy(probabilities, probabilities).sum(axis=1))

    def score(self) -> tuple[float, float]:
        """Returns mean and standard deviation over splits; scores range from 1 to K.

        Raises:
            InputError: The number of images added is not `num_images`.
        """
        count = self._counts.sum()
        require(
            count == self.num_images,
            f"{count} images were added; num_images is {self.num_images}",
        )
        mean = self._sums / self._counts[:, None]
        divergence = self._negative_entropies / self._counts - xlogy(mean, mean).sum(axis=1)
        scores = np.exp(divergence)
        return float(scores.mean()), float(scores.std())

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns the state as arrays that can be saved as NPZ."""
        return dict(
            num_images=np.asarray(self.num_images),
            counts=self._counts.copy(),
            sums=self._sums.copy(),
            negative_entropies=self._negative_entropies.copy(),
        )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Returns the score that `to_arrays` saved, bit for bit."""
        splits, num_classes = arrays["sums"].shape
        state = cls(num_classes, int(arrays["num_images"]), splits)
        state._counts = np.array(arrays["counts"], np.int64)
        state._sums = np.array(arrays["sums"], np.float64)
        state._negative_entropies = np.array(arrays["negative_entropies"], np.float64)
        return state
