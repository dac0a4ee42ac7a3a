"""Inception Score from class probabilities, one batch after the other."""

from collections.abc import Mapping
from typing import Self

import numpy as np
from scipy.special import softmax, xlogy

from maskgit_jax.configuration import require


def softmax64(logits: np.ndarray) -> np.ndarray:
    """Returns probabilities float64 [..., K] of logits [..., K] of any floating type."""
    return softmax(np.asarray(logits, np.float64), axis=-1)


class ScoreSums:
    """Sums from which the Inception Score follows: exp of the mean of KL(p(y|x) || p(y)).

    Args:
        num_classes: K.
        num_images: Images of the whole pass: image i belongs to split i * splits // num_images.
        splits: Parts that get a score of their own.

    Raises:
        InputError: There are more splits than images.

    Source: Salimans et al. 2016, Improved Techniques for Training GANs, section 4. The KL of a
    split is the mean of sum_y p log p less sum_y q log q, where q is the mean of p.
    """

    def __init__(self, num_classes: int, num_images: int, splits: int = 10):
        require(
            1 <= splits <= num_images,
            f"{splits} splits of {num_images} images: there must be 1 to {num_images} splits",
        )
        self.num_images = num_images
        self._counts = np.zeros(splits, np.int64)
        self._sums = np.zeros((splits, num_classes))
        self._negative_entropies = np.zeros(splits)

    def add(self, probabilities: np.ndarray, start: int) -> None:
        """Takes in a batch.

        Args:
            probabilities: [B, K], rows sum to 1.
            start: Index in the whole pass of the first row.

        Raises:
            InputError: These are no probabilities of K classes, or too many rows.
        """
        splits, num_classes = self._sums.shape
        end = start + len(probabilities)
        require(
            probabilities.ndim == 2 and probabilities.shape[1] == num_classes,
            f"probabilities of shape {probabilities.shape} are not of {num_classes} classes",
        )
        require(
            start >= 0 and end <= self.num_images,
            f"images {start} to {end - 1} were given; the pass has {self.num_images} images",
        )
        probabilities = probabilities.astype(np.float64)
        require(
            bool((probabilities >= 0).all() and (abs(probabilities.sum(1) - 1) < 1e-3).all()),
            "rows are no probabilities: below 0 or not of sum 1; softmax64 makes them of logits",
        )
        split = np.arange(start, end) * splits // self.num_images
        np.add.at(self._counts, split, 1)
        np.add.at(self._sums, split, probabilities)
        np.add.at(self._negative_entropies, split, xlogy(probabilities, probabilities).sum(axis=1))

    def score(self) -> tuple[float, float]:
        """Returns mean and standard deviation over splits; 1 is the least, K the most.

        Raises:
            InputError: Not every image was added once.
        """
        count = self._counts.sum()
        require(
            count == self.num_images,
            f"{count} images were added; the pass has {self.num_images} images",
        )
        mean = self._sums / self._counts[:, None]
        divergence = self._negative_entropies / self._counts - xlogy(mean, mean).sum(axis=1)
        scores = np.exp(divergence)
        return float(scores.mean()), float(scores.std())

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns the whole state, to be saved as NPZ."""
        return dict(
            num_images=np.asarray(self.num_images),
            counts=self._counts.copy(),
            sums=self._sums.copy(),
            negative_entropies=self._negative_entropies.copy(),
        )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Returns sums that go on, to the bit, where `to_arrays` was called."""
        splits, num_classes = arrays["sums"].shape
        state = cls(num_classes, int(arrays["num_images"]), splits)
        state._counts = np.array(arrays["counts"], np.int64)
        state._sums = np.array(arrays["sums"], np.float64)
        state._negative_entropies = np.array(arrays["negative_entropies"], np.float64)
        return state
