import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.metrics.reconstruction import mean_absolute_error, mean_square_error, psnr, ssim
from tests.golden import make_metrics

FIGURES = (mean_square_error, mean_absolute_error, psnr, ssim)


@pytest.mark.parametrize("figure", [mean_square_error, psnr, ssim], ids=lambda f: f.__name__)
def test_a_published_program_gives_the_same_figures(figure):
    ours = jax.jit(figure)(*map(jnp.asarray, make_metrics.images()))
    assert ours.shape == (4,) and ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, np.load(make_metrics.FILE)[figure.__name__], rtol=1e-5)


def test_constant_images_by_hand():
    dark, bright = jnp.full((1, 11, 12, 1), -0.5), jnp.full((1, 11, 12, 1), 0.5)  # 0.25 and 0.75
    np.testing.assert_allclose(mean_square_error(dark, bright), [0.25])
    np.testing.assert_allclose(mean_absolute_error(dark, bright), [0.5])
    np.testing.assert_allclose(psnr(dark, bright), [6.0206], rtol=1e-5)
    similarity = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    np.testing.assert_allclose(ssim(dark, bright), [similarity], rtol=1e-4)


def test_identical_images_are_perfect_and_order_makes_no_difference():
    image, noisy = map(jnp.asarray, make_metrics.images())
    np.testing.assert_array_equal(mean_square_error(image, image), np.zeros(4))
    np.testing.assert_array_equal(mean_absolute_error(image, image), np.zeros(4))
    np.testing.assert_allclose(psnr(image, image), np.full(4, 100.0), rtol=1e-6)
    np.testing.assert_allclose(ssim(image, image), np.ones(4), rtol=1e-6)
    for figure in FIGURES:
        np.testing.assert_allclose(figure(image, noisy), figure(noisy, image), rtol=1e-6)


def test_half_precision_pixels_are_compared_in_float32():
    image = jnp.zeros((1, 16, 16, 1), jnp.bfloat16)
    for figure in FIGURES:
        assert figure(image, image).dtype == jnp.float32


def test_a_difference_of_one_grey_level_is_seen():
    image = jnp.zeros((1, 16, 16, 1))
    np.testing.assert_allclose(psnr(image, image + 2 / 255), [20 * np.log10(255)], rtol=1e-5)


def test_misuse_is_told():
    with pytest.raises(ValueError, match="at least 11x11 pixels, not 16x10"):
        ssim(jnp.zeros((1, 16, 10, 1)), jnp.zeros((1, 16, 10, 1)))
    with pytest.raises(AssertionError):
        mean_square_error(jnp.zeros((1, 4, 4, 1)), jnp.zeros((1, 4, 4, 3)))
