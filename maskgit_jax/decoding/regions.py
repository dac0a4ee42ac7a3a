"""Masks of pixels to masks of tokens, and the sliding window of outpainting."""

import jax.numpy as jnp
import numpy as np

from maskgit_jax.arrays import Array


def token_mask(mask: Array, grids: tuple[tuple[int, int], ...]) -> Array:
    """Returns the token mask of a pixel mask, bool [B, L], of all levels, coarsest first.

    A token is masked if any pixel of its patch is.

    Args:
        mask: Pixels to generate, bool [B, H, W].
        grids: Rows and columns (h, w) of each level; they divide H and W.
    """
    return jnp.concatenate([_mask_of_level(mask, grid) for grid in grids], axis=1)


def _mask_of_level(mask: Array, grid: tuple[int, int]) -> Array:
    batch, height, width = mask.shape
    rows, columns = grid
    if height % rows or width % columns:
        raise ValueError(
            f"{height} x {width} pixels are not divisible by the {rows} x {columns} grid"
        )
    patches = mask.reshape(batch, rows, height // rows, columns, width // columns)
    return patches.any(axis=(2, 4)).reshape(batch, -1)


def box_token_mask(box: tuple[int, int, int, int], grid: tuple[int, int], patch: int) -> np.ndarray:
    """Returns the token mask of a class-conditional edit, bool [h, w]: the box, one token wider.

    Args:
        box: Top, left, height and width in pixels.
        grid: Rows and columns (h, w) of the map.
        patch: Side of a token's patch in pixels.

    Source: google-research/maskgit, class-conditional editing of the demo notebook: rows from
    max(0, top//p - 1) to min(h, height//p + top//p + 1), columns alike.
    """
    top, left, height, width = (side // patch for side in box)
    mask = np.zeros(grid, bool)
    rows = slice(max(0, top - 1), min(grid[0], height + top + 1))
    mask[rows, max(0, left - 1) : min(grid[1], width + left + 1)] = True
    return mask


def next_window(mask: np.ndarray, window: tuple[int, int]) -> tuple[int, int]:
    """Returns the first row and column of the window of a token map to generate next.

    It has the most masked tokens, counted up to half of the window, so that a masked area larger
    than the window grows from known tokens; on ties, its masked tokens are the most central.

    Args:
        mask: bool [h, w], with some masked tokens.
        window: Rows and columns, not more than h and w.
    """
    views = np.lib.stride_tricks.sliding_window_view(mask, window)  # [rows, columns, *window]
    count = views.sum(axis=(2, 3))
    half = max(1, window[0] * window[1] // 2)
    offsets = [np.arange(side) - (side - 1) / 2 for side in window]
    total = np.maximum(count, 1)
    off_row = (views.sum(axis=3) @ offsets[0]) / total
    off_column = (views.sum(axis=2) @ offsets[1]) / total
    distance = np.hypot(off_row / window[0], off_column / window[1])  # below 1
    # Lexicographic: counts are integers, so that each weight exceeds all that follow.
    most, excess = np.minimum(count, half), np.maximum(count - half, 0)
    score = 1e3 * window[0] * window[1] * most - 2.0 * excess - distance
    row, column = np.unravel_index(np.argmax(np.where(count > 0, score, -np.inf)), count.shape)
    return int(row), int(column)
