"""Guidance of a masked token generator: classifier-free, or by a worse generator."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from maskgit_jax.arrays import Array
from maskgit_jax.decoding.schedules import guidance_ramp
from maskgit_jax.decoding.settings import DecodeSettings, is_zero

Predict = Callable[[Array, Array, Array], Array]
"""(tokens int32 [B, L], mask bool [B, L], (t + 1) / T []) -> logits float32 [B, L, K]."""


def guide(conditional: Array, unconditional: Array, scale: Array | float) -> Array:
    """Returns logits + s (logits - unconditional logits), same shape; scale 0 changes nothing.

    Source: Ho & Salimans 2022, classifier-free guidance; with the logits of a worse generator in
    place of the unconditional ones Karras et al. 2024, Guiding a Diffusion Model with a Bad Version
    of Itself.
    """
    return conditional + scale * (conditional - unconditional)


def with_guidance(
    logits_of: Callable[[Array, Array, Array], Array],
    label: Array,
    null_label: int,
    settings: DecodeSettings,
    guide_logits: Callable[[Array, Array], Array] | None = None,
) -> Predict:
    """Returns the generator with guidance.

    Args:
        logits_of: (tokens, mask, label int32 [N]) -> logits, for N = B and N = 2 B.
        label: int32 [B].
        null_label: The label that means "no class".
        settings: See `DecodeSettings`.
        guide_logits: (tokens, mask) -> logits of a worse generator for the same labels, in place of
            those without class.
    """
    null_labels = jnp.full_like(label, null_label)

    def conditional(tokens: Array, mask: Array) -> Array:
        return logits_of(tokens, mask, label).astype(jnp.float32)

    def guided(tokens: Array, mask: Array, scale: Array | float) -> Array:
        if guide_logits is not None:
            worse = guide_logits(tokens, mask).astype(jnp.float32)
            return guide(conditional(tokens, mask), worse, scale)
        tokens, mask = (jnp.concatenate([x, x]) for x in (tokens, mask))
        labels = jnp.concatenate([label, null_labels])
        logits = logits_of(tokens, mask, labels).astype(jnp.float32)
        conditional_logits, unconditional_logits = jnp.split(logits, 2)
        return guide(conditional_logits, unconditional_logits, scale)

    def predict(tokens: Array, mask: Array, progress: Array) -> Array:
        if is_zero(settings.guidance):
            return conditional(tokens, mask)
        if settings.guidance_schedule != "interval":
            scale = settings.guidance * guidance_ramp(progress, settings.guidance_schedule)
            return guided(tokens, mask, scale)
        low, high = settings.guidance_interval
        inside = (low + 1e-6 < progress) & (progress <= high + 1e-6)
        guided_fully = partial(guided, scale=settings.guidance)
        return jax.lax.cond(inside, guided_fully, conditional, tokens, mask)

    return predict
