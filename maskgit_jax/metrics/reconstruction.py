"""Structural similarity of an image and its reconstruction."""

import functools
import operator

import chex
import jax.numpy as jnp
import numpy as np

from maskgit_jax.arrays import Array
from maskgit_jax.configuration import require

_WINDOW = 11
_SIGMA = 1.5


def ssim(image: Array, reconstruction: Array) -> Array:
    """Returns the mean structural similarity of each image, float32 [B], in [-1, 1].

    Windows are Gaussian (11 pixels, sigma 1.5) and lie entirely inside the image; covariances are
    divided by the sum of weights; the mean is over positions and channels. K1 = 0.01 and
    K2 = 0.03, for pixels in [0, 1].

    Args:
        image: [B, H, W, C] in [-1, 1], H and W at least 11.
        reconstruction: Same shape.

    Raises:
        InputError: The images are smaller than the window.

    Source: Wang et al. 2004, Image Quality Assessment, eq. 13-16 and section III-C.
    """
    chex.assert_equal_shape([image, reconstruction])
    height, width = image.shape[1:3]
    require(
        min(height, width) >= _WINDOW,
        f"SSIM needs images of at least {_WINDOW}x{_WINDOW} pixels, not {height}x{width}",
    )
    # Pixels in [-0.5, 0.5]: E[x^2] - E[x]^2 loses fewer digits. The means get 0.5 back below.
    x, y = (pixels.astype("float32") / 2.0 for pixels in (image, reconstruction))
    mean_x, mean_y = _blurred(x), _blurred(y)  # [B, H-10, W-10, C]
    variances = _blurred(x * x + y * y) - mean_x**2 - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2.0 * mean_x * mean_y + c1) * (2.0 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (variances + c2)
    return jnp.mean(similarity, axis=(1, 2, 3))


def _blurred(maps: Array) -> Array:
    """Returns Gaussian means of the windows inside the image, [B, H-10, W-10, C].

    Computed as sums of shifted images: convolutions may round inputs to bfloat16 on some devices.
    """
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
    weights /= weights.sum()
    height, width = (size - _WINDOW + 1 for size in maps.shape[1:3])
    rows = [float(w) * maps[:, i : i + height] for i, w in enumerate(weights)]
    maps = functools.reduce(operator.add, rows)
    columns = [float(w) * maps[:, :, i : i + width] for i, w in enumerate(weights)]
    return functools.reduce(operator.add, columns)
