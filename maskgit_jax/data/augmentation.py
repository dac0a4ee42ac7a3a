"""Augmentation of training images: a crop, then functions of the cropped image.

To add an augmentation, write a function `augment(image, rng) -> image` of uint8 [size, size, C]
and enter it in `AUGMENTATIONS`; `config.data.augmentations` names those to apply, in order.
To add a crop, write a function `crop(width, height, rng) -> Crop` and enter it in `CROPS`;
`config.data.crop` names one. Crops are chosen before an image is decoded, so that no more than
necessary is decoded.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from ml_collections import ConfigDict

from maskgit_jax.configuration import InputError
from maskgit_jax.data.cropping import Crop, choose_center

Value = TypeVar("Value")


def center(width: int, height: int, rng: np.random.Generator) -> Crop:
    """Returns the largest square in the center."""
    del rng
    return choose_center(width, height)


def random(width: int, height: int, rng: np.random.Generator) -> Crop:
    """Returns the largest square at a random position along the longer side."""
    _, horizontal, vertical = rng.random(3).tolist()
    return _square(width, height, min(width, height), horizontal, vertical)


def resized(width: int, height: int, rng: np.random.Generator) -> Crop:
    """Returns a square of 1/3 to 1 of the area of the largest one, at a random position."""
    area, horizontal, vertical = rng.random(3).tolist()
    side = min(width, height) * (1 / 3 + area * 2 / 3) ** 0.5
    return _square(width, height, side, horizontal, vertical)


def _square(width: int, height: int, side: float, horizontal: float, vertical: float) -> Crop:
    left, top = horizontal * (width - side), vertical * (height - side)
    return Crop((left, top, left + side, top + side), fast=True)


def flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flips one half of the images horizontally."""
    return image[:, ::-1] if rng.random() < 0.5 else image


CROPS: dict[str, Callable[[int, int, np.random.Generator], Crop]] = {
    "center": center,
    "random": random,
    "resized": resized,
}
AUGMENTATIONS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "flip": flip,
}


class Augmenter:
    """Crops and augments the images of a training stream.

    Random numbers depend only on the seed and on the position of the image in the stream.

    Args:
        data: `config.data`; its `crop` and `augmentations`.
        seed: Seed of the random numbers.

    Raises:
        InputError: A crop or an augmentation is unknown.
    """

    def __init__(self, data: ConfigDict, seed: int):
        self._crop = _look_up("config.data.crop", data.crop, CROPS)
        names = data.augmentations.split(",") if data.augmentations else []
        key = "config.data.augmentations"
        self._functions = [_look_up(key, name.strip(), AUGMENTATIONS) for name in names]
        self._seed = seed

    def choose_crop(self, width: int, height: int, position: int) -> Crop:
        """Returns the crop of the image at a position in the stream."""
        return self._crop(width, height, random_generator(self._seed, position, crop=True))

    def augment(self, record: dict[str, Any], position: int) -> dict[str, Any]:
        """Returns a cropped record whose image and condition are augmented in the same way."""
        if not self._functions:
            return record
        names = [name for name in ("image", "condition") if name in record]
        return {**record, **{name: self._apply(record[name], position) for name in names}}

    def _apply(self, image: np.ndarray, position: int) -> np.ndarray:
        rng = random_generator(self._seed, position, crop=False)
        for function in self._functions:
            image = function(image, rng)
        return image


def random_generator(seed: int, position: int, crop: bool) -> np.random.Generator:
    """Returns the random numbers of the crop or of the augmentations at a position in the stream.

    Block `position` of the seed's Philox sequence has four numbers: three for the crop, one for
    the augmentations. After them, each has a Philox sequence that no other position shares.
    """
    block = np.random.Philox(key=seed % 2**64, counter=position).random_raw(4)
    numbers, stream = (block[:3], 2 * position + 1) if crop else (block[3:], 2 * position + 2)
    bits = np.random.Philox(key=np.array([seed % 2**64, stream], np.uint64))
    state: Any = bits.state
    state["buffer_pos"] = 4 - len(numbers)
    state["buffer"][state["buffer_pos"] :] = numbers
    bits.state = state
    return np.random.Generator(bits)


def _look_up(key: str, name: str, table: Mapping[str, Value]) -> Value:
    if name not in table:
        raise InputError(f"{key} has '{name}', which is unknown; allowed: {', '.join(table)}")
    return table[name]
