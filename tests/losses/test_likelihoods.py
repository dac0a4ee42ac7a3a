import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from maskgit_jax.losses.likelihoods import (
    bernoulli_log_likelihood,
    bits_per_dimension,
    discretized_logistic_mixture_log_likelihood,
    gaussian_log_likelihood,
    mixture_mean,
    num_mixture_parameters,
    optimal_log_sigma,
    sample_mixture,
)

mixture_log_likelihood = jax.jit(
    discretized_logistic_mixture_log_likelihood, static_argnames="num_levels"
)
mean_of_mixture = jax.jit(mixture_mean, static_argnames="channels")


def levels(num_levels):
    return np.linspace(-1.0, 1.0, num_levels).astype(np.float32)


def repeat(parameters, count):
    """The same parameters [P] for `count` images of one pixel."""
    parameters = np.asarray(parameters, np.float32)
    return jnp.broadcast_to(parameters, (count, 1, 1, len(parameters)))


def rgb_parameters(num_mixtures=2, seed=0):
    """Components so wide that the outermost levels have mass."""
    rng = np.random.default_rng(seed)
    parameters = rng.normal(size=num_mixture_parameters(num_mixtures, 3))
    ends = num_mixtures * np.asarray([1, 4, 7])
    parameters[ends[0] : ends[1]] *= 0.4
    parameters[ends[1] : ends[2]] = parameters[ends[1] : ends[2]] * 0.3 - 1.5
    return parameters


def test_bernoulli_against_scipy_and_at_extreme_logits():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 2, 4, 1)).astype(np.float32)
    binary = rng.integers(0, 2, logits.shape)
    expected = stats.bernoulli.logpmf(binary, 1 / (1 + np.exp(-logits.astype(float))))
    found = bernoulli_log_likelihood(jnp.asarray(binary), logits)
    np.testing.assert_allclose(found, expected.sum(axis=(1, 2, 3)), rtol=1e-5)
    extreme = jnp.full((1, 1, 1, 1), 1e4)
    assert bernoulli_log_likelihood(jnp.ones((1, 1, 1, 1)), extreme)[0] == 0
    assert bernoulli_log_likelihood(jnp.zeros((1, 1, 1, 1)), extreme)[0] == -1e4


@pytest.mark.parametrize("shape", [(), (1,), (3, 1, 1, 1), (3, 2, 4, 3)])
def test_gaussian_against_scipy_with_one_sigma_or_many(shape):
    rng = np.random.default_rng(0)
    image, mean = rng.uniform(-1, 1, (2, 3, 2, 4, 3)).astype(np.float32)
    log_sigma = rng.normal(size=shape).astype(np.float32)
    expected = stats.norm.logpdf(image, mean, np.exp(log_sigma)).sum(axis=(1, 2, 3))
    found = gaussian_log_likelihood(jnp.asarray(image), mean, log_sigma)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_different_shapes_are_an_error():
    image, other = jnp.zeros((2, 2, 2, 1)), jnp.zeros((2, 2, 2, 3))
    for likelihood in (bernoulli_log_likelihood, optimal_log_sigma):
        with pytest.raises(AssertionError):
            likelihood(image, other)
    with pytest.raises(AssertionError):
        gaussian_log_likelihood(image, other, 0.0)


def test_the_optimal_sigma_maximizes_the_likelihood():
    rng = np.random.default_rng(0)
    image, mean = jnp.asarray(rng.uniform(-1, 1, (2, 3, 2, 4, 3)), jnp.float32)
    best = optimal_log_sigma(image, mean)

    def likelihood(log_sigma):
        return gaussian_log_likelihood(image, mean, log_sigma).sum()

    np.testing.assert_allclose(jax.grad(likelihood)(best), 0.0, atol=1e-3)
    assert all(likelihood(best) > likelihood(best + step) for step in (-0.5, -0.05, 0.05, 0.5))
    # With it the negative log-likelihood is D/2 (log 2 pi e MSE).
    squares = np.mean((np.asarray(image, float) - np.asarray(mean, float)) ** 2)
    expected = -0.5 * image.size * (np.log(2 * np.pi * squares) + 1)
    np.testing.assert_allclose(likelihood(best), expected, rtol=1e-5)


