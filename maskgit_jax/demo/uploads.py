"""Uploaded image files: the formats and sizes that are accepted, and their conversion."""

import io

import numpy as np

from maskgit_jax.configuration import InputError
from maskgit_jax.images import UNREADABLE, as_array, open_file, to_channels

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_BYTES, MAX_MEGAPIXELS = 20_000_000, 25


def read_upload(data: bytes, channels: int, is_mask: bool = False) -> np.ndarray:
    """Returns the image in the bytes of a file, uint8 [H, W, channels], upright and in sRGB.

    Its size is checked before its pixels are decoded. A mask is 255 where it is white, and 0
    elsewhere; its transparent pixels are 0.

    Args:
        data: The bytes.
        channels: 1 or 3.
        is_mask: Whether the image is a mask.

    Raises:
        InputError: The format is not one of `FORMATS`, or the file is too large or damaged.
    """
    try:
        with open_file(io.BytesIO(data), FORMATS, MAX_MEGAPIXELS) as image:
            converted = as_array(to_channels(image, channels, "black" if is_mask else "white"))
    except UNREADABLE as error:
        reason = f"it is no file of {', '.join(FORMATS)}"
        if isinstance(error, ValueError):
            reason = str(error).partition(";")[0]
        elif image_format(data):
            reason = "it is damaged"
        raise InputError(f"the image cannot be read: {reason}") from error
    return np.where(converted > 127, 255, 0).astype(np.uint8) if is_mask else converted


def image_format(data: bytes) -> str:
    """Returns the format of the bytes of an image file, "" if it is none of `FORMATS`."""
    try:
        with open_file(io.BytesIO(data), FORMATS) as image:
            return image.format or ""
    except UNREADABLE:
        return ""
