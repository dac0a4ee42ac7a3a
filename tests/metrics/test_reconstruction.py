import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.losses.reconstruction import mean_absolute_error, mean_squared_error, psnr
from maskgit_jax.metrics.reconstruction import ssim
from tests.golden import make_metrics

METRICS = (mean_squared_error, mean_absolute_error, psnr, ssim)


@pytest.mark.parametrize("metric", [mean_squared_error, psnr, ssim], ids=lambda f: f.__name__)
def test_metrics_equal_published_program(metric):
    ours = jax.jit(metric)(*map(jnp.asarray, make_metrics.images()))
    assert ours.shape == (4,) and ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, np.load(make_metrics.FILE)[metric.__name__], rtol=1e-5)


def test_metrics_of_constant_images():
    dark, bright = jnp.full((1, 11, 12, 1), -0.5), jnp.full((1, 11, 12, 1), 0.5)  # 0.25 and 0.75
    np.testing.assert_allclose(mean_squared_error(dark, bright), [0.25])
    np.testing.assert_allclose(mean_absolute_error(dark, bright), [0.5])
    np.testing.assert_allclose(psnr(dark, bright), [6.0206], rtol=1e-5)
    similarity = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    np.testing.assert_allclose(ssim(dark, bright), [similarity], rtol=1e-4)


def test_metrics_are_perfect_for_identical_images_and_symmetric():
    image, noisy = map(jnp.asarray, make_metrics.images())
    np.testing.assert_array_equal(mean_squared_error(image, image), np.zeros(4))
    np.testing.assert_array_equal(mean_absolute_error(image, image), np.zeros(4))
    np.testing.assert_allclose(psnr(image, image), np.full(4, 100.0), rtol=1e-6)
    np.testing.assert_allclose(ssim(image, image), np.ones(4), rtol=1e-6)
    for metric in METRICS:
        np.testing.assert_allclose(metric(image, noisy), metric(noisy, image), rtol=1e-6)


def test_bfloat16_pixels_are_compared_in_float32():
    image = jnp.zeros((1, 16, 16, 1), jnp.bfloat16)
    for metric in METRICS:
        assert metric(image, image).dtype == jnp.float32


def test_psnr_of_one_grey_level():
    image = jnp.zeros((1, 16, 16, 1))
    np.testing.assert_allclose(psnr(image, image + 2 / 255), [20 * np.log10(255)], rtol=1e-5)


def test_invalid_input_is_refused():
    with pytest.raises(ValueError, match="at least 11x11 pixels, not 16x10"):
        ssim(jnp.zeros((1, 16, 10, 1)), jnp.zeros((1, 16, 10, 1)))
    with pytest.raises(AssertionError):
        mean_squared_error(jnp.zeros((1, 4, 4, 1)), jnp.zeros((1, 4, 4, 3)))
