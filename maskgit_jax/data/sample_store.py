"""Generated images on disk: generation can be interrupted, and metrics need little memory."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from maskgit_jax.data.image_sets import ArrayFile
from maskgit_jax.data.protocol import Source
from maskgit_jax.files import atomic_path

MIN_SHARD = 1000
"""Smallest number of images in a file."""


class SampleStore(Source):
    """Images uint8 of one size in files of `shard` images; a source once it is complete.

    Args:
        folder: Directory of the files; those of an interrupted run are used again.
        labels: The label of each image, int32 [N].
        shape: (H, W, C).
        batch_size: Size of the batches that are written; a file has whole batches, so that
            an interrupted run continues with the same images.
    """

    labels: np.ndarray
    shape: tuple[int, int, int]

    def __init__(
        self, folder: Path, labels: np.ndarray, shape: tuple[int, int, int], batch_size: int
    ):
        self.name, self.folder, self.labels, self.shape = str(folder), folder, labels, shape
        self.shard = -(-MIN_SHARD // batch_size) * batch_size
        self._files: dict[int, ArrayFile] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def _path(self, number: int) -> Path:
        # The name has the size: files of another batch size are not mistaken for these.
        return self.folder / f"{self.shard}-{number:05d}.npy"

    def num_stored(self) -> int:
        """Returns the number of images that are stored already, counted from the first."""
        number = 0
        while number * self.shard < len(self) and self._path(number).exists():
            number += 1
        return min(number * self.shard, len(self))

    def fill(self, batches: Iterable[np.ndarray]) -> None:
        """Writes the missing images; `batches` begins with the first of them."""
        stored, waiting = self.num_stored(), []
        for batch in batches:
            waiting.append(batch)
            count = sum(map(len, waiting))
            while count and (count >= self.shard or stored + count == len(self)):
                images = np.concatenate(waiting)
                self._write(stored // self.shard, images[: self.shard])
                waiting, stored = [images[self.shard :]], stored + min(count, self.shard)
                count = len(waiting[0])

    def _write(self, number: int, images: np.ndarray) -> None:
        with atomic_path(self._path(number)) as unfinished, unfinished.open("wb") as file:
            np.save(file, images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, row = divmod(index, self.shard)
        if number not in self._files:
            self._files[number] = ArrayFile(self._path(number))
        return {"image": self._files[number][row], "label": int(self.labels[index])}
