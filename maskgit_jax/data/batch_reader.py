"""Batches of the records of a source, read by threads: for training and for evaluation."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from maskgit_jax.configuration import condition_channels
from maskgit_jax.data.augmentation import Augmenter
from maskgit_jax.data.conditions import prepare_record
from maskgit_jax.data.cropping import Crop, choose_center
from maskgit_jax.data.protocol import Source

CHUNK = 8
"""Rows that a thread reads at a time: few, so that all threads work until a batch is complete."""


class BatchReader:
    """Reads batches: image (and condition) uint8 [B, H, W, C] or tokens int32 [B, L], label int32.

    Args:
        source: Records.
        data: `config.data`; `num_threads` threads read the rows of one batch.
        augmenter: Crops and augments images; None crops their center.
    """

    def __init__(self, source: Source, data: ConfigDict, augmenter: Augmenter | None = None):
        self.source, self.data = source, data.copy_and_resolve_references()
        self.augmenter = augmenter
        self.whole_batches = _is_ready(source, self.data, augmenter is not None)
        self._pool = None
        if not self.whole_batches and data.num_threads > 0:
            self._pool = ThreadPoolExecutor(data.num_threads, thread_name_prefix="rows")

    def __call__(self, indices: np.ndarray, first: int = 0) -> dict[str, np.ndarray]:
        """Returns a batch.

        Args:
            indices: Which records, int64 [B].
            first: Position of the first row in the training stream; it decides the augmentation.
        """
        if self.whole_batches:
            return self.source.read_batch(indices)
        batch = self._empty_batch(len(indices))

        def read(start: int) -> None:
            for row in range(start, min(start + CHUNK, len(indices))):
                record = self._read_record(int(indices[row]), first + row)
                for name, array in batch.items():
                    array[row] = record[name]

        starts = range(0, len(indices), CHUNK)
        for _ in map(read, starts) if self._pool is None else self._pool.map(read, starts):
            pass  # Raises the errors of threads.
        return batch

    def _empty_batch(self, count: int) -> dict[str, np.ndarray]:
        shape = (count, self.data.image_size, self.data.image_size)
        batch = {
            "image": np.empty((*shape, self.data.channels), np.uint8),
            "label": np.empty(count, np.int32),
        }
        if self.data.condition:
            batch["condition"] = np.empty((*shape, condition_channels(self.data)), np.uint8)
        return batch

    def _read_record(self, index: int, position: int) -> dict[str, Any]:
        augmenter, size = self.augmenter, self.data.image_size
        if augmenter is None:
            record = self.source.read_cropped(index, choose_center, size)
            return prepare_record(record, self.data)

        def choose_crop(width: int, height: int) -> Crop:
            return augmenter.choose_crop(width, height, position)

        record = self.source.read_cropped(index, choose_crop, size)
        return prepare_record(augmenter.augment(record, position), self.data)


def _is_ready(source: Source, data: ConfigDict, train: bool) -> bool:
    """Returns whether records are used as they are, uncropped, unaugmented, without conditions."""
    if source.shape is None:
        return False
    if len(source.shape) == 1:  # tokens
        return True
    augmented = train and (data.crop != "center" or data.augmentations)
    cropped = source.shape[:2] != (data.image_size, data.image_size)
    return not (augmented or cropped or data.condition or data.input != "image")


class ReadBatch(NamedTuple):
    """Consecutive images of a set.

    Attributes:
        start: Position of the first row among all that are read.
        image: uint8 [B, H, W, C]; the rows after the first `count` are repetitions.
        label: int32 [B].
        count: Number of rows that are not repetitions, B except in the last batch.
    """

    start: int
    image: np.ndarray
    label: np.ndarray
    count: int


def read_batches(
    source: Source, batch_size: int, indices: np.ndarray | None = None, start: int = 0
) -> Iterator[ReadBatch]:
    """Yields full batches of a source in order, or in the order of `indices`, from `start` on.

    Each thread reads a whole batch, which costs a tenth of a pipeline of single records.
    """
    order = np.arange(len(source)) if indices is None else indices
    num_threads = min(16, os.cpu_count() or 1)

    def read(first: int) -> ReadBatch:
        rows = order[first : first + batch_size]
        batch = source.read_batch(np.resize(rows, batch_size))
        return ReadBatch(first, batch["image"], batch["label"], len(rows))

    waiting: deque[Future[ReadBatch]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for first in range(start, len(order), batch_size):
                waiting.append(pool.submit(read, first))
                if len(waiting) > num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # The caller may stop early.
            for future in waiting:
                future.cancel()
