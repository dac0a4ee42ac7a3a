"""Figures from nearest neighbours: manifolds, nearest training images, novelty.

Distances are Euclidean and decided in float64. Blocks of them come from matrix products, which
are quick but leave about 1e-13 where two rows are equal; wherever that could change a decision
the distance is taken again from the difference of the rows, which is exact for equal rows and
the same whichever block a pair falls into.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Self

import numpy as np

from maskgit_jax.configuration import require

_BLOCK_ENTRIES = 8_000_000  # 64 MB of float64


class ManifoldMetrics(NamedTuple):
    """Shares in [0, 1], but for density, which is 1 on average for the real distribution.

    Attributes:
        precision: Share of generated points within a ball of a real one.
        recall: Share of real points within a ball of a generated one.
        density: Mean number of real balls around a generated point, divided by k.
        coverage: Share of real balls with a generated point in it.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_metrics(
    real: np.ndarray,
    generated: np.ndarray,
    neighbours_of_balls: int = 3,
    neighbours_of_density: int = 5,
) -> ManifoldMetrics:
    """Returns improved precision and recall, density and coverage.

    The ball of a point reaches to its k-th nearest other point of the same set. For precision
    and recall the border belongs to the ball; for density and coverage it does not (as the
    published programs have it), but the centre always does, also where copies have made the
    ball a point.

    Args:
        real: Features [N, D], N above both numbers of neighbours.
        generated: Features [M, D], M above `neighbours_of_balls`.
        neighbours_of_balls: k of precision and recall.
        neighbours_of_density: k of density and coverage.

    Raises:
        InputError: Too few images, different widths, or values that are not finite.

    Source: Kynkäänniemi et al. 2019, Improved Precision and Recall Metric, eq. 1 and 2; Naeem
    et al. 2020, Reliable Fidelity and Diversity Metrics, section 3.
    """
    real, generated = _points(real), _points(generated)
    radius, density_radius = _radii(real, (neighbours_of_balls, neighbours_of_density))
    (generated_radius,) = _radii(generated, (neighbours_of_balls,))
    precise = np.zeros(len(generated), bool)
    num_balls = num_recalled = num_covered = 0
    for rows, squares in _blocks(real, generated):
        ball, density_ball = radius[rows, None], density_radius[rows, None]
        for limit in (0.0, ball, density_ball, generated_radius[None]):
            _settle(squares, limit, real[rows], generated)
        precise |= (squares <= ball).any(axis=0)
        num_recalled += (squares <= generated_radius[None]).any(axis=1).sum()
        inside = (squares < density_ball) | (squares == 0.0)
        num_balls += np.count_nonzero(inside)
        num_covered += inside.any(axis=1).sum()
    return ManifoldMetrics(
        precision=float(precise.mean()),
        recall=float(num_recalled / len(real)),
        density=float(num_balls / (neighbours_of_density * len(generated))),
        coverage=float(num_covered / len(real)),
    )


