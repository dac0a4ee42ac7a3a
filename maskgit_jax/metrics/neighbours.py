"""Metrics of nearest neighbours: precision, recall, density, coverage, novelty.

Distances are Euclidean, float64. Blocks of squared distances come from matrix products, which are
fast but leave an error of about 1e-13 for equal rows. Wherever that error could change a decision,
the distance is recomputed from the difference of the rows, which is exact for equal rows and
independent of the block.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Self

import numpy as np

from maskgit_jax.configuration import require

_BLOCK_ENTRIES = 8_000_000  # 64 MB of float64


class ManifoldMetrics(NamedTuple):
    """Rates in [0, 1], except density, which averages 1 for the real distribution.

    Attributes:
        precision: Share of generated points inside the ball of a real point.
        recall: Share of real points inside the ball of a generated point.
        density: Mean number of real balls that contain a generated point, divided by k.
        coverage: Share of real balls that contain a generated point.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_metrics(
    real: np.ndarray,
    generated: np.ndarray,
    precision_k: int = 3,
    density_k: int = 5,
) -> ManifoldMetrics:
    """Returns improved precision and recall, density and coverage.

    The radius of a point's ball is the distance to its k-th nearest neighbour in the same set. The
    ball includes its border for precision and recall, but not for density and coverage, as in the
    published programs; it always includes its center, even if duplicates make its radius 0.

    Args:
        real: Features [N, D], N above both k.
        generated: Features [M, D], M above `precision_k`.
        precision_k: k of precision and recall.
        density_k: k of density and coverage.

    Raises:
        InputError: There are too few images, the widths differ, or values are not finite.

    Source: Kynkäänniemi et al. 2019, Improved Precision and Recall Metric, eq. 1 and 2; Naeem
    et al. 2020, Reliable Fidelity and Diversity Metrics, section 3.
    """
    real, generated = _points(real), _points(generated)
    radius, density_radius = _radii(real, (precision_k, density_k))
    (generated_radius,) = _radii(generated, (precision_k,))
    precise = np.zeros(len(generated), bool)
    num_balls = num_recalled = num_covered = 0
    for rows, squares in _blocks(real, generated):
        ball, density_ball = radius[rows, None], density_radius[rows, None]
        for limit in (0.0, ball, density_ball, generated_radius[None]):
            _recompute_near_ties(squares, limit, real[rows], generated)
        precise |= (squares <= ball).any(axis=0)
        num_recalled += (squares <= generated_radius[None]).any(axis=1).sum()
        inside = (squares < density_ball) | (squares == 0.0)
        num_balls += np.count_nonzero(inside)
        num_covered += inside.any(axis=1).sum()
    return ManifoldMetrics(
        precision=float(precise.mean()),
        recall=float(num_recalled / len(real)),
        density=float(num_balls / (density_k * len(generated))),
        coverage=float(num_covered / len(real)),
    )


