"""Types of the arrays that the package passes around, and the range of pixels.

Axes: B batch, H W C image, h w latent grid, L = h*w tokens, D width, N heads, K codebook size,
T decoding steps, V = K + specials.
"""

from collections.abc import Mapping
from typing import Any

import jax

Array = jax.Array
Key = jax.Array
"""A typed random key, from `jax.random.key`."""
PyTree = Any
Batch = Mapping[str, Array]
"""`image` uint8 [B, H, W, C] or `tokens` int32 [B, L]; `label` int32 [B]; for image-conditional
stages `condition` uint8 [B, H, W, C']; in evaluation also `valid` float32 [B], 0 for padding rows
of the last batch."""


def normalize(image: Array) -> Array:
    """Maps uint8 pixels in [0, 255] to float32 in [-1, 1], shape unchanged."""
    return image.astype("float32") / 127.5 - 1.0


def to_uint8(image: Array) -> Array:
    """Maps pixels in [-1, 1] to uint8 in [0, 255]; values outside of the range are clipped."""
    return ((image.clip(-1.0, 1.0) + 1.0) * 127.5).round().astype("uint8")