class NearestSearch:
    """Nearest candidate of every point, with candidates coming in batches.

    The result does not depend on how the candidates are cut into batches, to the bit.

    Args:
        points: [M, D]; they are not saved with the state.

    Attributes:
        distance: float64 [M], Euclidean; 0.0 exactly for an equal candidate, infinite at first.
        index: int64 [M], the candidate's place in the whole pass, the smallest of equally near
            ones; -1 at first.
    """

    def __init__(self, points: np.ndarray):
        self._points = _points(points)
        self._squares = np.full(len(points), np.inf)
        self.index = np.full(len(points), -1, np.int64)

    @property
    def distance(self) -> np.ndarray:
        return np.sqrt(self._squares)

    def add(self, candidates: np.ndarray, start: int) -> None:
        """Takes in candidates [B, D], the first of which has the index `start`.

        Raises:
            InputError: They are of another width than the points, or not finite.
        """
        if not len(candidates):
            return
        candidates = _points(candidates)
        for rows, squares in _blocks(self._points, candidates):
            # Rounding may hide the nearest one behind others that are as near but for it.
            slack = 2.0 * _rounding(self._points[rows], candidates)
            limit = np.minimum(squares.min(axis=1), self._squares[rows]) + slack
            for row, column in _pairs(squares <= limit[:, None]):
                found = _exact_squares(self._points[rows][row], candidates[column])
                self._keep_nearest(row + rows.start, found, column + start)

    def _keep_nearest(self, point: np.ndarray, squares: np.ndarray, index: np.ndarray) -> None:
        order = np.lexsort((index, squares, point))  # of each point the nearest pair first
        first = order[np.diff(point[order], prepend=-1) > 0]
        point, squares, index = point[first], squares[first], index[first]
        known = self._squares[point]
        nearer = (squares < known) | ((squares == known) & (index < self.index[point]))
        self._squares[point[nearer]] = squares[nearer]
        self.index[point[nearer]] = index[nearer]

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns what was found so far, to be saved as NPZ; the points are not in it."""
        return dict(squares=self._squares.copy(), index=self.index.copy())

    @classmethod
    def from_arrays(cls, points: np.ndarray, arrays: Mapping[str, np.ndarray]) -> Self:
        """Returns the search for the same points that goes on where `to_arrays` was called.

        Raises:
            InputError: It was a search for another number of points.
        """
        search = cls(points)
        require(
            len(arrays["index"]) == len(points),
            f"the saved search was for {len(arrays['index'])} points, not {len(points)}",
        )
        search._squares = np.array(arrays["squares"], np.float64)
        search.index = np.array(arrays["index"], np.int64)
        return search


class Novelty(NamedTuple):
    """How far samples keep from the training images, measured by held-out real images.

    Attributes:
        novelty_closer_than_heldout: Probability that a sample lies nearer to its nearest training image
            than a held-out image to its own, ties counting one half: 0.5 as novel as real
            images, 1 copies.
        novelty_memorization_rate: Share of samples that are copies or nearer than the nearest 1% of held-out
            images; about 0.01 for real images.
        median_distance_ratio: Median distance of samples by that of held-out images; NaN where
            the latter is 0, for then held-out images are training images themselves.
    """

    novelty_closer_than_heldout: float
    novelty_memorization_rate: float
    median_distance_ratio: float


def novelty(sample_distances: np.ndarray, held_out_distances: np.ndarray) -> Novelty:
    """Returns how novel samples are.

    Args:
        sample_distances: [M], from each sample to its nearest training image.
        held_out_distances: [N], from each held-out image to its own, in the same features.

    Raises:
        InputError: One of them is empty or not finite.
    """
    for distances in (sample_distances, held_out_distances):
        require(
            distances.size > 0 and bool(np.isfinite(distances).all()),
            "novelty needs finite distances of at least one sample and one held-out image",
        )
    ordered = np.sort(held_out_distances)
    farther = len(ordered) - np.searchsorted(ordered, sample_distances, side="right")
    not_nearer = len(ordered) - np.searchsorted(ordered, sample_distances, side="left")
    near = sample_distances < np.quantile(ordered, 0.01)
    median, real_median = np.median(sample_distances), np.median(ordered)
    return Novelty(
        novelty_closer_than_heldout=float((farther + not_nearer).mean() / (2 * len(ordered))),
        novelty_memorization_rate=float((near | (sample_distances == 0)).mean()),
        median_distance_ratio=float(median / real_median) if real_median > 0 else float("nan"),
    )


def _points(features: np.ndarray) -> np.ndarray:
    """Returns features as float64 [N, D], not copied if they are that already.

    Rows must lie in one piece: the order of summation, hence the last bit, depends on it.
    """
    require(features.ndim == 2, f"points must be [N, D], not of shape {features.shape}")
    features = np.ascontiguousarray(features, np.float64)
    require(bool(np.isfinite(features).all()), "features contain NaN or infinity")
    return features


def _radii(points: np.ndarray, neighbours: tuple[int, ...]) -> list[np.ndarray]:
    """Returns for each k the squared distance [N] of every point's k-th nearest other one."""
    most = max(neighbours)
    require(min(neighbours) >= 1, f"{min(neighbours)} neighbours make no ball")
    require(len(points) > most, f"{len(points)} images are too few for {most} neighbours")
    nearest = np.empty((len(points), most))
    for rows, squares in _blocks(points, points):
        squares[np.arange(len(squares)), np.arange(rows.start, rows.stop)] = np.inf  # itself
        index = np.argpartition(squares, most - 1, axis=1)[:, :most]
        for place in range(most):
            nearest[rows, place] = _exact_squares(points[rows], points[index[:, place]])
    nearest.sort(axis=1)
    return [nearest[:, k - 1] for k in neighbours]


def _blocks(points: np.ndarray, others: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields (rows of `points`, their squared distances to all `others`, but for rounding)."""
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


def _settle(
    squares: np.ndarray, limit: np.ndarray | float, points: np.ndarray, others: np.ndarray
) -> None:
    """Puts exact values, in place, where rounding could put a square beyond the limit."""
    rounding = _rounding(points, others)
    for row, column in _pairs((squares >= limit - rounding) & (squares <= limit + rounding)):
        squares[row, column] = _exact_squares(points[row], others[column])


def _rounding(points: np.ndarray, others: np.ndarray) -> float:
    """Returns a bound of the error of a square from `_blocks`."""
    longest = max(np.einsum("nd,nd->n", each, each).max() for each in (points, others))
    return float(4.0 * (points.shape[1] + 8) * np.finfo(np.float64).eps * longest)


def _pairs(mask: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the rows and columns of what is true, so many at a time that memory stays small."""
    rows, columns = np.nonzero(mask)
    for start in range(0, len(rows), 4096):
        yield rows[start : start + 4096], columns[start : start + 4096]


def _exact_squares(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the squared distances [n] of pairs of rows, 0.0 exactly for equal rows."""
    return np.square(points - others).sum(axis=1)