def test_the_gradient_through_the_optimal_sigma_is_that_of_a_learned_one():
    rng = np.random.default_rng(0)
    image, mean = jnp.asarray(rng.uniform(-1, 1, (2, 2, 2, 2, 1)), jnp.float32)
    through = jax.grad(
        lambda mean: gaussian_log_likelihood(image, mean, optimal_log_sigma(image, mean)).sum()
    )(mean)
    best = optimal_log_sigma(image, mean)
    beside = jax.grad(lambda mean: gaussian_log_likelihood(image, mean, best).sum())(mean)
    np.testing.assert_allclose(through, beside, rtol=1e-4, atol=1e-5)


def test_a_perfect_reconstruction_has_a_finite_sigma_and_gradient():
    image = jnp.zeros((1, 2, 2, 1))
    np.testing.assert_allclose(optimal_log_sigma(image, image), np.log(1e-3), rtol=1e-6)
    assert not jax.grad(lambda mean: optimal_log_sigma(image, mean))(image).any()


def test_masses_of_grey_levels_sum_to_one_for_extreme_components_too():
    image = jnp.asarray(levels(256))[:, None, None, None]
    for means, log_scales in (([0.2, -0.7], [-3.0, -1.0]), ([0.99, 3.0], [-9.0, 2.0])):
        parameters = repeat([0.3, -0.2, *means, *log_scales], 256)
        found = mixture_log_likelihood(image, parameters)
        assert jnp.isfinite(found).all()
        np.testing.assert_allclose(np.exp(found.astype(float)).sum(), 1.0, rtol=1e-5)


def test_grey_masses_against_scipy():
    weights, means, scales = np.asarray([0.25, 0.75]), [0.9, -0.3], [0.2, 0.05]
    parameters = repeat([*np.log(weights), *means, *np.log(scales)], 256)
    image = levels(256)
    found = mixture_log_likelihood(image[:, None, None, None], parameters)
    middles = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 127.5 - 1, [np.inf]])
    expected = sum(
        weight * np.diff(stats.logistic.cdf(middles, mean, scale))
        for weight, mean, scale in zip(weights, means, scales, strict=True)
    )
    np.testing.assert_allclose(found[1:200], np.log(expected)[1:200], rtol=1e-3)
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-3, atol=1e-9)


def test_tiny_masses_are_exact_and_have_a_finite_gradient():
    # Mass of the level at distance d: about 2h/s exp(-d/s), far below the smallest float32.
    parameters = repeat([0.0, -1.0, -7.0], 1)
    image = jnp.full((1, 1, 1, 1), _near(0.5))
    found = mixture_log_likelihood(image, parameters)
    rate, half = np.exp(7.0), 1 / 255
    gap = float(_near(0.5)) + 1
    expected = -rate * (gap - half) + np.log1p(-np.exp(-2 * half * rate))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda p: mixture_log_likelihood(image, p).sum()))(parameters)
    assert jnp.isfinite(gradient).all() and gradient[..., 1] > 0


def _near(value):
    return levels(256)[round((value + 1) * 127.5)]


def test_masses_of_rgb_levels_sum_to_one_and_against_scipy():
    values, parameters = levels(5), rgb_parameters()
    image = np.asarray(list(itertools.product(values, repeat=3)), np.float32)  # [125, C]
    found = mixture_log_likelihood(image[:, None, None, :], repeat(parameters, 125), num_levels=5)
    np.testing.assert_allclose(np.exp(found.astype(float)).sum(), 1.0, rtol=1e-5)
    logits, means, log_scales, pairs = np.split(parameters, [2, 8, 14])
    means, log_scales = means.reshape(2, 3), log_scales.reshape(2, 3)
    red_green, red_blue, green_blue = np.tanh(pairs.reshape(2, 3)).T
    total = 0.0
    for m, weight in enumerate(np.exp(logits) / np.exp(logits).sum()):
        shifts = (0.0, red_green[m] * image[:, 0],
                  red_blue[m] * image[:, 0] + green_blue[m] * image[:, 1])  # fmt: skip
        mass = 1.0
        for c, shift in enumerate(shifts):
            pixel = stats.logistic(means[m, c] + shift, np.exp(log_scales[m, c]))
            low = np.where(image[:, c] == -1, -np.inf, image[:, c] - 0.25)
            high = np.where(image[:, c] == 1, np.inf, image[:, c] + 0.25)
            mass = mass * (pixel.cdf(high) - pixel.cdf(low))
        total = total + weight * mass
    np.testing.assert_allclose(np.exp(found), total, rtol=1e-4)


def test_log_likelihood_is_the_sum_over_pixels():
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.choice(levels(256), (2, 3, 1, 3)))
    parameters = jnp.asarray(rng.normal(size=(2, 3, 1, 20)), jnp.float32)
    whole = mixture_log_likelihood(image, parameters)
    pixels = mixture_log_likelihood(image.reshape(6, 1, 1, 3), parameters.reshape(6, 1, 1, 20))
    np.testing.assert_allclose(whole, pixels.reshape(2, 3).sum(axis=1), rtol=1e-5)


