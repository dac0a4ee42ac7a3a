"""The Inception-v3 of FID and Inception Score: the TensorFlow graph of 2015-12-05, inference only.

Differs from the paper's and torchvision's network: 1008 classes, average pooling without the
padding, and max pooling in the last block. Batch norms are folded into the
convolutions: parameters are `kernel` and `bias` under the layers' usual torch names.
"""

from typing import NamedTuple, cast

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from maskgit_jax.arrays import Array, PyTree
from maskgit_jax.configuration import require

IMAGE_SIZE = 299


class InceptionOutputs(NamedTuple):
    """The features that the metrics use, float32.

    Attributes:
        pool: [B, 2048], mean over the last map (FID, KID, precision and recall).
        spatial: [B, 2023], the 1x1 branch of Mixed_6d ("mixed_6/conv"), its first 7 channels
            flattened from [17, 17, 7] (sFID).
        logits: [B, 1008], without the bias, as Inception Score uses them.
    """

    pool: Array
    spatial: Array
    logits: Array


def inception_outputs(params: PyTree, image: Array) -> InceptionOutputs:
    """Returns the features of images uint8 [B, H, W, C] of any size, grey or RGB.

    Args:
        params: From `interop.feature_weights.load_inception`.
        image: uint8 pixels; grey images are repeated to RGB, all are resized to 299x299.

    Raises:
        InputError: The images are not uint8 [B, H, W, 1 or 3].

    Source: toshas/torch-fidelity torch_fidelity/feature_extractor_inceptionv3.py; the spatial
    features: openai/guided-diffusion evaluations/evaluator.py.
    """
    require(
        image.dtype == jnp.uint8 and image.ndim == 4 and image.shape[-1] in (1, 3),
        f"Inception reads uint8 [B, H, W, 1 or 3], not {image.dtype} {image.shape}",
    )
    x = jnp.broadcast_to(image, (*image.shape[:3], 3)).astype(jnp.float32)
    x = resize_like_tensorflow1(x, IMAGE_SIZE)  # [B, 299, 299, 3]
    x = (x - 128.0) / 128.0
    return cast(InceptionOutputs, Inception().apply({"params": params}, x))


def resize_like_tensorflow1(x: Array, size: int) -> Array:
    """Resizes float32 [B, H, W, C] to [B, size, size, C], linearly between the two neighbours.

    Pixel i of the result is at i * H / size of the source: there are no half-pixel centers and
    no antialiasing. FID values depend on this.

    Source: tensorflow/core/kernels/image/resize_bilinear_op.cc with its defaults of version 1.
    """
    for axis in (2, 1):
        length = x.shape[axis]
        position = np.arange(size, dtype=np.float32) * np.float32(length / size)
        low = np.minimum(position.astype(np.int32), length - 1)
        high = np.minimum(low + 1, length - 1)
        weight = np.expand_dims(position - low, [other for other in range(4) if other != axis])
        start = jnp.take(x, low, axis=axis)
        x = start + (jnp.take(x, high, axis=axis) - start) * weight
    return x


def _conv(
    x: Array,
    name: str,
    features: int,
    kernel_size: tuple[int, int] = (1, 1),
    strides: int = 1,
    padding: str = "SAME",
) -> Array:
    # "highest": accelerators may round the factors of float32 convolutions, which changes FID.
    conv = nn.Conv(features, kernel_size, strides, padding, precision="highest", name=name)
    return nn.relu(conv(x))


