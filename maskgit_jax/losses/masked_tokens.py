"""Cross-entropy of masked visual tokens."""

import chex
import jax
import jax.numpy as jnp

from maskgit_jax.arrays import Array


def token_cross_entropy(logits: Array, tokens: Array, label_smoothing: float = 0.0) -> Array:
    """Returns the cross-entropy of each token, float32 [B, L], in nats.

    Args:
        logits: [B, L, K]; or, as in google-research/maskgit, of all 2025 rows of the vocabulary,
            classes and mask included (magvit cuts to the codebook first).
        tokens: The true tokens, int32 [B, L], 0 .. K-1.
        label_smoothing: Probability spread evenly over all logits.
    """
    chex.assert_shape(logits, (*tokens.shape, None))
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32))
    true = jnp.take_along_axis(log_probability, tokens[..., None], axis=-1)[..., 0]  # [B, L]
    return -(1.0 - label_smoothing) * true - label_smoothing * log_probability.mean(axis=-1)


def masked_mean(values: Array, selected: Array) -> Array:
    """Returns the mean over the selected tokens of each example, [B]; 0 where none is selected.

    Source: google-research/maskgit weighted_sequence_cross_entropy_loss. Differs: an example
    without a selected token gives 0 there instead of NaN.
    """
    chex.assert_equal_shape([values, selected])
    weight = selected.astype(values.dtype)
    return (values * weight).sum(axis=-1) / jnp.maximum(weight.sum(axis=-1), 1.0)


def reduce_masked(values: Array, selected: Array, reduction: str) -> Array:
    """Returns the mean over the selected tokens of a batch, a scalar.

    Args:
        values: [B, L].
        selected: bool [B, L], with at least one token.
        reduction: "examples", as published: all examples have the same weight, see `masked_mean`;
            those without a selected token do not count.
            "tokens": all tokens have the same weight, which makes gradients less noisy, because
            an example with a single masked token counts less than one with all masked.
    """
    if reduction == "examples":
        return masked_mean(values, selected).mean(where=selected.any(axis=-1))
    return values.mean(where=selected)


def any_order_nll_bits(errors: Array, mask: Array) -> Array:
    """Returns an estimate of a bound on -log2 p(tokens) / L of each example, [B].

    With the mask of `decoding.schedules.any_order_mask` its expectation is the cross-entropy of
    tokens generated one by one in a random order, which bounds the negative log-likelihood.

    Args:
        errors: Cross-entropy of each token given the unmasked ones, nats, [B, L].
        mask: Masked tokens, bool [B, L].

    Source: Uria et al. 2014, A Deep and Tractable Density Estimator, eq. 10; Hoogeboom et al.
    2022, Autoregressive Diffusion Models, eq. 3 (L * mean over the masked ones; here per token).
    """
    return masked_mean(errors, mask) / jnp.log(2.0)


def unigram_entropy_bits(tokens: Array, codebook_size: int) -> Array:
    """Returns the entropy of the frequencies of tokens in bits, a scalar.

    A prior that knows nothing but these frequencies has this cross-entropy per token. The entropy
    of few tokens is too small on average; the correction of Miller 1955 adds what is missing.

    Args:
        tokens: int32 of any shape, 0 .. K-1.
        codebook_size: K.
    """
    counts = jnp.bincount(tokens.ravel(), length=codebook_size)
    entropy = jax.scipy.special.entr(counts / tokens.size).sum()
    correction = ((counts > 0).sum() - 1) / (2 * tokens.size)
    return jnp.minimum((entropy + correction) / jnp.log(2.0), jnp.log2(float(codebook_size)))
