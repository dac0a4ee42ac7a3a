"""Ways through a space of latents, to look at what is there."""

import jax.numpy as jnp

from maskgit_jax.arrays import Array


def interpolate_latents(start: Array, end: Array, steps: int) -> Array:
    """Returns latents on straight lines, [N, steps, Z]: the first are `start`, the last `end`.

    Args:
        start: [N, Z].
        end: [N, Z].
        steps: At least 2.
    """
    share = jnp.linspace(0.0, 1.0, steps).reshape(1, -1, 1)
    return start[:, None] * (1.0 - share) + end[:, None] * share


def traversals(latents: Array, units: Array, values: Array) -> Array:
    """Returns latents of which one unit at a time takes other values, [U, V, Z].

    Args:
        latents: Where the traversals pass, [Z].
        units: Which units, int [U].
        values: Of each unit, [U, V].
    """
    moved = jnp.arange(latents.shape[0])[None, None, :] == units[:, None, None]  # [U, 1, Z]
    return jnp.where(moved, values[:, :, None], latents[None, None, :])


def traverse_latents(latents: Array, prior: bool, rows: int, columns: int) -> Array:
    """Returns traversals through the first latents, [min(rows, Z), columns, Z].

    The units whose latents vary most come first: those that say something of the image.

    Args:
        latents: Of many images, [N, Z].
        prior: Whether units are N(0, 1), so that -3 to 3 is where they usually are; else the
            mean and deviation of the latents given say it.
        rows: How many units.
        columns: How many values of each.
    """
    deviation = latents.std(axis=0)
    units = jnp.argsort(-deviation)[:rows]
    steps = jnp.linspace(-3.0, 3.0, columns)[None]
    if prior:
        values = jnp.broadcast_to(steps, (len(units), columns))
    else:
        values = latents.mean(axis=0)[units][:, None] + deviation[units][:, None] * steps
    return traversals(latents[0], units, values)
