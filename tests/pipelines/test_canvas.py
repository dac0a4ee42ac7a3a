"""Masks, boxes, borders and seams of pictures that are edited."""

import numpy as np
import pytest
from PIL import Image

from maskgit_jax.configuration import InputError
from maskgit_jax.images import fill_masked_with_nearest
from maskgit_jax.pipelines.canvas import (
    add_border,
    blend,
    check_box,
    check_mask,
    feather_weights,
    read_mask,
    resize_images,
    resize_mask,
    working_size,
)


def random_image(height: int, width: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def test_masks_of_any_mode_are_read(tmp_path):
    white = np.zeros((4, 6), bool)
    white[1:3, 2:] = True
    pictures = {
        "grey": Image.fromarray(white.astype(np.uint8) * 255),
        "two": Image.fromarray(white),
        "deep": Image.fromarray(white.astype(np.uint16) * 65535),
        "rgb": Image.fromarray(np.repeat(white[..., None] * np.uint8(255), 3, axis=2)),
        "rgba": Image.fromarray(
            np.concatenate([np.repeat(white[..., None], 3, 2), np.ones((4, 6, 1), bool)], 2)
            * np.uint8(255)
        ),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(read_mask(tmp_path / f"{name}.png", (4, 6)), white, name)
    with pytest.raises(InputError, match="the mask is 6x4 pixels and the image 7x4"):
        read_mask(tmp_path / "grey.png", (4, 7))
    with pytest.raises(InputError, match=r"none.png: there is no such file"):
        read_mask(tmp_path / "none.png", (4, 6))
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(InputError, match="cannot be read as an image"):
        read_mask(tmp_path / "text.png", (4, 6))


def test_masks_with_nothing_to_do_are_refused():
    with pytest.raises(InputError, match="black everywhere: nothing is to be filled"):
        check_mask(np.zeros((3, 3), bool))
    with pytest.raises(InputError, match="white everywhere.*maskgit_jax.sample"):
        check_mask(np.ones((3, 3), bool))


@pytest.mark.parametrize("box", [(0, 0, 11, 2), (-1, 0, 2, 2), (0, 9, 1, 2)])
def test_boxes_outside_are_refused(box):
    with pytest.raises(InputError, match="outside of the image, which is 10 high and 10 wide"):
        check_box(box, (10, 10))
    check_box((0, 0, 10, 10), (10, 10))
    with pytest.raises(InputError, match="the box 0,0,0,5 is empty"):
        check_box((0, 0, 0, 5), (10, 10))


def test_borders_are_new_and_nothing_else():
    image = random_image(3, 5)
    larger, mask = add_border(image, 1, 2, 3, 0)
    assert larger.shape == (6, 8, 1) and mask.sum() == 6 * 8 - 15
    np.testing.assert_array_equal(larger[3:, 1:6], image)
    assert not mask[3:, 1:6].any()
    with pytest.raises(InputError, match="right is -2"):
        add_border(image, 1, -2, 0, 0)
    with pytest.raises(InputError, match="nothing is to be added"):
        add_border(image, 0, 0, 0, 0)


def test_what_is_hidden_says_nothing():
    image = np.asarray([[10, 20, 30, 40, 50]], np.uint8)[..., None]
    mask = np.asarray([[False, True, True, True, False]])
    filled = fill_masked_with_nearest(image, mask)[0, :, 0].tolist()
    assert filled[0] == filled[1] == 10 and filled[3] == filled[4] == 50 and filled[2] in (10, 50)
    np.testing.assert_array_equal(fill_masked_with_nearest(image, np.ones_like(mask)), image)


@pytest.mark.parametrize("seam", [0.0, 2.0])
def test_pixels_outside_of_the_mask_are_the_original_ones(seam):
    image, made = random_image(9, 8, 3), random_image(18, 8, 3).reshape(2, 9, 8, 3)
    mask = np.zeros((9, 8), bool)
    mask[2:7, 3:] = True
    out = blend(image, made, mask, seam)
    np.testing.assert_array_equal(out[:, ~mask], np.stack([image[~mask]] * 2))
    if seam == 0:
        np.testing.assert_array_equal(out[:, mask], made[:, mask])


def test_the_seam_rises_inside_of_the_mask():
    mask = np.asarray([[False, True, True, True, True]])
    np.testing.assert_allclose(feather_weights(mask, 2.0)[0], [0, 1 / 3, 2 / 3, 1, 1])
    assert (feather_weights(np.ones((2, 2), bool), 2.0) == 1).all()


def test_sizes_of_work_are_whole_patches():
    assert working_size((28, 28), 1.0, 4, 28) == (28, 28)
    assert working_size((100, 331), 0.28, 4, 28) == (28, 92)
    assert working_size((20, 20), 1.4, 4, 28) == (28, 28)
    images = random_image(20, 30, 3)[None]
    assert resize_images(images, (28, 42)).shape == (1, 28, 42, 3)
    mask = np.zeros((40, 40), bool)
    mask[17, 23] = True
    assert resize_mask(mask, (20, 20)).sum() == 1 and resize_mask(mask, (20, 20))[8, 11]
    assert resize_mask(mask, (80, 80)).sum() == 4
