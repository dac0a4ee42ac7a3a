"""Quantization by classification: a dense layer says which code a latent vector becomes."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array
from maskgit_jax.quantizers.vector import Quantized


class GumbelQuantizer(nn.Module):
    """Replaces each latent vector by the code with the largest logit.

    Attributes:
        codebook_size: K.
        codebook_dim: D, the width of latents and codes.

    Source: taming/modules/vqvae/quantize.py:GumbelQuantize. Differs: no Gumbel noise and a
    temperature of 1. Theirs adds noise when images are encoded too, so that its tokens are random
    draws; these are the most likely ones.
    """

    codebook_size: int
    codebook_dim: int

    def setup(self) -> None:
        """Declares the codes, N(0, 1), and the layer that chooses among them."""
        shape = (self.codebook_size, self.codebook_dim)
        self.codebook = self.param("codebook", nn.initializers.normal(1.0), shape)
        self.proj = nn.Dense(self.codebook_size, precision=jax.lax.Precision.HIGHEST)

    def __call__(self, latents: Array) -> Quantized:
        """Quantizes latents [..., D]; the gradient is that of the softmax (straight-through).

        The loss is the divergence of the softmax from the uniform distribution over all codes.
        """
        logits = self.proj(latents.astype(jnp.float32))
        tokens, shares = most_likely_code(logits), jax.nn.softmax(logits)
        one_hot = jax.nn.one_hot(tokens, self.codebook_size, dtype=jnp.float32)
        one_hot = shares + jax.lax.stop_gradient(one_hot - shares)
        codes = jnp.einsum(
            "...k,kd->...d", one_hot, self.codebook, precision=jax.lax.Precision.HIGHEST
        )
        divergence = (shares * jnp.log(shares * self.codebook_size + 1e-10)).sum(axis=-1)
        return Quantized(codes, tokens, divergence.mean())

    def nearest(self, latents: Array) -> Array:
        """Returns the index of the code with the largest logit, int32 [...]."""
        return most_likely_code(self.proj(latents.astype(jnp.float32)))

    def lookup(self, tokens: Array) -> Array:
        """Returns the codes [..., D] of tokens int32 [...]."""
        return jnp.take(self.codebook, tokens, axis=0)


def most_likely_code(logits: Array) -> Array:
    """Returns the index of the largest logit [..., K], int32 [...]; ties take the lower index."""
    return jnp.argmax(jax.lax.stop_gradient(logits), axis=-1).astype(jnp.int32)
