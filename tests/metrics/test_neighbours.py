import numpy as np
import pytest
from scipy.spatial.distance import cdist

from maskgit_jax.configuration import InputError
from maskgit_jax.metrics.neighbours import (
    ManifoldMetrics,
    NearestSearch,
    manifold_metrics,
    novelty_metrics,
)
from tests.golden import make_metrics


@pytest.fixture(params=[8_000_000, 1000])
def block_entries(request, monkeypatch):
    """Whole matrices, and blocks of a few rows."""
    monkeypatch.setattr("maskgit_jax.metrics.neighbours._BLOCK_ENTRIES", request.param)


def test_manifold_metrics_equal_published_program(block_entries):
    metrics = manifold_metrics(*make_metrics.features())
    np.testing.assert_allclose(metrics, np.load(make_metrics.FILE)["manifold"], rtol=1e-12)


def test_manifold_metrics_of_points_on_a_line():
    real = np.asarray([[0.0], [1.0], [10.0], [11.0]])  # every ball has the radius 1
    generated = np.asarray([[0.5], [2.0], [30.0]])  # radii 1.5, 1.5, 28
    metrics = manifold_metrics(real, generated, precision_k=1, density_k=1)
    # 2.0 lies on the border of the ball of 1.0: inside for precision, not for density.
    assert metrics == pytest.approx(ManifoldMetrics(2 / 3, 1.0, 2 / 3, 1 / 2))


def test_manifold_metrics_of_copies_are_one(block_entries):
    real = np.random.default_rng(0).normal(size=(300, 30)).astype(np.float32) + 100.0
    assert manifold_metrics(real, real[::-1]) == (1.0, 1.0, 1.0, 1.0)


def test_manifold_metrics_of_distant_sets_and_of_one_repeated_image():
    real = np.random.default_rng(0).normal(size=(200, 8))
    assert manifold_metrics(real, real + 1000.0) == (0.0, 0.0, 0.0, 0.0)
    metrics = manifold_metrics(real, real[:1].repeat(200, 0))
    assert metrics.precision == 1.0
    assert metrics.recall == 1 / 200  # only the point itself
    assert metrics.coverage < 0.2


def test_balls_of_radius_zero_contain_their_center():
    real = np.concatenate([np.full((8, 3), 0.1), np.random.default_rng(0).normal(size=(8, 3))])
    metrics = manifold_metrics(real, real)
    assert metrics.precision == metrics.recall == metrics.coverage == 1.0


def test_manifold_metrics_with_many_equal_distances():
    rng = np.random.default_rng(0)
    real, generated = rng.integers(0, 3, (80, 4)) / 7.0, rng.integers(0, 3, (70, 4)) / 7.0

    def radius(points, k):
        return np.sort(cdist(points, points, "sqeuclidean"), axis=1)[:, k]

    squares = cdist(7 * real, 7 * generated, "sqeuclidean")  # integers
    ball, generated_ball = radius(7 * real, 3)[:, None], radius(7 * generated, 3)[None]
    inside = (squares < radius(7 * real, 5)[:, None]) | (squares == 0)
    assert manifold_metrics(7 * real, 7 * generated) == pytest.approx(
        ManifoldMetrics(
            (squares <= ball).any(0).mean(),
            (squares <= generated_ball).any(1).mean(),
            inside.sum() / (5 * 70),
            inside.any(1).mean(),
        )
    )


def search_in_parts(points, candidates, *cuts):
    search = NearestSearch(points)
    start = 0
    for part in np.split(candidates, cuts):
        search.add(part, start)
        start += len(part)
    return search


def test_nearest_search_is_independent_of_batches(block_entries):
    rng = np.random.default_rng(0)
    points, candidates = rng.normal(size=(50, 20)) + 10, rng.normal(size=(400, 20)) + 10
    points[7], points[8] = candidates[123], candidates[399]
    candidates[300] = candidates[123]
    whole = search_in_parts(points, candidates)
    exact = cdist(points, candidates)
    np.testing.assert_allclose(whole.distance, exact.min(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(whole.index, exact.argmin(axis=1))
    assert whole.distance[7] == whole.distance[8] == 0.0
    assert (whole.index[7], whole.index[8]) == (123, 399)
    parts = search_in_parts(points, candidates, 1, 1, 130, 301)
    np.testing.assert_array_equal(parts.distance, whole.distance)
    np.testing.assert_array_equal(parts.index, whole.index)


def test_nearest_search_is_robust_to_rounding():
    # Squares of matrix products have an error of about 1e-3 here.
    points = np.full((1, 4), 3e6)
    candidates = points + np.asarray([3.0, 2.0, 1.0, 2.0])[:, None] * 1e-3
    search = search_in_parts(points, candidates)
    assert search.index[0] == 2
    np.testing.assert_allclose(search.distance, [2e-3], rtol=1e-6)


def test_nearest_search_resumes_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    points, candidates = rng.normal(size=(20, 6)), rng.normal(size=(90, 6))
    np.savez(tmp_path / "half.npz", **search_in_parts(points, candidates[:40]).to_arrays())
    with np.load(tmp_path / "half.npz") as arrays:
        search = NearestSearch.from_arrays(points, arrays)
        with pytest.raises(InputError, match="20 points, not 19"):
            NearestSearch.from_arrays(points[1:], arrays)
    search.add(candidates[40:], 40)
    whole = search_in_parts(points, candidates, 40)
    np.testing.assert_array_equal(search.distance, whole.distance)
    np.testing.assert_array_equal(search.index, whole.index)


def test_novelty_of_real_images_copies_and_distant_samples():
    held_out = np.random.default_rng(0).uniform(1, 2, 1000)
    real = novelty_metrics(held_out, held_out)
    assert real == pytest.approx((0.5, 0.01, 1.0))
    assert novelty_metrics(np.zeros(10), held_out) == (1.0, 1.0, 0.0)
    assert novelty_metrics(np.full(10, 5.0), held_out)[:2] == (0.0, 0.0)


def test_novelty_with_ties():
    metrics = novelty_metrics(np.asarray([1.0, 2.0]), np.asarray([2.0, 2.0, 3.0, 0.5]))
    # 1 is closer than 3 of 4; 2 is closer than 1 and equal to 2.
    assert metrics.closer_than_heldout == (3 / 4 + 2 / 4) / 2
    assert metrics.median_distance_ratio == 1.5 / 2.0


def test_novelty_if_held_out_images_are_training_images():
    metrics = novelty_metrics(np.asarray([0.0, 1.0]), np.zeros(5))
    assert metrics[:2] == (0.25, 0.5)
    assert np.isnan(metrics.median_distance_ratio)


def test_invalid_input_is_refused():
    points = np.zeros((9, 2))
    with pytest.raises(InputError, match="5 images are too few for 5 neighbours"):
        manifold_metrics(points[:5], points)
    with pytest.raises(InputError, match="too few for 3"):
        manifold_metrics(points, points[:3])
    with pytest.raises(InputError, match="2 and 3 dimensions"):
        manifold_metrics(points, np.zeros((9, 3)))
    with pytest.raises(InputError, match="NaN"):
        NearestSearch(np.full((3, 2), np.nan))
    with pytest.raises(InputError, match="at least one sample"):
        novelty_metrics(np.zeros(0), np.ones(3))
