"""Mask schedules: what share, and how many, of the tokens are masked at a point of time."""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp

from maskgit_jax.arrays import Array, Key
from maskgit_jax.configuration import require

SCHEDULES: dict[str, Callable[[Array, Array], Array]] = {
    "linear": lambda ratio, _: 1.0 - ratio,
    "cosine": lambda ratio, _: jnp.cos(ratio * (jnp.pi / 2)),
    "square": lambda ratio, _: 1.0 - ratio**2,
    "cubic": lambda ratio, _: 1.0 - ratio**3,
    "sqrt": lambda ratio, _: 1.0 - ratio**0.5,
    "exponential": lambda ratio, count: 1.0 - jnp.exp2(-jnp.log2(count) * (1.0 - ratio)),
    "logarithmic": lambda ratio, count: -jnp.log2(ratio) / jnp.log2(jnp.maximum(count, 2.0)),
    "arccos": lambda ratio, _: jnp.arccos(ratio) / (jnp.pi / 2),
}
"""Name -> (ratio, number of tokens) -> share, before clipping; also `pow<exponent>`: 1 - r^x."""


def check_schedule(schedule: str, key: str = "schedule") -> None:
    """Raises `InputError` unless there is such a schedule; `key` is what the user set."""
    require(
        schedule in SCHEDULES or _exponent(schedule) is not None,
        f"{key} is '{schedule}'; allowed: {', '.join(SCHEDULES)}, pow<exponent> such as pow2.5",
    )


def _exponent(name: str) -> float | None:
    match = re.fullmatch(r"pow(\d+(\.\d+)?)", name)
    return float(match[1]) if match and float(match[1]) > 0 else None


def mask_ratio(ratio: Array, num_tokens: Array, schedule: str) -> Array:
    """Returns the share of tokens that is masked, float32, in [1e-6, 1].

    Args:
        ratio: Progress in [0, 1]: 0 hides everything, 1 (almost) nothing.
        num_tokens: Tokens to be filled (some schedules depend on it), broadcast to `ratio`.
        schedule: A key of `SCHEDULES`, or `pow2.5` for 1 - r^2.5, with any positive exponent.

    Source: Chang et al. 2022, MaskGIT, section 3.3; libml/mask_schedule.py, where linear is called
    uniform, square pow2, cubic pow3, sqrt pow0.5, exponential exp and logarithmic log. "arccos" is
    of Besnier and Chen 2023, arXiv 2310.14400.

    Raises:
        InputError: There is no such schedule.
    """
    check_schedule(schedule)
    exponent = _exponent(schedule)
    ratio, num_tokens = jnp.float32(ratio), jnp.float32(num_tokens)
    share = 1.0 - ratio**exponent if exponent else SCHEDULES[schedule](ratio, num_tokens)
    return jnp.clip(share, 1e-6, 1.0)


def masked_counts(num_masked: Array, steps: int, schedule: str) -> Array:
    """Returns how many tokens are masked before the first step and after each, int32 [T+1, B].

    floor(n gamma(t/T)), but every step reveals at least one token, and the last step the rest. Of
    n < T tokens one is revealed a step, and the steps after the n-th have nothing to do.

    Args:
        num_masked: n of each example, int32 [B].
        steps: T, at least 1.
        schedule: See `mask_ratio`.

    Source: google-research/maskgit libml/parallel_decode.py:decode. Differs: there a steep schedule
    stays at one masked token for several steps and draws it again each time; here the steps
    before leave enough for the later ones. Elsewhere the numbers are the same.
    """
    num_masked = num_masked[None]  # [1, B]
    steps_of = jnp.clip(num_masked, 1, steps)
    step = jnp.arange(steps + 1)[:, None]  # [T+1, 1]
    ratio = jnp.minimum(step / steps_of, 1.0)
    wanted = jnp.floor(num_masked * mask_ratio(ratio, num_masked, schedule)).astype(jnp.int32)
    wanted = jnp.where(step == 0, num_masked, wanted)
    # One less each step at least: the smallest of f_s - (t - s) over all s up to t.
    at_most = jax.lax.cummin(wanted + step, axis=0) - step
    return jnp.maximum(at_most, jnp.maximum(steps_of - step, 0)) * (num_masked > 0)


def random_mask(ratio: Array, scores: Array, schedule: str) -> Array:
    """Returns a training mask, bool [B, L], True where masked; at least one per example.

    Args:
        ratio: Uniform in [0, 1), [B]: one mask ratio for each example.
        scores: Uniform [B, L]; the lowest are masked.
        schedule: See `mask_ratio`.
    """
    length = scores.shape[-1]
    share = mask_ratio(ratio, length, schedule)
    count = jnp.maximum(jnp.floor(share * length), 1.0)  # [B]
    return rank(scores) < count[:, None]


def sample_mask(key: Key, shape: tuple[int, int], schedule: str) -> Array:
    """Returns `random_mask`, bool [B, L], with a ratio of its own for each example."""
    rate_key, place_key = jax.random.split(key)
    ratio = jax.random.uniform(rate_key, shape[:1])
    return random_mask(ratio, jax.random.uniform(place_key, shape), schedule)


def any_order_mask(ratio: Array, scores: Array) -> Array:
    """Returns a mask, bool [B, L], that hides any number of tokens from 1 to L equally likely.

    Args:
        ratio: Uniform in [0, 1), [B].
        scores: Uniform [B, L]; the lowest are masked.
    """
    count = jnp.floor(ratio * scores.shape[-1]).astype(jnp.int32) + 1  # [B]
    return rank(scores) < count[:, None]


def rank(scores: Array) -> Array:
    """Returns the place of each score in ascending order, int32, ties by position."""
    return jnp.argsort(jnp.argsort(scores, axis=-1), axis=-1)


def ramp(first: float, last: float, step: Array, steps: int) -> Array:
    """Returns a value that goes linearly from `first` (step 0) to `last` (step T - 1)."""
    return first + (last - first) * step / max(steps - 1, 1)


def rise(progress: Array, shape: str) -> Array:
    """Returns which share of its full value a guidance scale has, in [0, 1].

    Args:
        progress: (t + 1) / T at step t.
        shape: "constant", "linear", or "cosine", which rises slowly, then fast, then slowly.
    """
    if shape == "linear":
        return progress
    if shape == "cosine":
        return (1.0 - jnp.cos(jnp.pi * progress)) / 2
    return jnp.ones_like(progress)
