"""Masks, boxes, borders and blending of edited images, on the host."""

import numpy as np
from PIL import Image, ImageFilter

from maskgit_jax.configuration import require
from maskgit_jax.images import BICUBIC, NEAREST, as_array, masked_box, to_pil
from maskgit_jax.pipelines.membrane import fill_masked

BOX_ORDER = "top,left,height,width in pixels (not left,top,right,bottom as in PIL)"
BLENDS = ("membrane", "official")
"""How a generated part is blended in: its colors are shifted to agree with the unmasked pixels at
the edge of the mask, which are preserved, see `blend_membrane`; or as google-research/maskgit does:
the encoder sees the whole image, and the edge of the token mask is blurred, see `blurred_weights`.
"""
Box = tuple[int, int, int, int]
"""Top, left, height and width in pixels; not left, top, right and bottom as in PIL."""
Size = tuple[int, int]
"""Height and width."""


def check_mask(mask: np.ndarray) -> None:
    """Raises `InputError` if a mask [H, W] masks no pixel or every pixel."""
    require(bool(mask.any()), "the mask is black everywhere; paint the pixels to fill white")
    require(
        not mask.all(),
        "the mask is white everywhere, so nothing of the image is kept; generate whole images "
        "with python -m maskgit_jax.sample",
    )


def check_blend(blend: str) -> None:
    """Raises `InputError` for an unknown blend."""
    require(blend in BLENDS, f"blend is '{blend}'; it is one of: {', '.join(BLENDS)}")


def check_box(box: Box, size: Size) -> None:
    """Raises `InputError` if a box is empty or not inside an image of this size."""
    words = ",".join(map(str, box))
    require(
        len(box) == 4 and all(isinstance(side, int | np.integer) for side in box),
        f"the box {words} is not a box; give {BOX_ORDER}",
    )
    top, left, height, width = box
    require(
        height > 0 and width > 0,
        f"the box {words} is empty; give {BOX_ORDER}",
    )
    require(
        top >= 0 and left >= 0 and top + height <= size[0] and left + width <= size[1],
        f"the box {words} is not inside the image, which is {size[0]} high and {size[1]} wide; "
        f"give {BOX_ORDER}",
    )


def add_border(
    image: np.ndarray, left: int, right: int, top: int, bottom: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns an enlarged image uint8 [H', W', C], and its mask bool [H', W'] of new pixels.

    Args:
        image: uint8 [H, W, C].
        left: Pixels to add on the left.
        right: Pixels to add on the right.
        top: Pixels to add above.
        bottom: Pixels to add below.

    Raises:
        InputError: A number is negative, or all are 0.
    """
    sides = {"left": left, "right": right, "top": top, "bottom": bottom}
    for side, pixels in sides.items():
        require(pixels >= 0, f"{side} is {pixels}; it must be 0 or more pixels")
    require(any(sides.values()), "no pixels are added; set left, right, top or bottom")
    border = ((top, bottom), (left, right))
    mask = np.pad(np.zeros(image.shape[:2], bool), border, constant_values=True)
    return np.pad(image, (*border, (0, 0)), mode="edge"), mask


def blend_membrane(image: np.ndarray, generated: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns the image with each generated image under the mask, uint8 [N, H, W, C].

    The difference between the two at the edge of the mask is continued under it by a membrane and
    added to the generated image. So colors agree at the edge, and unmasked pixels are preserved.

    Args:
        image: uint8 [H, W, C].
        generated: uint8 [N, H, W, C].
        mask: bool [H, W], True = generated.

    Source: Perez et al. 2003, Poisson Image Editing, section 3: importing gradients.
    """
    blended = np.repeat(image[None], len(generated), axis=0)
    if not mask.any():
        return blended
    box = masked_box(mask)
    for result, other in zip(blended, generated, strict=True):
        source = other[box].astype(np.float32)
        shifted = source + fill_masked(image[box] - source, mask[box])
        result[box] = np.round(shifted.clip(0, 255)).astype(np.uint8)
    return blended


def blurred_weights(mask: np.ndarray, size: Size, radius: int, out_size: Size) -> np.ndarray:
    """Returns the weight of the generated image in each pixel, float32 [*out_size] in [0, 1].

    It is above 0 on both sides of the mask's edge.

    Args:
        mask: Token mask, bool [h, w].
        size: Size at which the mask is blurred.
        radius: Of the Gaussian, in pixels of this size.
        out_size: Size of the result.

    Source: google-research/maskgit inference.py:composite_outputs.
    """
    (height, width), (out_height, out_width) = size, out_size
    enlarged = to_pil(mask.astype(np.uint8) * 255).resize((width, height), BICUBIC)
    blurred = enlarged.filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(blurred.resize((out_width, out_height), BICUBIC), np.float32) / 255


def blend_images(image: np.ndarray, generated: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Returns the mean of the image and of each generated image, uint8 [N, H, W, C].

    Args:
        image: uint8 [H, W, C].
        generated: uint8 [N, H, W, C].
        weight: Of the generated image, float32 [H, W]; where it is 0, pixels are preserved exactly.
    """
    weight = weight[..., None]
    return np.round(generated * weight + image * (1.0 - weight)).astype(np.uint8)


def dilate_mask(mask: np.ndarray, tokens: int) -> np.ndarray:
    """Returns a token mask [h, w] dilated by a square of 2 * tokens + 1."""
    padded = np.pad(mask, tokens)
    square = (2 * tokens + 1, 2 * tokens + 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, square)
    return np.asarray(windows.any(axis=(2, 3)))


def working_size(size: Size, scale: float, patch: int, min_side: int) -> Size:
    """Returns the size at which an image is edited: scaled, in whole patches.

    Args:
        size: Size of the image.
        scale: Pixels of the generator per pixel of the image.
        patch: Side of a token's patch, in pixels of the generator.
        min_side: Smallest side, the generator's image size.
    """
    height, width = (max(min_side, round(side * scale / patch) * patch) for side in size)
    return height, width


def resize_images(images: np.ndarray, size: Size) -> np.ndarray:
    """Returns images uint8 [N, H, W, C] resized to uint8 [N, *size, C]."""
    if images.shape[1:3] == tuple(size):
        return images
    height, width = size
    return np.stack([as_array(to_pil(image).resize((width, height), BICUBIC)) for image in images])


def resize_mask(mask: np.ndarray, size: Size) -> np.ndarray:
    """Returns a mask [H, W] resized to bool [*size]: masked where any pixel it covers is masked."""
    if mask.shape == tuple(size):
        return mask
    resample = Image.Resampling.BOX if size[0] < mask.shape[0] else NEAREST
    covered = Image.fromarray(mask.astype(np.float32)).resize((size[1], size[0]), resample)
    return np.asarray(covered) > 0
