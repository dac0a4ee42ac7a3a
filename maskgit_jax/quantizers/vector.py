"""Vector quantization: latents to the nearest codes, and how a codebook is kept in use."""

from collections.abc import Mapping
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array, Key
from maskgit_jax.losses.quantization import commitment_loss, quantization_loss

UPDATES = ("gradient", "ema")
"""How a codebook learns: it descends its loss, or it is set to the running mean of the latents
that chose each code (see `follow`)."""

INITS = ("data", "kmeans", "uniform")
"""What a codebook starts from, see `initial_codebook`."""


class Quantized(NamedTuple):
    """What a quantizer returns.

    Attributes:
        codes: [..., D]: the value of the nearest codes, the gradient of the latents
            (straight-through).
        tokens: int32 [...]: indices of these codes, 0 .. K-1.
        loss: []: what ties the encoder to the codebook, and moves the codebook if it descends.
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
            beta * commitment), whoever trains sets the codebook from `follow`.
    """

    codebook_size: int
    codebook_dim: int
    beta: float = 0.25
    update: str = "gradient"

    def setup(self) -> None:
        """Declares the codebook, as in google-research/maskgit: variance 1/K, uniform."""
        if self.update not in UPDATES:
            raise ValueError(f"update '{self.update}' is none of: {', '.join(UPDATES)}")
        init = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
        self.codebook = self.param("codebook", init, (self.codebook_size, self.codebook_dim))

    def __call__(self, latents: Array) -> Quantized:
        """Quantizes latents [..., D]."""
        latents = latents.astype(jnp.float32)
        tokens = self.nearest(latents)
        codes = self.lookup(tokens)
        if self.update == "ema":
            loss = self.beta * commitment_loss(latents, codes)
        else:
            loss = quantization_loss(latents, codes, self.beta)
        return Quantized(latents + jax.lax.stop_gradient(codes - latents), tokens, loss)

    def nearest(self, latents: Array) -> Array:
        """Returns the index of the nearest code, int32 [...], for latents [..., D]."""
        return nearest_code(latents, self.codebook)

    def lookup(self, tokens: Array) -> Array:
        """Returns the codes [..., D] of tokens int32 [...]."""
        return jnp.take(self.codebook, tokens, axis=0)


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


CodebookUsage = Mapping[str, Array]
"""idle int32 [K]: batches since a code was last chosen; restarted_at int32 [K]: the step at which
it was last replaced, -1 for never; replacement float32 [K, D]: by what."""


def init_usage(codebook_size: int, codebook_dim: int) -> CodebookUsage:
    """Returns the record of a codebook that has not been used yet."""
    return {
        "idle": jnp.zeros((codebook_size,), jnp.int32),
        "restarted_at": jnp.full((codebook_size,), -1, jnp.int32),
        "replacement": jnp.zeros((codebook_size, codebook_dim), jnp.float32),
    }


def update_usage(
    use: CodebookUsage, latents: Array, tokens: Array, key: Key, step: Array, patience: int
) -> CodebookUsage:
    """Counts a batch and picks, for codes idle for `patience` batches, latents to revive them.

    Args:
        use: The record so far.
        latents: Encoder outputs of this batch [..., D].
        tokens: Their nearest codes, int32 [...].
        key: Chooses the latents.
        step: The training step [], noted for `revive`.
        patience: Batches without use after which a code is replaced; 0 never replaces.
    """
    codebook_size, codebook_dim = use["replacement"].shape
    counts = jnp.zeros((codebook_size,), jnp.int32).at[tokens.ravel()].add(1)
    idle = jnp.where(counts > 0, 0, use["idle"] + 1)
    dead = idle >= patience if patience else jnp.zeros_like(idle, bool)
    candidates = sample_latents(latents, codebook_size, key)
    return {
        "idle": jnp.where(dead, 0, idle),
        "restarted_at": jnp.where(dead, step.astype(jnp.int32), use["restarted_at"]),
        "replacement": jnp.where(dead[:, None], candidates, use["replacement"]),
    }


def restart_dead_codes(codebook: Array, use: CodebookUsage, step: Array) -> Array:
    """Returns the codebook [K, D] with the codes replaced that were given up at this step."""
    return jnp.where((use["restarted_at"] == step)[:, None], use["replacement"], codebook)


def sample_latents(latents: Array, num_codes: int, key: Key) -> Array:
    """Returns `num_codes` of the latent vectors [..., D] at random, float32 [num_codes, D].

    Without repetition while there are enough of them.
    """
    chex.assert_rank(key, 0)
    vectors = _vectors(latents)
    repeated = len(vectors) < num_codes
    return vectors[jax.random.choice(key, len(vectors), (num_codes,), replace=repeated)]


