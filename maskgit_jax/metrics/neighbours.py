"""Figures from nearest neighbours: coverage of real images, copies, duplicates."""

import numpy as np
from sklearn.neighbors import NearestNeighbors


def coverage(real: np.ndarray, generated: np.ndarray, neighbours: int = 5) -> float:
    """Returns the share of real points with a generated point nearby, in [0, 1].

    Nearby is within the distance of the k-th nearest other real point.

    Args:
        real: [N, D] features or pixels, N > neighbours.
        generated: [M, D].
        neighbours: k.

    Source: Naeem et al. 2020, Reliable Fidelity and Diversity Metrics, eq. 7.
    """
    if len(real) <= neighbours:
        raise ValueError(f"{len(real)} real images are too few for {neighbours} neighbours")
    radius = _distances(real, real, neighbours + 1)[:, -1]  # the first one is the point itself
    nearest = _distances(generated, real, 1)[:, 0]
    return float((nearest <= radius).mean())


def num_copies(generated: np.ndarray, training: np.ndarray) -> int:
    """Returns how many generated images [M, ...] equal a training image in every pixel."""
    known = {row.tobytes() for row in np.ascontiguousarray(training)}
    return sum(row.tobytes() in known for row in np.ascontiguousarray(generated))


def num_duplicates(images: np.ndarray) -> int:
    """Returns how many images [M, ...] repeat an earlier one in every pixel."""
    return len(images) - len({row.tobytes() for row in np.ascontiguousarray(images)})


def _distances(fitted: np.ndarray, points: np.ndarray, neighbours: int) -> np.ndarray:
    index = NearestNeighbors(n_neighbors=neighbours).fit(fitted)
    return index.kneighbors(points)[0]
