import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.metrics.kernel import kernel_distance
from tests.golden import make_metrics


def test_distance_of_whole_sets_equals_published_program():
    golden = np.load(make_metrics.FILE)
    mean, deviation = kernel_distance(*make_metrics.features())
    np.testing.assert_allclose(mean, golden["kernel"], rtol=1e-9)
    assert deviation == 0.0


def test_subset_statistics_equal_published_program():
    golden_mean, golden_deviation = np.load(make_metrics.FILE)["kernel_subsets"]
    mean, deviation = kernel_distance(*make_metrics.features(), num_subsets=400, subset_size=100)
    assert abs(mean - golden_mean) < 4 * golden_deviation / np.sqrt(400)
    np.testing.assert_allclose(deviation, golden_deviation, rtol=0.2)


def test_distance_of_three_points():
    # D = 1: k(x, y) = (x y + 1)^3. Within {0, 1}: 1; within {1, 2}: 27; across: 1, 1, 8, 27.
    distance = kernel_distance(np.asarray([[0.0], [1.0]]), np.asarray([[1.0], [2.0]]))
    assert distance == (1 + 27 - 2 * 37 / 4, 0.0)


@pytest.mark.parametrize("sizes", [(60, 60), (60, 45)])
def test_distance_is_symmetric(sizes):
    rng = np.random.default_rng(0)
    one, other = (rng.normal(size=(size, 8)).astype(np.float32) for size in sizes)
    for subset_size in (20, 1000):
        forward = kernel_distance(one, other, num_subsets=7, subset_size=subset_size)
        backward = kernel_distance(other, one, num_subsets=7, subset_size=subset_size)
        assert forward == backward


def test_distance_averages_zero_only_for_equal_distributions():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2000, 8)), rng.normal(size=(2000, 8))
    mean, deviation = kernel_distance(one, other, num_subsets=50, subset_size=100)
    assert abs(mean) < 4 * deviation / np.sqrt(20)  # 2000 images are 20 independent subsets
    assert kernel_distance(one, other + 0.5, num_subsets=50, subset_size=100)[0] > 4 * deviation


def test_distance_is_independent_of_chunks(monkeypatch):
    one, other = make_metrics.features()
    whole = kernel_distance(one, other)[0]
    monkeypatch.setattr("maskgit_jax.metrics.kernel._ROWS_AT_ONCE", 77)
    np.testing.assert_allclose(kernel_distance(one, other)[0], whole, rtol=1e-10)


def test_invalid_input_is_refused():
    with pytest.raises(InputError, match="same network"):
        kernel_distance(np.zeros((5, 3)), np.zeros((5, 4)))
    with pytest.raises(InputError, match="too small"):
        kernel_distance(np.zeros((5, 3)), np.zeros((1, 3)))
    with pytest.raises(InputError, match="NaN"):
        kernel_distance(np.zeros((5, 3)), np.full((5, 3), np.nan))
