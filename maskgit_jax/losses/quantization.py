"""Losses of a vector quantizer."""

import chex
import jax
import jax.numpy as jnp
from jax import lax

from maskgit_jax.arrays import Array

ENTROPY_LOSSES = ("softmax", "argmax")
_EPSILON = 1e-5  # in the logarithm of mean probabilities


def codebook_loss(latents: Array, codes: Array) -> Array:
    """Returns mean |sg(latents) - codes|^2 over all elements, []: it moves the codes only."""
    chex.assert_equal_shape([latents, codes])
    return ((lax.stop_gradient(latents) - codes) ** 2).mean()


def commitment_loss(latents: Array, codes: Array) -> Array:
    """Returns mean |latents - sg(codes)|^2 over all elements, []: it moves the encoder only."""
    chex.assert_equal_shape([latents, codes])
    return ((latents - lax.stop_gradient(codes)) ** 2).mean()


def quantization_loss(latents: Array, codes: Array, beta: float) -> Array:
    """Returns codebook loss + beta * commitment loss [].

    Source: van den Oord et al. 2017, VQ-VAE, eq. 3. Differs from taming-transformers, whose
    released code applies beta to the codebook term (same value, other gradients).
    """
    return codebook_loss(latents, codes) + beta * commitment_loss(latents, codes)


def entropy_loss(latents: Array, codebook: Array, kind: str, temperature: float) -> Array:
    """Returns the entropy of the codes of each latent minus that of their mean, [], in nats.

    It makes assignments certain and the use of the codes even; its minimum is about -log K.

    Args:
        latents: [..., D].
        codebook: [K, D].
        kind: "softmax": of the probabilities softmax(-distance / temperature); "argmax": of the
            nearest codes, with the gradient of these probabilities.
        temperature: Divides the squared distances.

    Source: google-research/maskgit libml/losses.py:entropy_loss.
    """
    latents = latents.reshape(-1, latents.shape[-1]).astype(jnp.float32)
    products = jnp.matmul(latents, codebook.T, precision=lax.Precision.HIGHEST)  # [N, K]
    # The squared norm of the latent, the same for every code, changes no probability.
    logits = (2.0 * products - (codebook**2).sum(axis=-1)[None]) / temperature
    log_probability = jax.nn.log_softmax(logits)
    probability = jnp.exp(log_probability)
    if kind == "argmax":
        nearest = jax.nn.one_hot(logits.argmax(axis=-1), logits.shape[-1])
        probability += lax.stop_gradient(nearest - probability)
    elif kind != "softmax":
        raise ValueError(f"entropy loss '{kind}' is none of: {', '.join(ENTROPY_LOSSES)}")
    mean = probability.mean(axis=0)
    entropy_of_mean = -(mean * jnp.log(mean + _EPSILON)).sum()
    return -(probability * log_probability).sum(axis=-1).mean() - entropy_of_mean
