"""Images as users give them: arrays, PIL images, files, folders and held-out images."""

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from maskgit_jax.configuration import InputError, condition_channels, require
from maskgit_jax.data.conditioning_images import ConditioningImages, ImageFiles
from maskgit_jax.data.cropping import center_crop
from maskgit_jax.data.sources import image_data, match_classes, open_and_describe
from maskgit_jax.images import as_array, read_image, to_channels
from maskgit_jax.pipelines.generator import GeneratorPipeline


def to_image(image: Any, channels: int) -> np.ndarray:
    """Returns one image uint8 [H, W, channels] of an array, a PIL image or a file name.

    Raises:
        InputError: It is none of these, or has other channels or values.
    """
    if isinstance(image, str | Path):
        return read_image(image, channels)
    if isinstance(image, Image.Image):
        return as_array(to_channels(image, channels))
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    require(
        array.dtype == np.uint8 and array.ndim == 3 and array.shape[-1] == channels,
        f"an image is uint8 [H, W, {channels}] here, a PIL image or a file name, not "
        f"{array.dtype} {list(array.shape)}",
    )
    return array


def to_images(images: Any, data: ConfigDict) -> np.ndarray:
    """Returns images uint8 [N, S, S, C] of the size of a run, center-cropped and resized.

    Args:
        images: One image or several, see `to_image`; also an array [N, H, W, C].
        data: `config.data` of the run.

    Raises:
        InputError: An image cannot be used.
    """
    single = isinstance(images, str | Path | Image.Image) or (
        isinstance(images, np.ndarray) and images.ndim < 4
    )
    several: Any = [images] if single else images
    converted = [to_image(image, data.channels) for image in several]
    require(len(converted) > 0, "no image is given")
    return np.stack([center_crop(image, data.image_size) for image in converted])


def to_mask(mask: Any, size: tuple[int, int]) -> np.ndarray:
    """Returns a mask bool [H, W] of an array, or of an image or a file that is white where masked.

    Raises:
        InputError: It has another size than the image that it belongs to.
    """
    if isinstance(mask, str | Path | Image.Image):
        mask = to_image(mask, 1)[..., 0] > 127
    mask = np.asarray(mask)
    mask = mask[..., 0] if mask.ndim == 3 and mask.shape[-1] == 1 else mask
    mask = mask if mask.dtype == bool else mask > (127 if mask.dtype == np.uint8 else 0)
    require(
        mask.shape == tuple(size),
        f"the mask is {'x'.join(map(str, mask.shape[::-1]))} pixels and the image "
        f"{size[1]}x{size[0]}; bring them to one size",
    )
    return mask


def open_image(place: str, data: ConfigDict) -> np.ndarray:
    """Returns the image uint8 [H, W, C] of a file, or of "held_out:NUMBER" as the run saw it.

    Raises:
        InputError: There is no such image.
    """
    data = image_data(data)
    kind, _, number = place.partition(":")
    if kind != "held_out":
        require(bool(place), "no image is given; name a file, or held_out:NUMBER, with --image")
        return read_image(place, data.channels)
    source = open_and_describe(data).evaluation
    require(
        number.isdigit() and int(number) < len(source),
        f"'{place}' is no held-out image; there are held_out:0 to held_out:{len(source) - 1}",
    )
    return center_crop(source[int(number)]["image"], data.image_size)


def open_conditioning_images(
    pipeline: GeneratorPipeline,
    data: ConfigDict,
    place: str,
    num: int,
    keep_top: float | None,
    num_per_input: int,
    seed: int,
    size: tuple[int, int] | None = None,
) -> ConditioningImages | None:
    """Returns the images that `num` samples are generated from, None if none are needed.

    Args:
        pipeline: The generator.
        data: `config.data` of its run.
        place: A file, a folder, "held_out", or "" for what the generator needs.
        num: Number of samples.
        keep_top: Share of the rows of each image to keep, from the top; None for none.
        num_per_input: Samples per image.
        seed: Selects held-out images.
        size: (H, W) of the samples; that of the run by default.

    Raises:
        InputError: The images are missing, or the generator cannot use them.
    """
    conditioned = "condition" in pipeline.generator.needs
    if not (conditioned or keep_top is not None):
        require(not place, "--input has no effect here; add --keep_top=0.5 to complete images")
        return None
    require(
        keep_top is None or 0 < keep_top < 1,
        f"--keep_top is {keep_top}; it is a share of the rows, above 0 and below 1",
    )
    data = image_data(data)
    if place in ("", "held_out"):
        source = match_classes(data.source, open_and_describe(data), data.class_names).evaluation
        order = np.random.default_rng(seed).permutation(len(source))
        records: Any = [source[int(i)] for i in order[: -(-num // num_per_input)]]
    else:
        paired = conditioned and data.condition == "paired"
        if paired and keep_top is not None:
            raise InputError("--keep_top needs images with their conditions; use --input=held_out")
        channels = condition_channels(data) if paired else data.channels
        key = "condition" if paired else "image"
        records = ImageFiles(place, channels, key, data.class_names)
    size = size or (data.image_size, data.image_size)
    images = ConditioningImages(records, data, size, num_per_input, keep_top, conditioned)
    pipeline.check_inputs(images.keys)
    return images
