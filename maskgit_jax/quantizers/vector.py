"""Vector quantization: replaces latents by the nearest codes of a codebook."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array
from maskgit_jax.losses.quantization import commitment_loss, quantization_loss

CODEBOOK_UPDATES = ("gradient", "ema")
"""How a codebook learns: by the gradient of its loss, or as the exponential moving average of the
latents that chose each code (`quantizers.codebook.update_ema`)."""


class Quantized(NamedTuple):
    """The output of a quantizer.

    Attributes:
        codes: [..., D]: the nearest codes; their gradient goes to the latents (straight-through).
        tokens: int32 [...]: indices of these codes, 0 .. K-1.
        loss: []: ties the encoder to the codebook, and the codebook to the encoder if the
            codebook is updated by gradients.
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
        codebook_dim: D.
        beta: Weight of the commitment term.
        update: "gradient": the loss moves the codebook; "ema": it does not (the loss is
            beta * commitment), and the training stage sets the codebook.
        normalize: Whether latents and codes are divided by their lengths first, so that the
            nearest code is the one of the smallest angle. Source: Yu et al. 2021, ViT-VQGAN;
            FoundationVision/LlamaGen tokenizer/tokenizer_image/vq_model.py.
    """

    codebook_size: int
    codebook_dim: int
    beta: float = 0.25
    update: str = "gradient"
    normalize: bool = False

    def setup(self) -> None:
        """Declares the codebook, as in google-research/maskgit: variance 1/K, uniform."""
        if self.update not in CODEBOOK_UPDATES:
            raise ValueError(f"update '{self.update}' is none of: {', '.join(CODEBOOK_UPDATES)}")
        init = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
        self.codebook = self.param("codebook", init, (self.codebook_size, self.codebook_dim))

    def __call__(self, latents: Array) -> Quantized:
        """Quantizes latents [..., D]."""
        latents = self._unit(latents.astype(jnp.float32))
        tokens = nearest_code(latents, self._unit(self.codebook))
        codes = self.lookup(tokens)
        if self.update == "ema":
            loss = self.beta * commitment_loss(latents, codes)
        else:
            loss = quantization_loss(latents, codes, self.beta)
        return Quantized(latents + jax.lax.stop_gradient(codes - latents), tokens, loss)

    def nearest(self, latents: Array) -> Array:
        """Returns the index of the nearest code, int32 [...], for latents [..., D]."""
        return nearest_code(self._unit(latents), self._unit(self.codebook))

    def lookup(self, tokens: Array) -> Array:
        """Returns the codes [..., D] of tokens int32 [...]."""
        return self._unit(jnp.take(self.codebook, tokens, axis=0))

    def _unit(self, vectors: Array) -> Array:
        return unit_vectors(vectors) if self.normalize else vectors


def unit_vectors(vectors: Array) -> Array:
    """Returns vectors [..., D] divided by their lengths; those of length 0 stay 0."""
    squares = (vectors**2).sum(axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


def nearest_code(latents: Array, codebook: Array) -> Array:
    """Returns the index of the nearest row of a codebook [K, D] to latents [..., D], int32 [...].

    Squared Euclidean distance in float32; ties take the lower index.
    """
    products = jnp.einsum(
        "...d,kd->...k", latents, codebook, precision=jax.lax.Precision.HIGHEST
    )  # [..., K]
    half_norms = 0.5 * (codebook**2).sum(axis=-1)
    half_norms = half_norms.reshape((1,) * (products.ndim - 1) + (-1,))
    # |z - e|^2 = |z|^2 + 2 (|e|^2 / 2 - z.e), and |z|^2 is the same for every code.
    return jnp.argmin(jax.lax.stop_gradient(half_norms - products), axis=-1).astype(jnp.int32)
