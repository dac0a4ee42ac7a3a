"""Optimizers of networks, from their settings in `config.optimizers`."""

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, PyTree


def learning_rate(settings: ConfigDict, num_steps: int) -> optax.Schedule:
    """Returns the schedule update -> learning rate of a network with `num_steps` updates."""
    peak, warmup = settings.learning_rate, settings.warmup_steps
    if settings.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, max(1, num_steps - warmup))
    else:
        after = optax.constant_schedule(peak)
    if not warmup:
        return after
    # The first update has 1/warmup of the peak, not 0.
    rise = optax.linear_schedule(peak / warmup, peak, warmup - 1 or 1)
    return optax.join_schedules([rise, after], [warmup])


def is_matrix(params: PyTree) -> PyTree:
    """Returns the mask of weight decay: kernels, not biases, norms, embeddings or codebooks."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def make_optimizer(settings: ConfigDict, num_steps: int) -> optax.GradientTransformation:
    """Returns the chain of clipping, Adam, decoupled weight decay ("adamw") and learning rate.

    Args:
        settings: See `maskgit_jax.configuration.optimizer`.
        num_steps: Steps of the whole training; the network starts at its `start_step`.
    """
    chain = [optax.clip_by_global_norm(settings.clip_norm)] if settings.clip_norm else []
    chain.append(optax.scale_by_adam(settings.beta1, settings.beta2))
    if settings.optimizer == "adamw":
        chain.append(optax.add_decayed_weights(settings.weight_decay, mask=is_matrix))
    updates = num_steps - settings.start_step
    chain.append(optax.scale_by_learning_rate(learning_rate(settings, updates)))
    return optax.chain(*chain)


def update_average(average: PyTree, params: PyTree, rate: float, step: Array) -> PyTree:
    """Returns the EMA of the parameters after one more step.

    The rate is min(rate, (1 + t) / (10 + t)), so that the random start does not dominate the
    average of a short run.
    """
    count = jnp.asarray(step, jnp.float32)
    warm_rate = jnp.minimum(rate, (1.0 + count) / (10.0 + count))
    return jax.tree.map(lambda a, p: a + (1.0 - warm_rate) * (p - a), average, params)
