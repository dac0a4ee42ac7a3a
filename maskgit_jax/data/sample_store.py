"""Generated images on disk, so that making them can be interrupted and figures need no memory."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from maskgit_jax.data.image_sets import RowsOnDisk


class SampleStore:
    """Images uint8 of one size in files of `shard` images; a source once it is complete.

    Args:
        folder: Where the files lie; what a broken-off run left there is used.
        labels: The class that each image shows, int32 [N].
        shape: (H, W, C).
        batch_size: Of the batches in which images come; a file holds whole batches, so that
            going on after a break draws the same images.
    """

    def __init__(
        self, folder: Path, labels: np.ndarray, shape: tuple[int, int, int], batch_size: int
    ):
        self.name, self.folder, self.labels, self.shape = str(folder), folder, labels, shape
        self.shard, self._rows = -(-1000 // batch_size) * batch_size, {}

    def __len__(self) -> int:
        return len(self.labels)

    def _path(self, number: int) -> Path:
        # The name holds the size: files of another batch size are not taken for these.
        return self.folder / f"{self.shard}-{number:05d}.npy"

    def num_stored(self) -> int:
        """Returns how many images lie there already, counted from the first."""
        number = 0
        while number * self.shard < len(self) and self._path(number).exists():
            number += 1
        return min(number * self.shard, len(self))

    def fill(self, batches: Iterable[np.ndarray]) -> None:
        """Writes the images that are still missing; `batches` begins with the first of them."""
        self.folder.mkdir(parents=True, exist_ok=True)
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
        unfinished = self.folder / "unfinished.npy"
        np.save(unfinished, images)
        unfinished.rename(self._path(number))

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = index // self.shard
        if number not in self._rows:
            self._rows[number] = RowsOnDisk(self._path(number))
        return {
            "image": self._rows[number][index % self.shard],
            "label": int(self.labels[index]),
        }
