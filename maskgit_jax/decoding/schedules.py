"""Mask schedules: what share of the tokens is hidden at a point of time."""

from collections.abc import Callable

import jax.numpy as jnp

from maskgit_jax.arrays import Array


def _cosine(ratio: Array, num_tokens: Array) -> Array:
    del num_tokens
    return jnp.cos(ratio * (jnp.pi / 2))


SCHEDULES: dict[str, Callable[[Array, Array], Array]] = {"cosine": _cosine}
"""Name -> (ratio, num_tokens) -> share, before clipping."""


def mask_ratio(ratio: Array, num_tokens: Array, schedule: str) -> Array:
    """Returns the share of tokens that is hidden, float32, in [1e-6, 1].

    Args:
        ratio: Progress in [0, 1]: 0 hides everything, 1 (almost) nothing.
        num_tokens: Tokens to be filled (some schedules depend on it), broadcast to `ratio`.
        schedule: A key of `SCHEDULES`.

    Source: Chang et al. 2022, MaskGIT, section 3.3; libml/mask_schedule.py.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"no mask schedule '{schedule}'; there are: {', '.join(SCHEDULES)}")
    ratio, num_tokens = jnp.float32(ratio), jnp.float32(num_tokens)
    return jnp.clip(SCHEDULES[schedule](ratio, num_tokens), 1e-6, 1.0)


def random_mask(ratio: Array, scores: Array, schedule: str) -> Array:
    """Returns a training mask, bool [B, L], True where hidden; at least one per example.

    Args:
        ratio: Uniform in [0, 1), [B]: one mask ratio for each example.
        scores: Uniform [B, L]; the lowest are hidden.
        schedule: A key of `SCHEDULES`.
    """
    length = scores.shape[-1]
    share = mask_ratio(ratio, length, schedule)
    count = jnp.maximum(jnp.floor(share * length), 1.0)  # [B]
    return rank(scores) < count[:, None]


def any_order_mask(ratio: Array, scores: Array) -> Array:
    """Returns a mask, bool [B, L], that hides any number of tokens from 1 to L equally likely.

    Args:
        ratio: Uniform in [0, 1), [B].
        scores: Uniform [B, L]; the lowest are hidden.
    """
    count = jnp.floor(ratio * scores.shape[-1]).astype(jnp.int32) + 1  # [B]
    return rank(scores) < count[:, None]


def rank(scores: Array) -> Array:
    """Returns the place of each score in ascending order, int32, ties by position."""
    return jnp.argsort(jnp.argsort(scores, axis=-1), axis=-1)
