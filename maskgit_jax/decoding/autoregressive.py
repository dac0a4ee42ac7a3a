"""Token after token, rows first: with a memory, by whole passes, or through a sliding window."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from maskgit_jax.arrays import Array, Key, PyTree
from maskgit_jax.configuration import require
from maskgit_jax.decoding.sampling import check_top_k_top_p, filter_logits, sample_categorical

Step = Callable[[PyTree, Array, Array], tuple[Array, PyTree]]
"""(memory, token before int32 [B], index []) -> (logits [B, K] of place `index`, memory)."""
Predict = Callable[[Array, Array], Array]
"""(tokens int32 [B, L], index []) -> logits [B, K] of place `index`, from the tokens before it."""
PredictInWindow = Callable[[Array, tuple[Array, Array], Array], Array]
"""(tokens int32 [B, h*w] of a window, its first row and column, index inside) -> logits [B, K]."""


class AutoregressiveSettings(NamedTuple):
    """How tokens are drawn one after another; hashable, so that it can be a static argument.

    Attributes:
        temperature: Divides the logits.
        top_k: Only the k most likely codes are drawn; 0 for all.
        top_p: Of those only the most likely ones that make up this probability.
        cached: Whether what was computed for the tokens before is remembered. Without it every
            token costs a whole pass and is the same; it is there to be compared with.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    cached: bool = True


class SlidingWindowSettings(NamedTuple):
    """`AutoregressiveSettings` of a generator whose images may be larger than those of its training.

    Attributes:
        temperature: See `AutoregressiveSettings`.
        top_k: See `AutoregressiveSettings`.
        top_p: See `AutoregressiveSettings`.
        cached: See `AutoregressiveSettings`; it says nothing where a window slides.
        size: (H, W) of the images in pixels; None for that of the training.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    cached: bool = True
    size: tuple[int, int] | None = None


def check_autoregressive_settings(
    settings: AutoregressiveSettings | SlidingWindowSettings, codebook_size: int
) -> None:
    """Raises `InputError` for settings that cannot work."""
    require(settings.temperature > 0, f"temperature is {settings.temperature}; it must be > 0")
    check_top_k_top_p(settings.top_k, settings.top_p, codebook_size)


def decode_with_cache(
    step: Step,
    memory: PyTree,
    tokens: Array,
    mask: Array,
    key: Key,
    settings: AutoregressiveSettings | SlidingWindowSettings,
) -> Array:
    """Returns tokens int32 [B, L], the masked ones drawn in order; the others stay.

    A known token counts for the tokens after it only.

    Args:
        step: The network.
        memory: Before the first token.
        tokens: int32 [B, L]; any value where masked.
        mask: bool [B, L].
        key: Of the draws; the draw of a place depends on it and the place only.
        settings: See `AutoregressiveSettings`.
    """
    chex.assert_equal_shape([tokens, mask])

    def one_place(carry: tuple[PyTree, Array], index: Array):
        memory, previous = carry
        logits, memory = step(memory, previous, index)
        token = _drawn(logits, tokens[:, index], mask[:, index], key, index, settings)
        return (memory, token), token

    start = (memory, jnp.zeros_like(tokens[:, 0]))
    _, drawn = jax.lax.scan(one_place, start, jnp.arange(tokens.shape[1]))
    return drawn.swapaxes(0, 1)


def decode_without_cache(
    predict: Predict,
    tokens: Array,
    mask: Array,
    key: Key,
    settings: AutoregressiveSettings | SlidingWindowSettings,
) -> Array:
    """Returns the same as `decode_with_cache`, computing every logit from all tokens anew."""
    chex.assert_equal_shape([tokens, mask])

    def one_place(tokens: Array, index: Array):
        logits = predict(tokens, index)
        token = _drawn(logits, tokens[:, index], mask[:, index], key, index, settings)
        return tokens.at[:, index].set(token), None

    return jax.lax.scan(one_place, tokens, jnp.arange(tokens.shape[1]))[0]


def window_start(place: Array, size: int, window: int) -> Array:
    """Returns where the window begins that a place is predicted in, int32.

    The place stands in the middle of the window (at window // 2), but near the borders of the
    map, where the window sticks to them.

    Args:
        place: Row or column in the map, 0 .. size - 1.
        size: Rows or columns of the map, at least `window`.
        window: Rows or columns of the window.

    Source: taming-transformers scripts/sample_conditional.py.
    """
    return jnp.clip(place - window // 2, 0, size - window)


def decode_sliding_window(
    predict: PredictInWindow,
    tokens: Array,
    mask: Array,
    window: tuple[int, int],
    key: Key,
    settings: SlidingWindowSettings,
) -> Array:
    """Returns tokens int32 [B, H, W] of a map larger than the network knows, drawn in order.

    Args:
        predict: The network; it sees a window of the map, of which the tokens from the place
            itself on do not matter to it.
        tokens: int32 [B, H, W]; any value where masked.
        mask: bool [B, H, W].
        window: Rows and columns (h, w) that the network knows; not more than H and W.
        key: Of the draws.
        settings: See `SlidingWindowSettings`; `size` is that of `tokens` already.

    Source: taming-transformers scripts/sample_conditional.py, without its error in starting
    columns of completions.
    """
    chex.assert_equal_shape([tokens, mask])
    batch, height, width = tokens.shape

    def one_place(tokens: Array, index: Array):
        row, column = jnp.divmod(index, width)
        top = window_start(row, height, window[0])
        left = window_start(column, width, window[1])
        seen = jax.lax.dynamic_slice(tokens, (0, top, left), (batch, *window))
        inside = (row - top) * window[1] + column - left
        logits = predict(seen.reshape(batch, -1), (top, left), inside)
        known, unknown = tokens[:, row, column], mask[:, row, column]
        token = _drawn(logits, known, unknown, key, index, settings)
        return tokens.at[:, row, column].set(token), None

    return jax.lax.scan(one_place, tokens, jnp.arange(height * width))[0]


def _drawn(
    logits: Array,
    known: Array,
    mask: Array,
    key: Key,
    index: Array,
    settings: AutoregressiveSettings | SlidingWindowSettings,
) -> Array:
    logits = logits.astype(jnp.float32) / settings.temperature
    logits = filter_logits(logits, settings.top_k, settings.top_p)
    drawn = sample_categorical(jax.random.fold_in(key, index), logits)
    return jnp.where(mask, drawn, known)
