"""Cross-entropy over masked visual tokens."""

import chex
import jax
import jax.numpy as jnp

from maskgit_jax.arrays import Array


def token_cross_entropy(logits: Array, tokens: Array, label_smoothing: float = 0.0) -> Array:
    """Returns the cross-entropy at each place, float32 [B, L], in nats per token.

    Args:
        logits: [B, L, K].
        tokens: The true tokens, int32 [B, L], 0 .. K-1.
        label_smoothing: Probability spread evenly over all K codes. Differs from
            google-research/maskgit, which spreads it over the whole vocabulary of 2025 rows,
            classes and mask included (magvit cuts to the codebook first, as here).
    """
    chex.assert_shape(logits, (*tokens.shape, None))
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32))
    true = jnp.take_along_axis(log_probability, tokens[..., None], axis=-1)[..., 0]  # [B, L]
    return -(1.0 - label_smoothing) * true - label_smoothing * log_probability.mean(axis=-1)


def masked_mean(values: Array, selected: Array) -> Array:
    """Returns the mean of the selected places of each example, [B]; 0 where none is selected.

    Every example counts the same, however many of its tokens are selected.
    Source: google-research/maskgit weighted_sequence_cross_entropy_loss. Differs: an example
    without a selected token gives 0 there instead of NaN.
    """
    chex.assert_equal_shape([values, selected])
    weight = selected.astype(values.dtype)
    return (values * weight).sum(axis=-1) / jnp.maximum(weight.sum(axis=-1), 1.0)


def reduce_masked(values: Array, selected: Array, of: str) -> Array:
    """Returns the mean of the selected places of a batch, a scalar.

    Args:
        values: [B, L].
        selected: Which places count, bool [B, L]; at least one of them does.
        of: "examples", as published: every example counts the same, see `masked_mean`.
            "tokens": every place does. Its gradients are less noisy, because no example with a
            single masked token counts as much as one with all masked.
    """
    if of == "examples":
        return masked_mean(values, selected).mean()
    return values.mean(where=selected)


def any_order_nll_bits(error: Array, mask: Array) -> Array:
    """Returns an estimate of a bound on -log2 p(tokens) / L of each example, [B].

    With the mask of `decoding.schedules.any_order_mask` its expectation is what filling in the
    tokens one by one in a random order costs: at least the negative log-likelihood.

    Args:
        error: Cross-entropy of each token given what is not masked, nats, [B, L].
        mask: Which tokens were masked, bool [B, L].

    Source: Uria et al. 2014, A Deep and Tractable Density Estimator, eq. 10; Hoogeboom et al.
    2022, Autoregressive Diffusion Models, eq. 3 (L * mean over the masked ones; here per token).
    """
    return masked_mean(error, mask) / jnp.log(2.0)
