"""Losses of a vector quantizer."""

import chex
from jax import lax

from maskgit_jax.arrays import Array


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
