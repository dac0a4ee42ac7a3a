"""MaskGIT's parallel decoding: all tokens predicted at once, the surest kept, the rest again."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from maskgit_jax.arrays import Array, Key
from maskgit_jax.decoding.sampling import draw_tokens
from maskgit_jax.decoding.schedules import mask_ratio, rank

Predict = Callable[[Array, Array], Array]
"""(tokens int32 [B, L], hidden bool [B, L]) -> logits float32 [B, L, K]."""


class DecodeSettings(NamedTuple):
    """How a decoder works; hashable, so that it can be a static argument.

    Attributes:
        steps: Decoding steps T; one network pass each (two with guidance).
        choice_temperature: Gumbel noise on the log confidences at the first step, falling
            linearly to 0 at the last; larger values choose places more at random.
        temperature: Divides the logits before sampling.
        guidance: s in logits + s (logits - logits without class); 0 for none.
        schedule: See `maskgit_jax.decoding.schedules`.
    """

    steps: int = 8
    choice_temperature: float = 4.5
    temperature: float = 1.0
    guidance: float = 0.0
    schedule: str = "cosine"


def guide(conditional: Array, unconditional: Array, scale: float) -> Array:
    """Returns logits + s (logits - logits without class), same shape.

    Source: Ho & Salimans 2022, classifier-free guidance; scale 0 changes nothing.
    """
    return conditional + scale * (conditional - unconditional)


def decode_by_confidence(
    predict: Predict, tokens: Array, hidden: Array, key: Key, settings: DecodeSettings
) -> tuple[Array, Array]:
    """Fills the hidden tokens in `settings.steps` passes; known tokens stay as they are.

    Each pass samples every hidden token, then hides the least sure ones again:
    floor(n gamma((t+1)/T)) of the n that were hidden at the start, at least 1 before the last
    step and less than before. Surety is log p(sampled token) plus Gumbel noise.

    Args:
        predict: The network.
        tokens: int32 [B, L]; any value where hidden.
        hidden: bool [B, L].
        key: Of tokens and noise.
        settings: See `DecodeSettings`.

    Returns:
        tokens int32 [B, L], and what was sampled after each step, int32 [T, B, L].

    Source: google-research/maskgit libml/parallel_decode.py:decode. Differs: ranks replace a
    threshold, so that ties cannot change the number of hidden tokens; nothing is hidden after
    the last step.
    """
    chex.assert_equal_shape([tokens, hidden])
    num_hidden = hidden.sum(axis=-1)  # [B]

    def one_step(carry: tuple[Array, Array], step: Array):
        tokens, hidden = carry
        token_key, place_key = jax.random.split(jax.random.fold_in(key, step))
        logits = predict(tokens, hidden).astype(jnp.float32) / settings.temperature
        tokens = jnp.where(hidden, draw_tokens(token_key, logits), tokens)
        progress = (step + 1) / settings.steps
        count = jnp.floor(num_hidden * mask_ratio(progress, num_hidden, settings.schedule))
        count = jnp.maximum(1, jnp.minimum(hidden.sum(axis=-1) - 1, count))
        count = jnp.where(step == settings.steps - 1, 0, count)
        noise = jax.random.gumbel(place_key, tokens.shape)
        surety = _log_probability(logits, tokens)
        surety = surety + settings.choice_temperature * (1.0 - progress) * noise
        surety = jnp.where(hidden, surety, jnp.inf)
        hidden = hidden & (rank(surety) < count[:, None])
        return (tokens, hidden), tokens

    (tokens, _), trajectory = jax.lax.scan(
        one_step, (tokens.astype(jnp.int32), hidden), jnp.arange(settings.steps)
    )
    return tokens, trajectory


def _log_probability(logits: Array, tokens: Array) -> Array:
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)
