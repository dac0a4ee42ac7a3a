"""Pixel errors between images and their reconstructions, as losses and as metrics."""

import chex
import jax.numpy as jnp

from maskgit_jax.arrays import Array

_MAX_PSNR = 100.0


def pixel_loss(image: Array, reconstruction: Array, kind: str) -> Array:
    """Returns the mean pixel error of each example, float32 [B], on the scale of its input.

    Args:
        image: Originals [B, H, W, C] in [-1, 1].
        reconstruction: Same shape, any range.
        kind: "l2" (mean square: the official MaskGIT tokenizer) or "l1" (mean absolute:
            taming-transformers' loss, where the paper's formula writes a square).
    """
    chex.assert_rank(image, 4)
    chex.assert_equal_shape([image, reconstruction])
    if kind not in ("l1", "l2"):
        raise ValueError(f"pixel loss '{kind}' is neither l1 nor l2")
    error = image.astype(jnp.float32) - reconstruction.astype(jnp.float32)
    return (error**2 if kind == "l2" else abs(error)).mean(axis=(1, 2, 3))


def mean_squared_error(image: Array, reconstruction: Array) -> Array:
    """Returns the mean squared error of each image, float32 [B], for pixels in [0, 1].

    Args:
        image: [B, H, W, C] in [-1, 1].
        reconstruction: Same shape.
    """
    return pixel_loss(image, reconstruction, "l2") / 4.0


def mean_absolute_error(image: Array, reconstruction: Array) -> Array:
    """Returns the mean absolute error, float32 [B]; otherwise as `mean_squared_error`."""
    return pixel_loss(image, reconstruction, "l1") / 2.0


def psnr(image: Array, reconstruction: Array) -> Array:
    """Returns the peak signal-to-noise ratio of each image in dB, float32 [B], at most 100.

    It is -10 log10 of the mean squared error for a peak of 1.

    Args:
        image: [B, H, W, C] in [-1, 1].
        reconstruction: Same shape.
    """
    least = 10.0 ** (-_MAX_PSNR / 10.0)
    return -10.0 * jnp.log10(jnp.maximum(mean_squared_error(image, reconstruction), least))
