import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.decoding.regions import box_token_mask, next_window, token_mask


def below(size: int, first: int, batch: int = 1) -> jax.Array:
    """Masks the rows of pixels from `first` on."""
    rows = jnp.arange(size) >= first
    return jnp.broadcast_to(rows[None, :, None], (batch, size, size))


def test_a_token_is_masked_if_any_pixel_of_its_patch_is():
    mask = token_mask(below(28, 14, batch=2), ((7, 7),))  # row 3 are pixels 12 to 15
    assert mask.shape == (2, 49)
    rows = mask.reshape(2, 7, 7)
    assert not rows[:, :3].any()
    assert rows[:, 3:].all()


def test_one_pixel_masks_one_token_of_each_map_coarsest_first():
    pixels = jnp.zeros((1, 8, 12), bool).at[0, 5, 4].set(True)
    mask = token_mask(pixels, ((2, 3), (4, 6)))
    assert mask.shape == (1, 6 + 24)
    # Patches of 4 x 4: row 1 of 2, column 1 of 3; of 2 x 2: row 2 of 4, column 2 of 6.
    assert np.flatnonzero(mask[0]).tolist() == [1 * 3 + 1, 6 + 2 * 6 + 2]


@pytest.mark.parametrize("value", [False, True])
def test_empty_and_full_masks(value):
    mask = token_mask(jnp.full((3, 4, 4), value), ((1, 1), (2, 2), (4, 4)))
    np.testing.assert_array_equal(mask, np.full((3, 1 + 4 + 16), value))


def test_grids_that_do_not_divide_the_image_are_refused():
    for grid in ((3, 4), (4, 3)):
        with pytest.raises(ValueError, match="16 x 16 pixels are not divisible"):
            token_mask(jnp.zeros((1, 16, 16), bool), (grid,))


@pytest.mark.parametrize(
    "box",
    [(0, 0, 512, 512), (64, 128, 200, 96), (15, 16, 1, 17), (300, 0, 212, 40), (511, 511, 1, 1)],
)
def test_edit_masks_are_those_of_the_official_notebook(box):
    # The published rule: integer division of each number, one token more before and after.
    top, left, height, width = box
    expected = np.zeros((32, 32), bool)
    for row in range(max(0, top // 16 - 1), min(512 // 16, height // 16 + top // 16 + 1)):
        for column in range(max(0, left // 16 - 1), min(512 // 16, width // 16 + left // 16 + 1)):
            expected[row, column] = True
    np.testing.assert_array_equal(box_token_mask(box, (32, 32), 16), expected)
    assert expected.any()


def test_windows_grow_from_known_tokens():
    mask = np.zeros((4, 12), bool)
    mask[:, 4:] = True  # an image of four columns, outpainted to the right
    visited = []
    while mask.any():
        top, left = next_window(mask, (4, 4))
        visited.append(left)
        mask[top : top + 4, left : left + 4] = False
    assert visited == [2, 4, 6, 8]
    hole = np.zeros((9, 9), bool)
    hole[4, 4] = True
    assert next_window(hole, (3, 3)) == (3, 3), "a small hole is in the middle of its window"
    assert next_window(np.ones((3, 3), bool), (3, 3)) == (0, 0)
