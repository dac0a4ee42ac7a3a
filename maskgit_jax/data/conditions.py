"""Pictures that go with images: edges, low resolution, grey levels, or a partner from a file.

A record may carry such a picture beside its image, to generate images from it
(`config.data.condition`), or show it in place of the image, so that a tokenizer of conditions
is trained like one of images (`config.data.input`).
"""

from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from scipy import ndimage

from maskgit_jax.data.transforms import Choose, cut_array
from maskgit_jax.images import BICUBIC, NEAREST, as_array, to_pil

LOW_RESOLUTION_FACTOR = 4
GREY_LEVELS = 4
WEAK_STEP, STRONG_STEP = 25, 50
"""Steps in luminance, of 255: edges go on where a step is weak, if it is strong somewhere."""
_RESAMPLING = {"image": BICUBIC, "condition": NEAREST}
"""Conditions may be maps of labels, which must not be blended."""

_BINOMIAL = (1, 2, 1)
# What a straight step of height 1 gives at its two sides after smoothing (weights of sum 16) and
# the Sobel operator (8 per level and pixel), neither of them divided by its sum: 16 * 8 * 3 / 8.
_GRADIENT_OF_STEP = 48


def derived(image: np.ndarray, kind: str) -> np.ndarray:
    """Returns a condition that is computed from an image.

    Args:
        image: uint8 [H, W, C], C = 1 or 3.
        kind: "edges": white edges on black, C' = 1, see `edges`. "low_resolution": averages of
            4 x 4 pixels, each repeated over its place, C' = C. "grey_levels": the luminance
            rounded to 0, 85, 170 or 255, C' = 1.

    Returns:
        uint8 [H, W, C'].

    Raises:
        ValueError: There is no such kind; "paired" is read, not derived.
    """
    if kind == "edges":
        return edges(image)
    if kind == "low_resolution":
        return _low_resolution(image)
    if kind == "grey_levels":
        step = 255 // (GREY_LEVELS - 1)
        return (np.round(_luminance(image) / step) * step).astype(np.uint8)[..., None]
    raise ValueError(f"'{kind}' is not derived; there are: edges, low_resolution, grey_levels")


def edges(image: np.ndarray) -> np.ndarray:
    """Returns thin edges, 255 on 0, of the luminance.

    An edge is where the gradient is largest along its own direction, so a straight step is one
    pixel wide: the one on its left or upper side. It counts where the gradient is at least that
    of a straight step of `WEAK_STEP` grey levels, if it touches, over other such pixels, one of
    `STRONG_STEP`.

    Source: Canny 1986. Smoothing is by the weights 1 2 1, close to a Gaussian of deviation 0.7
    pixels: images may be only 16 pixels wide. All is in whole numbers, so that equal sides of a
    step are equal on every machine.

    Args:
        image: uint8 [H, W, C], C = 1 or 3.

    Returns:
        uint8 [H, W, 1].
    """
    smooth = _luminance(image)
    for axis in (0, 1):
        smooth = ndimage.correlate1d(smooth, _BINOMIAL, axis, mode="nearest")
    down, right = (ndimage.sobel(smooth, axis, mode="nearest") for axis in (0, 1))
    square = down**2 + right**2
    weak, strong = ((_GRADIENT_OF_STEP * step) ** 2 for step in (WEAK_STEP, STRONG_STEP))
    candidates = _largest_along_gradient(square, down, right) & (square >= weak)
    pieces, num_pieces = ndimage.label(candidates, np.ones((3, 3)))
    kept = np.zeros(num_pieces + 1, bool)
    kept[pieces[candidates & (square >= strong)]] = True
    return np.where(kept[pieces], np.uint8(255), np.uint8(0))[..., None]  # [H, W, 1]


def _largest_along_gradient(square: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns where the gradient exceeds that of its two neighbours; of equal ones, the first."""
    height, width = square.shape
    padded = np.pad(square, 1)

    def neighbour(rows: int, columns: int) -> np.ndarray:
        return padded[1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width]

    def peak(rows: int, columns: int) -> np.ndarray:
        return (square > neighbour(-rows, -columns)) & (square >= neighbour(rows, columns))

    steep, flat = np.tan(3 * np.pi / 8) * np.abs(right), np.tan(np.pi / 8) * np.abs(right)
    return np.select(
        [np.abs(down) <= flat, np.abs(down) >= steep, down * right > 0],
        [peak(0, 1), peak(1, 0), peak(1, 1)],
        peak(1, -1),
    )


def _luminance(image: np.ndarray) -> np.ndarray:
    """Returns float64 [H, W], whole numbers from 0 to 255."""
    return np.asarray(to_pil(image).convert("L"), np.float64)


def _low_resolution(image: np.ndarray) -> np.ndarray:
    picture = to_pil(image)
    width, height = (max(1, round(side / LOW_RESOLUTION_FACTOR)) for side in picture.size)
    small = picture.resize((width, height), Image.Resampling.BOX)
    return as_array(small.resize(picture.size, NEAREST))


def cut_record(record: dict[str, Any], choose: Choose, size: int) -> dict[str, Any]:
    """Returns the record with the same square cut out of its image and, if any, condition.

    Args:
        record: With "image" uint8 [H, W, C]; one without (of tokens) stays as it is.
        choose: What to cut out.
        size: Side in pixels of what is cut out.
    """
    if "image" not in record:
        return record
    height, width = record["image"].shape[:2]
    square = choose(width, height)
    cut = {
        name: cut_array(record[name], square, size, resample)
        for name, resample in _RESAMPLING.items()
        if name in record
    }
    return {**record, **cut}


def cut_from(source: Any, index: int, choose: Choose, size: int) -> dict[str, Any]:
    """Returns `cut_record` of one record; a source that can (`cut`) decodes no more than that."""
    if hasattr(source, "cut"):
        return source.cut(index, choose, size)
    return cut_record(source[index], choose, size)


def viewed(record: dict[str, Any], view: str) -> dict[str, Any]:
    """Returns the record without a condition, its image as the view shows it.

    Args:
        record: With "image", a finished square, and, from pairs, "condition".
        view: "image": as it is; "paired": its condition; or what `derived` takes.
    """
    others = {name: value for name, value in record.items() if name != "condition"}
    if view == "image":
        return others
    image = record["condition"] if view == "paired" else derived(record["image"], view)
    return {**others, "image": image}


def finished(record: dict[str, Any], data: ConfigDict) -> dict[str, Any]:
    """Returns the record as the configuration wants it, from one whose pictures are squares.

    Args:
        record: With "image" uint8 [H, W, C] and, from pairs, "condition" uint8 [H, W, C'], cut
            and mirrored already. One without an image stays as it is.
        data: `config.data`.

    Returns:
        With `data.condition`: "image" and its "condition" uint8 [H, W, condition channels].
        Without: "image" as `data.input` shows it, and no "condition".
    """
    if "image" not in record:
        return record
    if not data.condition:
        return viewed(record, data.input)
    if data.condition == "paired":
        return record
    return {**record, "condition": derived(record["image"], data.condition)}
