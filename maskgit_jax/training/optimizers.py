"""Optimisers of players, from their settings."""

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, PyTree


def learning_rate(player: ConfigDict, num_steps: int) -> optax.Schedule:
    """Returns update number -> learning rate, for a player that makes `num_steps` updates."""
    peak, warmup = player.learning_rate, player.warmup_steps
    if player.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, max(1, num_steps - warmup))
    else:
        after = optax.constant_schedule(peak)
    if not warmup:
        return after
    # The first update already moves: it has 1/warmup of the peak, not 0.
    rise = optax.linear_schedule(peak / warmup, peak, warmup - 1 or 1)
    return optax.join_schedules([rise, after], [warmup])


def is_matrix(params: PyTree) -> PyTree:
    """Marks what weight decay acts on: kernels; not biases, norms, embeddings, codebooks."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def make_optimizer(player: ConfigDict, num_steps: int) -> optax.GradientTransformation:
    """Returns clipping, Adam, decoupled weight decay ("adamw") and the learning rate in a chain.

    Args:
        player: Settings, see `maskgit_jax.configuration.player`.
        num_steps: Steps of the whole training; the player starts at its `start_step`.
    """
    steps = [optax.clip_by_global_norm(player.clip_norm)] if player.clip_norm else []
    steps.append(optax.scale_by_adam(player.beta1, player.beta2))
    if player.optimizer == "adamw":
        steps.append(optax.add_decayed_weights(player.weight_decay, mask=is_matrix))
    updates = num_steps - player.start_step
    steps.append(optax.scale_by_learning_rate(learning_rate(player, updates)))
    return optax.chain(*steps)


def update_average(average: PyTree, params: PyTree, rate: float, step: Array) -> PyTree:
    """Returns the running average moved towards `params`.

    The rate rises as (1 + t) / (10 + t) until it reaches `rate`, so that a short run is not
    dominated by its random start.
    """
    count = jnp.asarray(step, jnp.float32)
    rate = jnp.minimum(rate, (1.0 + count) / (10.0 + count))
    return jax.tree.map(lambda a, p: a + (1.0 - rate) * (p - a), average, params)
