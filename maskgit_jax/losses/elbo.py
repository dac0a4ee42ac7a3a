"""The evidence lower bound (ELBO) of Gaussian latents: KL divergence, its weight, and IWAE."""

import chex
import jax
import jax.numpy as jnp

from maskgit_jax.arrays import Array, Key

ANNEALINGS = ("constant", "linear", "cyclical")
"""Schedules of the divergence's weight, see `annealing_weight`."""


def gaussian_kl(mean: Array, log_variance: Array) -> Array:
    """Returns KL(N(mean, variance) || N(0, 1)) of each dimension, float32 [B, Z], in nats.

    Args:
        mean: Means of the posteriors, [B, Z].
        log_variance: Natural logarithms of their variances, [B, Z].

    Source: Kingma and Welling 2014, Auto-Encoding Variational Bayes, appendix B.
    """
    chex.assert_equal_shape([mean, log_variance])
    mean, log_variance = mean.astype(jnp.float32), log_variance.astype(jnp.float32)
    # variance - 1 - log(variance), without the cancellation near a variance of 1
    return 0.5 * (mean**2 + jnp.expm1(log_variance) - log_variance)


def free_bits(kl: Array, floor: float) -> Array:
    """Returns sum_j max(floor, mean_b kl_bj), float32 [], in nats.

    The maximum is taken after the mean over the batch: a dimension below the floor has a constant
    loss and no gradient. A maximum for each example would be another objective.

    Args:
        kl: KL divergence of each example and dimension, [B, Z], nats.
        floor: Free nats per dimension; 0 gives the plain sum.

    Source: Kingma et al. 2016, Inverse Autoregressive Flow: free bits, in groups
    of one dimension.
    """
    chex.assert_rank(kl, 2)
    return jnp.maximum(floor, kl.astype(jnp.float32).mean(axis=0)).sum()


def annealing_weight(step: Array | int, kind: str, steps: int, cycles: int = 4) -> Array:
    """Returns the weight of the divergence at a step, float32 [] in [0, 1].

    Args:
        step: Steps completed before this one, from 0; may be traced.
        kind: "constant" (always 1), "linear" (from 0 to 1 over the schedule) or "cyclical"
            (linear in the first half of each cycle, 1 in its second half).
        steps: Length of the whole schedule, all cycles together; afterwards the weight is 1.
            0: the weight is 1 from the start.
        cycles: Number of cycles of "cyclical".

    Raises:
        ValueError: The kind is unknown, `steps` negative or `cycles` below 1.

    Source: Bowman et al. 2016, Generating Sentences from a Continuous Space, section 3.1;
    Fu et al. 2019, Cyclical Annealing Schedule, with R = 0.5.
    """
    if kind not in ANNEALINGS:
        raise ValueError(f"annealing '{kind}' is none of: {', '.join(ANNEALINGS)}")
    if steps < 0 or cycles < 1:
        raise ValueError(
            f"annealing has {steps} steps in {cycles} cycles; it needs at least 0 steps and 1 cycle"
        )
    if kind == "constant" or steps == 0:
        return jnp.ones((), jnp.float32)
    step = jnp.minimum(step, steps)
    if kind == "linear":
        return step.astype(jnp.float32) / steps
    # In integers: cycles start at their first step even if steps / cycles is no integer.
    position = (step * cycles % steps).astype(jnp.float32) / steps
    return jnp.where(step < steps, jnp.minimum(2.0 * position, 1.0), 1.0)


def reparameterize(mean: Array, log_variance: Array, key: Key) -> Array:
    """Returns a sample of N(mean, variance), [B, Z], differentiable with respect to both.

    Source: Kingma and Welling 2014, Auto-Encoding Variational Bayes, section 2.4.
    """
    chex.assert_equal_shape([mean, log_variance])
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    return mean + jnp.exp(0.5 * log_variance) * noise


def log_normal(z: Array, mean: Array | float, log_variance: Array | float) -> Array:
    """Returns log N(z; mean, variance) summed over the last axis, float32 [...], in nats.

    Args:
        z: [..., Z].
        mean: Scalar, or of a shape that broadcasts to that of `z`.
        log_variance: Likewise.
    """
    z = z.astype(jnp.float32)
    mean = jnp.broadcast_to(jnp.asarray(mean, jnp.float32), z.shape)
    log_variance = jnp.broadcast_to(jnp.asarray(log_variance, jnp.float32), z.shape)
    squares = (z - mean) ** 2 * jnp.exp(-log_variance)
    return -0.5 * (squares + log_variance + jnp.log(2.0 * jnp.pi)).sum(axis=-1)


def importance_weighted_bound(log_weights: Array) -> Array:
    """Returns log mean_k exp(log_weights), float32 [B], in nats: the bound of K samples.

    With K = 1 it is an estimate of the evidence lower bound; its expectation never decreases
    with K and converges to log p(x).

    Args:
        log_weights: log p(x, z_k) - log q(z_k | x) for K samples of the posterior, [K, B].

    Source: Burda et al. 2015, Importance Weighted Autoencoders, L_k.
    """
    chex.assert_rank(log_weights, 2)
    log_weights = log_weights.astype(jnp.float32)
    return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(float(log_weights.shape[0]))
