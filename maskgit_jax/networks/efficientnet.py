"""EfficientNet-Lite0, an ImageNet classifier small enough for CPUs, inference only.

Batch norms are folded into the convolutions: parameters are `kernel` and `bias`.
"""

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array, PyTree
from maskgit_jax.configuration import require

IMAGE_SIZE = 224
# Kernel size, stride of the first, output channels of each block of a stage.
_STAGES = (
    (3, 1, (16,)),
    (3, 2, (24, 24)),
    (5, 2, (40, 40)),
    (3, 2, (80, 80, 80)),
    (5, 1, (112, 112, 112)),
    (5, 2, (192, 192, 192, 192)),
    (3, 1, (320,)),
)


class EfficientNetOutputs(NamedTuple):
    """Features and class scores, float32.

    Attributes:
        pool: [B, 1280], mean over the last map.
        logits: [B, 1000], of the ImageNet classes in their usual order.
    """

    pool: Array
    logits: Array


def efficientnet_outputs(params: PyTree, image: Array) -> EfficientNetOutputs:
    """Returns features and logits of images uint8 [B, H, W, C] of any size, grey or RGB.

    Args:
        params: From `interop.feature_weights.load_efficientnet`.
        image: uint8 pixels. Grey images are repeated to RGB; all are resized to 224x224 by
            antialiased bicubic interpolation (a = -0.5, clipped to [0, 255]), regardless of the
            aspect ratio.

    Raises:
        InputError: The images are not uint8 [B, H, W, 1 or 3].

    Source: Tan & Le 2019; tensorflow/tpu models/official/efficientnet/lite, also for the scaling
    (x - 127) / 128: the Lite weights do not expect ImageNet's mean color.
    """
    require(
        image.dtype == jnp.uint8 and image.ndim == 4 and image.shape[-1] in (1, 3),
        f"EfficientNet reads uint8 [B, H, W, 1 or 3], not {image.dtype} {image.shape}",
    )
    return _apply(params, _resize(image.astype(jnp.float32)).clip(0.0, 255.0))[1]


def efficientnet_distance(params: PyTree, image: Array, other: Array, layer: str) -> Array:
    """Returns the mean squared difference of a layer for each pair, float32 [B].

    It is differentiable everywhere, so it also serves as a loss. Unlike in
    `efficientnet_outputs`, resized pixels are not clipped: pixels out of range keep a gradient.

    Args:
        params: From `interop.feature_weights.load_efficientnet`.
        image: float32 [B, H, W, C] in [-1, 1], of any size, grey or RGB.
        other: Same shape.
        layer: "logits" (1000 class scores) or "features" (the 7x7x1280 map before the mean).

    Raises:
        InputError: The shapes differ, or there is no such layer.
    """
    require(
        image.shape == other.shape and image.ndim == 4 and image.shape[-1] in (1, 3),
        f"EfficientNet compares [B, H, W, 1 or 3] of one shape, not {image.shape} and "
        f"{other.shape}",
    )
    require(layer in ("logits", "features"), f"layer '{layer}' is neither logits nor features")
    both = jnp.concatenate([image, other]).astype(jnp.float32)
    features, outputs = _apply(params, _resize((both + 1.0) * 127.5))
    ours, others = jnp.split(outputs.logits if layer == "logits" else features, 2)
    return jnp.square(ours - others).reshape(image.shape[0], -1).mean(axis=1)


def _resize(pixels: Array) -> Array:
    shape = (pixels.shape[0], IMAGE_SIZE, IMAGE_SIZE, 3)
    x = jnp.broadcast_to(pixels, (*pixels.shape[:3], 3))
    return jax.image.resize(x, shape, "cubic", precision=jax.lax.Precision.HIGHEST)


def _apply(params: PyTree, pixels: Array) -> tuple[Array, EfficientNetOutputs]:
    x = (pixels - 127.0) / 128.0
    outputs = EfficientNetLite().apply({"params": params}, x)
    return cast(tuple[Array, EfficientNetOutputs], outputs)


class Depthwise(nn.Module):
    """Depthwise convolution: [B, H, W, C] -> [B, H/strides, W/strides, C].

    A sum of shifted images: on CPUs ten times as fast as XLA's grouped convolution.
    """

    kernel_size: int
    strides: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        side, strides, channels = self.kernel_size, self.strides, x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (side, side, 1, channels))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        (height, width), pads = x.shape[1:3], []
        for length in (height, width):  # "SAME": the odd pixel is right and below
            total = max((-(-length // strides) - 1) * strides + side - length, 0)
            pads.append((total // 2, total - total // 2))
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
        y = bias.reshape(1, 1, 1, -1)
        for i in range(side):
            for j in range(side):
                shifted = x[:, i : i + height : strides, j : j + width : strides]
                y = y + shifted * kernel[i, j].reshape(1, 1, 1, -1)
        return y


class Block(nn.Module):
    """Inverted residual block: [B, H, W, C] -> [B, H/strides, W/strides, features].

    Attributes:
        features: Output channels; the input is added if it has the shape of the output.
        kernel_size: Side of the depthwise kernel.
        strides: Strides of the depthwise convolution.
        expansion: Factor of the widening convolution; 1: there is none.
    """

    features: int
    kernel_size: int
    strides: int
    expansion: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = self.expansion * x.shape[-1]
        h = nn.relu6(_conv(x, "expand", width)) if self.expansion > 1 else x
        h = nn.relu6(Depthwise(self.kernel_size, self.strides, name="depthwise")(h))
        h = _conv(h, "project", self.features)
        return x + h if x.shape == h.shape else h


class EfficientNetLite(nn.Module):
    """The whole network on normalized images, float32 [B, 224, 224, 3].

    Returns the last map, [B, 7, 7, 1280], and the outputs.
    """

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, EfficientNetOutputs]:
        x = nn.relu6(_conv(x, "stem", 32, 3, 2))  # [B, 112, 112, 32]
        index = 0
        for kernel_size, strides, widths in _STAGES:
            for position, width in enumerate(widths):
                block = Block(
                    features=width,
                    kernel_size=kernel_size,
                    strides=1 if position else strides,
                    expansion=6 if index else 1,
                    name=f"block{index}",
                )
                x = block(x)
                index += 1
        x = nn.relu6(_conv(x, "head", 1280))  # [B, 7, 7, 1280]
        pool = x.mean(axis=(1, 2))
        logits = nn.Dense(1000, precision="highest", name="classifier")(pool)
        return x, EfficientNetOutputs(pool, logits)


def _conv(x: Array, name: str, features: int, kernel_size: int = 1, strides: int = 1) -> Array:
    window = (kernel_size, kernel_size)
    return nn.Conv(features, window, strides, "SAME", precision="highest", name=name)(x)
