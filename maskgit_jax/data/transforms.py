"""Pictures of any size and mode to uint8 squares [size, size, channels]."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from maskgit_jax.configuration import InputError, require

BICUBIC, NEAREST = Image.Resampling.BICUBIC, Image.Resampling.NEAREST
QUICK_SHRINKING = 1.1
"""From here on a picture can be scaled down by a filter as sharp as BICUBIC in half its time."""
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What opening and decoding raise where a file is no picture, or a damaged one."""
CHANCES = 4
"""Numbers that `choose_square` takes for one picture."""


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Returns the picture as 8-bit grey (1) or RGB (3), upright.

    The EXIF orientation is applied; 16-bit and 32-bit grey are scaled to 8 bits;
    transparency is laid over white.
    """
    image.load()
    if _orientation(image) != 1:  # `exif_transpose` copies upright pictures too
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _orientation(image: Image.Image) -> int:
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    if image.mode.startswith("I;16") or (values.min() >= 0 and 255 < values.max() <= 65535):
        low, high = 0.0, 65535.0
    elif values.min() >= 0 and 1 < values.max() <= 255:
        low, high = 0.0, 255.0
    else:  # a float picture has no range of its own
        low, high = values.min(), max(values.max(), values.min() + 1e-12)
    return Image.fromarray(np.round((values - low) / (high - low) * 255).astype(np.uint8))


def as_array(image: Image.Image) -> np.ndarray:
    """Returns uint8 [H, W, C] of a grey or RGB picture."""
    array = np.asarray(image, np.uint8)
    return array if array.ndim == 3 else array[..., None]


def as_picture(array: np.ndarray) -> Image.Image:
    """Returns the picture of uint8 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]."""
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    return Image.fromarray(np.ascontiguousarray(array))


def read_picture(path: str | Path, channels: int) -> np.ndarray:
    """Returns a picture of any mode as uint8 [H, W, channels], see `to_channels`.

    Raises:
        InputError: There is no such file, or it is no image.
    """
    require(Path(path).exists(), f"{path}: there is no such file or folder")
    try:
        with Image.open(path) as image:
            return as_array(to_channels(image, channels))
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read as an image ({error})") from error


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
    return as_array(cut_square(as_picture(image), square, size, resample))


def square_array(image: np.ndarray, size: int, resample: Image.Resampling = BICUBIC) -> np.ndarray:
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
