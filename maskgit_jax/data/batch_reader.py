"""Many records of a source as one batch: at once where it can, row by row in threads elsewhere."""

import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from maskgit_jax.data.conditions import cut_from, finished
from maskgit_jax.data.reading import map_ahead
from maskgit_jax.data.transforms import choose_square, mirrored

CHUNK = 8
"""Rows that a thread reads at a time: few, so that all threads work on one batch to its end."""


class RowReader:
    """Reads records into batches: image (and condition) uint8 or tokens int32, label int32.

    Args:
        source: Records; with `rows` (many at once) or `cut` (parts of pictures), if it can.
        data: `config.data`; its `num_threads` read the rows of one batch together.
        crop: What is cut out of images, see `choose_square`.
        flip: Whether one half of the images is mirrored.
    """

    def __init__(self, source: Any, data: ConfigDict, crop: str, flip: bool):
        self.source, self.crop, self.flip = source, crop, flip
        self.data = data.copy_and_resolve_references()
        self.at_once = _at_once(source, self.data, crop)
        self._pool = None
        if not self.at_once and data.num_threads > 0:
            self._pool = ThreadPoolExecutor(data.num_threads, thread_name_prefix="rows")

    def __call__(self, indices: np.ndarray, chances: np.ndarray) -> dict[str, np.ndarray]:
        """Returns a batch.

        Args:
            indices: Of the records, int64 [B].
            chances: What decides about each row's augmentation, [B, CHANCES] in [0, 1).
        """
        if self.at_once:
            return self._rows(indices, chances)
        batch: dict[str, np.ndarray] = {}
        lock = threading.Lock()

        def read(start: int) -> None:
            for row in range(start, min(start + CHUNK, len(indices))):
                record = self._row(int(indices[row]), chances[row])
                with lock:
                    if not batch:
                        batch.update(_empty(record, len(indices)))
                for name, array in batch.items():
                    array[row] = record[name]

        starts = range(0, len(indices), CHUNK)
        if self._pool is None:
            for start in starts:
                read(start)
        else:
            for _ in map_ahead(self._pool, read, starts, 2 * self.data.num_threads):
                pass
        return batch

    def _rows(self, indices: np.ndarray, chances: np.ndarray) -> dict[str, np.ndarray]:
        batch = self.source.rows(indices)
        if self.flip and "image" in batch:
            turned = mirrored(chances)
            batch["image"][turned] = batch["image"][turned, :, ::-1]
        return batch

    def _row(self, index: int, chances: np.ndarray) -> dict[str, Any]:
        choose = functools.partial(choose_square, crop=self.crop, flip=self.flip, chances=chances)
        record = cut_from(self.source, index, choose, self.data.image_size)
        record = finished(record, self.data)
        return {**record, "label": np.int32(record["label"])}


def _at_once(source: Any, data: ConfigDict, crop: str) -> bool:
    """Whether a batch is rows of arrays as they are, but for mirroring."""
    if not hasattr(source, "rows"):
        return False
    if not hasattr(source, "images"):  # tokens
        return True
    size = data.image_size
    ready = crop == "center" and source.images.shape[1:3] == (size, size)
    return ready and data.input == "image" and not data.condition


def _empty(record: dict[str, Any], count: int) -> dict[str, np.ndarray]:
    """Returns arrays for `count` records of this kind."""
    values = {name: np.asarray(value) for name, value in record.items()}
    return {name: np.empty((count, *v.shape), v.dtype) for name, v in values.items()}
