"""Batches of training and evaluation: shuffled, split over processes, read ahead by grain.

The content of a global batch depends on its number only, never on the number of processes or
threads.
"""

import functools
from collections.abc import Callable

import grain
import numpy as np
from ml_collections import ConfigDict

from maskgit_jax.configuration import require
from maskgit_jax.data.augmentation import Augmenter
from maskgit_jax.data.batch_reader import BatchReader
from maskgit_jax.data.protocol import Source

ENDLESS = 2**48
"""Number of batches of the endless iterator."""


def train_batches(
    source: Source,
    data: ConfigDict,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Returns an endless iterator over this process's part of each batch.

    Every epoch is a new permutation of the whole dataset, and the epochs form one endless stream;
    batch t is its rows [t * batch_size, (t + 1) * batch_size), of which each process reads a
    contiguous part. Order and augmentation depend on `seed` and the position in the stream only:
    the iterator's state, the number of batches read (JSON), is valid for any process and any
    number of processes.

    Args:
        source: Training records.
        data: `config.data`.
        batch_size: Global batch size, a multiple of `process_count`.
        seed: Seed of order and augmentation.
        process_index: Index of this process, 0 .. process_count - 1.
        process_count: Number of processes.

    Raises:
        InputError: The batch cannot be split equally, the source is empty, or an augmentation is
            unknown.
    """
    start, count = _process_rows(source, batch_size, process_index, process_count)
    order = Shuffled(len(source), seed)
    reader = BatchReader(source, data, Augmenter(data, seed))

    def read(number: int) -> dict[str, np.ndarray]:
        first = number * batch_size + start
        return reader(order(np.arange(first, first + count)), first)

    return _read_ahead(read, ENDLESS, reader, count)


def eval_batches(
    source: Source,
    data: ConfigDict,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Returns an iterator over one epoch in order, in full batches.

    `valid`, float32 [B], is 0 for the rows that pad the last batch. Images are center-cropped and
    not augmented. All processes read the same number of batches, a contiguous part of each.

    Args:
        source: Held-out records.
        data: `config.data`.
        batch_size: Global batch size, a multiple of `process_count`.
        process_index: Index of this process, 0 .. process_count - 1.
        process_count: Number of processes.

    Raises:
        InputError: The batch cannot be split equally, or the source is empty.
    """
    start, count = _process_rows(source, batch_size, process_index, process_count)
    reader = BatchReader(source, data)

    def read(number: int) -> dict[str, np.ndarray]:
        positions = np.arange(count) + number * batch_size + start
        batch = reader(positions % len(source))
        return {**batch, "valid": (positions < len(source)).astype(np.float32)}

    return _read_ahead(read, -(-len(source) // batch_size), reader, count)


class Shuffled:
    """Maps positions in the endless stream of epochs to indices of records.

    Args:
        count: Number of records; each occurs once in an epoch.
        seed: Seed of the order.
    """

    def __init__(self, count: int, seed: int):
        self.count = count

        def permutation(epoch: int) -> np.ndarray:
            return np.random.default_rng([seed % 2**64, epoch]).permutation(count)

        # A batch may span two epochs, and batches are read ahead.
        self._permutation = functools.lru_cache(maxsize=2)(permutation)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Returns indices int64 [B] of ascending positions [B]."""
        epochs, offsets = np.divmod(positions, self.count)
        indices = np.empty_like(positions)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            rows = epochs == epoch
            indices[rows] = self._permutation(epoch)[offsets[rows]]
        return indices


def batches_ahead(data: ConfigDict, count: int) -> int:
    """Returns the number of batches of `count` rows that are read ahead.

    `data.prefetch` is a number of rows. At least two batches keep the threads busy.
    """
    return max(2, data.prefetch // count) if data.prefetch else 0


def _process_rows(
    source: Source, batch_size: int, process_index: int, process_count: int
) -> tuple[int, int]:
    """Returns the first row of a batch that this process reads, and the number of its rows."""
    require(len(source) > 0, "the data source has no records")
    require(
        batch_size > 0 and batch_size % process_count == 0,
        f"a batch of {batch_size} cannot be split equally over {process_count} processes; set "
        "config.training.batch_size to a multiple of their number",
    )
    require(
        0 <= process_index < process_count,
        f"process_index is {process_index}; allowed: 0 to {process_count - 1}",
    )
    count = batch_size // process_count
    return process_index * count, count


def _read_ahead(
    read: Callable[[int], dict[str, np.ndarray]], num_batches: int, reader: BatchReader, count: int
) -> grain.DatasetIterator:
    """Returns an iterator over `read(0)`, `read(1)`, ..., which threads read ahead."""
    data = reader.data
    require(
        data.num_threads >= 0 and data.prefetch >= 0,
        f"config.data.num_threads is {data.num_threads} and config.data.prefetch {data.prefetch}; "
        "both must be 0 or more",
    )
    ahead = batches_ahead(data, count)
    # If the threads of the reader read the rows of one batch, a second batch fills its last gaps.
    num_threads = min(data.num_threads, ahead if reader.whole_batches else 2)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=ahead)
    batches = grain.MapDataset.range(num_batches).map(read)
    return iter(batches.to_iter_dataset(options))
