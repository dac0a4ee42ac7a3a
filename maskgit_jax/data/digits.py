"""The 1,797 handwritten digits of scikit-learn."""

from functools import lru_cache

import numpy as np
from ml_collections import ConfigDict

from maskgit_jax.configuration import require
from maskgit_jax.data.in_memory import open_arrays
from maskgit_jax.data.protocol import Sources

NUM_HELD_OUT = 360


def open_digits(place: str, data: ConfigDict) -> Sources:
    """Returns the digits; a fixed random fifth is held out.

    Raises:
        InputError: A place is given.
    """
    require(not place, f"config.data.source is 'digits:{place}'; write 'digits', without a place")
    return _digits(data.image_size, data.channels)


@lru_cache  # resizing takes half a second, and some processes open the digits several times
def _digits(size: int, channels: int) -> Sources:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)  # [N, 64], from 0 to 16
    images = np.round(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    order = np.random.default_rng(0).permutation(len(images))
    train, held_out = order[NUM_HELD_OUT:], order[:NUM_HELD_OUT]
    return Sources(
        open_arrays(images[train], labels[train], size, channels),
        open_arrays(images[held_out], labels[held_out], size, channels),
        tuple("0123456789"),
    )
