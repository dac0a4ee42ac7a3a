"""What a job tells while it runs: messages, decoding steps with previews, and stored images."""

from typing import Any

import numpy as np

from maskgit_jax.demo.jobs import Job
from maskgit_jax.demo.store import ImageStore


class Progress:
    """The progress of a job.

    Args:
        job: The job.
        images: The store of its images.
    """

    def __init__(self, job: Job, images: ImageStore):
        self._job, self._images = job, images

    def say(self, message: str) -> None:
        """Emits a message, unless the user has cancelled the job."""
        self.check()
        self._job.emit("status", message=message)

    def check(self) -> None:
        """Raises `CancelledError` if the user has cancelled the job."""
        self._job.check()

    def store(self, images: np.ndarray) -> list[dict[str, Any]]:
        """Stores images uint8 [N, H, W, C]; returns the id and the size of each."""
        height, width = images.shape[1:3]
        return [
            {"id": self._images.add(image), "width": width, "height": height} for image in images
        ]
