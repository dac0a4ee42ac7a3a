"""Mask schedules: the ratio and the number of masked tokens, in training and decoding."""

import re
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from maskgit_jax.arrays import Array
from maskgit_jax.configuration import require

SCHEDULES: dict[str, Callable[[Any, Array, Array], Array]] = {
    "linear": lambda xp, ratio, _: 1.0 - ratio,
    "cosine": lambda xp, ratio, _: xp.cos(ratio * (np.pi / 2)),
    "square": lambda xp, ratio, _: 1.0 - ratio**2,
    "cubic": lambda xp, ratio, _: 1.0 - ratio**3,
    "sqrt": lambda xp, ratio, _: 1.0 - ratio**0.5,
    "exponential": lambda xp, ratio, count: 1.0 - xp.exp2(-xp.log2(count) * (1.0 - ratio)),
    "logarithmic": lambda xp, ratio, count: -xp.log2(ratio) / xp.log2(xp.maximum(count, 2.0)),
    "arccos": lambda xp, ratio, _: xp.arccos(ratio) / (np.pi / 2),
}
"""Name -> (numpy or jax.numpy, r, number of tokens) -> mask ratio before clipping; also
`pow<exponent>`: 1 - r^x."""


TABLE_SIZE = 4097
"""Entries of the inverse of a distribution function, between which it is interpolated."""


def check_schedule(schedule: str, key: str = "schedule", training: bool = False) -> None:
    """Raises `InputError` for an unknown schedule.

    Args:
        schedule: See `mask_ratio`.
        key: Its name in the message.
        training: Whether it may be a distribution of mask ratios, which decoding cannot follow.
    """
    allowed = f"allowed: {', '.join(SCHEDULES)}, pow<exponent> such as pow2.5"
    distribution = _distribution(schedule) is not None
    require(
        training or not distribution,
        f"{key} is '{schedule}', a distribution of mask ratios in training; {allowed}",
    )
    require(
        distribution or schedule in SCHEDULES or _exponent(schedule) is not None,
        f"{key} is '{schedule}'; {allowed}"
        + ", beta<a>,<b> such as beta12,3, truncnorm<mean>,<deviation>,<minimum> such as "
        "truncnorm1,0.25,0.7" * training,
    )


def _exponent(name: str) -> float | None:
    match = re.fullmatch(r"pow(\d+(\.\d+)?)", name)
    return float(match[1]) if match and float(match[1]) > 0 else None


def _distribution(name: str) -> np.ndarray | None:
    """Returns the quantiles 0 to 1 of a distribution of mask ratios, None for other names."""
    if not name.startswith(("beta", "truncnorm")):
        return None
    from scipy import special  # It takes half a second, and few configurations need it.

    number = r"(\d+(?:\.\d+)?)"
    share = np.linspace(0.0, 1.0, TABLE_SIZE)
    beta = re.fullmatch(f"beta{number},{number}", name)
    if beta and min(map(float, beta.groups())) > 0:
        return special.betaincinv(*map(float, beta.groups()), share)
    normal = re.fullmatch(f"truncnorm{number},{number},{number}", name)
    if not normal:
        return None
    mean, deviation, minimum = map(float, normal.groups())
    deviation = max(deviation, 1e-9)
    low, high = special.ndtr((np.asarray([minimum, 1.0]) - mean) / deviation)
    if high - low < 1e-6:  # nothing of the distribution is between them
        return None
    quantiles = mean + deviation * special.ndtri(low + share * (high - low))
    return np.clip(quantiles, minimum, 1.0)


