"""The training step and the evaluation step of every stage, as pure functions."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, Batch, Key, PyTree
from maskgit_jax.stage import Metrics, Stage, Variables
from maskgit_jax.training.optimizers import make_optimizer, update_average
from maskgit_jax.training.state import TrainState, create_state

TrainStep = Callable[
    [TrainState, Mapping[str, Variables], Batch, Key], tuple[TrainState, dict[str, Array]]
]


def network_gradients(
    stage: Stage, variables: Variables, batch: Batch, key: Key, step: Array
) -> tuple[dict[str, PyTree], dict[str, Array], PyTree, Metrics]:
    """Returns gradients, losses, new running statistics and metrics.

    Each loss is differentiated with respect to the parameters of its own network only. The
    forward pass is traced once per network; XLA merges the copies.
    """
    gradients, losses = {}, {}
    state, metrics = variables.state, {}
    for name in variables.params:

        def loss_of(network: PyTree, name: str = name):
            params = {**variables.params, name: network}
            # The same key for every network, so that all losses see the same forward pass.
            same_key = jax.random.clone(key)
            losses, rest = stage.losses(variables._replace(params=params), batch, same_key, step)
            return losses[name], rest

        (losses[name], (state, metrics)), gradients[name] = jax.value_and_grad(
            loss_of, has_aux=True
        )(variables.params[name])
    return gradients, losses, state, metrics


def accumulate_gradients(
    stage: Stage, variables: Variables, batch: Batch, key: Key, step: Array, parts: int
) -> tuple[dict[str, PyTree], dict[str, Array], PyTree, Metrics]:
    """Returns the values of `network_gradients`, averaged over `parts` parts of the batch.

    The parts run one after another, so that only one is in memory; each has rows on every
    device. Running statistics carry over from part to part.
    """
    if parts == 1:
        return network_gradients(stage, variables, batch, key, step)

    def split(array: Array) -> Array:
        return array.reshape(-1, parts, *array.shape[1:]).swapaxes(0, 1)

    def one_part(carry: tuple, part: tuple):
        state, total = carry
        batch, number = part
        gradients, losses, state, metrics = network_gradients(
            stage, variables._replace(state=state), batch, jax.random.fold_in(key, number), step
        )
        total = jax.tree.map(lambda t, x: t + x / parts, total, (gradients, losses, metrics))
        return (state, total), None

    pieces = (jax.tree.map(split, dict(batch)), jnp.arange(parts))
    first = jax.tree.map(lambda x: x[0], pieces[0])
    shapes = jax.eval_shape(lambda *a: network_gradients(stage, *a), variables, first, key, step)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (shapes[0], shapes[1], shapes[3]))
    (state, (gradients, losses, metrics)), _ = jax.lax.scan(
        one_part, (variables.state, zeros), pieces
    )
    return gradients, losses, state, metrics


def make_optimizers(config: ConfigDict) -> dict[str, optax.GradientTransformation]:
    """Returns network -> optimizer."""
    return {
        name: make_optimizer(settings, config.training.num_steps)
        for name, settings in config.optimizers.items()
    }


def make_create_state(
    stage: Stage, config: ConfigDict
) -> Callable[[Key, Batch, Mapping[str, Variables]], TrainState]:
    """Returns (key, batch, frozen) -> the state before the first step, see `create_state`."""
    optimizers = make_optimizers(config)
    averaged = {name: settings.ema_rate for name, settings in config.optimizers.items()}

    def create(key: Key, batch: Batch, frozen: Mapping[str, Variables]) -> TrainState:
        return create_state(stage, optimizers, averaged, key, batch, frozen)

    return create


def make_train_step(stage: Stage, config: ConfigDict) -> TrainStep:
    """Returns (state, frozen, batch, root key) -> (next state, metrics), to be compiled.

    The key of step t is fold_in(root, t), so a resumed run draws what an uninterrupted one
    does. Before its `start_step` a network keeps its parameters and optimizer state. After a
    loss or gradient that is not finite nothing is updated any more.

    Metrics are float32 scalars: `<network>/loss`, `<network>/gradient_norm`, and the stage's.
    """
    optimizers = make_optimizers(config)
    parts = config.training.accumulate_steps

    def update_network(name: str, state: TrainState, gradient: PyTree) -> tuple[PyTree, PyTree]:
        old = (state.params[name], state.optimizers[name])

        def updated() -> tuple[PyTree, PyTree]:
            changes, optimizer = optimizers[name].update(gradient, old[1], old[0])
            return optax.apply_updates(old[0], changes), optimizer

        start_step = config.optimizers[name].start_step
        return updated() if not start_step else _if(state.step >= start_step, updated, old)

    def next_state(state: TrainState, gradients: dict[str, PyTree], running: PyTree) -> TrainState:
        updated = {name: update_network(name, state, gradients[name]) for name in gradients}
        params = {name: new[0] for name, new in updated.items()}
        averages = {
            name: update_average(tree, params[name], config.optimizers[name].ema_rate, state.step)
            for name, tree in state.averages.items()
        }
        return state._replace(
            step=state.step + 1,
            params=dict(stage.assign(params, running, state.step)),
            state=running,
            averages=dict(stage.assign(averages, running, state.step)),
            optimizers={name: new[1] for name, new in updated.items()},
        )

    def train_step(state: TrainState, frozen: Mapping[str, Variables], batch: Batch, root: Key):
        key = jax.random.fold_in(root, state.step)
        variables = Variables(state.params, state.state, frozen)
        gradients, losses, running, metrics = accumulate_gradients(
            stage, variables, batch, key, state.step, parts
        )
        norms = {name: optax.tree.norm(tree) for name, tree in gradients.items()}
        failed_at = {
            name: jnp.where(
                (state.failed_at[name] < 0) & ~jnp.isfinite(losses[name] + norms[name]),
                state.step,
                state.failed_at[name],
            )
            for name in losses
        }
        healthy = jnp.stack([step < 0 for step in failed_at.values()]).all()
        new = _if(healthy, lambda: next_state(state, gradients, running), state)
        new = new._replace(failed_at=failed_at)
        scalars = {f"{name}/loss": loss for name, loss in losses.items()}
        scalars |= {f"{name}/gradient_norm": norm for name, norm in norms.items()}
        return new, {**scalars, **metrics}

    return train_step


def _if(condition: Array, compute: Callable[[], PyTree], old: PyTree) -> PyTree:
    """Returns what `compute` returns if the condition holds, else `old`.

    A branch reads only one of them, where a selection of every array reads both. GPUs select,
    because their program would wait for the host to learn which branch to start.
    """
    if jax.default_backend() == "gpu":
        return jax.tree.map(lambda n, o: jnp.where(condition, n, o), compute(), old)
    return jax.lax.cond(condition, compute, lambda: old)


def make_eval_step(stage: Stage) -> Callable[[Variables, Batch, Key, Metrics], Metrics]:
    """Returns (variables, batch, key, sums) -> sums, to be compiled.

    The sums are over the examples whose `valid` is 1; `count` is their number.
    """

    def eval_step(variables: Variables, batch: Batch, key: Key, sums: Metrics) -> Metrics:
        valid = batch["valid"]
        metrics = stage.evaluate(variables, batch, key)
        metrics = {**metrics, "count": jnp.ones_like(valid)}

        def add(total: Array, values: Array) -> Array:
            weight = valid.reshape(-1, *[1] * (values.ndim - 1))
            # where, not only a product: a NaN of a padded row must not enter the sum.
            return total + jnp.where(weight > 0, values, 0.0).sum(axis=0)

        return {name: add(sums[name], values) for name, values in metrics.items()}

    return eval_step


def empty_sums(stage: Stage, variables: Variables, batch: Batch, key: Key) -> dict[str, np.ndarray]:
    """Returns the zeros that the evaluation step starts from."""
    shapes = jax.eval_shape(stage.evaluate, variables, batch, key)
    zeros = {name: np.zeros(shape.shape[1:], np.float32) for name, shape in shapes.items()}
    return {**zeros, "count": np.zeros((), np.float32)}
