"""Kernel distance of two sets of features: KID, if the features are Inception's."""

import hashlib

import numpy as np

from maskgit_jax.configuration import require

_ROWS_AT_ONCE = 1024


def kernel_distance(
    one: np.ndarray,
    other: np.ndarray,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns mean and standard deviation over subsets of the unbiased squared MMD.

    The kernel is (x.y / D + 1)^3. Unlike FID the estimate is unbiased for any number of images:
    it averages 0, so half of the values are negative, for sets from the same distribution. It is
    symmetric in its arguments.

    Args:
        one: Features [N, D].
        other: Features [M, D].
        num_subsets: Number of random subsets.
        subset_size: Images drawn from each set without replacement, at most min(N, M). If both
            subsets are whole sets, the value is exact and the deviation 0.
        seed: Seed of the subsets.

    Raises:
        InputError: The widths differ, a set has fewer than 2 images, or a value is not finite.

    Source: Binkowski et al. 2018, Demystifying MMD GANs, section 4 and eq. 4.
    """
    require(
        one.ndim == other.ndim == 2 and one.shape[1] == other.shape[1],
        f"features of shapes {one.shape} and {other.shape} cannot be compared; pass "
        "[images, features] of the same network",
    )
    size = min(subset_size, len(one), len(other))
    require(size >= 2, f"subsets of {size} images are too small; use at least 2")
    require(num_subsets >= 1, f"num_subsets is {num_subsets}; it must be at least 1")
    for features in (one, other):
        require(bool(np.isfinite(features).all()), "features contain NaN or infinity")
    one, other = sorted((np.ascontiguousarray(one), np.ascontiguousarray(other)), key=_sort_key)
    if len(one) == len(other) == size:
        return _squared_mmd(one, other), 0.0
    rng = np.random.default_rng(seed)
    distances = [
        _squared_mmd(*(rng.choice(features, size, replace=False) for features in (one, other)))
        for _ in range(num_subsets)
    ]
    return float(np.mean(distances)), float(np.std(distances))


def _sort_key(features: np.ndarray) -> tuple[int, bytes]:
    """Returns a sort key by content, so that the order of the arguments does not matter."""
    return len(features), hashlib.blake2b(features.data).digest()


def _squared_mmd(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    size = len(one)
    within = _kernel_sum(one, one) - _kernel(np.einsum("nd,nd->n", one, one), one.shape[1]).sum()
    within += _kernel_sum(other, other)
    within -= _kernel(np.einsum("nd,nd->n", other, other), one.shape[1]).sum()
    return float(within / (size * (size - 1)) - 2.0 * _kernel_sum(one, other) / size**2)


def _kernel_sum(one: np.ndarray, other: np.ndarray) -> float:
    starts = range(0, len(one), _ROWS_AT_ONCE)
    return sum(
        _kernel(one[start : start + _ROWS_AT_ONCE] @ other.T, one.shape[1]).sum()
        for start in starts
    )


def _kernel(products: np.ndarray, dimensions: int) -> np.ndarray:
    base = products / dimensions + 1.0
    return base * base * base
