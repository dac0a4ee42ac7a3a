"""Interpolations and traversals in latent space."""

import jax.numpy as jnp

from maskgit_jax.arrays import Array


def interpolate_latents(start: Array, end: Array, steps: int) -> Array:
    """Returns linear interpolations [N, steps, Z]: the first are `start`, the last `end`.

    Args:
        start: [N, Z].
        end: [N, Z].
        steps: At least 2.
    """
    fraction = jnp.linspace(0.0, 1.0, steps).reshape(1, -1, 1)
    return start[:, None] * (1.0 - fraction) + end[:, None] * fraction


def replace_units(latents: Array, units: Array, values: Array) -> Array:
    """Returns copies of the latents [Z] with one unit replaced in each, [U, V, Z].

    Args:
        latents: [Z].
        units: Indices of the units, int [U].
        values: The values of each unit, [U, V].
    """
    replaced = jnp.arange(latents.shape[0])[None, None, :] == units[:, None, None]  # [U, 1, Z]
    return jnp.where(replaced, values[:, :, None], latents[None, None, :])


def traverse_latents(latents: Array, prior: bool, rows: int, columns: int) -> Array:
    """Returns traversals of the first image's latents, [min(rows, Z), columns, Z].

    Each row changes one unit. The units of the largest variance come first: they carry the most
    information about the image.

    Args:
        latents: Latents of many images, [N, Z].
        prior: Whether the prior of a unit is N(0, 1), and its values are -3 to 3; otherwise they
            are within 3 standard deviations of the mean of `latents`.
        rows: Maximum number of units.
        columns: Number of values of each unit.
    """
    std = latents.std(axis=0)
    units = jnp.argsort(-std)[:rows]
    steps = jnp.linspace(-3.0, 3.0, columns)[None]
    if prior:
        values = jnp.broadcast_to(steps, (len(units), columns))
    else:
        values = latents.mean(axis=0)[units][:, None] + std[units][:, None] * steps
    return replace_units(latents[0], units, values)
