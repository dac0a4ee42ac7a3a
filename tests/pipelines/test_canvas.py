import numpy as np
import pytest

from maskgit_jax.configuration import InputError
from maskgit_jax.pipelines.canvas import (
    add_border,
    blend_images,
    blend_membrane,
    blurred_weights,
    check_blend,
    check_box,
    check_mask,
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


MASKS = {
    "at the edges": (slice(2, 7), slice(3, None)),
    "one pixel": (slice(4, 5), slice(5, 6)),
    "all but one row": (slice(1, None), slice(None)),
}


@pytest.fixture(params=MASKS.values(), ids=MASKS)
def mask(request) -> np.ndarray:
    masked = np.zeros((9, 8), bool)
    masked[request.param] = True
    return masked


def test_unmasked_pixels_are_preserved_exactly(mask):
    image, generated = random_image(9, 8, 3), random_image(18, 8, 3).reshape(2, 9, 8, 3)
    before = image.copy()
    blended = blend_membrane(image, generated, mask)
    np.testing.assert_array_equal(blended[:, ~mask], np.stack([image[~mask]] * 2))
    assert (blended[0, mask] != blended[1, mask]).any()
    np.testing.assert_array_equal(image, before)
    weight = np.where(mask, 0.5, 0.0).astype(np.float32)
    means = blend_images(image, generated, weight)
    np.testing.assert_array_equal(means[:, ~mask], np.stack([image[~mask]] * 2))


def test_masked_pixels_of_the_image_do_not_matter(mask):
    image, generated = random_image(9, 8, 3), random_image(18, 8, 3).reshape(2, 9, 8, 3)
    changed = np.where(mask[..., None], 255 - image, image)
    one, other = (blend_membrane(each, generated, mask) for each in (image, changed))
    np.testing.assert_array_equal(one, other)


def test_constant_and_linear_differences_of_color_are_removed():
    rows, columns = np.mgrid[:40, :30]
    image = (100 + 2 * rows + columns % 7)[..., None].repeat(3, axis=2).astype(np.uint8)
    slope = (0.5 * rows + columns - 35)[..., None] * np.asarray([1.0, 0.0, -1.0])
    hole = (rows - 20) ** 2 + (columns - 15) ** 2 < 100
    for mask, casts in ((hole, (-40, 9, slope)), (columns > 20, (-40, 9))):
        for cast in casts:
            generated = np.round(image.astype(float) + cast).astype(np.uint8)[None]
            blended = blend_membrane(image, generated, mask)
            np.testing.assert_allclose(blended[0].astype(int), image, atol=1)


def test_without_unmasked_pixels_the_result_is_the_generated_image():
    image, generated = random_image(9, 8, 3), random_image(18, 8, 3).reshape(2, 9, 8, 3)
    everything = np.ones((9, 8), bool)
    np.testing.assert_array_equal(blend_membrane(image, generated, everything), generated)
    unchanged = blend_membrane(image, generated, ~everything)
    np.testing.assert_array_equal(unchanged, np.stack([image] * 2))


def test_unknown_blends_are_refused():
    check_blend("official")
    with pytest.raises(InputError, match="blend is 'feather'; it is one of: membrane, official"):
        check_blend("feather")


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