def test_number_of_parameters_and_wrong_numbers():
    assert num_mixture_parameters(10, 3) == 100
    assert num_mixture_parameters(10, 1) == 30
    assert num_mixture_parameters(1, 2) == 6
    for size in (0, 99):
        with pytest.raises(ValueError, match="multiple of 10"):
            mean_of_mixture(jnp.zeros((1, 1, 1, size)), 3)
    with pytest.raises(ValueError, match="multiple of 3"):
        mixture_log_likelihood(jnp.zeros((1, 1, 1, 1)), jnp.zeros((1, 1, 1, 10)))


def test_mixture_mean_by_hand_and_clipped():
    # One component; red .5, green .1 + tanh(1) red, blue -.2 + tanh(-1) red + tanh(.5) green.
    parameters = [0.0, 0.5, 0.1, -0.2, -5.0, -5.0, -5.0, 1.0, -1.0, 0.5]
    green = 0.1 + np.tanh(1.0) * 0.5
    blue = -0.2 - np.tanh(1.0) * 0.5 + np.tanh(0.5) * green
    found = mean_of_mixture(repeat(parameters, 1), 3)[0, 0, 0]
    np.testing.assert_allclose(found, [0.5, green, blue], rtol=1e-5)
    grey = repeat([np.log(3.0), 0.0, 0.4, -0.4, -5.0, -5.0], 1)
    np.testing.assert_allclose(mean_of_mixture(grey, 1)[0, 0, 0], [0.2], rtol=1e-5)
    assert mean_of_mixture(repeat([0.0, 7.0, -5.0], 1), 1)[0, 0, 0, 0] == 1.0


def test_samples_have_the_mean_of_a_narrow_mixture(key):
    parameters = rgb_parameters()
    parameters[2:8] *= 0.5
    parameters[8:14] = -4.0
    samples = jax.jit(sample_mixture, static_argnums=1)(repeat(parameters, 20_000), 3, key)
    assert samples.shape == (20_000, 1, 1, 3)
    error = samples.std(axis=0) / np.sqrt(len(samples))
    difference = abs(samples.mean(axis=0) - mean_of_mixture(repeat(parameters, 1), 3)[0])
    assert (difference < 5 * error + 1e-4).all()


def test_samples_have_the_probabilities_of_the_likelihood(key):
    values, parameters, count = levels(3), rgb_parameters(), 20_000
    samples = sample_mixture(repeat(parameters, count), 3, key, num_levels=3)[:, 0, 0]
    found = np.bincount(np.asarray((samples + 1) @ jnp.asarray([9.0, 3.0, 1.0])).astype(int))
    image = np.asarray(list(itertools.product(values, repeat=3)), np.float32)[:, None, None]
    mass = np.exp(mixture_log_likelihood(image, repeat(parameters, 27), num_levels=3))
    common = mass > 5 / count
    assert stats.chisquare(found[common], found[common].sum() * _shares(mass[common])).pvalue > 1e-3


def _shares(mass):
    return mass.astype(float) / mass.astype(float).sum()


def test_bits_per_dimension_of_uniform_distributions():
    nats = jnp.asarray([12 * np.log(256.0)], jnp.float32)
    np.testing.assert_allclose(bits_per_dimension(nats, 12, density=False), [8.0], rtol=1e-6)
    # A density of 1/2 on [-1, 1]: the 256 values lie 2/255 apart, so that 8 is log2 255 here.
    nats = jnp.asarray([12 * np.log(2.0)], jnp.float32)
    bits = bits_per_dimension(nats, 12, density=True)
    np.testing.assert_allclose(bits, [np.log2(255.0)], rtol=1e-6)


def test_bits_of_a_wide_density_are_those_of_its_discretization():
    image = jnp.asarray(levels(256))[:, None, None, None]
    parameters = repeat([0.0, 0.1, np.log(0.1)], 256)
    discrete = -mixture_log_likelihood(image, parameters)
    density = -stats.logistic.logpdf(image[:, 0, 0, 0], 0.1, 0.1)
    inner = slice(1, 255)
    np.testing.assert_allclose(
        bits_per_dimension(jnp.asarray(density), 1, density=True)[inner],
        bits_per_dimension(discrete, 1, density=False)[inner],
        atol=1e-3,
    )
