"""Grids and arrays of samples and edits, as the commands write them."""

from pathlib import Path

import numpy as np

from maskgit_jax.data.conditioning_images import ConditioningImages
from maskgit_jax.files import write_arrays
from maskgit_jax.images import save_image, to_pil, write_image_grid, write_png
from maskgit_jax.pipelines.editor import EditResult


def write_samples(
    path: Path, images: np.ndarray, labels: list[int] | None, inputs: ConditioningImages | None
) -> None:
    """Writes samples: an .npz file, or a .png grid (a column per class, or beside their inputs).

    Args:
        path: The file.
        images: uint8 [N, H, W, C].
        labels: Their classes, if there are any.
        inputs: The images that they were generated from, if any.
    """
    if path.suffix == ".npz":
        arrays = {"images": images}
        arrays |= {} if labels is None else {"labels": np.asarray(labels, np.int32)}
        write_arrays(path, arrays | (input_arrays(inputs, len(images)) if inputs else {}))
    elif inputs:
        write_image_grid(path, inputs_beside(images, inputs))
    else:
        classes = len(set(labels or ()))
        write_png(path, images, classes if 4 <= classes <= 20 else round(len(images) ** 0.5))


def input_arrays(inputs: ConditioningImages, num: int) -> dict[str, np.ndarray]:
    """Returns the inputs of `num` samples as arrays [N, ...]; images are shown without the mask."""
    arrays = inputs.read_batch(np.arange(num))
    if "image" in arrays:
        originals = [inputs.read_input(i // inputs.num_per_input)["image"] for i in range(num)]
        arrays["image"] = np.stack(originals)
    return arrays


def inputs_beside(images: np.ndarray, inputs: ConditioningImages) -> np.ndarray:
    """Returns images uint8 [rows, columns, H, W, C]: an input, then the samples from it."""
    rows, step = [], inputs.num_per_input
    for first in range(0, len(images), step):
        originals = list(inputs.read_input(first // step).values())[::-1]
        samples = [images[min(first + i, len(images) - 1)] for i in range(step)]
        rows.append([*originals, *samples])
    channels = max(image.shape[-1] for image in rows[0])
    return np.stack(
        [[np.broadcast_to(image, (*image.shape[:2], channels)) for image in row] for row in rows]
    )


def write_candidates(
    path: Path, image: np.ndarray, result: EditResult, columns: int | None
) -> None:
    """Writes an image and the candidates of an edit as a PNG, or a single candidate alone.

    Args:
        path: The file.
        image: uint8 [H, W, C].
        result: The edit.
        columns: Candidates per row, without the image; None for one row with it.
    """
    images = result.images
    if columns:
        write_image_grid(path, images.reshape(-1, columns, *images.shape[1:]))
    elif len(images) == 1:
        save_image(path, to_pil(images[0]))
    else:
        original = np.full_like(images[:1], 127)  # the border of an outpainted image is grey
        rows, columns_ = np.nonzero(~result.mask)
        if image.shape == images.shape[1:]:
            original[0] = image
        else:
            inside = slice(rows.min(), rows.max() + 1), slice(columns_.min(), columns_.max() + 1)
            original[0][inside] = image
        write_image_grid(path, np.concatenate([original, images])[None])
