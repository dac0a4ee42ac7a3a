"""From regions of pixels to the tokens that say something about them."""

import jax.numpy as jnp

from maskgit_jax.arrays import Array


def hidden_tokens(hidden: Array, grids: tuple[tuple[int, int], ...]) -> Array:
    """Returns which tokens are to be made anew, bool [B, L], of all levels, coarsest first.

    A token is hidden if any pixel of its patch is.

    Args:
        hidden: Which pixels are to be made, bool [B, H, W].
        grids: Rows and columns (h, w) of each level; they divide H and W.
    """
    return jnp.concatenate([_patches(hidden, grid) for grid in grids], axis=1)


def _patches(hidden: Array, grid: tuple[int, int]) -> Array:
    batch, height, width = hidden.shape
    rows, columns = grid
    if height % rows or width % columns:
        raise ValueError(f"{height} x {width} pixels are no {rows} x {columns} equal patches")
    parts = hidden.reshape(batch, rows, height // rows, columns, width // columns)
    return parts.any(axis=(2, 4)).reshape(batch, -1)
