"""Vector quantization: latents to the nearest codes, and how a codebook is kept in use."""

from collections.abc import Mapping
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array, Key
from maskgit_jax.losses.quantization import quantization_loss


class Quantized(NamedTuple):
    """What a quantizer returns.

    Attributes:
        codes: [..., D]: the value of the nearest codes, the gradient of the latents
            (straight-through).
        tokens: int32 [...]: indices of these codes, 0 .. K-1.
        loss: []: what moves the codebook, and ties the encoder to it.
    """

    codes: Array
    tokens: Array
    loss: Array


class VectorQuantizer(nn.Module):
    """Replaces each latent vector by the nearest code (squared Euclidean distance).

    The codebook is float32 [K, D], rows are codes; distances are float32 at full matmul
    precision, since bfloat16 products move the nearest code. Ties take the lower index.

    Attributes:
        codebook_size: K.
        code_width: D.
        beta: Weight of the commitment term.
    """

    codebook_size: int
    code_width: int
    beta: float = 0.25

    def setup(self) -> None:
        """Declares the codebook, as in google-research/maskgit: variance 1/K, uniform."""
        init = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
        self.codebook = self.param("codebook", init, (self.codebook_size, self.code_width))

    def __call__(self, latents: Array) -> Quantized:
        """Quantizes latents [..., D]."""
        latents = latents.astype(jnp.float32)
        tokens = self.nearest(latents)
        codes = self.lookup(tokens)
        loss = quantization_loss(latents, codes, self.beta)
        return Quantized(latents + jax.lax.stop_gradient(codes - latents), tokens, loss)

    def nearest(self, latents: Array) -> Array:
        """Returns the index of the nearest code, int32 [...], for latents [..., D]."""
        products = jnp.einsum(
            "...d,kd->...k", latents, self.codebook, precision=jax.lax.Precision.HIGHEST
        )
        half_norms = 0.5 * (self.codebook**2).sum(axis=-1)
        half_norms = half_norms.reshape((1,) * (products.ndim - 1) + (-1,))
        # |z - e|^2 = |z|^2 + 2 (|e|^2 / 2 - z.e), and |z|^2 is the same for every code.
        return jnp.argmin(jax.lax.stop_gradient(half_norms - products), axis=-1).astype(jnp.int32)

    def lookup(self, tokens: Array) -> Array:
        """Returns the codes [..., D] of tokens int32 [...]."""
        return jnp.take(self.codebook, tokens, axis=0)


CodebookUse = Mapping[str, Array]
"""idle int32 [K]: batches since a code was last chosen; revived_at int32 [K]: the step at which
it was last replaced, -1 for never; replacement float32 [K, D]: by what."""


def unused_codebook(codebook_size: int, code_width: int) -> CodebookUse:
    """Returns the record of a codebook that has not been used yet."""
    return {
        "idle": jnp.zeros((codebook_size,), jnp.int32),
        "revived_at": jnp.full((codebook_size,), -1, jnp.int32),
        "replacement": jnp.zeros((codebook_size, code_width), jnp.float32),
    }


def record_use(
    use: CodebookUse, latents: Array, tokens: Array, key: Key, step: Array, patience: int
) -> CodebookUse:
    """Counts a batch and picks, for codes idle for `patience` batches, latents to revive them.

    Args:
        use: The record so far.
        latents: Encoder outputs of this batch [..., D].
        tokens: Their nearest codes, int32 [...].
        key: Chooses the latents.
        step: The training step [], noted for `revive`.
        patience: Batches without use after which a code is replaced; 0 never replaces.
    """
    codebook_size, code_width = use["replacement"].shape
    counts = jnp.zeros((codebook_size,), jnp.int32).at[tokens.ravel()].add(1)
    idle = jnp.where(counts > 0, 0, use["idle"] + 1)
    dead = idle >= patience if patience else jnp.zeros_like(idle, bool)
    candidates = draw_codes(latents, codebook_size, key)
    return {
        "idle": jnp.where(dead, 0, idle),
        "revived_at": jnp.where(dead, step.astype(jnp.int32), use["revived_at"]),
        "replacement": jnp.where(dead[:, None], candidates, use["replacement"]),
    }


def revive(codebook: Array, use: CodebookUse, step: Array) -> Array:
    """Returns the codebook [K, D] with the codes replaced that were given up at this step."""
    return jnp.where((use["revived_at"] == step)[:, None], use["replacement"], codebook)


def draw_codes(latents: Array, num_codes: int, key: Key) -> Array:
    """Returns `num_codes` of the latent vectors [..., D] at random, float32 [num_codes, D].

    Without repetition while there are enough of them.
    """
    chex.assert_rank(key, 0)
    vectors = jax.lax.stop_gradient(latents).reshape(-1, latents.shape[-1]).astype(jnp.float32)
    repeated = len(vectors) < num_codes
    return vectors[jax.random.choice(key, len(vectors), (num_codes,), replace=repeated)]
