"""Images and image files: files of any mode to uint8 arrays; arrays to PNG grids and GIFs.

docs/data.md has the rules of the conversion.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageDraw, ImageFont, ImageOps

from maskgit_jax.configuration import InputError, require
from maskgit_jax.files import atomic_path, user_path

BICUBIC, NEAREST = Image.Resampling.BICUBIC, Image.Resampling.NEAREST
UNREADABLE = (Exception,)
"""Exceptions of PIL for files that are not images or are damaged: its plugins raise any kind."""
IMAGE_OUTPUTS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Files that an image is written to; upper case is the same."""
_SRGB = ImageCms.createProfile("sRGB")
_CREATED = slice(24, 36)  # in the header: the time at which the profile was made
_SRGB_BYTES = bytearray(ImageCms.ImageCmsProfile(_SRGB).tobytes())
_SRGB_BYTES[_CREATED] = bytes(12)  # so that equal images give equal files


class ReadingRules(NamedTuple):
    """What image files may be, the same for all files that a process reads.

    Attributes:
        float_range: Values of black and white in images of floating-point numbers.
        max_megapixels: Largest image; larger ones would take too much memory.
    """

    float_range: tuple[float, float] = (0.0, 1.0)
    max_megapixels: int = 500


_rules = ReadingRules()
Image.MAX_IMAGE_PIXELS = None  # `open_file` has a limit of its own, which a flag raises.


def set_reading_rules(rules: ReadingRules) -> None:
    """Sets the rules for all files that are read from now on, see `ReadingRules`.

    Raises:
        InputError: A rule is impossible.
    """
    global _rules
    low, high = rules.float_range
    require(
        bool(np.isfinite([low, high]).all()) and low < high,
        f"--float_range is {low:g},{high:g}; it must be LOW,HIGH with LOW < HIGH",
    )
    _rules = rules


@contextmanager
def open_file(
    file: Any, formats: tuple[str, ...] | None = None, max_megapixels: int | None = None
) -> Iterator[Image.Image]:
    """Opens an image file, or the bytes of one, without decoding it; all files are opened here.

    Args:
        file: The file.
        formats: Names of the formats that are accepted, in PIL's spelling; all by default.
        max_megapixels: Largest image; by default that of the reading rules.

    Raises:
        ValueError: It has too many pixels; PIL's exceptions are `UNREADABLE`.
    """
    with Image.open(file, formats=formats) as image:
        limit = max_megapixels or _rules.max_megapixels
        if image.width * image.height > limit * 1e6:
            raise ValueError(
                f"it has {image.width}x{image.height} pixels, more than {limit} megapixels; "
                "--max_megapixels raises the limit"
            )
        yield image


def to_channels(image: Image.Image, channels: int, background: str = "white") -> Image.Image:
    """Returns an image of any mode as 8-bit grey (1 channel) or RGB (3), upright, in sRGB.

    The EXIF orientation is applied, 16-bit and 32-bit grey is scaled to 8 bits, colours are
    converted from the image's profile to sRGB, and transparent images are composited over the
    background.

    Raises:
        ValueError: A pixel is not finite or out of range, or the mode is unknown.
    """
    image.load()
    if exif_orientation(image) != 1:  # `exif_transpose` copies upright images too.
        image = ImageOps.exif_transpose(image)
    profile = image.info.get("icc_profile")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bits(image)
    alpha = None
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        opaque = "L" if image.mode in ("LA", "La") else "RGB"  # a profile is of one of them
        image = image.convert("LA" if opaque == "L" else "RGBA")
        alpha, image = image.getchannel("A"), image.convert(opaque)
    image = _to_srgb(image, profile)
    if alpha is not None:
        image = Image.composite(image, Image.new(image.mode, image.size, background), alpha)
    mode = "L" if channels == 1 else "RGB"
    if image.mode not in ("1", "L", "P", "RGB", mode):
        image = image.convert("RGB")  # PIL has no way from some of them to grey
    return image if image.mode == mode else image.convert(mode)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Returns the image in sRGB; a profile that is damaged or of another mode is ignored."""
    if image.mode == "P" and profile:
        image = image.convert("RGB")
    if image.mode != "LAB" and not profile:
        return image
    try:
        transform = _srgb_transform(image.mode, profile)
        return image if transform is None else ImageCms.applyTransform(image, transform) or image
    except (ImageCms.PyCMSError, OSError):
        if image.mode == "LAB":
            raise
        return image


@lru_cache(maxsize=16)
def _srgb_transform(mode: str, profile: bytes | None) -> ImageCms.ImageCmsTransform | None:
    """Returns the transform to sRGB, None if it changes nothing, because that is the profile."""
    source: Any = ImageCms.createProfile("LAB")
    if profile and mode != "LAB":
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    transform = ImageCms.buildTransform(source, _SRGB, mode, "RGB")
    if mode != "RGB":
        return transform
    levels = np.linspace(0, 255, 16).astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(64, 64, 3)
    converted = ImageCms.applyTransform(Image.fromarray(colours), transform)
    change = np.abs(np.asarray(converted).astype(int) - colours)
    return transform if change.max() > 1 else None


def exif_orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1 (upright) to 8; above 4, width and height are swapped."""
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    return Image.fromarray(_scale(values, *(_rules.float_range if image.mode == "F" else _16_BITS)))


