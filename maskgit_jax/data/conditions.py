"""Conditions of images: edges, low resolution, grey levels, or a paired image from a file.

A record may carry a condition beside its image, to generate images from it
(`config.data.condition`), or show it in place of the image, so that a tokenizer of conditions
is trained like one of images (`config.data.input`).
"""

from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from maskgit_jax.images import NEAREST, as_array, to_pil

LOW_RESOLUTION_FACTOR = 4
GREY_LEVELS = 4
WEAK_STEP, STRONG_STEP = 25, 50
"""Luminance steps, of 255: edges continue along weak steps if they touch a strong one."""

_BINOMIAL = (1, 2, 1)
# The gradient on both sides of a straight step of height 1, after smoothing (weights of sum 16)
# and the Sobel operator (8 per level and pixel), neither of them normalized: 16 * 8 * 3 / 8.
_GRADIENT_OF_STEP = 48


def derive_condition(image: np.ndarray, kind: str) -> np.ndarray:
    """Returns a condition that is computed from an image, uint8 [H, W, C'].

    Args:
        image: uint8 [H, W, C], C = 1 or 3.
        kind: "edges": white edges on black, C' = 1, see `detect_edges`. "low_resolution": means
            of 4 x 4 pixels, each repeated 4 x 4 times, C' = C. "grey_levels": the luminance
            rounded to 0, 85, 170 or 255, C' = 1.

    Raises:
        ValueError: The kind is unknown, or "paired", which is read from files.
    """
    if kind == "edges":
        return detect_edges(image)
    if kind == "low_resolution":
        return _low_resolution(image)
    if kind == "grey_levels":
        step = 255 // (GREY_LEVELS - 1)
        return (np.round(_luminance(image) / step) * step).astype(np.uint8)[..., None]
    raise ValueError(f"'{kind}' is not derived; allowed: edges, low_resolution, grey_levels")


def detect_edges(image: np.ndarray) -> np.ndarray:
    """Returns thin edges of the luminance, 255 on 0, uint8 [H, W, 1].

    An edge pixel has the largest gradient along the gradient's direction; a straight step is one
    pixel wide, on its left or upper side. Pixels count from the gradient of a straight step of
    `WEAK_STEP` grey levels on, if they are connected to one of at least `STRONG_STEP`.

    Source: Canny 1986. Differs: smoothing by the weights 1 2 1 (about a Gaussian of deviation 0.7
    pixels), because images may be 16 pixels wide; integer arithmetic, so that the equal sides of
    a step are equal on every machine.

    Args:
        image: uint8 [H, W, C], C = 1 or 3.
    """
    from scipy import ndimage  # Not needed to generate images from labels.

    smooth = _luminance(image)
    for axis in (0, 1):
        smooth = ndimage.correlate1d(smooth, _BINOMIAL, axis, mode="nearest")
    down, right = (ndimage.sobel(smooth, axis, mode="nearest") for axis in (0, 1))
    magnitude = down**2 + right**2
    weak, strong = ((_GRADIENT_OF_STEP * step) ** 2 for step in (WEAK_STEP, STRONG_STEP))
    candidates = _local_maxima(magnitude, down, right) & (magnitude >= weak)
    components: np.ndarray
    components, num_components = ndimage.label(candidates, np.ones((3, 3)))  # pyright: ignore
    is_edge = np.zeros(num_components + 1, bool)
    is_edge[components[candidates & (magnitude >= strong)]] = True
    return np.where(is_edge[components], np.uint8(255), np.uint8(0))[..., None]  # [H, W, 1]


def _local_maxima(magnitude: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns the maxima along the gradient's direction, bool [H, W]; of equal ones, the first."""
    height, width = magnitude.shape
    padded = np.pad(magnitude, 1)

    def is_maximum(rows: int, columns: int) -> np.ndarray:
        before = padded[1 - rows : 1 - rows + height, 1 - columns : 1 - columns + width]
        after = padded[1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width]
        return (magnitude > before) & (magnitude >= after)

    steep, flat = np.tan(3 * np.pi / 8) * np.abs(right), np.tan(np.pi / 8) * np.abs(right)
    return np.select(
        [np.abs(down) <= flat, np.abs(down) >= steep, down * right > 0],
        [is_maximum(0, 1), is_maximum(1, 0), is_maximum(1, 1)],
        is_maximum(1, -1),
    )


def _luminance(image: np.ndarray) -> np.ndarray:
    """Returns the luminance, whole numbers from 0 to 255, float64 [H, W]."""
    return np.asarray(to_pil(image).convert("L"), np.float64)


def _low_resolution(image: np.ndarray) -> np.ndarray:
    full = to_pil(image)
    width, height = (max(1, round(side / LOW_RESOLUTION_FACTOR)) for side in full.size)
    small = full.resize((width, height), Image.Resampling.BOX)
    return as_array(small.resize(full.size, NEAREST))


def select_input(record: dict[str, Any], kind: str) -> dict[str, Any]:
    """Returns a cropped record whose image is the input of a tokenizer, without a condition.

    Args:
        record: "image" and, from pairs, "condition".
        kind: "image", "paired" (the condition), or a kind of `derive_condition`.
    """
    others = {name: value for name, value in record.items() if name != "condition"}
    if kind == "image":
        return others
    image = record["condition"] if kind == "paired" else derive_condition(record["image"], kind)
    return {**others, "image": image}


def prepare_record(record: dict[str, Any], data: ConfigDict) -> dict[str, Any]:
    """Returns a cropped and augmented record as the configuration demands it.

    Args:
        record: "image" uint8 [H, W, C] and, from pairs, "condition" uint8 [H, W, C'].
        data: `config.data`.

    Returns:
        With `data.condition`: "image" and its "condition" uint8 [H, W, condition channels].
        Without: "image" as `data.input` selects it, and no "condition".
    """
    if not data.condition:
        return select_input(record, data.input)
    if data.condition == "paired":
        return record
    return {**record, "condition": derive_condition(record["image"], data.condition)}