EMACodebook = Mapping[str, Array]
"""counts float32 [K]: running number N of latents a batch sends to each code; means float32
[K, D]: their running mean m / N, which is what the codebook is to be."""


def init_ema(codebook: Array) -> EMACodebook:
    """Returns the record a codebook [K, D] starts with: each code was chosen once, by itself.

    So an unused code stays where it is. With N = 0 instead, as in some published code, the first
    step divides it by the smoothing constant and throws it away by a factor of 1e5.
    """
    return {"counts": jnp.ones(codebook.shape[:1], jnp.float32), "means": codebook}


def update_ema(running: EMACodebook, latents: Array, tokens: Array, decay: float) -> EMACodebook:
    """Returns the record after one more batch: N <- decay N + (1 - decay) n, m likewise.

    n is how many latents chose a code, and its part of m their sum. The mean m / N is moved by
    (1 - decay) (sum - n mean) / N, which is the same number, but leaves the mean of an unused
    code as it is to the last bit however small its N becomes; so no count needs a floor.

    Args:
        running: The record so far.
        latents: Encoder outputs of the batch, of all devices [..., D].
        tokens: Their nearest codes, int32 [...].
        decay: Share of the past that is kept, in [0, 1).

    Source: van den Oord et al. 2017, VQ-VAE, appendix A.1. Differs: starts of N and m, see
    `init_ema`; no Laplace smoothing, which counts that cannot be divided by 0 do not need.
    """
    counts, means = running["counts"], running["means"]
    chosen, total = _totals(latents, tokens, len(counts))
    counts = decay * counts + (1.0 - decay) * chosen
    # The count of a code that is chosen is at least 1 - decay; without choice the move is 0.
    move = (1.0 - decay) * (total - chosen[:, None] * means)
    moved = means + move / jnp.maximum(counts, 1e-30)[:, None]
    return {"counts": counts, "means": jnp.where(chosen[:, None] > 0, moved, means)}


def reset_ema_of_restarted(running: EMACodebook, use: CodebookUsage, step: Array) -> EMACodebook:
    """Returns the record with the codes revived at this step at N = 1 and their new place."""
    revived = use["restarted_at"] == step
    return {
        "counts": jnp.where(revived, 1.0, running["counts"]),
        "means": jnp.where(revived[:, None], use["replacement"], running["means"]),
    }


def _totals(latents: Array, tokens: Array, codebook_size: int) -> tuple[Array, Array]:
    """Returns how many latents chose each code, float32 [K], and their sums [K, D]."""
    vectors = _vectors(latents)
    # A product, not a scatter: its order of summation is fixed on every device.
    one_hot = jax.nn.one_hot(tokens.ravel(), codebook_size, dtype=jnp.float32)  # [N, K]
    total = jnp.einsum("nk,nd->kd", one_hot, vectors, precision=jax.lax.Precision.HIGHEST)
    return one_hot.sum(axis=0), total


def _vectors(latents: Array) -> Array:
    constant = jax.lax.stop_gradient(latents)
    return constant.reshape(-1, latents.shape[-1]).astype(jnp.float32)


def initial_codebook(codebook: Array, latents: Array, key: Key, start: str) -> Array:
    """Returns the codebook [K, D] to start from.

    Args:
        codebook: As the module's initialiser made it.
        latents: Encoder outputs of the first batch [..., D].
        key: Chooses among them.
        start: "data": K of the latents; "kmeans": their cluster centres, see `kmeans`;
            "uniform": `codebook` itself.
    """
    if start == "uniform":
        return codebook
    if start == "kmeans":
        return kmeans(latents, len(codebook), key)
    if start == "data":
        return sample_latents(latents, len(codebook), key)
    raise ValueError(f"codebook_init '{start}' is none of: {', '.join(INITS)}")


def kmeans(latents: Array, num_codes: int, key: Key, iterations: int = 10) -> Array:
    """Returns cluster centres [num_codes, D] of latents [..., D] after some Lloyd iterations.

    They start from `sample_latents`, and the mean squared distance to the nearest never grows. A
    cluster that nothing is near to is drawn anew; with fewer latents than codes some stay equal.
    """
    vectors = _vectors(latents)
    start_key, redraw_key = jax.random.split(key)

    def improve(number: Array, centres: Array) -> Array:
        chosen, total = _totals(vectors, nearest_code(vectors, centres), num_codes)
        redrawn = sample_latents(vectors, num_codes, jax.random.fold_in(redraw_key, number))
        means = total / jnp.maximum(chosen, 1.0)[:, None]
        return jnp.where(chosen[:, None] > 0, means, redrawn)

    return jax.lax.fori_loop(0, iterations, improve, sample_latents(vectors, num_codes, start_key))
