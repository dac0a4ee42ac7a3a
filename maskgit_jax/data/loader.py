"""Batches from sources: shuffled over the whole dataset, shared by processes, read ahead by grain.

What a global batch holds depends on its number only, never on the number of processes or threads.
"""

import functools
from collections.abc import Callable, Iterator

import grain
import numpy as np
from ml_collections import ConfigDict

from maskgit_jax.configuration import require
from maskgit_jax.data.batch_reader import RowReader
from maskgit_jax.data.sources import Source
from maskgit_jax.data.transforms import CHANCES

ENDLESS = 2**48
"""Batches of an iterator that does not end."""


def train_batches(
    source: Source,
    data: ConfigDict,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Returns an endless iterator of this process's part of each batch.

    Every epoch is a new permutation of the whole dataset. The epochs follow each other in one
    endless stream of which batch t is the rows [t * batch_size, (t + 1) * batch_size); each
    process gets a contiguous part of them, in order. Order and augmentation depend on `seed`
    and the place in the stream only, so the iterator's state, the number of batches taken
    (JSON), goes for any process and any number of them.

    Args:
        source: Training records.
        data: `config.data`.
        batch_size: Of all processes together; a multiple of `process_count`.
        seed: Of order and augmentation.
        process_index: Which part, 0 .. process_count - 1.
        process_count: Number of parts.

    Raises:
        InputError: The batch cannot be shared equally, or the source is empty.
    """
    start, count = _part(source, batch_size, process_index, process_count)
    order = Shuffled(len(source), seed)
    reader = RowReader(source, data, data.crop, data.flip)

    def read(number: int) -> dict[str, np.ndarray]:
        first = number * batch_size + start
        positions = np.arange(first, first + count)
        return reader(order(positions), chances(seed, first, count))

    return _read_ahead(read, ENDLESS, reader, count)


def eval_batches(
    source: Source,
    data: ConfigDict,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Returns one pass in order, in full batches: `valid` is 0 for rows that only fill up.

    All processes get the same number of batches, of each a contiguous part.

    Args:
        source: Held-out records.
        data: `config.data`; middle squares are cut, unflipped.
        batch_size: Of all processes together; a multiple of `process_count`.
        process_index: Which part, 0 .. process_count - 1.
        process_count: Number of parts.

    Raises:
        InputError: The batch cannot be shared equally, or the source is empty.
    """
    start, count = _part(source, batch_size, process_index, process_count)
    reader = RowReader(source, data, "center", False)

    def read(number: int) -> dict[str, np.ndarray]:
        positions = np.arange(count) + number * batch_size + start
        batch = reader(positions % len(source), np.zeros((count, CHANCES)))
        return {**batch, "valid": (positions < len(source)).astype(np.float32)}

    return _read_ahead(read, -(-len(source) // batch_size), reader, count)


class Shuffled:
    """Places in the endless stream of epochs -> indices of records.

    Args:
        count: Records of the dataset; each comes once in an epoch.
        seed: Of the order.
    """

    def __init__(self, count: int, seed: int):
        self.count = count

        def permutation(epoch: int) -> np.ndarray:
            return np.random.default_rng([seed % 2**64, epoch]).permutation(count)

        # A batch may cross from one epoch to the next, and batches are read ahead.
        self._permutation = functools.lru_cache(maxsize=2)(permutation)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Returns indices int64 [B] of ascending positions [B]."""
        epochs, places = np.divmod(positions, self.count)
        indices = np.empty_like(positions)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            indices[here] = self._permutation(epoch)[places[here]]
        return indices


def chances(seed: int, first: int, count: int) -> np.ndarray:
    """Returns what decides about the augmentation of consecutive rows of the stream.

    Philox counts blocks of four numbers, so that every place in the stream has its own block.

    Args:
        seed: Of the augmentation.
        first: Place of the first row.
        count: Number of rows.

    Returns:
        float64 [count, CHANCES] in [0, 1).
    """
    block = np.random.Philox(key=seed % 2**64, counter=first)
    return np.random.Generator(block).random((count, CHANCES))


def batches_ahead(data: ConfigDict, count: int) -> int:
    """Returns how many batches of `count` rows are read in advance.

    `data.prefetch` counts rows. Two batches at least: the threads must not wait for the reader.
    """
    return max(2, data.prefetch // count) if data.prefetch else 0


def _part(
    source: Source, batch_size: int, process_index: int, process_count: int
) -> tuple[int, int]:
    """Returns where in a batch this process's rows begin, and their number."""
    require(len(source) > 0, "there are no images to make batches of")
    require(
        batch_size > 0 and batch_size % process_count == 0,
        f"a batch of {batch_size} cannot be shared equally by {process_count} processes; set "
        "config.training.batch_size to a multiple of their number",
    )
    require(
        0 <= process_index < process_count,
        f"process_index is {process_index}; it is 0 to {process_count - 1}",
    )
    count = batch_size // process_count
    return process_index * count, count


def _read_ahead(
    read: Callable[[int], dict[str, np.ndarray]], num_batches: int, reader: RowReader, count: int
) -> grain.DatasetIterator:
    """Returns an iterator of `read(0)`, `read(1)`, ..., some of which threads read in advance."""
    data = reader.data
    require(
        data.num_threads >= 0 and data.prefetch >= 0,
        f"config.data.num_threads is {data.num_threads} and config.data.prefetch {data.prefetch}; "
        "they are 0 or more",
    )
    ahead = batches_ahead(data, count)
    # Where many threads read the rows of one batch, a second one takes over at its end.
    num_threads = min(data.num_threads, ahead if reader.at_once else 2)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=ahead)
    batches = grain.MapDataset.range(num_batches).map(read)
    return iter(batches.to_iter_dataset(options))
