"""The life of a codebook: its initialization, EMA updates, usage and restarts of dead codes.

A codebook [K, D] is trained with running statistics, its `CodebookState`: `init_codebook_state`
before the first step, `update_codebook_state` after each batch, `assign_codebook` after the
optimizer's step.
"""

from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp

from maskgit_jax.arrays import Array, Key
from maskgit_jax.quantizers.vector import nearest_code

CODEBOOK_INITS = ("data", "kmeans", "uniform")
"""Where a codebook starts from, see `init_codebook`."""

CodebookUsage = Mapping[str, Array]
"""idle int32 [K]: batches since a code was last chosen; restarted_at int32 [K]: the step of the
code's last restart, -1 for never; replacement float32 [K, D]: the code that it restarted with."""

EMACodebook = Mapping[str, Array]
"""counts float32 [K]: moving average N of the number of latents per batch that choose each code;
means float32 [K, D]: their moving mean m / N, which is the codebook."""

CodebookState = Mapping[str, Mapping[str, Array]]
"""`usage`: CodebookUsage; for a codebook updated by EMA also `ema`: EMACodebook."""


def init_codebook(codebook: Array, latents: Array, key: Key, init: str) -> Array:
    """Returns the initial codebook float32 [K, D].

    Args:
        codebook: The parameter as the module initialized it.
        latents: Encoder outputs of the first batch [..., D].
        key: Random key of the choice among the latents.
        init: "data": K of the latents; "kmeans": their cluster centers, see `kmeans`;
            "uniform": `codebook` itself.

    Raises:
        ValueError: `init` is none of `CODEBOOK_INITS`.
    """
    if init == "uniform":
        return codebook
    if init == "kmeans":
        return kmeans(latents, len(codebook), key)
    if init == "data":
        return sample_latents(latents, len(codebook), key)
    raise ValueError(f"codebook_init '{init}' is none of: {', '.join(CODEBOOK_INITS)}")


def init_codebook_state(codebook: Array, update: str) -> CodebookState:
    """Returns the state of a codebook [K, D] before the first step.

    Args:
        codebook: The initial codebook.
        update: One of `quantizers.vector.CODEBOOK_UPDATES`.
    """
    usage = init_usage(*codebook.shape)
    return {"usage": usage, "ema": init_ema(codebook)} if update == "ema" else {"usage": usage}


def update_codebook_state(
    state: CodebookState,
    latents: Array,
    tokens: Array,
    key: Key,
    step: Array,
    restart_after: int,
    decay: float,
) -> CodebookState:
    """Returns the state after a batch; for the arguments see `update_usage` and `update_ema`."""
    usage = update_usage(state["usage"], latents, tokens, key, step, restart_after)
    if "ema" not in state:
        return {"usage": usage}
    ema = update_ema(state["ema"], latents, tokens, decay)
    return {"usage": usage, "ema": restart_dead_means(ema, usage, step)}


def assign_codebook(
    codebook: Array, state: CodebookState, step: Array, smoothing: float = 0.0
) -> Array:
    """Returns the codebook [K, D] after a step: its EMA means, or itself with dead codes restarted.

    It is assigned to the parameters and to their running average: the means are an average
    already.

    Args:
        codebook: The codebook after the optimizer's step.
        state: Its state after the batch.
        step: The training step [].
        smoothing: See `smooth_means`.
    """
    if "ema" in state:
        return smooth_means(state["ema"], smoothing) if smoothing else state["ema"]["means"]
    return restart_dead_codes(codebook, state["usage"], step)


def init_usage(codebook_size: int, codebook_dim: int) -> CodebookUsage:
    """Returns the usage of a codebook before the first batch."""
    return {
        "idle": jnp.zeros((codebook_size,), jnp.int32),
        "restarted_at": jnp.full((codebook_size,), -1, jnp.int32),
        "replacement": jnp.zeros((codebook_size, codebook_dim), jnp.float32),
    }


def update_usage(
    usage: CodebookUsage, latents: Array, tokens: Array, key: Key, step: Array, restart_after: int
) -> CodebookUsage:
    """Counts the codes of a batch, and draws replacements of dead codes from its latents.

    Args:
        usage: The usage before the batch.
        latents: Encoder outputs of this batch [..., D].
        tokens: Their nearest codes, int32 [...].
        key: Random key of the choice among the latents.
        step: The training step [].
        restart_after: Batches without use after which a code is dead; 0 never restarts any.
    """
    codebook_size, _ = usage["replacement"].shape
    counts = jnp.zeros((codebook_size,), jnp.int32).at[tokens.ravel()].add(1)
    idle = jnp.where(counts > 0, 0, usage["idle"] + 1)
    dead = idle >= restart_after if restart_after else jnp.zeros_like(idle, bool)
    candidates = sample_latents(latents, codebook_size, key)
    return {
        "idle": jnp.where(dead, 0, idle),
        "restarted_at": jnp.where(dead, step.astype(jnp.int32), usage["restarted_at"]),
        "replacement": jnp.where(dead[:, None], candidates, usage["replacement"]),
    }


def restart_dead_codes(codebook: Array, usage: CodebookUsage, step: Array) -> Array:
    """Returns the codebook [K, D] with the codes that died at this step replaced."""
    return jnp.where((usage["restarted_at"] == step)[:, None], usage["replacement"], codebook)