def mask_ratio(ratio: Any, num_tokens: Any, schedule: str) -> Any:
    """Returns gamma(r), the mask ratio, float32, in [1e-6, 1]; of a numpy array by numpy.

    Args:
        ratio: r in [0, 1]: all tokens are masked at 0, (almost) none at 1.
        num_tokens: Number of tokens (some schedules depend on it), broadcast to `ratio`.
        schedule: A key of `SCHEDULES`, or `pow2.5` for 1 - r^2.5, with any positive exponent. In
            training also the quantile 1 - r of a distribution, so that a uniform r gives it:
            `beta12,3` (AutoNAT), or `truncnorm1,0.25,0.7` (MAR): a normal distribution of mean
            1 and deviation 0.25, cut to 0.7 to 1.

    Source: Chang et al. 2022, MaskGIT, section 3.3; libml/mask_schedule.py, where linear is called
    uniform, square pow2, cubic pow3, sqrt pow0.5, exponential exp and logarithmic log. "arccos" is
    of Besnier and Chen 2023, arXiv 2310.14400. Beta: Ni et al. 2024, Revisiting Non-Autoregressive
    Transformers (LeapLabTHU/ImprovedNAT libs/nat_misc.py). Truncated normal: Li et al. 2024,
    Autoregressive Image Generation without Vector Quantization (LTH14/mar models/mar.py).

    Raises:
        InputError: There is no such schedule.
    """
    check_schedule(schedule, training=True)
    exponent, quantiles = _exponent(schedule), _distribution(schedule)
    xp: Any = np if isinstance(ratio, np.ndarray) else jnp
    ratio, count = xp.float32(ratio), xp.float32(num_tokens)
    if quantiles is not None:
        share = np.linspace(0.0, 1.0, TABLE_SIZE)
        return xp.clip(xp.interp(1.0 - ratio, share, quantiles), 1e-6, 1.0)
    gamma = 1.0 - ratio**exponent if exponent else SCHEDULES[schedule](xp, ratio, count)
    return xp.clip(gamma, 1e-6, 1.0)


def masked_counts(
    num_masked: np.ndarray, steps: int, schedule: str, start_step: int = 0
) -> np.ndarray:
    """Returns the number of masked tokens before the first step and after each, int32 [T+1-S, N].

    It is floor(n gamma(t/T)), but every step accepts at least one token, and the last step the
    rest. For n < T - S, each of the first n steps accepts one token and the others none.

    They are computed on the host, so that they are the same in every program and on every device.

    Args:
        num_masked: n of each example, int [N].
        steps: T.
        schedule: See `mask_ratio`.
        start_step: S, the first step.

    Source: google-research/maskgit libml/parallel_decode.py:decode. Differs: there a steep schedule
    stays at one masked token for several steps and samples it anew each time; here the steps
    before leave enough tokens for the later ones. Otherwise the numbers are the same.
    """
    num_masked = num_masked[None]  # [1, N]
    active_steps = np.clip(num_masked, 1, steps - start_step)
    step = np.arange(steps + 1 - start_step)[:, None]
    ratio = np.minimum(np.float32(start_step + step) / np.float32(start_step + active_steps), 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):  # of examples without masked tokens
        counts = np.floor(np.float32(num_masked) * mask_ratio(ratio, num_masked, schedule))
        counts = np.where(step == 0, num_masked, counts.astype(np.int32))
    # At least one less each step: the smallest of c_s - (t - s) over all s up to t.
    at_most = np.minimum.accumulate(counts + step, axis=0) - step
    counts = np.maximum(at_most, np.maximum(active_steps - step, 0)) * (num_masked > 0)
    return counts.astype(np.int32)


def rank(scores: Array) -> Array:
    """Returns the rank of each score in ascending order, int32; ties go by position."""
    return jnp.argsort(jnp.argsort(scores, axis=-1), axis=-1)


def guidance_ramp(progress: Array, schedule: str) -> Array:
    """Returns the factor of the guidance scale, in [0, 1].

    Args:
        progress: (t + 1) / T at step t.
        schedule: "constant", "linear" or "cosine".
    """
    if schedule == "linear":
        return progress
    if schedule == "cosine":
        return (1.0 - jnp.cos(jnp.pi * progress)) / 2
    return jnp.ones_like(progress)
