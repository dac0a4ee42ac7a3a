"""Log-likelihoods of images given the outputs of a decoder, in nats, and bits per dimension."""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from maskgit_jax.arrays import Array, Key

_MIN_VARIANCE = 1e-6
_MIN_LOG_SCALE = -7.0


def _sum_pixels(values: Array) -> Array:
    return values.sum(axis=tuple(range(1, values.ndim)))


def bernoulli_log_likelihood(binary: Array, logits: Array) -> Array:
    """Returns log p(binary) of each image, float32 [B], in nats.

    It is a likelihood of binary images only: for grey levels it lacks a normalizer.

    Args:
        binary: Pixels in {0, 1}, any dtype, [B, H, W, C].
        logits: log p(1) / p(0) of each pixel, same shape.
    """
    chex.assert_equal_shape([binary, logits])
    binary, logits = binary.astype(jnp.float32), logits.astype(jnp.float32)
    ones, zeros = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return _sum_pixels(binary * ones + (1.0 - binary) * zeros)


def gaussian_log_likelihood(image: Array, mean: Array, log_sigma: Array | float) -> Array:
    """Returns the log density of each image, float32 [B], in nats.

    It is a density over pixels in [-1, 1]: it may be positive, see `bits_per_dimension`.

    Args:
        image: [B, H, W, C] in [-1, 1].
        mean: Same shape.
        log_sigma: Natural logarithm of the standard deviation, a scalar or of a shape that
            broadcasts to that of the image.
    """
    chex.assert_equal_shape([image, mean])
    error = (image - mean).astype(jnp.float32)
    log_sigma = jnp.broadcast_to(jnp.asarray(log_sigma, jnp.float32), error.shape)
    squares = (error * jnp.exp(-log_sigma)) ** 2
    return -_sum_pixels(0.5 * squares + log_sigma + 0.5 * math.log(2.0 * math.pi))


def optimal_log_sigma(image: Array, mean: Array) -> Array:
    """Returns the log standard deviation, float32 [], of maximum likelihood.

    The variance is the mean squared error of the whole batch, but at least 1e-6, below the 5.1e-6
    of rounding to 8 bits alone. It may be differentiated: at the optimum the likelihood does not
    change with sigma, so that gradients equal those of a learned sigma.

    Args:
        image: [B, H, W, C] in [-1, 1].
        mean: Same shape.

    Source: Rybkin et al. 2021, Simple and Effective VAE Training with Calibrated Decoders.
    """
    chex.assert_equal_shape([image, mean])
    variance = ((image - mean).astype(jnp.float32) ** 2).mean()
    return 0.5 * jnp.log(jnp.maximum(variance, _MIN_VARIANCE))


class _Mixture(NamedTuple):
    """The parameters of a mixture of logistic distributions, float32."""

    log_weights: Array  # [B, H, W, M], log of probabilities
    means: Array  # [B, H, W, M, C], of a channel if the previous ones are 0
    log_scales: Array  # [B, H, W, M, C]
    coefficients: Array  # [B, H, W, M, C, C] in [-1, 1], below the diagonal


