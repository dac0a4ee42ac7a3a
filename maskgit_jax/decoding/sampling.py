"""Sampling codes from logits, restricted to the most likely codes; one random key per image.

Every image is drawn with its own key, so that it does not depend on the images beside it: not on
the size of the batch, the number of devices or the number of images.
"""

import math
from collections.abc import Callable
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np

from maskgit_jax.arrays import Array, Key
from maskgit_jax.configuration import check_seed, require

MIN_TEMPERATURE = 1e-6
MAX_LOGIT = 1e6
"""Logits beyond it are those of damaged or diverged weights: their softmax has no meaning."""
NO_CODE = -1
"""What is sampled from logits that are not finite."""


def check_top_k(top_k: int, codebook_size: int) -> None:
    """Raises `InputError` unless top_k is 0 or a possible number of codes."""
    require(
        0 <= top_k <= codebook_size,
        f"top_k is {top_k}; it must be between 0 (all) and the number of codes, {codebook_size}",
    )


def check_temperature(temperature: float, name: str = "temperature") -> None:
    """Raises `InputError` for a temperature that is neither 0 nor large enough to divide by."""
    require(
        temperature == 0 or temperature >= MIN_TEMPERATURE,
        f"{name} is {temperature}; it must be 0 or at least {MIN_TEMPERATURE:g}",
    )


def random_key(seed: int) -> Key:
    """Returns the random key of a seed.

    Raises:
        InputError: The seed is out of range.
    """
    check_seed(seed)
    return jax.random.key(np.uint32(seed))


def image_keys(key: Key, numbers: Array) -> Key:
    """Returns one key per image, [B]: that of image n is the same in every batch.

    Args:
        key: The key of a seed.
        numbers: The number n of each image, int32 [B].
    """
    return jax.vmap(partial(jax.random.fold_in, key))(numbers)


def fold_in_each(keys: Key, number: Array | int) -> Key:
    """Returns the keys [B] with a number folded into each."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def split_each(keys: Key, num: int) -> tuple[Key, ...]:
    """Returns `num` keys of each image, [B] each."""
    return tuple(fold_in_each(keys, number) for number in range(num))


def draw_each(draw: Callable[[Key, tuple[int, ...]], Array], keys: Key, *shape: int) -> Array:
    """Returns random numbers [B, *shape]; `draw` is a function such as `jax.random.uniform`."""
    return jax.vmap(lambda key: draw(key, shape))(keys)


def filter_logits(logits: Array, top_k: int = 0, top_p: float = 1.0) -> Array:
    """Returns logits [..., K] with -inf for all but the most likely codes.

    Args:
        logits: [..., K], already divided by the temperature.
        top_k: Keep the k most likely codes; 0 for all. Ties go to the smaller code, so that
            exactly k stay.
        top_p: Then keep the most likely codes whose probabilities, renormalized, sum to at
            least p ("nucleus"); at least one code, all with 1.

    Source: taming-transformers modules/transformer/mingpt.py:top_k_top_p_filtering; Holtzman
    et al. 2020, arXiv 1904.09751, section 3.1. Differs: there more than k codes stay on ties.
    """
    codes = logits.shape[-1]
    if top_k in (0, codes) and top_p >= 1.0:
        return logits
    chex.assert_scalar_in(top_k, 0, codes)
    values, order = jax.lax.top_k(logits, top_k or codes)  # stable: ties in order of the codes
    if top_p < 1.0:
        probabilities = jax.nn.softmax(values)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        values = jnp.where(before < top_p, values, -jnp.inf)
    removed = jnp.full(logits.shape, -jnp.inf, logits.dtype)
    return jnp.put_along_axis(removed, order, values, axis=-1, inplace=False)


def finite_logits(logits: Array) -> Array:
    """Returns the logits of a network in float32, NaN where they are beyond `MAX_LOGIT`."""
    logits = logits.astype(jnp.float32)
    return jnp.where(jnp.abs(logits) <= MAX_LOGIT, logits, jnp.nan)


def most_likely(logits: Array) -> Array:
    """Returns the most likely codes, int32 [...]; `NO_CODE` where a logit is NaN."""
    valid = jnp.isfinite(logits.max(axis=-1))
    return jnp.where(valid, logits.argmax(axis=-1), NO_CODE).astype(jnp.int32)


def sample_categorical(keys: Key, logits: Array) -> Array:
    """Returns codes sampled from softmax(logits), int32 [B, ...]; never one of probability 0.

    The code is `NO_CODE` where a logit is NaN.

    Inverts the cumulative distribution at one uniform number per token, where
    `jax.random.categorical` draws K Gumbel variables: on a CPU that takes 13 times as long (256
    tokens, 1,024 codes) and was half of MaskGIT's sampling time. The search has two levels,
    blocks and codes of a block, about sqrt(K) of each.

    Args:
        keys: One key per image, [B].
        logits: [B, ..., K].
    """
    codes = logits.shape[-1]
    side = math.ceil(codes**0.5)
    logits = logits.astype(jnp.float32)
    most = logits.max(axis=-1, keepdims=True)
    mass = jnp.exp(logits - most)
    mass = jnp.pad(mass, [(0, 0)] * (logits.ndim - 1) + [(0, side * side - codes)])
    mass = mass.reshape(*logits.shape[:-1], side, side)
    blocks = mass.sum(axis=-1)
    ends = jnp.cumsum(blocks, axis=-1)
    point = draw_each(jax.random.uniform, keys, *logits.shape[1:-1]) * ends[..., -1]
    block = jnp.minimum((ends <= point[..., None]).sum(axis=-1), side - 1)
    start = jnp.take_along_axis(ends - blocks, block[..., None], axis=-1)[..., 0]
    inside = jnp.take_along_axis(mass, block[..., None, None], axis=-2)[..., 0, :]
    # Rounding may move the point out of its block: clip to the first and last possible code.
    rest = jnp.maximum(point - start, 0.0)
    code = (jnp.cumsum(inside, axis=-1) <= rest[..., None]).sum(axis=-1)
    last = side - 1 - jnp.argmax(inside[..., ::-1] > 0, axis=-1)
    code = block * side + jnp.minimum(code, last)
    return jnp.where(jnp.isfinite(most[..., 0]), code, NO_CODE).astype(jnp.int32)