_16_BITS = (0.0, 65535.0)


def _scale(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns uint8 values of which `low` is black and `high` white.

    Raises:
        ValueError: A value is not finite, or out of the range by more than a rounding error.
    """
    unknown = int((~np.isfinite(values)).sum())
    if unknown:
        raise ValueError(f"{unknown} of its {values.size} values are not finite")
    share = (values - low) / (high - low)
    if share.size and (share.min() < -1e-3 or share.max() > 1 + 1e-3):
        raise ValueError(
            f"its values go from {values.min():g} to {values.max():g}, but {low:g} is black and "
            f"{high:g} white; --float_range=LOW,HIGH sets the range of floating-point images"
        )
    return np.round(share.clip(0.0, 1.0) * 255).astype(np.uint8)


def array_to_uint8(array: np.ndarray) -> np.ndarray:
    """Returns an array of pixels, uint8 or floating-point in [0, 1], as uint8, shape unchanged.

    Raises:
        InputError: It is of another type, or a value is out of range or not finite.
    """
    if array.dtype == np.uint8:
        return array
    require(
        np.issubdtype(array.dtype, np.floating),
        f"an image is {array.dtype}; give uint8 from 0 to 255, or floats in [0, 1]",
    )
    values = array.astype(np.float64)
    least, most = (values.min(), values.max()) if values.size else (0.0, 0.0)
    require(
        least >= 0 and most <= 1,  # False of NaN, too
        f"an image of floats has values from {least:g} to {most:g}; give floats in [0, 1], or "
        "uint8 from 0 to 255",
    )
    return np.round(values * 255).astype(np.uint8)


def as_array(image: Image.Image) -> np.ndarray:
    """Returns a grey or RGB image as uint8 [H, W, C]."""
    array = np.asarray(image, np.uint8)
    return array if array.ndim == 3 else array[..., None]


def to_pil(array: np.ndarray) -> Image.Image:
    """Returns uint8 [H, W] or [H, W, C], C = 1, 3 or 4, as a PIL image."""
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    return Image.fromarray(np.ascontiguousarray(array))


def read_image(path: str | Path, channels: int, background: str = "white") -> np.ndarray:
    """Returns an image file of any mode as uint8 [H, W, channels], see `to_channels`.

    Raises:
        InputError: The file does not exist or is not an image.
    """
    path = user_path(path)
    require(Path(path).exists(), f"{path} does not exist")
    try:
        with open_file(path) as image:
            return as_array(to_channels(image, channels, background))
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def count_channels(path: Path) -> int:
    """Returns 1 for a grey image file and 3 for others, from its header.

    Raises:
        InputError: The file is not an image.
    """
    try:
        with open_file(path) as image:
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
    box = masked_box(mask)  # it has the nearest unmasked pixels of all masked ones
    indices = ndimage.distance_transform_edt(mask[box], return_distances=False, return_indices=True)
    filled = image.copy()
    filled[box] = image[box][tuple(np.asarray(indices))]
    return filled


def masked_box(mask: np.ndarray) -> tuple[slice, slice]:
    """Returns the rows and columns of the masked pixels of a mask [H, W], and one more around."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    top, left = max(0, rows[0] - 1), max(0, columns[0] - 1)
    return slice(top, rows[-1] + 2), slice(left, columns[-1] + 2)


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


def write_image(path: Path, image: Image.Image) -> None:
    """Writes a grey or RGB image in the format of the suffix; colours have an sRGB profile."""
    profile = {"icc_profile": bytes(_SRGB_BYTES)} if image.mode == "RGB" else {}
    save_image(path, image, quality=95, **profile)


def write_png(path: Path, images: np.ndarray, columns: int, titles: Sequence[str] = ()) -> None:
    """Writes images uint8 [N, H, W, C] as a grid in one file; small images are enlarged.

    Args:
        path: The file, .png or another of `IMAGE_OUTPUTS`.
        images: The images.
        columns: Images per row.
        titles: One above each column; () for none.
    """
    grid = _enlarged_grid(images, columns)
    write_image(path, _with_titles(grid, titles) if titles else grid)


def _with_titles(grid: Image.Image, titles: Sequence[str]) -> Image.Image:
    """Returns a grid with a row of text above its columns, shortened to their width."""
    font, width = ImageFont.load_default(12), grid.width // len(titles)
    titled = Image.new(grid.mode, (grid.width, grid.height + 16), "white")
    titled.paste(grid, (0, 16))
    draw = ImageDraw.Draw(titled)
    for column, title in enumerate(titles):
        while title and font.getlength(title) > width - 2:
            title = title[:-1]
        draw.text((width * (column + 0.5), 8), title, "black", font, anchor="mm")
    return titled


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
