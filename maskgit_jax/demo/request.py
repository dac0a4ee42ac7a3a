"""A request for a job after the check of what all tasks have in common."""

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from maskgit_jax.configuration import require
from maskgit_jax.demo.fields import Fields
from maskgit_jax.demo.loaded import LoadedRun
from maskgit_jax.demo.progress import Progress
from maskgit_jax.demo.store import ImageStore, StoredImage
from maskgit_jax.pipelines.inputs import to_image

MAX_COLUMNS = 16
Work = Callable[[LoadedRun, Progress], dict[str, Any]]
"""Does a job with a loaded run; returns the members of the event "done"."""


class Request(NamedTuple):
    """A request for a job.

    Attributes:
        description: Of the run, see `LoadedRun`.
        fields: The members of the task, which takes them out.
        images: The store of images.
        seed: The random seed.
        num: Number of images.
        label: The class, None for none.
        settings: The sampling settings; None of a run without generator.
        trace: Whether step events have tokens and confidence.
    """

    description: dict[str, Any]
    fields: Fields
    images: ImageStore
    seed: int
    num: int
    label: int | None
    settings: Any
    trace: bool

    def image(self, name: str) -> StoredImage:
        """Returns the stored image whose id a member holds.

        Raises:
            InputError: There is none.
        """
        return self.images.get(self.fields.text(name))

    def require_label(self) -> None:
        """Raises `InputError` if the label is missing and the run needs one."""
        require(
            self.label is not None
            or self.description["null_label"]
            or not self.description["classes"],
            "this run was trained with classes only; give a label",
        )


def open_stored(stored: StoredImage, channels: int) -> np.ndarray:
    """Returns a stored image as uint8 [H, W, channels]."""
    return to_image(Image.open(io.BytesIO(stored.png)), channels)
