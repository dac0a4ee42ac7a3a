import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.metrics.frechet import Gaussian, Moments, frechet_by_count, frechet_distance
from tests.golden import make_metrics


def moments(features, *cuts):
    result = Moments(features.shape[1])
    for part in np.split(features, cuts):
        result.add(part)
    return result


def test_distance_equals_published_programs():
    one, other = (moments(x).gaussian() for x in make_metrics.features())
    golden = np.load(make_metrics.FILE)
    distance = frechet_distance(one, other)
    np.testing.assert_allclose(distance, golden["frechet_fidelity"], rtol=1e-9)
    np.testing.assert_allclose(distance, golden["frechet_sqrtm"], rtol=1e-9)


def test_moments_equal_numpy_for_any_batches():
    features = np.random.default_rng(0).normal(size=(101, 7)) + 1e6
    for cuts in ((), (50,), (1, 2, 2, 99)):
        gaussian = moments(features, *cuts).gaussian()
        np.testing.assert_allclose(gaussian.mean, features.mean(0), rtol=1e-15)
        np.testing.assert_allclose(gaussian.covariance, np.cov(features.T), rtol=1e-9, atol=1e-9)
        assert gaussian.count == 101


def test_moments_of_many_rows_do_not_depend_on_the_batches():
    features = np.random.default_rng(0).normal(size=(5000, 3)) + 1e6
    whole = moments(features)
    assert whole.count == 5000
    np.testing.assert_allclose(
        whole.gaussian().covariance, np.cov(features.T), rtol=1e-9, atol=1e-9
    )
    for one, other in zip(whole.gaussian(), moments(features, 7, 2050).gaussian(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_moments_resume_bit_for_bit(tmp_path):
    features = np.random.default_rng(0).normal(size=(4500, 5)).astype(np.float32)
    whole = moments(features, 30, 60).gaussian()
    np.savez(tmp_path / "part.npz", **moments(features[:2060], 30).to_arrays())
    with np.load(tmp_path / "part.npz") as arrays:
        half = Moments.from_arrays(arrays)
    half.add(features[2060:])
    for one, other in zip(whole, half.gaussian(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_distance_of_diagonal_gaussians():
    rng = np.random.default_rng(0)
    a, b, m = rng.uniform(0.1, 2, 6), rng.uniform(0.1, 2, 6), rng.normal(size=6)
    one, other = Gaussian(np.zeros(6), np.diag(a**2), 0), Gaussian(m, np.diag(b**2), 0)
    np.testing.assert_allclose(
        frechet_distance(one, other), (m**2 + (a - b) ** 2).sum(), rtol=1e-12
    )


@pytest.mark.parametrize("rank", [3, 40])
def test_distance_is_symmetric_and_exact_for_a_shift_of_singular_sets(rank):
    rng = np.random.default_rng(0)
    one = rng.normal(size=(300, rank)) @ rng.normal(size=(rank, 40))
    other = rng.normal(size=(300, rank)) @ rng.normal(size=(rank, 40))
    first, second = moments(one).gaussian(), moments(other).gaussian()
    assert frechet_distance(first, second) == frechet_distance(second, first) > 1.0
    assert 0.0 <= frechet_distance(first, first) < 1e-10
    shifted = moments(one + 0.01).gaussian()
    np.testing.assert_allclose(frechet_distance(first, shifted), 40 * 0.01**2, rtol=1e-6)


def test_distance_of_orthogonal_subspaces():
    # Rounding must not add variance in the orthogonal directions.
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    one = Gaussian(np.zeros(40), 100 * turn[:, :20] @ turn[:, :20].T, 0)
    other = Gaussian(np.zeros(40), 100 * turn[:, 20:] @ turn[:, 20:].T, 0)
    np.testing.assert_allclose(frechet_distance(one, other), 4000.0, rtol=1e-12)


def test_distance_is_symmetric_bit_for_bit():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        one, other = (moments(rng.normal(size=(90, 33 + 10 * seed))).gaussian() for _ in range(2))
        assert frechet_distance(one, other) == frechet_distance(other, one)


def test_distance_of_constant_features_is_that_of_their_means():
    flat = Gaussian(np.zeros(3), np.zeros((3, 3)), 0)
    assert frechet_distance(flat, flat) == 0.0
    assert frechet_distance(flat, flat._replace(mean=np.ones(3))) == 3.0


def test_distance_of_few_images_is_biased_upwards():
    rng = np.random.default_rng(0)
    features, reference = rng.normal(size=(4000, 20)), rng.normal(size=(4000, 20))
    reference = moments(reference).gaussian()
    curve = frechet_by_count(features, reference, (50, 400, 4000), seed=1)
    assert curve[0] > curve[1] > curve[2] > 0.0
    whole = frechet_distance(moments(features).gaussian(), reference)
    np.testing.assert_allclose(curve[2], whole, rtol=1e-9)
    assert curve == frechet_by_count(features, reference, (50, 400, 4000), seed=1)


def test_invalid_input_is_refused():
    small, large = np.eye(4), np.random.default_rng(0).normal(size=(9, 4))
    few, enough = moments(small).gaussian(), moments(large).gaussian()
    with pytest.raises(InputError, match="fewer images than features: 4 images, 4 features"):
        frechet_distance(enough, few)
    assert frechet_distance(enough, few._replace(count=0)) > 0.0
    with pytest.raises(InputError, match="4 and 3 dimensions"):
        frechet_distance(enough, Gaussian(np.zeros(3), np.eye(3), 0))
    with pytest.raises(InputError, match="10 images cannot be drawn from 9"):
        frechet_by_count(large, enough, [10], seed=0)
    with pytest.raises(InputError, match="fit moments of 4"):
        moments(large).add(np.zeros((2, 3)))
    with pytest.raises(InputError, match="NaN"):
        moments(large).add(np.full((2, 4), np.nan))
    with pytest.raises(InputError, match="1 images have no covariance"):
        moments(large[:1]).gaussian()