def count_restarts(usage: CodebookUsage, step: Array) -> Array:
    """Returns the number of codes that restart at this step, float32 []."""
    return (usage["restarted_at"] == step).sum().astype(jnp.float32)


def init_ema(codebook: Array) -> EMACodebook:
    """Returns the moving averages of a codebook [K, D] in which each code chose itself once.

    So an unused code stays where it is. With N = 0 instead, as in some published code, the first
    step divides it by the smoothing constant and scales it by a factor of 1e5.
    """
    return {"counts": jnp.ones(codebook.shape[:1], jnp.float32), "means": codebook}


def update_ema(ema: EMACodebook, latents: Array, tokens: Array, decay: float) -> EMACodebook:
    """Returns the moving averages after a batch: N <- decay N + (1 - decay) n, m likewise.

    n is the number of latents that chose a code, and its part of m their sum. The mean m / N is
    moved by (1 - decay) (sum - n mean) / N, which is the same number, but leaves the mean of an
    unused code unchanged to the last bit however small its N becomes; so no count needs a floor.

    Args:
        ema: The moving averages before the batch.
        latents: Encoder outputs of the batch, of all devices [..., D].
        tokens: Their nearest codes, int32 [...].
        decay: Share of the past that is kept, in [0, 1).

    Source: van den Oord et al. 2017, VQ-VAE, appendix A.1. Differs: the initial N and m, see
    `init_ema`; Laplace smoothing is an option (`smooth_means`), because counts that cannot be 0 do
    not need it.
    """
    counts, means = ema["counts"], ema["means"]
    chosen, total = _counts_and_sums(latents, tokens, len(counts))
    counts = decay * counts + (1.0 - decay) * chosen
    # The count of a chosen code is at least 1 - decay; the step of an unused one is 0.
    change = (1.0 - decay) * (total - chosen[:, None] * means)
    moved = means + change / jnp.maximum(counts, 1e-30)[:, None]
    return {"counts": counts, "means": jnp.where(chosen[:, None] > 0, moved, means)}


def smooth_means(ema: EMACodebook, smoothing: float) -> Array:
    """Returns the codebook [K, D] with Laplace smoothing of the counts: m / N'.

    N' = (N + smoothing) / (sum N + K smoothing) * sum N: a rare code becomes shorter.

    Source: van den Oord et al. 2017, as in DeepMind's sonnet and taming-transformers, which have
    a smoothing of 1e-5.
    """
    counts, num_codes = ema["counts"], len(ema["counts"])
    total = counts.sum()
    smoothed = (counts + smoothing) / (total + num_codes * smoothing) * total
    return ema["means"] * (counts / smoothed)[:, None]


def restart_dead_means(ema: EMACodebook, usage: CodebookUsage, step: Array) -> EMACodebook:
    """Returns the moving averages with the codes that died at this step replaced, at N = 1."""
    counts = jnp.where(usage["restarted_at"] == step, 1.0, ema["counts"])
    return {"counts": counts, "means": restart_dead_codes(ema["means"], usage, step)}


def sample_latents(latents: Array, num_codes: int, key: Key) -> Array:
    """Returns `num_codes` random vectors of the latents [..., D], float32 [num_codes, D].

    They are drawn without replacement if there are enough.
    """
    chex.assert_rank(key, 0)
    vectors = _vectors(latents)
    replace = len(vectors) < num_codes
    return vectors[jax.random.choice(key, len(vectors), (num_codes,), replace=replace)]


def kmeans(latents: Array, num_codes: int, key: Key, iterations: int = 10) -> Array:
    """Returns cluster centers [num_codes, D] of latents [..., D] after some Lloyd iterations.

    They start from `sample_latents`, and the mean squared distance to the nearest never grows.
    Empty clusters are drawn again; with fewer latents than codes some stay equal.
    """
    vectors = _vectors(latents)
    init_key, redraw_key = jax.random.split(key)

    def iterate(index: Array, centers: Array) -> Array:
        chosen, total = _counts_and_sums(vectors, nearest_code(vectors, centers), num_codes)
        redrawn = sample_latents(vectors, num_codes, jax.random.fold_in(redraw_key, index))
        means = total / jnp.maximum(chosen, 1.0)[:, None]
        return jnp.where(chosen[:, None] > 0, means, redrawn)

    return jax.lax.fori_loop(0, iterations, iterate, sample_latents(vectors, num_codes, init_key))


def _counts_and_sums(latents: Array, tokens: Array, codebook_size: int) -> tuple[Array, Array]:
    """Returns the number of latents of each code, float32 [K], and their sums [K, D]."""
    vectors = _vectors(latents)
    # A product, not a scatter: its order of summation is fixed on every device.
    one_hot = jax.nn.one_hot(tokens.ravel(), codebook_size, dtype=jnp.float32)  # [N, K]
    total = jnp.einsum("nk,nd->kd", one_hot, vectors, precision=jax.lax.Precision.HIGHEST)
    return one_hot.sum(axis=0), total


def _vectors(latents: Array) -> Array:
    constant = jax.lax.stop_gradient(latents)
    return constant.reshape(-1, latents.shape[-1]).astype(jnp.float32)
