"""Batches from sources, by grain: shuffled over the whole dataset, sharded, prefetched."""

from collections.abc import Iterator
from typing import Any

import grain
import numpy as np
from ml_collections import ConfigDict

from maskgit_jax.data.conditions import cut_record, finished, square_record
from maskgit_jax.data.sources import Source
from maskgit_jax.data.transforms import choose_square


class _Augment(grain.transforms.RandomMap):
    def __init__(self, data: ConfigDict):
        self.data = data.copy_and_resolve_references()

    def random_map(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        data = self.data
        if "image" in record:
            height, width = record["image"].shape[:2]
            unchanged = data.crop == "center" and height == width == data.image_size
            if not unchanged or data.flip:
                square = choose_square(width, height, data.crop, data.flip, rng)
                record = cut_record(record, square, data.image_size)
            record = finished(record, data)
        return {**record, "label": np.int32(record["label"])}


def train_batches(
    source: Source,
    data: ConfigDict,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Returns an endless iterator of this process's part of each batch.

    Every epoch is a new permutation of the whole dataset, of which each process sees its
    share; the order depends on `seed` only. The iterator's state can be saved and restored.

    Args:
        source: Training records.
        data: `config.data`.
        batch_size: Of all processes together; a multiple of `process_count`.
        seed: Of order and augmentation.
        process_index: Which share, 0 .. process_count - 1.
        process_count: Number of shares.
    """
    dataset = grain.MapDataset.source(source).seed(seed).shuffle()
    dataset = dataset[process_index::process_count].repeat().random_map(_Augment(data))
    read = grain.ReadOptions(num_threads=data.num_threads, prefetch_buffer_size=data.prefetch)
    return iter(dataset.to_iter_dataset(read).batch(batch_size // process_count))


def eval_batches(
    source: Source,
    data: ConfigDict,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Returns one pass in order, in full batches: `valid` is 0 for rows that only fill up.

    All processes get the same number of batches.
    """
    count = len(source)
    padded = -(-count // batch_size) * batch_size

    def read(index: int) -> dict[str, Any]:
        record = dict(source[index % count])
        if "image" in record:
            record = finished(square_record(record, data.image_size), data)
        label, valid = np.int32(record["label"]), np.float32(index < count)
        return {**record, "label": label, "valid": valid}

    dataset = grain.MapDataset.range(padded)[process_index::process_count].map(read)
    options = grain.ReadOptions(num_threads=data.num_threads, prefetch_buffer_size=data.prefetch)
    return iter(dataset.to_iter_dataset(options).batch(batch_size // process_count))
