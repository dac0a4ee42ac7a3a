"""ResNet-50, the ImageNet classifier of MaskGIT's perceptual loss, inference only.

Batch norms are folded into the convolutions: parameters are `kernel` and `bias`.

Source: He et al. 2016, in the layout of torchvision (v1.5: the 3x3 convolution has the stride).
"""

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from maskgit_jax.arrays import Array, PyTree
from maskgit_jax.configuration import require

IMAGE_SIZE = 224
_DEPTHS = (3, 4, 6, 3)
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class ResNetOutputs(NamedTuple):
    """Features and class scores, float32.

    Attributes:
        features: [B, 7, 7, 2048], the last map.
        pool: [B, 2048], its mean.
        logits: [B, 1000], of the ImageNet classes in their usual order.
    """

    features: Array
    pool: Array
    logits: Array


def resnet50_outputs(params: PyTree, image: Array) -> ResNetOutputs:
    """Returns features and logits of images [B, H, W, C] of any size, grey or RGB.

    On accelerators the convolutions have JAX's default precision; for a metric to report, call it
    under `jax.default_matmul_precision("highest")`.

    Args:
        params: From `interop.feature_weights.load_resnet50`.
        image: float32 in [-1, 1]. Grey images are repeated to RGB; all are resized to 224x224 by
            antialiased bilinear interpolation, regardless of the aspect ratio, and normalized
            by ImageNet's mean color and standard deviation, as torchvision's weights expect.

    Raises:
        InputError: The images are not float [B, H, W, 1 or 3].
    """
    require(
        jnp.issubdtype(image.dtype, jnp.floating) and image.ndim == 4 and image.shape[-1] in (1, 3),
        f"ResNet-50 reads float [B, H, W, 1 or 3] in [-1, 1], not {image.dtype} {image.shape}",
    )
    x = (image.astype(jnp.float32) + 1.0) / 2.0
    x = jnp.broadcast_to(x, (*x.shape[:3], 3))
    shape = (x.shape[0], IMAGE_SIZE, IMAGE_SIZE, 3)
    x = jax.image.resize(x, shape, "linear", precision=jax.lax.Precision.HIGHEST)
    mean, std = (jnp.array(v).reshape(1, 1, 1, 3) for v in (_MEAN, _STD))
    return cast(ResNetOutputs, ResNet50().apply({"params": params}, (x - mean) / std))


def resnet50_distance(params: PyTree, image: Array, other: Array, layer: str) -> Array:
    """Returns the mean squared difference of a layer for each pair, float32 [B].

    It is differentiable everywhere, so it also serves as a loss.

    Args:
        params: From `interop.feature_weights.load_resnet50`.
        image: float32 [B, H, W, C] in [-1, 1], of any size, grey or RGB.
        other: Same shape.
        layer: "features" (the 7x7x2048 map: MaskGIT's perceptual loss, weight 0.1) or "logits"
            (1000 class scores: MAGVIT's).

    Raises:
        InputError: The shapes differ, or there is no such layer.
    """
    require(
        image.shape == other.shape,
        f"ResNet-50 compares images of one shape, not {image.shape} and {other.shape}",
    )
    require(layer in ("logits", "features"), f"layer '{layer}' is neither logits nor features")
    outputs = resnet50_outputs(params, jnp.concatenate([image, other]))
    ours, others = jnp.split(getattr(outputs, layer), 2)
    return jnp.square(ours - others).reshape(image.shape[0], -1).mean(axis=1)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut: [B, H, W, C] -> [B, H/s, W/s, 4 * width].

    Attributes:
        width: Channels of the 3x3 convolution.
        strides: Strides of the 3x3 convolution and of the shortcut.
    """

    width: int
    strides: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = nn.relu(_conv(x, "conv1", self.width))
        h = nn.relu(_conv(h, "conv2", self.width, 3, self.strides))
        h = _conv(h, "conv3", 4 * self.width)
        if x.shape != h.shape:
            x = _conv(x, "shortcut", 4 * self.width, 1, self.strides)
        return nn.relu(x + h)


class ResNet50(nn.Module):
    """The whole network on normalized images, float32 [B, 224, 224, 3]."""

    @nn.compact
    def __call__(self, x: Array) -> ResNetOutputs:
        x = nn.relu(_conv(x, "conv1", 64, 7, 2))  # [B, 112, 112, 64]
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # zeros: no value is below 0 after ReLU
        x = nn.max_pool(x, (3, 3), (2, 2))  # [B, 56, 56, 64]
        for stage, depth in enumerate(_DEPTHS):
            for block in range(depth):
                strides = 2 if stage and not block else 1
                name = f"layer{stage + 1}_{block}"
                x = Bottleneck(64 * 2**stage, strides, name=name)(x)
        pool = x.mean(axis=(1, 2))
        return ResNetOutputs(x, pool, nn.Dense(1000, name="fc")(pool))


def _conv(x: Array, name: str, features: int, side: int = 1, strides: int = 1) -> Array:
    # Torch pads both ends equally; "SAME" would not where the stride is 2.
    return nn.Conv(features, (side, side), strides, padding=side // 2, name=name)(x)
