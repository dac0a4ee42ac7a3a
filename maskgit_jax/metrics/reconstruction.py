"""How far a decoded image is from its original, in the figures that papers state."""

import chex
import jax.numpy as jnp
import numpy as np

from maskgit_jax.arrays import Array
from maskgit_jax.configuration import require

_WINDOW = 11
_SIGMA = 1.5
_MOST_DECIBELS = 100.0


def mean_square_error(image: Array, other: Array) -> Array:
    """Returns the mean square error of each image, float32 [B], for pixels in [0, 1].

    Args:
        image: [B, H, W, C] in [-1, 1].
        other: Same shape.
    """
    return jnp.mean(jnp.square(_difference(image, other)), axis=(1, 2, 3))


def mean_absolute_error(image: Array, other: Array) -> Array:
    """Returns the mean absolute error, float32 [B]; otherwise as `mean_square_error`."""
    return jnp.mean(jnp.abs(_difference(image, other)), axis=(1, 2, 3))


def psnr(image: Array, other: Array) -> Array:
    """Returns the peak signal-to-noise ratio of each image in dB, float32 [B], at most 100.

    It is -10 log10 of the mean square error for a peak of 1; identical images have 100.

    Args:
        image: [B, H, W, C] in [-1, 1].
        other: Same shape.
    """
    least = 10.0 ** (-_MOST_DECIBELS / 10.0)
    return -10.0 * jnp.log10(jnp.maximum(mean_square_error(image, other), least))


def ssim(image: Array, other: Array) -> Array:
    """Returns the mean structural similarity of each image, float32 [B], in [-1, 1].

    Windows are Gaussian (11 pixels, deviation 1.5), lie inside of the image as a whole, and have
    their covariance divided by the sum of weights; the mean is over places and channels. For
    pixels in [0, 1], K1 = 0.01 and K2 = 0.03.

    Args:
        image: [B, H, W, C] in [-1, 1], H and W at least 11.
        other: Same shape.

    Raises:
        InputError: The images are smaller than a window.

    Source: Wang et al. 2004, Image Quality Assessment, eq. 13-16 and section III-C.
    """
    chex.assert_equal_shape([image, other])
    height, width = image.shape[1:3]
    require(
        min(height, width) >= _WINDOW,
        f"SSIM needs images of at least {_WINDOW}x{_WINDOW} pixels, not {height}x{width}",
    )
    # Centred pixels in [-0.5, 0.5]: E[x^2] - E[x]^2 loses fewer digits, the means get 0.5 back.
    x, y = (pixels.astype("float32") / 2.0 for pixels in (image, other))
    mean_x, mean_y = _blurred(x), _blurred(y)  # [B, H-10, W-10, C]
    variances = _blurred(x * x + y * y) - mean_x**2 - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2.0 * mean_x * mean_y + c1) * (2.0 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (variances + c2)
    return jnp.mean(similarity, axis=(1, 2, 3))


def _difference(image: Array, other: Array) -> Array:
    chex.assert_rank(image, 4)
    chex.assert_equal_shape([image, other])
    return (image.astype("float32") - other.astype("float32")) / 2.0


def _blurred(maps: Array) -> Array:
    """Returns Gaussian means of the windows inside, [B, H-10, W-10, C].

    As sums of shifted images: a convolution may round its inputs to bfloat16 on some devices.
    """
    places = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-0.5 * (places / _SIGMA) ** 2)
    weights /= weights.sum()
    height, width = (size - _WINDOW + 1 for size in maps.shape[1:3])
    maps = sum(float(w) * maps[:, i : i + height] for i, w in enumerate(weights))
    return sum(float(w) * maps[:, :, i : i + width] for i, w in enumerate(weights))
