"""The likelihood p(x | z) of a VAE's pixels, given the output of its decoder."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Key
from maskgit_jax.configuration import require, require_at_least, require_one_of
from maskgit_jax.losses.likelihoods import (
    bernoulli_log_likelihood,
    discretized_logistic_mixture_log_likelihood,
    gaussian_log_likelihood,
    mixture_mean,
    num_mixture_parameters,
    sample_mixture,
)

LIKELIHOODS = ("gaussian", "bernoulli", "logistic_mixture")
SIGMA_MODES = ("fixed", "learned", "optimal")
BINARIZATIONS = ("dynamic", "threshold")


class PixelLikelihood(NamedTuple):
    """A family of pixel distributions. Images are [B, H, W, C] in [-1, 1].

    Attributes:
        num_outputs: Outputs P of the decoder for each pixel.
        density: Whether pixels have a density over [-1, 1], not probabilities of levels.
        description: The same in words.
        binarize: (image, key) -> the image that encoder and likelihood read: binary for a
            Bernoulli likelihood, else unchanged.
        expected: (image) -> the mean of `binarize` over keys, for callers without a key.
        log_likelihood: (image, outputs [B, H, W, P], log_sigma) -> log p(x | z), [B], nats.
        mean: (outputs) -> the mean image.
        sample: (outputs, log_sigma, key) -> an image sampled from the distribution.
    """

    num_outputs: int
    density: bool
    description: str
    binarize: Callable[[Array, Key], Array]
    expected: Callable[[Array], Array]
    log_likelihood: Callable[[Array, Array, Array | float], Array]
    mean: Callable[[Array], Array]
    sample: Callable[[Array, Array | float, Key], Array]


def validate_likelihood(config: ConfigDict) -> None:
    """Raises `InputError` for values of `config.model` that describe no likelihood."""
    model = config.model
    require_one_of(config, "model.likelihood", LIKELIHOODS)
    require_one_of(config, "model.sigma_mode", SIGMA_MODES)
    require_one_of(config, "model.binarization", BINARIZATIONS)
    require(
        model.sigma > 0,
        f"config.model.sigma is {model.sigma}; a standard deviation must be above 0",
    )
    require_at_least(config, 1, "model.num_mixtures")


def pixel_likelihood(config: ConfigDict) -> PixelLikelihood:
    """Returns the likelihood that a configuration describes."""
    kind, channels = config.model.likelihood, config.data.channels
    if kind == "bernoulli":
        return _bernoulli(channels, config.model.binarization)
    if kind == "logistic_mixture":
        return _logistic_mixture(channels, config.model.num_mixtures)
    return _gaussian(channels)


def initial_log_sigma(config: ConfigDict) -> float | None:
    """Returns the initial value of a learned log standard deviation, None if it is not learned."""
    model = config.model
    learned = model.likelihood == "gaussian" and model.sigma_mode == "learned"
    return math.log(model.sigma) if learned else None


def _unchanged(image: Array, key: Key | None = None) -> Array:
    del key
    return image


def _gaussian(channels: int) -> PixelLikelihood:
    def sample(outputs: Array, log_sigma: Array | float, key: Key) -> Array:
        return outputs + jnp.exp(log_sigma) * jax.random.normal(key, outputs.shape)

    return PixelLikelihood(
        num_outputs=channels,
        density=True,
        description="a density over [-1, 1]; log2(127.5) is added to bits per dimension",
        binarize=_unchanged,
        expected=_unchanged,
        log_likelihood=gaussian_log_likelihood,
        mean=lambda outputs: outputs,
        sample=sample,
    )


def _bernoulli(channels: int, binarization: str) -> PixelLikelihood:
    def at_random(image: Array, key: Key) -> Array:
        brightness = (0.5 * (image + 1.0)).clip(0.0, 1.0)
        return jnp.where(jax.random.bernoulli(key, brightness), 1.0, -1.0)

    def by_threshold(image: Array, key: Key | None = None) -> Array:
        del key
        return jnp.where(image > 0.0, 1.0, -1.0)

    def log_likelihood(image: Array, outputs: Array, log_sigma: Array | float) -> Array:
        del log_sigma
        return bernoulli_log_likelihood(image > 0, outputs)

    def mean(outputs: Array) -> Array:
        return 2.0 * jax.nn.sigmoid(outputs) - 1.0

    def sample(outputs: Array, log_sigma: Array | float, key: Key) -> Array:
        del log_sigma
        return jnp.where(jax.random.bernoulli(key, jax.nn.sigmoid(outputs)), 1.0, -1.0)

    dynamic = binarization == "dynamic"
    return PixelLikelihood(
        num_outputs=channels,
        density=False,
        description="a probability of binary pixels",
        binarize=at_random if dynamic else by_threshold,
        expected=_unchanged if dynamic else by_threshold,
        log_likelihood=log_likelihood,
        mean=mean,
        sample=sample,
    )


def _logistic_mixture(channels: int, num_mixtures: int) -> PixelLikelihood:
    def log_likelihood(image: Array, outputs: Array, log_sigma: Array | float) -> Array:
        del log_sigma
        return discretized_logistic_mixture_log_likelihood(image, outputs)

    def sample(outputs: Array, log_sigma: Array | float, key: Key) -> Array:
        del log_sigma
        return sample_mixture(outputs, channels, key)

    return PixelLikelihood(
        num_outputs=num_mixture_parameters(num_mixtures, channels),
        density=False,
        description="a probability of 256 levels",
        binarize=_unchanged,
        expected=_unchanged,
        log_likelihood=log_likelihood,
        mean=lambda outputs: mixture_mean(outputs, channels),
        sample=sample,
    )
