"""Pictures of any size and mode to uint8 squares [size, size, channels]."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from maskgit_jax.images import BICUBIC, _orientation, as_array, to_channels, to_pil

QUICK_SHRINKING = 1.1
"""From here on a picture can be scaled down by a filter as sharp as BICUBIC in half its time."""
CHANCES = 4
"""Numbers that `choose_square` takes for one picture."""


Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels; they need not be whole."""


class Square(NamedTuple):
    """Which part of a picture is cut out.

    Attributes:
        box: Where it lies.
        mirrored: Whether left and right are exchanged afterwards.
        quick: Whether HAMMING may stand in for BICUBIC where it is scaled down: for training, not
            for figures, which depend on the filter.
    """

    box: Box
    mirrored: bool = False
    quick: bool = False

    @property
    def side(self) -> float:
        """The shorter side in pixels; as a part of a picture of other proportions it has two."""
        return min(self.box[2] - self.box[0], self.box[3] - self.box[1])


Choose = Callable[[int, int], Square]
"""(width, height) of a picture -> what to cut out of it."""


def middle_square(width: int, height: int) -> Square:
    """Returns the largest square in the middle of a picture."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return Square((left, top, left + side, top + side))


def choose_square(width: int, height: int, crop: str, flip: bool, chances: np.ndarray) -> Square:
    """Returns what to cut out of a picture for training.

    Args:
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.
        crop: "center"; "random": a random place along the longer side; "resized": a square of
            random area (at least a third of the largest one) at a random place.
        flip: Mirror one half of the images.
        chances: `CHANCES` numbers from [0, 1), for area, place from the left, place from above
            and mirroring.
    """
    square = middle_square(width, height)
    if crop != "center":
        area, from_left, from_top = chances[:3].tolist()
        side = min(width, height) * (1.0 if crop == "random" else (1 / 3 + area * 2 / 3) ** 0.5)
        left, top = from_left * (width - side), from_top * (height - side)
        square = Square((left, top, left + side, top + side), quick=True)
    return square._replace(mirrored=flip and bool(mirrored(chances)))


def mirrored(chances: np.ndarray) -> np.ndarray:
    """Returns which pictures `choose_square` mirrors, bool [...], by their chances [..., 4]."""
    return chances[..., 3] < 0.5


def cut_square(
    image: Image.Image, square: Square, size: int, resample: Image.Resampling = BICUBIC
) -> Image.Image:
    """Returns a part of the picture, scaled to `size` pixels a side."""
    if square.quick and resample == BICUBIC and square.side >= QUICK_SHRINKING * size:
        resample = Image.Resampling.HAMMING
    image = image.resize((size, size), resample, box=square.box)
    return ImageOps.mirror(image) if square.mirrored else image


def center_square(
    image: Image.Image, size: int, resample: Image.Resampling = BICUBIC
) -> Image.Image:
    """Returns the middle square, the shorter side scaled to `size`."""
    if image.size == (size, size):
        return image
    return cut_square(image, middle_square(*image.size), size, resample)


def cut_array(
    image: np.ndarray, square: Square, size: int, resample: Image.Resampling = BICUBIC
) -> np.ndarray:
    """Returns `cut_square` of uint8 [H, W, C] as uint8 [size, size, C]."""
    if image.shape[:2] == (size, size) and square.box == (0, 0, size, size):
        return image[:, ::-1] if square.mirrored else image
    return as_array(cut_square(to_pil(image), square, size, resample))


def center_crop(image: np.ndarray, size: int, resample: Image.Resampling = BICUBIC) -> np.ndarray:
    """Returns `center_square` of uint8 [H, W, C] as uint8 [size, size, C]."""
    return cut_array(image, middle_square(image.shape[1], image.shape[0]), size, resample)


class Part(NamedTuple):
    """What was cut out of a picture file.

    Attributes:
        pixels: uint8 [size, size, channels].
        square: Which part it is, in pixels of the upright picture.
        picture_size: (width, height) of that picture.
    """

    pixels: np.ndarray
    square: Square
    picture_size: tuple[int, int]

    def choose_same(self, width: int, height: int) -> Square:
        """Returns the same part of a picture that may be of another size."""
        if (width, height) == self.picture_size:
            return self.square
        ratios = width / self.picture_size[0], height / self.picture_size[1]
        return self.square._replace(box=_scaled(self.square.box, *ratios))


def _scaled(box: Box, across: float, down: float) -> Box:
    left, top, right, bottom = box
    return left * across, top * down, right * across, bottom * down


def cut_opened(
    image: Image.Image,
    choose: Choose,
    size: int,
    channels: int,
    resample: Image.Resampling = BICUBIC,
) -> Part:
    """Returns a square of a picture that was opened, but not decoded yet.

    JPEG is decoded at a fraction (1/2, 1/4, 1/8) of its size at which the square still has
    `size` pixels a side, and grey, where nothing else is wanted, without its colours.

    Args:
        image: Of any mode; see `to_channels`.
        choose: What to cut out of the upright picture.
        size: Side of the result in pixels.
        channels: 1 or 3.
        resample: How it is scaled.
    """
    fraction = 1.0
    if isinstance(image, JpegImageFile):
        lying = _orientation(image) in (5, 6, 7, 8)
        width, height = image.size[::-1] if lying else image.size
        square = choose(width, height)
        fraction = _decode_less(image, square.side / size, channels)
        picture = to_channels(image, channels)
    else:
        picture = to_channels(image, channels)
        width, height = picture.size
        square = choose(width, height)
    box = _scaled(square.box, fraction, fraction)
    cut = cut_square(picture, square._replace(box=box), size, resample)
    return Part(as_array(cut), square, (width, height))


def _decode_less(image: JpegImageFile, shrinking: float, channels: int) -> float:
    """Has a picture decoded at most `shrinking` times smaller; returns the fraction, to 1."""
    width = image.width
    least = math.ceil(width / shrinking), math.ceil(image.height / shrinking)
    drafted = image.draft("L" if channels == 1 else image.mode, least)
    # Not the ratio of the sizes: that of the result is rounded up.
    return 1.0 if drafted is None else drafted[1][2] / width
