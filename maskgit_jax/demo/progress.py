"""What a job tells while it runs: messages, decoding steps with previews, and stored images."""

import base64
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from maskgit_jax.demo.jobs import Job
from maskgit_jax.demo.store import ImageStore, png_bytes
from maskgit_jax.pipelines.step_decoder import DecodeStep

MAX_PREVIEW_BYTES = 64 * 2**20  # of the events of a job


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
        self._job.check()
        self._job.emit("status", message=message)

    def steps(self, decode: Callable[[np.ndarray], np.ndarray], trace: bool) -> "StepReporter":
        """Returns the function that reports decoding steps, see `StepReporter`."""
        return StepReporter(self._job, decode, trace)

    def store(self, images: np.ndarray) -> list[dict[str, Any]]:
        """Stores images uint8 [N, H, W, C]; returns the id and the size of each."""
        height, width = images.shape[1:3]
        return [
            {"id": self._images.add(image), "width": width, "height": height} for image in images
        ]


class StepReporter:
    """Emits an event for each decoding step, unless the user has cancelled the job.

    Previews take at most as much time as decoding; those that would take more are left out.

    Args:
        job: The job.
        decode: Returns the images uint8 [N, H, W, C] of token maps int32 [N, h, w].
        trace: Whether events have tokens and confidence, and always a preview.
    """

    def __init__(self, job: Job, decode: Callable[[np.ndarray], np.ndarray], trace: bool):
        self._job, self._decode, self._trace = job, decode, trace
        self._decoding = self._previews = 0.0  # seconds
        self._since = time.monotonic()

    def __call__(self, step: DecodeStep) -> None:
        """Emits the event of a step.

        Raises:
            CancelledError: The user has cancelled the job.
        """
        start = time.monotonic()
        self._decoding += start - self._since
        self._job.check()
        num = len(step.tokens)
        event: dict[str, Any] = {
            "step": step.step,
            "steps": step.steps,
            "window": step.window,
            "windows": step.windows,
            "num": num,
            **self._preview(step.tokens),
            "masked": step.mask.reshape(num, -1).astype(int).tolist(),
        }
        if self._trace:
            percent = np.round(100 * step.confidence).astype(int)
            event["tokens"] = step.tokens.reshape(num, -1).tolist()
            event["confidence"] = percent.reshape(num, -1).tolist()
        self._job.emit("step", **event)
        self._job.check()
        self._since = time.monotonic()
        self._previews += self._since - start

    def _preview(self, tokens: np.ndarray) -> dict[str, Any]:
        """Returns the images below one another as a data URL, None if there is no time."""
        in_time = self._trace or self._previews <= self._decoding
        if not in_time or self._job.num_bytes > MAX_PREVIEW_BYTES:
            return {"preview": None, "width": None, "height": None}
        images = self._decode(tokens)
        height, width = images.shape[1:3]
        column = images.reshape(-1, width, images.shape[-1])
        url = f"data:image/png;base64,{base64.b64encode(png_bytes(column)).decode()}"
        return {"preview": url, "width": width, "height": height}
