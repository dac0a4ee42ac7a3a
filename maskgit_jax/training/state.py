"""The state of a training run."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from maskgit_jax.arrays import Array, Batch, Key, PyTree
from maskgit_jax.stage import Stage, Variables


class TrainState(NamedTuple):
    """Everything that a resumed run needs besides its position in the data; it holds no random key.

    Attributes:
        step: Updates made so far, int32 [].
        params: Network -> parameters.
        state: Running statistics of the stage.
        averages: Network -> EMA of its parameters, for networks that keep one.
        optimizers: Network -> state of its optimizer.
        failed_at: Network -> step at which its loss or gradient was not finite, -1 for never.
            From then on nothing is updated, so the state stays the last good one.
    """

    step: Array
    params: Mapping[str, PyTree]
    state: PyTree
    averages: Mapping[str, PyTree]
    optimizers: Mapping[str, PyTree]
    failed_at: Mapping[str, Array]


def create_state(
    stage: Stage,
    optimizers: Mapping[str, Any],
    averaged: Mapping[str, float],
    key: Key,
    batch: Batch,
    frozen: Mapping[str, Variables],
) -> TrainState:
    """Returns the state before the first step; pure, so that it can be compiled with shardings.

    Args:
        stage: The stage to train.
        optimizers: Network -> `optax.GradientTransformation`.
        averaged: Network -> EMA rate of its parameters; 0 keeps none.
        key: Random key of the initial parameters.
        batch: A batch of training data.
        frozen: The frozen stages.
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
