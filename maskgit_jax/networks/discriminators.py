"""GAN discriminators: PatchGAN and StyleGAN's."""

from functools import reduce

import jax
import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array

_MIN_SIDE = 4
_KERNEL_INIT = nn.initializers.xavier_uniform()


class PatchDiscriminator(nn.Module):
    """PatchGAN: one logit for each overlapping patch, [B, H, W, C] -> [B, h, w, 1].

    4x4 convolutions, padding 1: `num_layers` of stride 2, then two of stride 1; widths double
    up to 8 * filters. With 3 layers the receptive field is 70 pixels and 256 px give 30 x 30.

    Attributes:
        filters: Channels of the first layer.
        num_layers: Convolutions of stride 2.
        norm: "batch" (taming; running statistics in the `batch_stats` collection), "actnorm"
            (taming's use_actnorm, see `ActNorm`), "group" (any batch size, no statistics), or
            "none".
        dtype: Type of the activations.

    Source: taming/modules/discriminator/model.py:NLayerDiscriminator; kernels N(0, 0.02).
    """

    filters: int = 64
    num_layers: int = 3
    norm: str = "group"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, image: Array, train: bool) -> Array:
        x = nn.leaky_relu(self._conv(self.filters, 2, True, "conv_0")(image), 0.2)
        for level in range(1, self.num_layers + 1):
            stride = 2 if level < self.num_layers else 1
            width = self.filters * min(2**level, 8)
            x = self._conv(width, stride, self.norm in ("actnorm", "none"), f"conv_{level}")(x)
            x = nn.leaky_relu(self._normalize(x, train, f"norm_{level}"), 0.2)
        return self._conv(1, 1, True, "logits")(x).astype(jnp.float32)

    def _conv(self, features: int, stride: int, bias: bool, name: str) -> nn.Conv:
        return nn.Conv(
            features,
            (4, 4),
            strides=stride,
            padding=1,
            use_bias=bias,
            kernel_init=nn.initializers.normal(0.02),
            dtype=self.dtype,
            name=name,
        )

    def _normalize(self, x: Array, train: bool, name: str) -> Array:
        if self.norm == "batch":
            return nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                epsilon=1e-5,
                scale_init=_near_one,
                dtype=self.dtype,
                name=name,
            )(x)
        if self.norm == "actnorm":
            return ActNorm(self.dtype, name=name)(x)
        if self.norm == "group":
            groups = min(32, x.shape[-1] // 4)
            return nn.GroupNorm(num_groups=groups, epsilon=1e-6, dtype=self.dtype, name=name)(x)
        return x


class ActNorm(nn.Module):
    """Shifts and scales each channel: scale * (x + loc), [B, H, W, C] -> [B, H, W, C].

    Both parameters start so that the batch of the initialization has mean 0 and deviation 1.

    Attributes:
        dtype: Type of the activations.

    Source: taming/modules/util.py:ActNorm, after Kingma and Dhariwal 2018, Glow.
    """

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        values = x.astype(jnp.float32)
        loc = self.param("loc", lambda key: -values.mean(axis=(0, 1, 2)))
        scale = self.param("scale", lambda key: 1 / (values.std(axis=(0, 1, 2), ddof=1) + 1e-6))
        x = scale[None, None, None] * (values + loc[None, None, None])
        return x.astype(self.dtype)


def _near_one(key: Array, shape: tuple[int, ...], dtype: str = "float32") -> Array:
    return 1.0 + nn.initializers.normal(0.02)(key, shape, dtype)


class StyleGANDiscriminator(nn.Module):
    """One logit for each image, [B, H, W, C] -> [B, 1]: residual blocks without normalization.

    Each block halves the sides and doubles the width up to `max_width`, while sides are at least
    8: 256 px end at 4 x 4, 28 px at 7 x 7.

    Attributes:
        image_size: Sides H = W of the images; the dense layer after the last map requires them.
        filters: Channels of the first layer. The official rule for every size is
            min(512, 16384 / image_size): 64 at 256 px, 32 at 512 px.
        max_width: Maximum channels of a layer. With the defaults and RGB images of 256 px it is
            the official network with 23,998,017 parameters.
        blur: Downsample with the binomial filter [1, 3, 3, 1] (MaskGIT), else with 2x2 means
            (MAGVIT).
        dtype: Type of the activations; the logits are float32.

    Source: google-research/maskgit nets/discriminator.py, after the discriminator of Karras et
    al. 2020, StyleGAN2, without its minibatch statistics and equalized learning rates.
    Differs: any size; `_halve` pads odd sides, which the official sizes never have.
    """

    image_size: int
    filters: int = 64
    max_width: int = 512
    blur: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, image: Array, train: bool) -> Array:
        del train  # no layer depends on it
        if image.ndim != 4 or image.shape[1:3] != (self.image_size, self.image_size):
            raise ValueError(
                f"the discriminator of {self.image_size} px reads [B, {self.image_size}, "
                f"{self.image_size}, C], not {image.shape}; set image_size to the images' size"
            )
        side, width, block = self.image_size, min(self.filters, self.max_width), 0
        x = _leaky(_same_conv(width, 3, self.dtype, "conv_in")(image.astype(self.dtype)))
        while side >= 2 * _MIN_SIDE:
            side, width = -(-side // 2), min(2 * width, self.max_width)
            x = HalvingBlock(width, self.blur, self.dtype, name=f"block_{block}")(x)
            block += 1
        x = _leaky(_same_conv(width, 3, self.dtype, "conv_out")(x))  # [B, side, side, width]
        x = x.reshape(x.shape[0], -1)
        x = nn.Dense(width, kernel_init=_KERNEL_INIT, dtype=self.dtype, name="head_dense")(x)
        logit = nn.Dense(1, kernel_init=_KERNEL_INIT, dtype="float32", name="head_logit")
        return logit(_leaky(x).astype(jnp.float32))


class HalvingBlock(nn.Module):
    """Two convolutions around a shortcut: [B, H, W, C] -> [B, H/2, W/2, features].

    Odd sides are rounded up. The sum is divided by sqrt(2) to preserve the variance.

    Attributes:
        features: Output channels.
        blur: See `StyleGANDiscriminator`.
        dtype: Type of the activations.
    """

    features: int
    blur: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        taps = (1.0, 3.0, 3.0, 1.0) if self.blur else (1.0, 1.0)
        h = _leaky(_same_conv(x.shape[-1], 3, self.dtype, "conv_0")(x))
        h = _leaky(_same_conv(self.features, 3, self.dtype, "conv_1")(_halve(h, taps)))
        shortcut = _same_conv(self.features, 1, self.dtype, "shortcut", bias=False)
        return (shortcut(_halve(x, taps)) + h) / 2.0**0.5


def _leaky(x: Array) -> Array:
    return nn.leaky_relu(x, 0.2)


def _same_conv(features: int, side: int, dtype: str, name: str, bias: bool = True) -> nn.Conv:
    return nn.Conv(
        features,
        (side, side),
        padding="SAME",
        use_bias=bias,
        kernel_init=_KERNEL_INIT,
        dtype=dtype,
        name=name,
    )


def _halve(x: Array, taps: tuple[float, ...]) -> Array:
    """Filters both axes of [B, H, W, C] with stride 2: [B, H/2, W/2, C].

    Zero padding is that of a "SAME" convolution: the same at both ends of even sides, one more
    right and below of odd sides. A sum of shifted maps, not a grouped convolution, which is slow
    on CPUs and in second derivatives.
    """
    for axis in (1, 2):
        length = x.shape[axis]
        half = -(-length // 2)
        total = 2 * (half - 1) + len(taps) - length
        pads = [(0, 0)] * x.ndim
        pads[axis] = (total // 2, total - total // 2)
        padded = jnp.pad(x, pads)
        shifted = [
            jax.lax.slice_in_dim(padded, start, start + 2 * half - 1, 2, axis) * (tap / sum(taps))
            for start, tap in enumerate(taps)
        ]
        x = reduce(jnp.add, shifted)
    return x