class NearestSearch:
    """Nearest candidate of every point, over candidates that arrive in batches.

    The result is independent of the batches, bit for bit.

    Args:
        points: [M, D]; not part of the saved state.

    Attributes:
        distance: float64 [M], Euclidean; exactly 0.0 for an equal candidate, infinite at first.
        index: int64 [M], index of the candidate, the smallest of equally near ones; -1 at first.
    """

    def __init__(self, points: np.ndarray):
        self._points = _points(points)
        self._squares = np.full(len(points), np.inf)
        self.index = np.full(len(points), -1, np.int64)

    @property
    def distance(self) -> np.ndarray:
        return np.sqrt(self._squares)

    def add(self, candidates: np.ndarray, start: int) -> None:
        """Adds candidates [B, D] with the indices `start`, `start` + 1, ...

        Raises:
            InputError: Their width is not that of the points, or they are not finite.
        """
        if not len(candidates):
            return
        candidates = _points(candidates)
        for rows, squares in _blocks(self._points, candidates):
            # Rounding may hide the nearest candidate behind others of almost the same distance.
            slack = 2.0 * _rounding(self._points[rows], candidates)
            limit = np.minimum(squares.min(axis=1), self._squares[rows]) + slack
            for row, column in _pairs(squares <= limit[:, None]):
                exact = _exact_squares(self._points[rows][row], candidates[column])
                self._keep_nearest(row + rows.start, exact, column + start)

    def _keep_nearest(self, point: np.ndarray, squares: np.ndarray, index: np.ndarray) -> None:
        order = np.lexsort((index, squares, point))  # the nearest pair of each point first
        first = order[np.diff(point[order], prepend=-1) > 0]
        point, squares, index = point[first], squares[first], index[first]
        known = self._squares[point]
        nearer = (squares < known) | ((squares == known) & (index < self.index[point]))
        self._squares[point[nearer]] = squares[nearer]
        self.index[point[nearer]] = index[nearer]

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns the state without the points as arrays that can be saved as NPZ."""
        return dict(squares=self._squares.copy(), index=self.index.copy())

    @classmethod
    def from_arrays(cls, points: np.ndarray, arrays: Mapping[str, np.ndarray]) -> Self:
        """Returns the search over the same points that `to_arrays` saved.

        Raises:
            InputError: The saved search had another number of points.
        """
        search = cls(points)
        require(
            len(arrays["index"]) == len(points),
            f"the saved search has {len(arrays['index'])} points, not {len(points)}; delete it",
        )
        search._squares = np.array(arrays["squares"], np.float64)
        search.index = np.array(arrays["index"], np.int64)
        return search


class NoveltyMetrics(NamedTuple):
    """Distances of samples to the training images, compared with those of held-out real images.

    Attributes:
        closer_than_heldout: Probability that a sample is closer to its nearest training image than
            a held-out image to its own, ties counted half: 0.5 for real images, 1 for copies.
        memorization_rate: Share of samples that are copies or closer than the closest 1% of
            held-out images; about 0.01 for real images.
        median_distance_ratio: Median distance of samples over that of held-out images; NaN if the
            latter is 0, because the held-out images are training images.
    """

    closer_than_heldout: float
    memorization_rate: float
    median_distance_ratio: float


def novelty_metrics(sample_distances: np.ndarray, held_out_distances: np.ndarray) -> NoveltyMetrics:
    """Returns the novelty metrics of samples.

    Args:
        sample_distances: Distance of each sample to its nearest training image, [M].
        held_out_distances: The same for held-out images and the same features, [N].

    Raises:
        InputError: An argument is empty or not finite.
    """
    for distances in (sample_distances, held_out_distances):
        require(
            distances.size > 0 and bool(np.isfinite(distances).all()),
            "novelty metrics need finite distances of at least one sample and one held-out image",
        )
    ordered = np.sort(held_out_distances)
    num_farther = len(ordered) - np.searchsorted(ordered, sample_distances, side="right")
    num_not_closer = len(ordered) - np.searchsorted(ordered, sample_distances, side="left")
    near = sample_distances < np.quantile(ordered, 0.01)
    median, real_median = np.median(sample_distances), np.median(ordered)
    return NoveltyMetrics(
        closer_than_heldout=float((num_farther + num_not_closer).mean() / (2 * len(ordered))),
        memorization_rate=float((near | (sample_distances == 0)).mean()),
        median_distance_ratio=float(median / real_median) if real_median > 0 else float("nan"),
    )


def _points(features: np.ndarray) -> np.ndarray:
    """Returns features as contiguous float64 [N, D]; does not copy them if they are that already.

    Rows must be contiguous: the order of summation, hence the last bit, depends on it.
    """
    require(features.ndim == 2, f"points must be [N, D], not of shape {features.shape}")
    features = np.ascontiguousarray(features, np.float64)
    require(bool(np.isfinite(features).all()), "features contain NaN or infinity")
    return features


def _radii(points: np.ndarray, neighbours: tuple[int, ...]) -> list[np.ndarray]:
    """Returns the squared distance [N] of every point to its k-th nearest neighbour, for each k."""
    most = max(neighbours)
    require(min(neighbours) >= 1, f"k is {min(neighbours)}; it must be at least 1")
    require(len(points) > most, f"{len(points)} images are too few for {most} neighbours")
    nearest = np.empty((len(points), most))
    for rows, squares in _blocks(points, points):
        squares[np.arange(len(squares)), np.arange(rows.start, rows.stop)] = np.inf  # itself
        index = np.argpartition(squares, most - 1, axis=1)[:, :most]
        for rank in range(most):
            nearest[rows, rank] = _exact_squares(points[rows], points[index[:, rank]])
    nearest.sort(axis=1)
    return [nearest[:, k - 1] for k in neighbours]


def _blocks(points: np.ndarray, others: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields slices of `points` with their approximate squared distances to all `others`."""
    require(
        points.shape[1] == others.shape[1],
        f"features of {points.shape[1]} and {others.shape[1]} dimensions cannot be compared",
    )
    lengths = np.einsum("nd,nd->n", others, others)
    at_once = max(1, _BLOCK_ENTRIES // len(others))
    for start in range(0, len(points), at_once):
        rows = slice(start, min(start + at_once, len(points)))
        squares = points[rows] @ others.T
        squares *= -2.0
        squares += lengths[None]
        squares += np.einsum("nd,nd->n", points[rows], points[rows])[:, None]
        yield rows, squares


def _recompute_near_ties(
    squares: np.ndarray, limit: np.ndarray | float, points: np.ndarray, others: np.ndarray
) -> None:
    """Replaces squares, in place, by exact ones where rounding decides if they exceed the limit."""
    rounding = _rounding(points, others)
    for row, column in _pairs((squares >= limit - rounding) & (squares <= limit + rounding)):
        squares[row, column] = _exact_squares(points[row], others[column])


def _rounding(points: np.ndarray, others: np.ndarray) -> float:
    """Returns a bound on the error of a squared distance from `_blocks`."""
    longest = max(np.einsum("nd,nd->n", each, each).max() for each in (points, others))
    return float(4.0 * (points.shape[1] + 8) * np.finfo(np.float64).eps * longest)


def _pairs(mask: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields rows and columns of true entries in chunks, to bound the memory."""
    rows, columns = np.nonzero(mask)
    for start in range(0, len(rows), 4096):
        yield rows[start : start + 4096], columns[start : start + 4096]


def _exact_squares(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the squared distances [n] of pairs of rows, 0.0 exactly for equal rows."""
    return np.square(points - others).sum(axis=1)
