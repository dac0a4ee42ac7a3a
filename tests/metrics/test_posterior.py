import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import logsumexp

from maskgit_jax.configuration import InputError
from maskgit_jax.metrics.posterior import (
    active_units,
    collapse_curve,
    decompose_kl,
    maximum_likelihood_sigma2,
    probabilistic_pca,
    unit_activity,
)


def test_active_units_use_the_unbiased_variance():
    mean = np.asarray([[0.0, 5.0, 0.1], [1.0, 5.0, -0.1]], np.float32)
    np.testing.assert_allclose(unit_activity(mean), [0.5, 0.0, 0.02], rtol=1e-6)
    assert unit_activity(mean).dtype == np.float64
    assert active_units(mean).tolist() == [True, False, True]
    assert active_units(mean, threshold=0.5).tolist() == [False, False, False]


@pytest.mark.parametrize("mean", [np.zeros((1, 2)), np.zeros(3), np.full((3, 2), np.nan)])
def test_active_units_refuse_invalid_means(mean):
    with pytest.raises(InputError):
        active_units(mean)


def test_collapse_curve_of_three_units():
    # Of 100 examples, unit 0 encodes one, unit 1 two, unit 2 all.
    kl = np.zeros((100, 3))
    kl[:1, 0], kl[:2, 1], kl[:, 2] = 9.0, 9.0, 0.5
    result = collapse_curve(kl, np.asarray([0.0, 0.1, 0.5, 0.51, 10.0]))
    np.testing.assert_allclose(result, [0, 1 / 3, 1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(collapse_curve(kl, np.asarray([0.1]), delta=0.0), [0])
    np.testing.assert_allclose(collapse_curve(kl, np.asarray([0.1]), delta=0.02), [2 / 3])


def test_collapse_curve_equals_its_definition_and_increases():
    kl = np.random.default_rng(0).exponential(size=(57, 8)) * np.logspace(-3, 1, 8)
    epsilons = np.logspace(-4, 2, 40)
    result = collapse_curve(kl, epsilons, delta=0.2)
    plain = [((kl < epsilon).mean(axis=0) >= 0.8).mean() for epsilon in epsilons]
    np.testing.assert_allclose(result, plain)
    assert (np.diff(result) >= 0).all() and result[0] == 0 and result[-1] == 1


@pytest.mark.parametrize("delta", [-0.1, 1.0])
def test_collapse_curve_refuses_invalid_delta(delta):
    with pytest.raises(InputError, match="delta"):
        collapse_curve(np.zeros((3, 2)), np.ones(1), delta)


def test_collapsed_posteriors_have_no_mutual_information():
    result = decompose_kl(np.zeros((50, 4)), np.zeros((50, 4)), seed=0)
    assert result.kl == 0
    np.testing.assert_allclose(result[1:3], 0.0, atol=1e-12)
    # Equal for all examples, but not the prior: all of the KL is that of the marginal.
    result = decompose_kl(np.full((50, 4), 2.0), np.full((50, 4), -1.0), seed=0)
    np.testing.assert_allclose(result.mutual_information, 0.0, atol=1e-12)
    np.testing.assert_allclose(result.marginal_kl, result.kl)


def test_disjoint_posteriors_reach_the_bound():
    mean = 100.0 * np.arange(30)[:, None] * np.ones((1, 2))
    result = decompose_kl(mean, np.full((30, 2), -4.0), seed=0)
    np.testing.assert_allclose(result.mutual_information, np.log(30), rtol=1e-9)
    np.testing.assert_allclose(result.bound, np.log(30))


def test_parts_sum_to_the_exact_kl():
    rng = np.random.default_rng(0)
    mean, log_variance = rng.normal(size=(200, 3)), rng.normal(size=(200, 3)) - 1
    result = decompose_kl(mean, log_variance, seed=1)
    expected_kl = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(axis=1).mean()
    np.testing.assert_allclose(result.kl, expected_kl)
    np.testing.assert_allclose(result.mutual_information + result.marginal_kl, result.kl)
    assert 0 < result.mutual_information <= result.bound


def test_marginal_kl_equals_numerical_integral():
    rng = np.random.default_rng(0)
    mean, log_variance = 2 * rng.normal(size=(5, 1)), rng.normal(size=(5, 1))
    posteriors = stats.norm(mean[:, 0], np.exp(0.5 * log_variance[:, 0]))

    def integrand(z):
        density = posteriors.pdf(z).mean()
        return density * np.log(density / stats.norm.pdf(z))

    marginal, _ = integrate.quad(integrand, -12, 12, limit=200)
    result = decompose_kl(
        np.repeat(mean, 800, axis=0), np.repeat(log_variance, 800, axis=0), seed=0, batch=500
    )
    np.testing.assert_allclose(result.marginal_kl, marginal, atol=0.03)
    np.testing.assert_allclose(result.mutual_information, result.kl - marginal, atol=0.03)


def test_estimate_is_the_direct_sum_for_any_batch():
    rng = np.random.default_rng(0)
    mean, log_variance = 5 + rng.normal(size=(37, 3)), rng.normal(size=(37, 3)) - 3
    result = [decompose_kl(mean, log_variance, 7, batch) for batch in (1, 10, 37, 1000)]
    sigma = np.exp(0.5 * log_variance)
    z = mean + sigma * np.random.default_rng(7).standard_normal(mean.shape)
    log_density = stats.norm.logpdf(z[:, None], mean[None], sigma[None]).sum(axis=-1)  # [n, m]
    expected = (np.diag(log_density) - logsumexp(log_density, axis=1)).mean() + np.log(37)
    np.testing.assert_allclose([each.mutual_information for each in result], expected, rtol=1e-9)


def test_narrow_posteriors_far_from_zero_keep_precision():
    # Two positions, one unit apart: 1 bit. Terms of 1000^2 / 1e-12 would err by whole nats.
    mean = np.full((20, 2), 1000.0) + np.arange(20)[:, None] % 2
    result = decompose_kl(mean, np.full((20, 2), np.log(1e-12)), seed=0)
    np.testing.assert_allclose(result.mutual_information, np.log(2), atol=1e-3)


def test_invalid_posteriors_are_refused():
    with pytest.raises(InputError, match="differ in shape"):
        decompose_kl(np.zeros((3, 2)), np.zeros((3, 1)), seed=0)
    with pytest.raises(InputError, match="NaN"):
        decompose_kl(np.full((3, 2), np.inf), np.zeros((3, 2)), seed=0)
    with pytest.raises(InputError, match="batch"):
        decompose_kl(np.zeros((3, 2)), np.zeros((3, 2)), seed=0, batch=0)
    result = decompose_kl(np.ones((1, 2)), np.zeros((1, 2)), seed=0)
    assert result.mutual_information == 0 and result.bound == 0


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(300, 6)) * [3.0, 2.0, 1.0, 0.5, 0.3, 0.1] @ rng.normal(size=(6, 6))
    return (mixed + 4).astype(np.float32)


@pytest.mark.parametrize(("num_latents", "factor"), [(0, 1.0), (3, 0.5), (3, 3.0), (6, 0.1)])
def test_log_marginal_equals_scipy(images, num_latents, factor):
    covariance = np.cov(images.T.astype(float), bias=True)
    values, vectors = np.linalg.eigh(covariance)
    sigma2 = factor * values[::-1][2]
    kept = vectors[:, ::-1][:, :num_latents]
    loadings = kept * np.sqrt(np.maximum(values[::-1][:num_latents] - sigma2, 0))
    model = stats.multivariate_normal(
        images.mean(axis=0, dtype=float), loadings @ loadings.T + sigma2 * np.eye(6)
    )
    result = probabilistic_pca(images, num_latents, sigma2)
    np.testing.assert_allclose(result.log_marginal, model.logpdf(images).mean(), rtol=1e-6)
    np.testing.assert_allclose(result.eigenvalues, values[::-1], rtol=1e-6)
    assert result.kl.shape == result.active.shape == (num_latents,)


def test_direction_collapses_if_noise_exceeds_its_eigenvalue(images):
    values = probabilistic_pca(images, 4, 1.0).eigenvalues
    for alive in range(5):
        sigma2 = values[0] * 1.01 if alive == 0 else np.sqrt(values[alive - 1] * values[alive])
        result = probabilistic_pca(images, 4, sigma2)
        assert result.active.tolist() == [True] * alive + [False] * (4 - alive)
        expected = np.maximum(0.5 * np.log(values[:4] / sigma2), 0)
        np.testing.assert_allclose(result.kl, expected, atol=1e-12)


def test_kl_of_a_direction_equals_that_of_its_posteriors(images):
    # The posterior of direction i has variance sigma2 / eigenvalue; the mean has the rest.
    sigma2, result = 0.5, probabilistic_pca(images, 2, 0.5)
    centered = images.astype(float) - images.mean(axis=0, dtype=float)
    vectors = np.linalg.eigh(centered.T @ centered)[1][:, ::-1][:, :2]
    values = result.eigenvalues[:2]
    mean = centered @ vectors * np.sqrt(values - sigma2) / values
    variance = sigma2 / values
    kl = 0.5 * (mean**2 + variance - 1 - np.log(variance)).mean(axis=0)
    np.testing.assert_allclose(result.kl, kl, rtol=1e-5)
    np.testing.assert_allclose(mean.var(axis=0), 1 - variance, rtol=1e-5)


def test_maximum_likelihood_noise_is_optimal(images):
    best = maximum_likelihood_sigma2(images, 2)
    values = probabilistic_pca(images, 2, best).eigenvalues
    np.testing.assert_allclose(best, values[2:].mean())
    optimum = probabilistic_pca(images, 2, best).log_marginal
    for factor in (0.5, 0.95, 1.05, 2.0):
        assert probabilistic_pca(images, 2, factor * best).log_marginal < optimum


def test_invalid_pca_arguments_are_refused(images):
    with pytest.raises(InputError, match="0 to 6"):
        probabilistic_pca(images, 7, 1.0)
    with pytest.raises(InputError, match="sigma2"):
        probabilistic_pca(images, 2, 0.0)
    with pytest.raises(InputError, match="0 to 5"):
        maximum_likelihood_sigma2(images, 6)
    with pytest.raises(InputError, match="flatten them"):
        maximum_likelihood_sigma2(np.zeros((3, 2, 2)), 1)
