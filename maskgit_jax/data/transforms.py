"""Pictures of any size and mode to uint8 squares [size, size, channels]."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from maskgit_jax.configuration import InputError, require

BICUBIC, NEAREST = Image.Resampling.BICUBIC, Image.Resampling.NEAREST


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Returns the picture as 8-bit grey (1) or RGB (3), upright.

    The EXIF orientation is applied; 16-bit and 32-bit grey are scaled to 8 bits;
    transparency is laid over white.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("L" if channels == 1 else "RGB")


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
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path} cannot be read as an image ({error})") from error


class Square(NamedTuple):
    """Which part of a picture is cut out.

    Attributes:
        box: Left, top, right and bottom, in pixels; they need not be whole.
        mirrored: Whether left and right are exchanged afterwards.
    """

    box: tuple[float, float, float, float]
    mirrored: bool = False


def middle_square(width: int, height: int) -> Square:
    """Returns the largest square in the middle of a picture."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return Square((left, top, left + side, top + side))


def choose_square(
    width: int, height: int, crop: str, flip: bool, rng: np.random.Generator
) -> Square:
    """Returns what to cut out of a picture for training.

    Args:
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.
        crop: "center"; "random": a random place along the longer side; "resized": a square of
            random area (at least a third of the largest one) at a random place.
        flip: Mirror one half of the images.
        rng: Source of randomness.
    """
    square = middle_square(width, height)
    if crop != "center":
        scale = 1.0 if crop == "random" else rng.uniform(1 / 3, 1.0) ** 0.5
        side = min(width, height) * scale
        left = rng.uniform(0, width - side)
        top = rng.uniform(0, height - side)
        square = Square((left, top, left + side, top + side))
    return square._replace(mirrored=flip and bool(rng.random() < 0.5))


def cut_square(
    image: Image.Image, square: Square, size: int, resample: Image.Resampling = BICUBIC
) -> Image.Image:
    """Returns a part of the picture, scaled to `size` pixels a side."""
    image = image.resize((size, size), resample, box=square.box)
    return ImageOps.mirror(image) if square.mirrored else image


def center_square(
    image: Image.Image, size: int, resample: Image.Resampling = BICUBIC
) -> Image.Image:
    """Returns the middle square, the shorter side scaled to `size`."""
    if image.size == (size, size):
        return image
    return cut_square(image, middle_square(*image.size), size, resample)


def square_array(image: np.ndarray, size: int, resample: Image.Resampling = BICUBIC) -> np.ndarray:
    """Returns `center_square` of uint8 [H, W, C] as uint8 [size, size, C]."""
    if image.ndim == 3 and image.shape[:2] == (size, size):
        return image
    return as_array(center_square(as_picture(image), size, resample))
