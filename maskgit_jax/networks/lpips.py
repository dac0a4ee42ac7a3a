"""LPIPS v0.1: the distance between two images in the features of a VGG-16.

Source: Zhang et al. 2018, The Unreasonable Effectiveness of Deep Features, eq. 1;
richzhang/PerceptualSimilarity lpips/lpips.py.
"""

from typing import cast

import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array, PyTree
from maskgit_jax.configuration import require

MIN_IMAGE_SIZE = 16
LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
WIDTHS = (64, 128, 256, 512, 512)
DEPTHS = (2, 2, 3, 3, 3)
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10


class VGG16(nn.Module):
    """Features of RGB images [B, H, W, 3]: five maps, each half as large as the previous one."""

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, ...]:
        features = []
        for stage, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True), start=1):
            if stage > 1:
                x = nn.max_pool(x, (2, 2), (2, 2))
            for layer in range(1, depth + 1):
                x = nn.relu(nn.Conv(width, (3, 3), padding=1, name=f"conv{stage}_{layer}")(x))
            features.append(x)
        return tuple(features)


def lpips_distance(params: PyTree, image: Array, other: Array) -> Array:
    """Returns the distance of each pair of images, float32 [B], 0 for equal images.

    It is differentiable everywhere, so it also serves as a loss. On accelerators the convolutions
    have JAX's default precision; for a metric to report, call it under
    `jax.default_matmul_precision("highest")`.

    Args:
        params: `vgg16`, and `weights` of each layer's channels, from
            `interop.feature_weights.load_lpips`.
        image: float32 [B, H, W, C] in [-1, 1]; grey images are repeated to RGB.
        other: Same shape.

    Raises:
        InputError: The shapes differ, or the images are smaller than 16 x 16.
    """
    require(
        image.shape == other.shape and image.ndim == 4 and image.shape[-1] in (1, 3),
        f"LPIPS compares [B, H, W, 1 or 3] of one shape, not {image.shape} and {other.shape}",
    )
    require(
        min(image.shape[1:3]) >= MIN_IMAGE_SIZE,
        f"LPIPS needs images of {MIN_IMAGE_SIZE} x {MIN_IMAGE_SIZE} or more, not {image.shape}",
    )
    distance = jnp.zeros(image.shape[0], jnp.float32)
    ours, others = _features(params["vgg16"], image), _features(params["vgg16"], other)
    for layer, a, b in zip(LAYERS, ours, others, strict=True):
        difference = jnp.square(_unit(a) - _unit(b))  # [B, h, w, D]
        distance += (difference @ params["weights"][layer]).mean(axis=(1, 2))
    return distance


def _features(params: PyTree, image: Array) -> tuple[Array, ...]:
    shift, scale = (jnp.array(values).reshape(1, 1, 1, 3) for values in (_SHIFT, _SCALE))
    x = jnp.broadcast_to(image, (*image.shape[:3], 3)).astype(jnp.float32)
    x = (x - shift) / scale
    return cast(tuple[Array, ...], VGG16().apply({"params": params}, x))


def _unit(x: Array) -> Array:
    """Normalizes the vector at each position; a zero vector has a zero gradient."""
    squares = jnp.square(x).sum(axis=-1, keepdims=True)
    length = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
    return x / (length + _EPSILON)
