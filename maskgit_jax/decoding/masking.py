"""Training masks: how many tokens of each image are masked, and which."""

from dataclasses import replace

import jax
import jax.numpy as jnp

from maskgit_jax.arrays import Array, Batch, Key
from maskgit_jax.decoding.rules import Grid, random_halton_order
from maskgit_jax.decoding.schedules import mask_ratio, rank
from maskgit_jax.decoding.settings import MaskingSettings


def sample_mask(key: Key, batch_size: int, grid: Grid, settings: MaskingSettings) -> Array:
    """Returns random training masks, bool [B, L], with a ratio per image, see `random_mask`.

    Args:
        key: A random key.
        batch_size: B; even for complementary masks, where rows 1, 3, ... are the complements of
            rows 0, 2, ...
        grid: Rows and columns (h, w) of the token map.
        settings: See `MaskingSettings`. Halton masks are those that decoder "halton" meets; with
            them training differs from Besnier et al. 2025 (valeoai/Halton-MaskGIT), who train
            with random masks and use the Halton order in decoding only.
    """
    if settings.complementary:
        masks = sample_mask(key, batch_size // 2, grid, replace(settings, complementary=False))
        return jnp.stack([masks, ~masks], axis=1).reshape(batch_size, -1)
    rate_key, place_key = jax.random.split(key)
    ratio = stratified_uniform if settings.stratified else jax.random.uniform
    if settings.order == "halton":
        scores = -random_halton_order(grid, jax.random.split(place_key, batch_size))
    else:
        scores = jax.random.uniform(place_key, (batch_size, grid[0] * grid[1]))
    return random_mask(ratio(rate_key, (batch_size,)), scores, settings.schedule)


def stratified_uniform(key: Key, shape: tuple[int]) -> Array:
    """Returns B uniform numbers in [0, 1), one in each stratum [i/B, (i+1)/B), in random order."""
    order_key, place_key = jax.random.split(key)
    stratum = jax.random.permutation(order_key, shape[0])
    return (stratum + jax.random.uniform(place_key, shape)) / shape[0]


def random_mask(ratio: Array, scores: Array, schedule: str) -> Array:
    """Returns a training mask, bool [B, L], with at least one masked token per example.

    Args:
        ratio: r of each example, uniform in [0, 1), [B].
        scores: [B, L]; the lowest are masked.
        schedule: See `mask_ratio`.

    Source: Chang et al. 2022, MaskGIT, section 3.1: ceil(gamma L) tokens. google-research/magvit
    rounds down; then no map is masked as a whole, as in the first step of decoding.
    """
    length = scores.shape[-1]
    count = jnp.ceil(mask_ratio(ratio, length, schedule) * length)  # [B]
    return rank(scores) < count[:, None]


def any_order_mask(ratio: Array, scores: Array) -> Array:
    """Returns a mask, bool [B, L], of 1 to L tokens, each number equally likely.

    Args:
        ratio: Uniform in [0, 1), [B].
        scores: Uniform [B, L]; the lowest are masked.
    """
    count = jnp.floor(ratio * scores.shape[-1]).astype(jnp.int32) + 1  # [B]
    return rank(scores) < count[:, None]


def masked_batch(batch: Batch, settings: MaskingSettings) -> Batch:
    """Returns the batch that training masks: with complementary masks every other image, twice.

    The rows of an image are adjacent, and on one device where the batch is divided among devices.
    """
    if not settings.complementary:
        return batch

    def twice(array: Array) -> Array:
        pairs = array.reshape(-1, 2, *array.shape[1:])
        return jnp.broadcast_to(pairs[:, :1], pairs.shape).reshape(array.shape)

    return {name: twice(array) for name, array in batch.items()}
