"""Rotary positions by row and column (RoPE)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from maskgit_jax.arrays import Array

ROPE_BASE = 100.0  # maps are a few dozen positions wide; texts of thousands use 10,000
Grids = Sequence[tuple[int, int] | None]


class Rotations(NamedTuple):
    """Cosines and sines of the angles of positions, float32 [L, D/N/2] each."""

    cosine: Array
    sine: Array


def axial_rotations(grids: Grids, head_width: int, trained: Grids | None = None) -> Rotations:
    """Returns the rotations of the positions of a sequence of token maps.

    The first half of the angles turns with the row, the second one with the column. The positions
    of a map of another size than in training are those of its points in a trained map that covers
    the same image, so that no angle is larger than in training.

    Args:
        grids: Rows and columns (h, w) of each map; None for a single position without a place,
            such as the class token, which is not rotated.
        head_width: D/N, a multiple of 4.
        trained: Rows and columns of the maps in training, where they differ.

    Source: Su et al. 2021, RoFormer, for rows and columns (Heo et al. 2024, axial RoPE); scaled
    as by Chen et al. 2023, position interpolation.
    """
    frequency = ROPE_BASE ** -(jnp.arange(head_width // 4) / (head_width // 4))
    angles = []
    for grid, trained_grid in zip(grids, trained or grids, strict=True):
        (height, width), sides = grid or (1, 1), trained_grid or (1, 1)
        row, column = jnp.divmod(jnp.arange(height * width), width)
        places = (
            (place + 0.5) * (side / length) - 0.5
            for place, side, length in zip((row, column), sides, (height, width), strict=True)
        )
        angles.append(
            jnp.concatenate([place[:, None] * frequency[None] for place in places], axis=1)
        )
    angle = jnp.concatenate(angles)  # [L, D/N/2]
    return Rotations(jnp.cos(angle), jnp.sin(angle))


def rotate(x: Array, rotations: Rotations) -> Array:
    """Returns queries or keys [B, L, N, D/N], rotated in pairs of the two halves."""
    cosine, sine = (array[None, :, None] for array in rotations)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = [first * cosine - second * sine, first * sine + second * cosine]
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)
