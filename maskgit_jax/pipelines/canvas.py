"""Pictures of which a part is to be made anew: masks, boxes, borders, seams. All on the host."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from maskgit_jax.configuration import require
from maskgit_jax.images import BICUBIC, as_array, read_image, to_pil

Box = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""
Size = tuple[int, int]
"""Height and width."""


def read_mask(path: str | Path, size: Size) -> np.ndarray:
    """Returns which pixels are to be made, bool [H, W]: those lighter than middle grey.

    Args:
        path: A picture of any mode.
        size: Of the picture that it belongs to.

    Raises:
        InputError: It cannot be read, or is of another size.
    """
    mask = read_image(path, 1)[..., 0]
    require(
        mask.shape == tuple(size),
        f"the mask is {mask.shape[1]}x{mask.shape[0]} pixels and the image {size[1]}x{size[0]}; "
        "bring them to one size",
    )
    return mask > 127


def check_mask(mask: np.ndarray) -> None:
    """Raises `InputError` for a mask [H, W] that leaves nothing to make, or nothing to keep."""
    require(mask.any(), "the mask is black everywhere: nothing is to be filled; paint it white")
    require(
        not mask.all(),
        "the mask is white everywhere: nothing of the image is kept; to make a whole image use "
        "python -m maskgit_jax.sample",
    )


def check_box(box: Box, size: Size) -> None:
    """Raises `InputError` for a box that is empty or not inside of a picture of this size."""
    top, left, height, width = box
    require(height > 0 and width > 0, f"the box {_words(box)} is empty")
    require(
        top >= 0 and left >= 0 and top + height <= size[0] and left + width <= size[1],
        f"the box {_words(box)} (top,left,height,width) reaches outside of the image, which is "
        f"{size[0]} high and {size[1]} wide",
    )


def _words(box: Box) -> str:
    return ",".join(map(str, box))


def add_border(
    image: np.ndarray, left: int, right: int, top: int, bottom: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a larger picture uint8 [H', W', C], and which pixels are new, bool [H', W'].

    Args:
        image: uint8 [H, W, C].
        left: Pixels to add, and so on for the other sides.
        right: See `left`.
        top: See `left`.
        bottom: See `left`.

    Raises:
        InputError: A number is negative, or all are 0.
    """
    sides = {"left": left, "right": right, "top": top, "bottom": bottom}
    for side, pixels in sides.items():
        require(pixels >= 0, f"{side} is {pixels}; it is a number of pixels to add, 0 or more")
    require(any(sides.values()), "nothing is to be added; give left, right, top or bottom pixels")
    around = ((top, bottom), (left, right))
    mask = np.pad(np.zeros(image.shape[:2], bool), around, constant_values=True)
    return np.pad(image, (*around, (0, 0)), mode="edge"), mask


def feather_weights(mask: np.ndarray, seam: float) -> np.ndarray:
    """Returns the share of the made picture in each pixel, float32 [H, W] in [0, 1].

    0 outside of the mask; inside it rises over `seam` pixels from the nearest known one.
    """
    if mask.all():
        return np.ones(mask.shape, np.float32)
    distance = ndimage.distance_transform_edt(mask)
    return np.clip(distance / (seam + 1.0), 0.0, 1.0).astype(np.float32)


def blend(image: np.ndarray, made: np.ndarray, mask: np.ndarray, seam: float) -> np.ndarray:
    """Returns pictures uint8 [N, H, W, C]: outside of the mask exactly the image's pixels.

    At the seam, inside of the mask, what was made fades into the image.

    Args:
        image: uint8 [H, W, C], where it is masked as `extended` has it.
        made: uint8 [N, H, W, C].
        mask: bool [H, W].
        seam: Its width in pixels; 0 for none.
    """
    weight = feather_weights(mask, seam)[..., None]
    return np.round(made * weight + image * (1.0 - weight)).astype(np.uint8)


def working_size(size: Size, scale: float, patch: int, least: int) -> Size:
    """Returns the size in which a picture is edited: scaled, and whole patches.

    Args:
        size: Of the picture.
        scale: Pixels of the generator for a pixel of the picture.
        patch: Side of a token's patch, in pixels of the generator.
        least: The smallest side, the generator's image size.
    """
    height, width = (max(least, round(side * scale / patch) * patch) for side in size)
    return height, width


def resize_images(images: np.ndarray, size: Size) -> np.ndarray:
    """Returns uint8 [N, *size, C] of pictures uint8 [N, H, W, C]."""
    if images.shape[1:3] == tuple(size):
        return images
    pictures = [to_pil(image).resize(size[::-1], BICUBIC) for image in images]
    return np.stack([as_array(picture) for picture in pictures])


def resize_mask(mask: np.ndarray, size: Size) -> np.ndarray:
    """Returns bool [*size] of a mask [H, W]: a pixel is masked if any that it stands for is."""
    if mask.shape == tuple(size):
        return mask
    shares = Image.fromarray(mask.astype(np.float32)).resize(
        size[::-1], Image.Resampling.BOX if size[0] < mask.shape[0] else Image.Resampling.NEAREST
    )
    return np.asarray(shares) > 0
