import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import logsumexp

from maskgit_jax.losses.elbo import (
    annealing_weight,
    free_bits,
    gaussian_kl,
    importance_weighted_bound,
    log_normal,
    reparameterize,
)


@pytest.mark.parametrize(("mean", "log_variance"), [(0.0, 0.0), (1.5, -2.0), (-0.3, 0.8)])
def test_kl_against_its_integral(mean, log_variance):
    posterior = stats.norm(mean, np.exp(0.5 * log_variance))
    expected, _ = integrate.quad(
        lambda z: posterior.pdf(z) * (posterior.logpdf(z) - stats.norm.logpdf(z)), -15, 15
    )
    found = gaussian_kl(jnp.full((1, 1), mean), jnp.full((1, 1), log_variance))
    np.testing.assert_allclose(found, [[expected]], rtol=1e-5, atol=1e-9)


def test_kl_is_not_negative_close_to_the_prior():
    # Written as variance - 1 - log variance it would be rounded to 0 or below.
    log_variance = jnp.asarray([[1e-2, -1e-2, 1e-3, 0.0]])
    found = gaussian_kl(jnp.zeros((1, 4)), log_variance)
    np.testing.assert_allclose(found, [[2.508e-5, 2.492e-5, 2.5e-7, 0.0]], rtol=2e-2)
    assert (found >= 0).all()


def test_different_shapes_of_mean_and_variance_are_an_error():
    with pytest.raises(AssertionError):
        gaussian_kl(jnp.zeros((2, 3)), jnp.zeros((2, 1)))
    with pytest.raises(AssertionError):
        free_bits(jnp.zeros(3), 0.5)


def test_free_bits_takes_the_maximum_after_the_mean():
    kl = jnp.asarray([[0.0, 2.0, 0.1], [1.0, 4.0, 0.1]])
    # Means .5, 3, .1: with the maximum first the first dimension would cost .75.
    np.testing.assert_allclose(free_bits(kl, 0.5), 0.5 + 3.0 + 0.5, rtol=1e-6)
    np.testing.assert_allclose(free_bits(kl, 0.0), kl.mean(axis=0).sum(), rtol=1e-6)


def test_dimensions_below_the_floor_have_no_gradient():
    kl = jnp.asarray([[0.0, 2.0], [0.9, 4.0]])
    gradient = jax.grad(free_bits)(kl, 0.5)
    np.testing.assert_allclose(gradient, [[0.0, 0.5], [0.0, 0.5]])


def test_linear_annealing_rises_and_stays():
    found = [float(annealing_weight(step, "linear", 4)) for step in (0, 1, 2, 4, 5, 1000)]
    assert found == [0.0, 0.25, 0.5, 1.0, 1.0, 1.0]


def test_cyclical_annealing_rises_in_the_first_half_of_each_cycle():
    found = [float(annealing_weight(step, "cyclical", 16, cycles=2)) for step in range(20)]
    cycle = [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]
    np.testing.assert_allclose(found, [*cycle, *cycle, 1.0, 1.0, 1.0, 1.0])


def test_a_cycle_need_not_be_a_whole_number_of_steps():
    found = np.asarray([annealing_weight(step, "cyclical", 10, cycles=3) for step in range(11)])
    expected = np.minimum(2 * (np.arange(10) * 3 % 10) / 10, 1)
    np.testing.assert_allclose(found, [*expected, 1.0], rtol=1e-6)


@pytest.mark.parametrize("kind", ["constant", "linear", "cyclical"])
def test_annealing_compiles_once_and_is_1_at_zero_steps(kind):
    compiled = jax.jit(lambda step: annealing_weight(step, kind, 1000))
    for step in (0, 3, 499, 999_999):
        np.testing.assert_allclose(compiled(step), annealing_weight(step, kind, 1000), rtol=1e-6)
    assert compiled._cache_size() == 1
    assert annealing_weight(jnp.asarray(0), kind, 0) == 1.0
    assert annealing_weight(jnp.asarray(0), kind, 0).dtype == jnp.float32


def test_unknown_annealing_is_an_error():
    with pytest.raises(ValueError, match="cosine"):
        annealing_weight(0, "cosine", 10)
    with pytest.raises(ValueError, match="-1 steps"):
        annealing_weight(0, "linear", -1)
    with pytest.raises(ValueError, match="0 cycles"):
        annealing_weight(0, "cyclical", 10, cycles=0)


def test_samples_have_the_mean_and_variance_and_are_differentiable(key):
    mean, log_variance = jnp.full((50_000, 1), 2.0), jnp.full((50_000, 1), np.log(0.25))
    samples = reparameterize(mean, log_variance, key)
    np.testing.assert_allclose(samples.mean(), 2.0, atol=0.02)
    np.testing.assert_allclose(samples.std(), 0.5, atol=0.02)

    def sample(mean, log_variance):
        return reparameterize(mean, log_variance, jax.random.key(1)).sum()

    by_mean, by_variance = jax.grad(sample, argnums=(0, 1))(mean, log_variance)
    noise = reparameterize(mean, log_variance, jax.random.key(1)) - mean
    np.testing.assert_allclose(by_mean, 1.0)
    np.testing.assert_allclose(by_variance, 0.5 * noise, atol=1e-5)


def test_log_normal_against_scipy_and_with_broadcasting():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4, 3, 2)).astype(np.float32)
    mean, log_variance = rng.normal(size=(2, 3, 2)).astype(np.float32)
    expected = stats.norm.logpdf(z, mean, np.exp(0.5 * log_variance)).sum(axis=-1)
    np.testing.assert_allclose(log_normal(jnp.asarray(z), mean, log_variance), expected, rtol=1e-4)
    expected = stats.norm.logpdf(z).sum(axis=-1)
    np.testing.assert_allclose(log_normal(jnp.asarray(z), 0.0, 0.0), expected, rtol=1e-5)


def test_the_bound_against_scipy_and_for_one_sample():
    rng = np.random.default_rng(0)
    weights = rng.normal(-500, 5, size=(7, 3)).astype(np.float32)
    expected = logsumexp(weights, axis=0) - np.log(7)
    np.testing.assert_allclose(importance_weighted_bound(jnp.asarray(weights)), expected, rtol=1e-6)
    np.testing.assert_allclose(importance_weighted_bound(jnp.asarray(weights[:1])), weights[0])


def test_the_bound_converges_to_the_likelihood(key):
    # x = z + noise of variance 1, prior as posterior: log p(x) = log N(x; 0, 2).
    x, samples = 1.0, jax.random.normal(key, (1000, 200, 1))
    log_weights = log_normal(jnp.full_like(samples, x), samples, 0.0)  # [K, B]
    bounds = [float(importance_weighted_bound(log_weights[:k]).mean()) for k in (1, 10, 1000)]
    exact = stats.norm.logpdf(x, 0, np.sqrt(2))
    assert bounds[0] < bounds[1] < bounds[2] + 1e-3
    np.testing.assert_allclose(bounds[2], exact, atol=0.02)
