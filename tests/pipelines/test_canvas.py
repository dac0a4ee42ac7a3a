import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.pipelines.canvas import (
    add_border,
    blend_images,
    blurred_weights,
    check_box,
    check_mask,
    feather_weights,
    resize_images,
    resize_mask,
    working_size,
)


def random_image(height: int, width: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def test_masks_of_no_or_all_pixels_are_refused():
    with pytest.raises(InputError, match="black everywhere"):
        check_mask(np.zeros((3, 3), bool))
    with pytest.raises(InputError, match="white everywhere.*maskgit_jax.sample"):
        check_mask(np.ones((3, 3), bool))


@pytest.mark.parametrize("box", [(0, 0, 11, 2), (-1, 0, 2, 2), (0, 9, 1, 2)])
def test_boxes_outside_the_image_are_refused(box):
    with pytest.raises(InputError, match="not inside the image, which is 10 high and 10 wide"):
        check_box(box, (10, 10))
    check_box((0, 0, 10, 10), (10, 10))
    with pytest.raises(InputError, match="the box 0,0,0,5 is empty"):
        check_box((0, 0, 0, 5), (10, 10))


def test_only_borders_are_masked():
    image = random_image(3, 5)
    larger, mask = add_border(image, 1, 2, 3, 0)
    assert larger.shape == (6, 8, 1) and mask.sum() == 6 * 8 - 15
    np.testing.assert_array_equal(larger[3:, 1:6], image)
    assert not mask[3:, 1:6].any()
    with pytest.raises(InputError, match="right is -2"):
        add_border(image, 1, -2, 0, 0)
    with pytest.raises(InputError, match="no pixels are added"):
        add_border(image, 0, 0, 0, 0)


@pytest.mark.parametrize("feather", [0.0, 2.0])
def test_unmasked_pixels_are_preserved_exactly(feather):
    image, generated = random_image(9, 8, 3), random_image(18, 8, 3).reshape(2, 9, 8, 3)
    mask = np.zeros((9, 8), bool)
    mask[2:7, 3:] = True
    out = blend_images(image, generated, feather_weights(mask, feather))
    np.testing.assert_array_equal(out[:, ~mask], np.stack([image[~mask]] * 2))
    if feather == 0:
        np.testing.assert_array_equal(out[:, mask], generated[:, mask])


def test_the_weight_rises_inside_the_mask():
    mask = np.asarray([[False, True, True, True, True]])
    np.testing.assert_allclose(feather_weights(mask, 2.0)[0], [0, 1 / 3, 2 / 3, 1, 1])
    assert (feather_weights(np.ones((2, 2), bool), 2.0) == 1).all()


def test_the_official_weight_is_the_blurred_token_mask():
    mask = np.zeros((4, 6), bool)
    mask[:, 3:] = True
    weight = blurred_weights(mask, (64, 96), 8, (64, 96))
    assert weight.shape == (64, 96) and weight.min() == 0 and weight.max() == 1
    assert 0.4 < weight[:, 46:50].mean() < 0.6, "half at the edge of the mask"
    assert 0 < weight[32, 44] < weight[32, 52] < 1, "above 0 outside of the mask"
    smaller = blurred_weights(mask, (64, 96), 8, (32, 48))
    np.testing.assert_allclose(smaller, weight.reshape(32, 2, 48, 2).mean(axis=(1, 3)), atol=0.02)


def test_working_sizes_are_whole_patches():
    assert working_size((28, 28), 1.0, 4, 28) == (28, 28)
    assert working_size((100, 331), 0.28, 4, 28) == (28, 92)
    assert working_size((20, 20), 1.4, 4, 28) == (28, 28)
    images = random_image(20, 30, 3)[None]
    assert resize_images(images, (28, 42)).shape == (1, 28, 42, 3)
    mask = np.zeros((40, 40), bool)
    mask[17, 23] = True
    assert resize_mask(mask, (20, 20)).sum() == 1 and resize_mask(mask, (20, 20))[8, 11]
    assert resize_mask(mask, (80, 80)).sum() == 4
