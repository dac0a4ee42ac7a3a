"""Optimizers of networks, from their settings in `config.optimizers`."""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from ml_collections import ConfigDict

from maskgit_jax.arrays import Array, PyTree


def learning_rate(
    settings: ConfigDict, num_steps: int, peak: float | None = None
) -> optax.Schedule:
    """Returns the schedule update -> learning rate of a network with `num_steps` updates.

    Args:
        settings: See `maskgit_jax.configuration.optimizer`.
        num_steps: Number of updates.
        peak: Largest value; by default `settings.learning_rate`.
    """
    top, warmup = float(peak or settings.learning_rate), settings.warmup_steps
    if settings.schedule == "cosine":
        after = optax.cosine_decay_schedule(top, max(1, num_steps - warmup))
    elif settings.schedule == "wsd":
        falling = max(1, round(settings.decay_fraction * num_steps))
        after = optax.linear_schedule(top, 0.0, falling, max(0, num_steps - warmup - falling))
    else:
        after = optax.constant_schedule(top)
    if not warmup:
        return after
    # The first update has 1/warmup of the peak, not 0.
    rise = optax.linear_schedule(top / warmup, top, warmup - 1 or 1)
    return optax.join_schedules([rise, after], [warmup])


def is_matrix(params: PyTree) -> PyTree:
    """Returns the mask of weight decay: kernels, not biases, norms, embeddings or codebooks."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def make_optimizer(settings: ConfigDict, num_steps: int) -> optax.GradientTransformation:
    """Returns the chain of clipping, the optimizer, decoupled weight decay and learning rate.

    Args:
        settings: See `maskgit_jax.configuration.optimizer`.
        num_steps: Steps of the whole training; the network starts at its `start_step`.
    """
    updates = num_steps - settings.start_step
    chain = [optax.clip_by_global_norm(settings.clip_norm)] if settings.clip_norm else []
    adam = [optax.scale_by_adam(settings.beta1, settings.beta2)]
    if settings.optimizer != "adam":
        adam.append(optax.add_decayed_weights(settings.weight_decay, mask=is_matrix))
    adam.append(optax.scale_by_learning_rate(learning_rate(settings, updates)))
    if settings.optimizer == "muon":
        transforms: Any = {"muon": muon(settings, updates), "adam": optax.chain(*adam)}
        return optax.chain(*chain, optax.partition(transforms, muon_labels))
    return optax.chain(*chain, *adam)


def muon(settings: ConfigDict, num_steps: int) -> optax.GradientTransformation:
    """Returns Muon: momentum whose matrices are orthogonalized.

    A convolution's kernel [h, w, in, out] is the matrix [h*w*in, out], and a fused kernel
    [in, parts, out] is one matrix for each part. The update of a matrix is scaled by
    sqrt(max(1, out / in)).

    Source: Jordan et al. 2024, Muon; `optax.contrib.scale_by_muon`.
    """
    return optax.chain(
        optax.contrib.scale_by_muon(weight_dimension_numbers=_matrix_axes),
        optax.stateless(
            lambda updates, _: jax.tree_util.tree_map_with_path(_scale_by_shape, updates)
        ),
        optax.add_decayed_weights(settings.weight_decay),
        optax.scale_by_learning_rate(
            learning_rate(settings, num_steps, settings.muon_learning_rate)
        ),
    )


def muon_labels(params: PyTree) -> PyTree:
    """Returns "muon" for kernels inside the network, "adam" for everything else.

    Embeddings, heads, and the first and last convolution or projection are not matrices between
    features, so they are left to Adam, as Muon's authors recommend; so are modulations, which read
    embeddings of classes.
    """

    def label(path: tuple, leaf: Array) -> str:
        *modules, name = (part.key for part in path)
        outer = any(re.match(OUTER, module) for module in modules)
        return "muon" if name == "kernel" and leaf.ndim >= 2 and not outer else "adam"

    return jax.tree_util.tree_map_with_path(label, params)


OUTER = r"head_|logits$|conv_in$|conv_out$|patch_|(final_)?modulation$"
"""Names of the modules that read inputs or write outputs."""


def _matrix_axes(params: PyTree) -> PyTree:
    def axes(path: tuple, leaf: Array) -> optax.contrib.MuonDimensionNumbers:
        return optax.contrib.MuonDimensionNumbers(_input_axes(path, leaf), leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(axes, params)


def _input_axes(path: tuple, kernel: Array) -> tuple[int, ...]:
    """Returns the axes of the inputs: [in, out], [h, w, in, out] or, fused, [in, parts, out].

    Stacks of layers have one more axis, the first.
    """
    if "qkv" in [part.key for part in path]:
        return (kernel.ndim - 3,)
    return (0, 1, 2) if kernel.ndim == 4 else (kernel.ndim - 2,)


def _scale_by_shape(path: tuple, update: Any) -> Array:
    inputs = math.prod(update.shape[axis] for axis in _input_axes(path, update))
    return update * max(1.0, update.shape[-1] / inputs) ** 0.5


def update_average(average: PyTree, params: PyTree, rate: float, step: Array) -> PyTree:
    """Returns the EMA of the parameters after one more step.

    The rate is min(rate, (1 + t) / (10 + t)), so that the random start does not dominate the
    average of a short run.
    """
    count = jnp.asarray(step, jnp.float32)
    warm_rate = jnp.minimum(rate, (1.0 + count) / (10.0 + count))
    return jax.tree.map(lambda a, p: a + (1.0 - warm_rate) * (p - a), average, params)
