"""Convolutional blocks of the VQGAN family: residual block, attention, resampling."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array


def group_norm(channels: int, dtype: str, name: str, groups: int = 0) -> nn.GroupNorm:
    """Returns GroupNorm, epsilon 1e-6; `groups` = 0: 32 groups, fewer for narrow layers."""
    sizes = (32, 16, 8, 4, 2, 1)
    groups = groups or next(n for n in sizes if channels % n == 0 and channels >= 2 * n)
    return nn.GroupNorm(num_groups=groups, epsilon=1e-6, dtype=dtype, name=name)


class ResidualBlock(nn.Module):
    """Two normalized 3x3 convolutions around a shortcut: [B, H, W, C] -> [B, H, W, features].

    Attributes:
        features: Output channels.
        bias: Whether the convolutions have biases (taming: yes, official MaskGIT: no).
        shortcut_from: Where the width changes, the shortcut convolution reads the block's "input"
            (taming, magvit) or its "output": the published MaskGIT weights need the latter,
            which cuts the residual path.
        norm_groups: See `group_norm`.
        dtype: Type of the activations.
    """

    features: int
    bias: bool = True
    shortcut_from: str = "input"
    norm_groups: int = 0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        h = nn.silu(group_norm(channels, self.dtype, "norm1", self.norm_groups)(x))
        h = self._conv("conv1")(h)
        h = nn.silu(group_norm(self.features, self.dtype, "norm2", self.norm_groups)(h))
        h = self._conv("conv2")(h)
        if channels != self.features:
            shortcut = nn.Conv(
                self.features, (1, 1), use_bias=self.bias, dtype=self.dtype, name="shortcut"
            )
            x = shortcut(x if self.shortcut_from == "input" else h)
        return x + h

    def _conv(self, name: str) -> nn.Conv:
        return nn.Conv(
            self.features, (3, 3), padding=1, use_bias=self.bias, dtype=self.dtype, name=name
        )


class SpatialAttention(nn.Module):
    """Single-head attention over all positions, added to its input [B, H, W, C].

    Attributes:
        norm_groups: See `group_norm`.
        dtype: Type of the activations.

    Source: taming/modules/diffusionmodules/model.py:AttnBlock.
    """

    norm_groups: int = 0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        normed = group_norm(c, self.dtype, "norm", self.norm_groups)(x)
        normed = normed.reshape(b, h * w, 1, c)  # [B, L, 1, C]
        query, key, value = (nn.Dense(c, dtype=self.dtype, name=n)(normed) for n in "qkv")
        attended = jax.nn.dot_product_attention(query, key, value).reshape(b, h, w, c)
        return x + nn.Dense(c, dtype=self.dtype, name="proj_out")(attended)


class Downsample(nn.Module):
    """Halves both sides: [B, H, W, C] -> [B, H/2, W/2, C].

    Attributes:
        kind: "average" (official MaskGIT: 2x2 mean) or "conv" (taming: 3x3, stride 2, padded
            right and below only).
        dtype: Type of the activations.
    """

    kind: str = "average"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        if self.kind == "average":
            return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))
        padding = ((0, 1), (0, 1))
        return nn.Conv(c, (3, 3), strides=2, padding=padding, dtype=self.dtype, name="conv")(x)


class Upsample(nn.Module):
    """Doubles both sides by repetition, then a 3x3 convolution: [B, 2H, 2W, C]."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        return nn.Conv(x.shape[-1], (3, 3), padding=1, dtype=self.dtype, name="conv")(x)
