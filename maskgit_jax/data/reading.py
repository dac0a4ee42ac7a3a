"""What threads do ahead, in order; batches of finished images in one pass, for judging."""

import collections
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import numpy as np


class ReadBatch(NamedTuple):
    """Rows of a set.

    Attributes:
        start: Place of the first row among all that are read.
        image: uint8 [B, H, W, C]; the rows after the first `count` repeat others.
        label: int32 [B].
        count: Rows that are not repetitions, B but for the last batch.
    """

    start: int
    image: np.ndarray
    label: np.ndarray
    count: int


def read_batches(
    source: Any, batch_size: int, indices: np.ndarray | None = None, start: int = 0
) -> Iterator[ReadBatch]:
    """Yields full batches of a source in order, or in the order of `indices`, from `start` on.

    Threads read whole batches: that costs a tenth of a pipeline that moves single records.
    """
    indices = np.arange(len(source)) if indices is None else indices
    workers = min(16, os.cpu_count() or 1)

    def read(first: int) -> ReadBatch:
        chosen = indices[first : first + batch_size]
        records = [source[int(index)] for index in np.resize(chosen, batch_size)]
        image = np.stack([record["image"] for record in records])
        label = np.asarray([record["label"] for record in records], np.int32)
        return ReadBatch(first, image, label, len(chosen))

    with ThreadPoolExecutor(workers) as pool:
        firsts = range(start, len(indices), batch_size)
        yield from map_ahead(pool, read, firsts, workers + 1)


def map_ahead(
    pool: Executor, work: Callable[[Any], Any], items: Iterable[Any], ahead: int
) -> Iterator[Any]:
    """Yields `work(item)` of all items in order, while up to `ahead` of them run or wait.

    An error of `work` is raised where its result would come.
    """
    waiting: collections.deque = collections.deque()
    remaining = iter(items)
    try:
        waiting.extend(pool.submit(work, item) for item in islice(remaining, ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(remaining, 1))
            yield result
    finally:  # the reader may stop early
        for future in waiting:
            future.cancel()
