"""Autoregressive decoding, rows first: with a KV cache, without, or in a sliding window."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from maskgit_jax.arrays import Array, Key, PyTree
from maskgit_jax.decoding.sampling import (
    check_temperature,
    check_top_k,
    filter_logits,
    finite_logits,
    fold_in_each,
    most_likely,
    sample_categorical,
)
from maskgit_jax.decoding.settings import AutoregressiveSettings, is_zero
from maskgit_jax.settings import check_settings

DecodeStep = Callable[[PyTree, Array, Array], tuple[Array, PyTree]]
"""(cache, previous token int32 [B], index []) -> (logits [B, K] of position `index`, cache)."""
Predict = Callable[[Array, Array], Array]
"""(tokens int32 [B, L], index []) -> logits [B, K] of position `index` given earlier tokens."""
PredictInWindow = Callable[[Array, tuple[Array, Array], Array], Array]
"""(tokens int32 [B, h*w] of a window, its first row and column, index inside) -> logits [B, K]."""


def check_autoregressive_settings(settings: AutoregressiveSettings, codebook_size: int) -> None:
    """Raises `InputError` for settings that cannot work."""
    check_settings(settings)
    check_temperature(settings.temperature)
    check_top_k(settings.top_k, codebook_size)


def decode_with_cache(
    decode_step: DecodeStep,
    cache: PyTree,
    tokens: Array,
    mask: Array,
    keys: Key,
    settings: AutoregressiveSettings,
) -> Array:
    """Returns tokens int32 [B, L]: masked tokens are sampled in order, the others stay.

    An unmasked token conditions later tokens only.

    Args:
        decode_step: The network.
        cache: The network's cache before the first token.
        tokens: int32 [B, L]; any value where masked.
        mask: bool [B, L], True where the token is to be sampled.
        keys: One key per image, [B]; each position folds its index into them.
        settings: See `AutoregressiveSettings`.
    """
    chex.assert_equal_shape([tokens, mask])

    def sample_position(carry: tuple[PyTree, Array], index: Array):
        cache, previous = carry
        logits, cache = decode_step(cache, previous, index)
        token = _sample_token(logits, tokens[:, index], mask[:, index], keys, index, settings)
        return (cache, token), token

    carry = (cache, jnp.zeros_like(tokens[:, 0]))
    _, sampled = jax.lax.scan(sample_position, carry, jnp.arange(tokens.shape[1]))
    return sampled.swapaxes(0, 1)


def decode_without_cache(
    predict: Predict, tokens: Array, mask: Array, keys: Key, settings: AutoregressiveSettings
) -> Array:
    """Returns the same tokens as `decode_with_cache`, with a whole network evaluation for each."""
    chex.assert_equal_shape([tokens, mask])

    def sample_position(tokens: Array, index: Array):
        logits = predict(tokens, index)
        token = _sample_token(logits, tokens[:, index], mask[:, index], keys, index, settings)
        return tokens.at[:, index].set(token), None

    return jax.lax.scan(sample_position, tokens, jnp.arange(tokens.shape[1]))[0]


def decode_sliding_window(
    predict: PredictInWindow,
    tokens: Array,
    mask: Array,
    window: tuple[int, int],
    keys: Key,
    settings: AutoregressiveSettings,
) -> Array:
    """Returns tokens int32 [B, H, W] of a map larger than the network's, sampled in order.

    Args:
        predict: The network on a window of the map; the token at `index` and later ones have no
            effect.
        tokens: int32 [B, H, W]; any value where masked.
        mask: bool [B, H, W], True where the token is to be sampled.
        window: Rows and columns (h, w) of the network's map, at most H and W.
        keys: One key per image, [B]; each position folds its index into them.
        settings: See `AutoregressiveSettings`.

    Source: taming-transformers scripts/sample_conditional.py. Differs: fixes the start column of
    completions.
    """
    chex.assert_equal_shape([tokens, mask])
    batch, height, width = tokens.shape

    def predict_in_map(tokens: Array, index: Array) -> Array:
        row, column = jnp.divmod(index, width)
        top = window_start(row, height, window[0])
        left = window_start(column, width, window[1])
        maps = tokens.reshape(batch, height, width)
        seen = jax.lax.dynamic_slice(maps, (0, top, left), (batch, *window))
        inside = (row - top) * window[1] + column - left
        return predict(seen.reshape(batch, -1), (top, left), inside)

    sequences = (tokens.reshape(batch, -1), mask.reshape(batch, -1))
    return decode_without_cache(predict_in_map, *sequences, keys, settings).reshape(tokens.shape)


def window_start(position: Array, size: int, window: int) -> Array:
    """Returns the first row or column of the window in which a position is predicted, int32.

    The position is in the middle of the window (at window // 2), except near the borders of the
    map, where the window ends with the map.

    Args:
        position: Row or column in the map, 0 .. size - 1.
        size: Rows or columns of the map, at least `window`.
        window: Rows or columns of the window.

    Source: taming-transformers scripts/sample_conditional.py.
    """
    return jnp.clip(position - window // 2, 0, size - window)


def _sample_token(
    logits: Array,
    known: Array,
    mask: Array,
    keys: Key,
    index: Array,
    settings: AutoregressiveSettings,
) -> Array:
    logits = finite_logits(logits)
    if is_zero(settings.temperature):
        return jnp.where(mask, most_likely(logits), known)
    logits = filter_logits(logits / settings.temperature, settings.top_k, settings.top_p)
    sampled = sample_categorical(fold_in_each(keys, index), logits)
    return jnp.where(mask, sampled, known)