def _average(x: Array) -> Array:
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _halve(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


class BlockA(nn.Module):
    """Branches 1x1, 5x5, 3x3 twice and pool, side by side: [B, 35, 35, 224 + pool_features]."""

    pool_features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        one = _conv(x, "branch1x1", 64)
        five = _conv(x, "branch5x5_1", 48)
        five = _conv(five, "branch5x5_2", 64, (5, 5))
        three = _conv(x, "branch3x3dbl_1", 64)
        three = _conv(three, "branch3x3dbl_2", 96, (3, 3))
        three = _conv(three, "branch3x3dbl_3", 96, (3, 3))
        pool = _conv(_average(x), "branch_pool", self.pool_features)
        return jnp.concatenate((one, five, three, pool), axis=-1)


class BlockB(nn.Module):
    """Halves the map: [B, 35, 35, 288] -> [B, 17, 17, 768]."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        once = _conv(x, "branch3x3", 384, (3, 3), 2, "VALID")
        twice = _conv(x, "branch3x3dbl_1", 64)
        twice = _conv(twice, "branch3x3dbl_2", 96, (3, 3))
        twice = _conv(twice, "branch3x3dbl_3", 96, (3, 3), 2, "VALID")
        return jnp.concatenate((once, twice, _halve(x)), axis=-1)


class BlockC(nn.Module):
    """Branches 1x1, 7x7 once and twice (as 1x7 and 7x1) and pool: [B, 17, 17, 768]."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        one = _conv(x, "branch1x1", 192)
        once = _conv(x, "branch7x7_1", self.width)
        once = _conv(once, "branch7x7_2", self.width, (1, 7))
        once = _conv(once, "branch7x7_3", 192, (7, 1))
        twice = _conv(x, "branch7x7dbl_1", self.width)
        twice = _conv(twice, "branch7x7dbl_2", self.width, (7, 1))
        twice = _conv(twice, "branch7x7dbl_3", self.width, (1, 7))
        twice = _conv(twice, "branch7x7dbl_4", self.width, (7, 1))
        twice = _conv(twice, "branch7x7dbl_5", 192, (1, 7))
        pool = _conv(_average(x), "branch_pool", 192)
        return jnp.concatenate((one, once, twice, pool), axis=-1)


class BlockD(nn.Module):
    """Halves the map: [B, 17, 17, 768] -> [B, 8, 8, 1280]."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        three = _conv(x, "branch3x3_1", 192)
        three = _conv(three, "branch3x3_2", 320, (3, 3), 2, "VALID")
        seven = _conv(x, "branch7x7x3_1", 192)
        seven = _conv(seven, "branch7x7x3_2", 192, (1, 7))
        seven = _conv(seven, "branch7x7x3_3", 192, (7, 1))
        seven = _conv(seven, "branch7x7x3_4", 192, (3, 3), 2, "VALID")
        return jnp.concatenate((three, seven, _halve(x)), axis=-1)


class BlockE(nn.Module):
    """Branches 1x1, 3x3 once and twice (as 1x3 beside 3x1) and pool: [B, 8, 8, 2048].

    Attributes:
        pool: "average" or "max" pooling of 3x3.
    """

    pool: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        one = _conv(x, "branch1x1", 320)
        once = _conv(x, "branch3x3_1", 384)
        once_wide = _conv(once, "branch3x3_2a", 384, (1, 3))
        once_high = _conv(once, "branch3x3_2b", 384, (3, 1))
        twice = _conv(x, "branch3x3dbl_1", 448)
        twice = _conv(twice, "branch3x3dbl_2", 384, (3, 3))
        twice_wide = _conv(twice, "branch3x3dbl_3a", 384, (1, 3))
        twice_high = _conv(twice, "branch3x3dbl_3b", 384, (3, 1))
        near = _average(x) if self.pool == "average" else nn.max_pool(x, (3, 3), (1, 1), "SAME")
        pool = _conv(near, "branch_pool", 192)
        branches = (one, once_wide, once_high, twice_wide, twice_high, pool)
        return jnp.concatenate(branches, axis=-1)


class Inception(nn.Module):
    """The whole network on float32 [B, 299, 299, 3] in [-1, 1)."""

    @nn.compact
    def __call__(self, x: Array) -> InceptionOutputs:
        x = _conv(x, "Conv2d_1a_3x3", 32, (3, 3), 2, "VALID")  # [B, 149, 149, 32]
        x = _conv(x, "Conv2d_2a_3x3", 32, (3, 3), 1, "VALID")
        x = _halve(_conv(x, "Conv2d_2b_3x3", 64, (3, 3)))  # [B, 73, 73, 64]
        x = _conv(x, "Conv2d_3b_1x1", 80)
        x = _halve(_conv(x, "Conv2d_4a_3x3", 192, (3, 3), 1, "VALID"))  # [B, 35, 35, 192]
        for letter, pool_features in zip("bcd", (32, 64, 64), strict=True):
            x = BlockA(pool_features, name=f"Mixed_5{letter}")(x)
        x = BlockB(name="Mixed_6a")(x)  # [B, 17, 17, 768]
        x = BlockC(128, name="Mixed_6b")(x)
        x = BlockC(160, name="Mixed_6c")(x)
        x = BlockC(160, name="Mixed_6d")(x)
        spatial = x[..., :7].reshape(x.shape[0], -1)  # the 1x1 branch comes first
        x = BlockC(192, name="Mixed_6e")(x)
        x = BlockD(name="Mixed_7a")(x)  # [B, 8, 8, 1280]
        x = BlockE("average", name="Mixed_7b")(x)
        x = BlockE("max", name="Mixed_7c")(x)
        pool = x.mean(axis=(1, 2))  # [B, 2048]
        logits = nn.Dense(1008, use_bias=False, precision="highest", name="fc")(pool)
        return InceptionOutputs(pool, spatial, logits)
