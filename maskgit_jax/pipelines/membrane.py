"""Membrane interpolation: smooth values under a mask that agree with the known ones around it."""

import numpy as np

JACOBI_WEIGHTS = tuple(float(1 / (1.075 + 0.925 * np.cos(np.pi * (k + 0.5) / 4))) for k in range(4))
"""Of four sweeps; they damp all errors whose eigenvalue is in [0.15, 2] (roots of a Chebyshev
polynomial), which are the ones that a coarser grid cannot represent, also next to a mask's edge."""
LARGE = 2**20
"""Pixels above which the membrane of half the size is interpolated and relaxed, without a V-cycle:
it is off by the detail along the edge of the mask only, and takes a third of the time."""


def fill_masked(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns values float32 [H, W, C] whose masked ones solve Laplace's equation.

    Unmasked values are unchanged; those that touch the mask are its boundary (Dirichlet). The edges
    of the array are free (Neumann). Masked values have no influence; they are 0 if all are masked.

    Args:
        values: [H, W, C], of any type of numbers.
        mask: bool [H, W], True = masked.

    Source: Perez et al. 2003, Poisson Image Editing, eq. 2. Solved by full multigrid, one V-cycle
    for each size from 1 x 1 to H x W: the mean error is about 1% of the differences of neighbors,
    and some percent above `LARGE` pixels.
    """
    values = np.where(mask, 0, np.moveaxis(values, -1, 0)).astype(np.float32)  # [C, H, W]
    return np.moveaxis(values if mask.all() else _solve(values, mask), 0, -1)


def _solve(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns values float32 [C, H, W] whose masked ones are those of a membrane."""
    if not mask.any():
        return values
    known = (~mask).astype(np.float32)
    coarse = _sum_squares(values * known) / np.maximum(_sum_squares(known), 1)
    guess = _interpolate(_solve(coarse, _coarse_mask(mask)), mask.shape)
    values, masked = np.where(mask, guess, values), mask.astype(np.float32)
    if mask.size > LARGE:
        return _relax(values, np.zeros_like(masked), masked / 4)
    return values + _correction(_laplacian(values) * -masked, mask)


def _correction(laplacian: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns values with almost this Laplacian under the mask, 0 elsewhere, by one V-cycle."""
    quarter = mask.astype(np.float32) / 4
    values = _relax(np.zeros_like(laplacian), laplacian, quarter)
    coarse_mask = _coarse_mask(mask)
    if coarse_mask.any():
        residual = (laplacian - _laplacian(values)) * mask
        coarse = _correction(_sum_squares(residual) * coarse_mask, coarse_mask)
        values += _interpolate(coarse, mask.shape) * mask
    return _relax(values, laplacian, quarter)


def _relax(values: np.ndarray, laplacian: np.ndarray, quarter: np.ndarray) -> np.ndarray:
    """Changes values in place, by Jacobi sweeps, towards ones with this Laplacian."""
    for weight in JACOBI_WEIGHTS:
        change = _laplacian(values)
        change -= laplacian
        change *= quarter * weight
        values += change
    return values


def _laplacian(values: np.ndarray) -> np.ndarray:
    """Returns the sum of the differences to the 4 neighbors inside the image, [C, H, W]."""
    laplacian = np.zeros_like(values)
    down, right = np.diff(values, axis=1), np.diff(values, axis=2)
    laplacian[:, :-1] += down
    laplacian[:, 1:] -= down
    laplacian[:, :, :-1] += right
    laplacian[:, :, 1:] -= right
    return laplacian


def _coarse_mask(mask: np.ndarray) -> np.ndarray:
    """Returns which squares of 2 x 2 pixels inside the image are masked entirely."""
    return _sum_squares((~mask).astype(np.int8)) == 0


def _sum_squares(values: np.ndarray) -> np.ndarray:
    """Returns the sums of squares of 2 x 2, [..., ceil(H / 2), ceil(W / 2)]."""
    height, width = values.shape[-2:]
    border = [(0, 0)] * (values.ndim - 2) + [(0, height % 2), (0, width % 2)]
    values = np.pad(values, border) if height % 2 or width % 2 else values
    rows = values[..., ::2, :] + values[..., 1::2, :]
    return rows[..., ::2] + rows[..., 1::2]


def _interpolate(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Returns values [C, h, w] interpolated linearly to [C, *size]; the inverse of squares."""
    for length in size:  # each time along the axis 1, which becomes the last
        before = np.concatenate([values[:, :1], values[:, :-1]], axis=1)
        after = np.concatenate([values[:, 1:], values[:, -1:]], axis=1)
        pairs = np.stack([0.75 * values + 0.25 * before, 0.75 * values + 0.25 * after], axis=2)
        doubled = pairs.reshape(values.shape[0], -1, values.shape[2])[:, :length]
        values = doubled.swapaxes(1, 2)
    return np.ascontiguousarray(values)
