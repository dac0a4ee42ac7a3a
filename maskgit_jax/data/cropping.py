"""Crops: square boxes of images of any size, resized to [size, size, channels]."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from maskgit_jax.images import BICUBIC, NEAREST, as_array, exif_orientation, to_channels, to_pil

FAST_SHRINKING = 1.1
"""From this factor on HAMMING downscales about as sharply as BICUBIC, in half the time."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels, not necessarily whole numbers."""


class Crop(NamedTuple):
    """The part of an image to cut out.

    Attributes:
        box: Position in the upright image.
        fast: Whether HAMMING may replace BICUBIC when the crop is downscaled: in training only,
            because metrics depend on the filter.
    """

    box: Box
    fast: bool = False

    @property
    def side(self) -> float:
        """The shorter side in pixels; crops transferred to other proportions are not square."""
        return min(self.box[2] - self.box[0], self.box[3] - self.box[1])


ChooseCrop = Callable[[int, int], Crop]
"""(width, height) of an upright image -> its crop."""


def choose_center(width: int, height: int) -> Crop:
    """Returns the largest square in the center of an image."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return Crop((left, top, left + side, top + side))


def crop_image(
    image: Image.Image, crop: Crop, size: int, resample: Image.Resampling = BICUBIC
) -> Image.Image:
    """Returns the crop of an image, resized to `size` x `size` pixels."""
    if crop.fast and resample == BICUBIC and crop.side >= FAST_SHRINKING * size:
        resample = Image.Resampling.HAMMING
    return image.resize((size, size), resample, box=crop.box)


def crop_array(
    image: np.ndarray, crop: Crop, size: int, resample: Image.Resampling = BICUBIC
) -> np.ndarray:
    """Returns `crop_image` of uint8 [H, W, C] as uint8 [size, size, C]."""
    if image.shape[:2] == (size, size) and crop.box == (0, 0, size, size):
        return image
    return as_array(crop_image(to_pil(image), crop, size, resample))


def center_crop(image: np.ndarray, size: int, resample: Image.Resampling = BICUBIC) -> np.ndarray:
    """Returns the center of uint8 [H, W, C] as uint8 [size, size, C]."""
    return crop_array(image, choose_center(image.shape[1], image.shape[0]), size, resample)


def crop_record(record: dict[str, Any], choose_crop: ChooseCrop, size: int) -> dict[str, Any]:
    """Returns a record with the same crop of its image and, if it has one, its condition.

    Args:
        record: "image" uint8 [H, W, C], and perhaps "condition" of the same height and width.
        choose_crop: Chooses the crop from the size of the image.
        size: Side of the result in pixels.
    """
    height, width = record["image"].shape[:2]
    crop = choose_crop(width, height)
    cropped = {"image": crop_array(record["image"], crop, size)}
    if "condition" in record:  # It may be a label map, which must not be interpolated.
        cropped["condition"] = crop_array(record["condition"], crop, size, NEAREST)
    return {**record, **cropped}


class CroppedFile(NamedTuple):
    """The crop of an image file.

    Attributes:
        pixels: uint8 [size, size, channels].
        crop: Position in pixels of the upright image.
        image_size: (width, height) of the upright image.
    """

    pixels: np.ndarray
    crop: Crop
    image_size: tuple[int, int]

    def choose_same(self, width: int, height: int) -> Crop:
        """Returns the same crop of an image that may have another size."""
        if (width, height) == self.image_size:
            return self.crop
        ratios = width / self.image_size[0], height / self.image_size[1]
        return self.crop._replace(box=_scale_box(self.crop.box, *ratios))


def _scale_box(box: Box, horizontal: float, vertical: float) -> Box:
    left, top, right, bottom = box
    return left * horizontal, top * vertical, right * horizontal, bottom * vertical


def crop_file(
    image: Image.Image,
    choose_crop: ChooseCrop,
    size: int,
    channels: int,
    resample: Image.Resampling = BICUBIC,
) -> CroppedFile:
    """Returns the crop of an image file that has been opened but not decoded.

    JPEG files are decoded at a fraction (1/2, 1/4, 1/8) of their size at which the crop still has
    `size` pixels a side, and for one channel without their colours.

    Args:
        image: Image of any mode, see `to_channels`.
        choose_crop: Chooses the crop from the size of the upright image.
        size: Side of the result in pixels.
        channels: 1 or 3.
        resample: Filter that resizes the crop.
    """
    if isinstance(image, JpegImageFile):
        width, height = image.size
        image_size = (height, width) if exif_orientation(image) > 4 else (width, height)
        crop = choose_crop(*image_size)
        fraction = _draft(image, crop.side / size, channels)
        upright = to_channels(image, channels)
    else:
        upright = to_channels(image, channels)
        image_size = upright.size
        crop, fraction = choose_crop(*image_size), 1.0
    scaled = crop._replace(box=_scale_box(crop.box, fraction, fraction))
    return CroppedFile(as_array(crop_image(upright, scaled, size, resample)), crop, image_size)


def _draft(image: JpegImageFile, shrinking: float, channels: int) -> float:
    """Sets a JPEG file to be decoded at most `shrinking` times smaller; returns the fraction."""
    width = image.width
    min_size = math.ceil(width / shrinking), math.ceil(image.height / shrinking)
    # A profile is of the colours.
    grey = channels == 1 and "icc_profile" not in image.info
    draft = image.draft("L" if grey else image.mode, min_size)
    # Not the ratio of the sizes: the decoded size is rounded up.
    return 1.0 if draft is None else draft[1][2] / width
