"""What changes during training."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from maskgit_jax.arrays import Array, Batch, Key, PyTree
from maskgit_jax.stage import Stage, Variables


class TrainState(NamedTuple):
    """All that a resumed run needs (with the position in the data); it holds no random key.

    Attributes:
        step: Updates made so far, int32 [].
        params: Player -> parameters.
        state: Running statistics of the stage.
        averages: Player -> running average of its parameters, for players that keep one.
        optimizers: Player -> state of its optimiser.
        failed_at: Player -> step at which its loss or gradient was not finite, -1 for never.
            From then on nothing is updated, so the state stays the last good one.
    """

    step: Array
    params: Mapping[str, PyTree]
    state: PyTree
    averages: Mapping[str, PyTree]
    optimizers: Mapping[str, PyTree]
    failed_at: Mapping[str, Array]


def inference_variables(
    params: Mapping[str, PyTree],
    averages: Mapping[str, PyTree],
    state: PyTree,
    frozen: Mapping[str, Variables],
) -> Variables:
    """Returns the variables to evaluate and sample with: averages where they are kept."""
    return Variables({**params, **averages}, state, frozen)


def create_state(
    stage: Stage,
    optimizers: Mapping[str, optax.GradientTransformation],
    averaged: Mapping[str, float],
    key: Key,
    batch: Batch,
    frozen: Mapping[str, Variables],
) -> TrainState:
    """Returns the state before the first step; pure, to be compiled with output shardings.

    Args:
        stage: What is trained.
        optimizers: Player -> optimiser.
        averaged: Player -> rate of its running average; 0 keeps none.
        key: Of the initial parameters.
        batch: Real data.
        frozen: Finished stages.
    """
    variables = stage.init(key, batch, frozen)
    params = dict(variables.params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        state=variables.state,
        averages={
            name: jax.tree.map(jnp.copy, tree) for name, tree in params.items() if averaged[name]
        },
        optimizers={name: optimizers[name].init(tree) for name, tree in params.items()},
        failed_at={name: jnp.full((), -1, jnp.int32) for name in params},
    )