def num_mixture_parameters(num_mixtures: int, channels: int) -> int:
    """Returns the number of parameters P of a pixel: 10 per component for RGB, 3 for grey."""
    return num_mixtures * (1 + 2 * channels + channels * (channels - 1) // 2)


def _mixture(parameters: Array, channels: int) -> _Mixture:
    """Splits parameters [B, H, W, P] into the parts of a mixture.

    P holds M weights (logits), then M * C means, M * C logarithms of scales and M * C(C-1)/2
    coefficients before tanh, in each the component first; coefficients are in the order
    (1 on 0), (2 on 0), (2 on 1).

    Raises:
        ValueError: P does not fit the number of channels.
    """
    chex.assert_rank(parameters, 4)
    each = num_mixture_parameters(1, channels)
    count, remainder = divmod(parameters.shape[-1], each)
    if remainder or not count:
        raise ValueError(
            f"{parameters.shape[-1]} parameters do not form a mixture of {channels} channels; use "
            f"a multiple of {each}"
        )
    parameters = parameters.astype(jnp.float32)
    ends = (count, count * (1 + channels), count * (1 + 2 * channels))
    logits, *rest = jnp.split(parameters, ends, axis=-1)
    means, log_scales, pairs = (
        part.reshape(*part.shape[:-1], count, part.shape[-1] // count) for part in rest
    )
    rows, columns = jnp.tril_indices(channels, -1)
    square = jnp.zeros((*pairs.shape[:-1], channels, channels))
    return _Mixture(
        log_weights=jax.nn.log_softmax(logits),
        means=means,
        log_scales=jnp.maximum(log_scales, _MIN_LOG_SCALE),
        coefficients=square.at[..., rows, columns].set(jnp.tanh(pairs)),
    )


def _level(image: Array, num_levels: int) -> Array:
    """Returns the nearest level, float32 0 .. num_levels - 1."""
    return ((image.clip(-1.0, 1.0) + 1.0) * (0.5 * (num_levels - 1))).round()


def _value(level: Array, num_levels: int) -> Array:
    """Returns the pixel in [-1, 1] of a level."""
    return level * (2.0 / (num_levels - 1)) - 1.0


def discretized_logistic_mixture_log_likelihood(
    image: Array, parameters: Array, num_levels: int = 256
) -> Array:
    """Returns the log probability of each image of discrete levels, float32 [B], in nats.

    A component gives a level the mass of a logistic distribution between the midpoints to the
    neighbouring levels; the outermost levels get the tails. The mean of a channel is shifted by
    the true values of the previous channels, times a coefficient of the component. Logarithms of
    scales are clipped to at least -7.

    Args:
        image: [B, H, W, C] in [-1, 1]; pixels are rounded to the nearest level.
        parameters: [B, H, W, num_mixture_parameters(M, C)]: M logits, M * C means, M * C log
            scales, M * C(C-1)/2 coefficients before tanh.
        num_levels: Levels of a channel, at even distances from -1 to 1.

    Raises:
        ValueError: The number of parameters does not fit the number of channels.

    Source: Salimans et al. 2017, PixelCNN++, eq. 1 to 3; openai/pixel-cnn
    nn.py:discretized_mix_logistic_loss. Differs: small masses are exact, where that program uses
    the density at the midpoint; the layout of the parameters.
    """
    channels = image.shape[-1]
    chex.assert_shape(parameters, (*image.shape[:-1], None))
    mixture = _mixture(parameters, channels)
    level = _level(image.astype(jnp.float32), num_levels)[..., None, :]  # [B, H, W, 1, C]
    pixel = _value(level, num_levels)
    shift = (mixture.coefficients * pixel[..., None, :]).sum(axis=-1)  # [B, H, W, M, C]
    centred = pixel - mixture.means - shift
    rate, half = jnp.exp(-mixture.log_scales), 1.0 / (num_levels - 1)
    # With s the logistic function s(a) - s(b) = s(a) s(-b) (1 - exp(b - a)): nothing cancels.
    below = jax.nn.log_sigmoid(rate * (centred + half))
    above = jax.nn.log_sigmoid(-rate * (centred - half))
    between = below + above + jnp.log(-jnp.expm1(-2.0 * half * rate))
    log_mass = jnp.where(level == 0, below, jnp.where(level == num_levels - 1, above, between))
    return _sum_pixels(jax.nn.logsumexp(mixture.log_weights + log_mass.sum(axis=-1), axis=-1))


def mixture_mean(parameters: Array, channels: int) -> Array:
    """Returns the mean of the mixture, clipped, as an image float32 [B, H, W, C] in [-1, 1].

    It is the mean of the logistic distributions, before clipping and rounding.

    Args:
        parameters: As for `discretized_logistic_mixture_log_likelihood`.
        channels: C.

    Raises:
        ValueError: The number of parameters does not fit the number of channels.
    """
    mixture = _mixture(parameters, channels)
    means: list[Array] = []  # of the channels so far, [B, H, W, M]
    for channel in range(channels):
        mean = mixture.means[..., channel]
        for before, value in enumerate(means):
            mean = mean + mixture.coefficients[..., channel, before] * value
        means.append(mean)
    weights = jnp.exp(mixture.log_weights)[..., None]
    return (weights * jnp.stack(means, axis=-1)).sum(axis=-2).clip(-1.0, 1.0)


def sample_mixture(parameters: Array, channels: int, key: Key, num_levels: int = 256) -> Array:
    """Returns a sample of the mixture, an image float32 [B, H, W, C] of levels in [-1, 1].

    Samples have exactly the probabilities of `discretized_logistic_mixture_log_likelihood`:
    rounding after clipping gives the outermost levels the tails.

    Args:
        parameters: As for `discretized_logistic_mixture_log_likelihood`.
        channels: C.
        key: Random key.
        num_levels: Levels of a channel.

    Raises:
        ValueError: The number of parameters does not fit the number of channels.

    Source: openai/pixel-cnn nn.py:sample_from_discretized_mix_logistic. Differs: values are
    rounded, so that later channels are conditioned on the same values as in the likelihood.
    """
    mixture = _mixture(parameters, channels)
    component_key, noise_key = jax.random.split(key)
    component = jax.random.categorical(component_key, mixture.log_weights)[..., None, None]
    means = jnp.take_along_axis(mixture.means, component, axis=-2)[..., 0, :]  # [B, H, W, C]
    log_scales = jnp.take_along_axis(mixture.log_scales, component, axis=-2)[..., 0, :]
    coefficients = jnp.take_along_axis(mixture.coefficients, component[..., None], axis=-3)
    noise = jnp.exp(log_scales) * jax.random.logistic(noise_key, means.shape)
    sampled: list[Array] = []
    for channel in range(channels):
        value = means[..., channel] + noise[..., channel]
        for before, known in enumerate(sampled):
            value = value + coefficients[..., 0, channel, before] * known
        sampled.append(_value(_level(value, num_levels), num_levels))
    return jnp.stack(sampled, axis=-1)


def bits_per_dimension(nll: Array, num_dimensions: int, density: bool) -> Array:
    """Returns bits per dimension of each image, float32 [B].

    To a density over pixels in [-1, 1] it adds log2(127.5) = 6.994: the 256 values of 8 bits are
    1 / 127.5 apart, and the mass of a value is about the density times that distance. Otherwise
    the metric would not be comparable with that of discrete models, and could be negative.

    Args:
        nll: -log p of each image or a bound of it, nats, [B].
        num_dimensions: H * W * C.
        density: Whether p is a density over [-1, 1], not a probability of discrete values.
    """
    bits = nll.astype(jnp.float32) / (num_dimensions * math.log(2.0))
    return bits + math.log2(127.5) if density else bits
