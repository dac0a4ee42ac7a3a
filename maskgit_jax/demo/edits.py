"""The tasks that edit an image."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from maskgit_jax.configuration import require
from maskgit_jax.demo.loaded import LoadedRun
from maskgit_jax.demo.progress import Progress
from maskgit_jax.demo.request import Request, Work, open_stored
from maskgit_jax.demo.store import StoredImage
from maskgit_jax.demo.uploads import MAX_MEGAPIXELS
from maskgit_jax.pipelines.canvas import check_box, check_mask, working_size
from maskgit_jax.pipelines.inputs import to_mask

MAX_AREA = 64
"""Area of all candidates together at the resolution of the run, in images of its size."""
MAX_CANDIDATE_MEGAPIXELS = 50  # of all candidates together
MAX_DILATION = 8


def token_grid(
    description: dict[str, Any], height: int, width: int, scale: float | None = None
) -> tuple[int, int]:
    """Returns the rows and columns of the tokens of an image when it is edited.

    Args:
        description: Of the run.
        height: Of the image.
        width: Of the image.
        scale: Pixels of the run per pixel of the image; by default its shorter side gets the
            run's size.
    """
    size, patch = description["image_size"], description["patch"]
    chosen: float = size / min(height, width) if scale is None else scale
    unit = patch * description["size_multiple"]
    working = working_size((height, width), chosen, unit, size)
    return working[0] // patch, working[1] // patch


def check_area(request: Request, height: int, width: int, scale: float) -> tuple[int, int]:
    """Returns the rows and columns of the tokens of an image of this size when it is edited.

    Raises:
        InputError: So many candidates of it are too many.
    """
    rows, columns = token_grid(request.description, height, width, scale)
    window = request.description["grids"][0]
    area = rows * columns / (window[0] * window[1]) * request.num
    megapixels = height * width * request.num / 1e6
    require(
        height * width <= MAX_MEGAPIXELS * 1e6,
        f"the result would have {width}x{height} pixels, more than {MAX_MEGAPIXELS} megapixels",
    )
    require(
        area <= MAX_AREA and megapixels <= MAX_CANDIDATE_MEGAPIXELS,
        f"{request.num} candidate{'s' * (request.num > 1)} of {width}x{height} pixels are too "
        "many for this run; ask for fewer, or for a smaller or less elongated image",
    )
    return rows, columns


def _work(
    request: Request, stored: StoredImage, grid: tuple[int, int], method: str, **options: Any
) -> Work:
    """Returns the function that calls a method of the editor; `grid` is that of the result."""

    def work(loaded: LoadedRun, progress: Progress) -> dict[str, Any]:
        loaded.prepare(request.num, request.settings, progress.say, grid)
        assert loaded.editor is not None
        image = open_stored(stored, request.description["channels"])
        result = loaded.edit(
            method, image, num=request.num, label=request.label, seed=request.seed,
            settings=request.settings,
            on_step=progress.steps(loaded.editor.step_decoder.images, request.trace), **options,
        )  # fmt: skip
        mask = result.mask[..., None].astype(np.uint8) * 255
        return {
            "images": progress.store(result.images),
            "mask_id": progress.store(mask[None])[0]["id"],
            "seed": request.seed,
        }

    return work


def _image(request: Request) -> tuple[StoredImage, tuple[int, int]]:
    """Returns the image to edit, and the rows and columns of its tokens."""
    request.require_label()
    stored = request.image("image")
    scale = request.description["image_size"] / min(stored.height, stored.width)
    return stored, check_area(request, stored.height, stored.width, scale)


def _inpaint(request: Request) -> Work:
    (stored, grid), mask = _image(request), request.image("mask")
    dilate = request.fields.integer("dilate", 0, MAX_DILATION, 0)
    pixels = to_mask(Image.open(io.BytesIO(mask.png)), (stored.height, stored.width))
    check_mask(pixels)
    return _work(request, stored, grid, "inpaint", mask=pixels, dilate=dilate)


def _outpaint(request: Request) -> Work:
    stored, _ = _image(request)
    limit = MAX_MEGAPIXELS * 1_000_000
    sides = {
        side: request.fields.integer(side, 0, limit, 0)
        for side in ("left", "right", "top", "bottom")
    }
    require(any(sides.values()), "no pixels are added; set left, right, top or bottom")
    height = stored.height + sides["top"] + sides["bottom"]
    width = stored.width + sides["left"] + sides["right"]
    scale = request.description["image_size"] / min(stored.height, stored.width)
    grid = check_area(request, height, width, scale)
    return _work(request, stored, grid, "outpaint", **sides)


def _replace(request: Request) -> Work:
    stored, grid = _image(request)
    top, left, height, width = request.fields.integers("box", 4, 0, MAX_MEGAPIXELS * 1_000_000)
    box = (top, left, height, width)
    check_box(box, (stored.height, stored.width))
    require(request.label is not None, "label is missing; give the class that the box is to be")
    return _work(request, stored, grid, "replace", box=box)


def _variations(request: Request) -> Work:
    stored, grid = _image(request)
    keep = request.fields.number("keep", 0.5)
    require(0 < keep < 1, f"keep is {keep:g}; it is a share of the tokens, above 0 and below 1")
    return _work(request, stored, grid, "variations", keep=keep)


EDITS: dict[str, Callable[[Request], Work]] = {
    "inpaint": _inpaint,
    "outpaint": _outpaint,
    "replace": _replace,
    "variations": _variations,
}
