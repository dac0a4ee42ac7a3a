"""Images and image files: any mode to uint8 arrays, and arrays to PNG grids and animations."""

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps
from scipy import ndimage

from maskgit_jax.configuration import InputError, require

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
BICUBIC, NEAREST = Image.Resampling.BICUBIC, Image.Resampling.NEAREST
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What opening and decoding raise where a file is no picture, or a damaged one."""


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


def to_pil(array: np.ndarray) -> Image.Image:
    """Returns the picture of uint8 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]."""
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    return Image.fromarray(np.ascontiguousarray(array))


def read_image(path: str | Path, channels: int) -> np.ndarray:
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


def fill_masked_with_nearest(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns the picture [H, W, C] whose masked pixels have the value of the nearest known one.

    So nothing of what is masked reaches an encoder, and what is known meets no edge.
    Where nothing is known, the picture stays as it is.

    Args:
        image: uint8 [H, W, C].
        mask: bool [H, W].
    """
    if mask.all() or not mask.any():
        return image
    nearest = ndimage.distance_transform_edt(mask, return_distances=False, return_indices=True)
    return image[tuple(nearest)]


def image_grid(images: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """Returns one picture uint8 [H', W', C] of images uint8 [N, H, W, C], row by row."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, channels)
    grid = np.full(shape, 255, np.uint8)
    for index, image in enumerate(images):
        top = (index // columns) * (height + gap) + gap
        left = (index % columns) * (width + gap) + gap
        grid[top : top + height, left : left + width] = image
    return grid


def write_png(path: Path, images: np.ndarray, columns: int) -> None:
    """Writes images uint8 [N, H, W, C] as one PNG; small images are enlarged by a whole factor."""
    scale = max(1, round(64 / images.shape[1]))
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    grid = image_grid(images, columns, gap=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid[..., 0] if grid.shape[-1] == 1 else grid).save(path)


def write_image_grid(path: Path, images: np.ndarray) -> None:
    """Writes images uint8 [N, H, W, C] as an even grid, [rows, columns, H, W, C] as they say."""
    if images.ndim == 5:
        write_png(path, images.reshape(-1, *images.shape[2:]), images.shape[1])
        return
    columns = 2 * max(1, round((len(images) / 2) ** 0.5))
    write_png(path, images, min(columns, len(images)))


def write_animation(path: Path, frames: np.ndarray, milliseconds: int = 250) -> None:
    """Writes frames uint8 [T, N, H, W, C] as a GIF that repeats; the last one stays longer.

    Args:
        path: Ends in .gif.
        frames: N images beside each other in each frame; small ones are enlarged.
        milliseconds: A frame's time.
    """
    scale = max(1, round(64 / frames.shape[2]))
    frames = frames.repeat(scale, axis=2).repeat(scale, axis=3)
    pictures = [image_grid(images, len(images), gap=2) for images in frames]
    pictures = [Image.fromarray(grid[..., 0] if grid.shape[-1] == 1 else grid) for grid in pictures]
    path.parent.mkdir(parents=True, exist_ok=True)
    times = [milliseconds] * (len(pictures) - 1) + [8 * milliseconds]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=times, loop=0)
