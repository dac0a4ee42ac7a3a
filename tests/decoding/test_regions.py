import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskgit_jax.decoding.regions import hidden_tokens


def below(size: int, first: int, batch: int = 1) -> jax.Array:
    """The rows of pixels from `first` on."""
    rows = jnp.arange(size) >= first
    return jnp.broadcast_to(rows[None, :, None], (batch, size, size))


def test_a_token_is_hidden_if_any_pixel_of_its_patch_is():
    hidden = hidden_tokens(below(28, 14, batch=2), ((7, 7),))  # row 3 are pixels 12 to 15
    assert hidden.shape == (2, 49)
    rows = hidden.reshape(2, 7, 7)
    assert not rows[:, :3].any()
    assert rows[:, 3:].all()


def test_one_pixel_hides_one_token_of_each_map_coarsest_first():
    pixels = jnp.zeros((1, 8, 12), bool).at[0, 5, 4].set(True)
    hidden = hidden_tokens(pixels, ((2, 3), (4, 6)))
    assert hidden.shape == (1, 6 + 24)
    # Patches of 4 x 4: row 1 of 2, column 1 of 3; of 2 x 2: row 2 of 4, column 2 of 6.
    assert np.flatnonzero(hidden[0]).tolist() == [1 * 3 + 1, 6 + 2 * 6 + 2]


@pytest.mark.parametrize("value", [False, True])
def test_nothing_and_everything(value):
    hidden = hidden_tokens(jnp.full((3, 4, 4), value), ((1, 1), (2, 2), (4, 4)))
    np.testing.assert_array_equal(hidden, np.full((3, 1 + 4 + 16), value))


def test_maps_that_do_not_divide_the_image_are_refused():
    for grid in ((3, 4), (4, 3)):
        with pytest.raises(ValueError, match="16 x 16 pixels are no"):
            hidden_tokens(jnp.zeros((1, 16, 16), bool), (grid,))
