"""Images and image files: files of any mode to uint8 arrays; arrays to PNG grids and GIFs."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from maskgit_jax.configuration import InputError, require
from maskgit_jax.files import atomic_path

BICUBIC, NEAREST = Image.Resampling.BICUBIC, Image.Resampling.NEAREST
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""Exceptions of PIL for files that are not images or are damaged."""


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Returns an image as 8-bit grey (1 channel) or RGB (3), upright.

    The EXIF orientation is applied, 16-bit and 32-bit grey is scaled to 8 bits, and
    transparent images are composited over white.
    """
    image.load()
    if exif_orientation(image) != 1:  # `exif_transpose` copies upright images too.
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def exif_orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 (upright) to 8; above 4, width and height are swapped."""
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    if image.mode.startswith("I;16") or (values.min() >= 0 and 255 < values.max() <= 65535):
        low, high = 0.0, 65535.0
    elif values.min() >= 0 and 1 < values.max() <= 255:
        low, high = 0.0, 255.0
    else:  # Float images have no fixed range.
        low, high = values.min(), max(values.max(), values.min() + 1e-12)
    return Image.fromarray(np.round((values - low) / (high - low) * 255).astype(np.uint8))


def as_array(image: Image.Image) -> np.ndarray:
    """Returns a grey or RGB image as uint8 [H, W, C]."""
    array = np.asarray(image, np.uint8)
    return array if array.ndim == 3 else array[..., None]


def to_pil(array: np.ndarray) -> Image.Image:
    """Returns uint8 [H, W] or [H, W, C], C = 1, 3 or 4, as a PIL image."""
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    return Image.fromarray(np.ascontiguousarray(array))


def read_image(path: str | Path, channels: int) -> np.ndarray:
    """Returns an image file of any mode as uint8 [H, W, channels], see `to_channels`.

    Raises:
        InputError: The file does not exist or is not an image.
    """
    require(Path(path).exists(), f"{path} does not exist")
    try:
        with Image.open(path) as image:
            return as_array(to_channels(image, channels))
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def count_channels(path: Path) -> int:
    """Returns 1 for a grey image file and 3 for others, from its header.

    Raises:
        InputError: The file is not an image.
    """
    try:
        with Image.open(path) as image:
            grey = image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16")
            return 1 if grey else 3
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | Path, error: Exception) -> InputError:
    return InputError(f"{path} cannot be read as an image ({error}); repair or replace it")


def fill_masked_with_nearest(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns an image in which masked pixels have the value of the nearest unmasked pixel.

    An encoder then sees nothing of the masked pixels, and no artificial edge. If all pixels are
    masked, the image is returned unchanged.

    Args:
        image: uint8 [H, W, C].
        mask: bool [H, W], True = masked.
    """
    from scipy import ndimage  # Not needed to generate images from labels.

    if mask.all() or not mask.any():
        return image
    nearest = ndimage.distance_transform_edt(mask, return_distances=False, return_indices=True)
    return image[tuple(np.asarray(nearest))]


def image_grid(images: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """Returns images uint8 [N, H, W, C] as one image uint8 [H', W', C], row by row."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, channels)
    grid = np.full(shape, 255, np.uint8)
    for index, image in enumerate(images):
        top = (index // columns) * (height + gap) + gap
        left = (index % columns) * (width + gap) + gap
        grid[top : top + height, left : left + width] = image
    return grid


def _enlarged_grid(images: np.ndarray, columns: int) -> Image.Image:
    """Returns a grid of images, small ones enlarged by a whole factor to about 64 pixels."""
    scale = max(1, round(64 / images.shape[1]))
    return to_pil(image_grid(images.repeat(scale, axis=1).repeat(scale, axis=2), columns, gap=2))


def write_png(path: Path, images: np.ndarray, columns: int) -> None:
    """Writes images uint8 [N, H, W, C] as a grid in one PNG file; small images are enlarged."""
    save_image(path, _enlarged_grid(images, columns))


def save_image(path: Path, image: Image.Image, **options: Any) -> None:
    """Writes an image atomically, in the format of the suffix; `options` are those of Pillow."""
    formats = Image.registered_extensions()
    with atomic_path(path) as unfinished:
        image.save(unfinished, formats[path.suffix.lower()], **options)


def write_image_grid(path: Path, images: np.ndarray) -> None:
    """Writes a PNG grid of images uint8 [N, H, W, C], or [rows, columns, H, W, C] as arranged."""
    if images.ndim == 5:
        write_png(path, images.reshape(-1, *images.shape[2:]), images.shape[1])
        return
    columns = 2 * max(1, round((len(images) / 2) ** 0.5))
    write_png(path, images, min(columns, len(images)))


def write_animation(path: Path, frames: np.ndarray, milliseconds: int = 250) -> None:
    """Writes a looping GIF whose last frame stays eight times as long.

    Args:
        path: File that ends in .gif.
        frames: uint8 [T, N, H, W, C]; each frame shows N images side by side, small ones enlarged.
        milliseconds: Duration of a frame.
    """
    first, *others = [_enlarged_grid(images, len(images)) for images in frames]
    durations = [milliseconds] * len(others) + [8 * milliseconds]
    save_image(path, first, save_all=True, append_images=others, duration=durations, loop=0)
