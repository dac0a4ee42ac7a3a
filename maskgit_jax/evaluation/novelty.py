"""Nearest training images of generated images, in pixels and in features."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from maskgit_jax.data.batch_reader import ReadBatch, read_batches
from maskgit_jax.data.image_sets import Subset
from maskgit_jax.data.protocol import Source
from maskgit_jax.evaluation.feature_statistics import Reader, accumulate
from maskgit_jax.evaluation.features import Outputs
from maskgit_jax.metrics.neighbours import NearestSearch

MAX_WIDTH = 32  # of images compared by pixels, so that small shifts do not count as novelty


class NearestImages(NamedTuple):
    """Nearest training images of generated images, followed by those of held-out images.

    Attributes:
        distance: Euclidean distance, float64 [M + N].
        index: Index of the nearest training image, int64 [M + N].
        copies: Whether each image equals a training image in every pixel, bool [M + N]; empty if
            the features were compared.
        num_generated: M.
    """

    distance: np.ndarray
    index: np.ndarray
    copies: np.ndarray
    num_generated: int

    def split(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the values of the generated and those of the held-out images."""
        return values[: self.num_generated], values[self.num_generated :]


def downsample_pixels(images: np.ndarray) -> np.ndarray:
    """Returns images as points float32 [B, D], pixels in [0, 1], at most `MAX_WIDTH` wide.

    Larger images are averaged over square blocks; incomplete blocks at the right and lower border
    are dropped.
    """
    count, height, width, channels = images.shape
    factor = -(-max(height, width) // MAX_WIDTH)
    rows, columns = height // factor, width // factor
    cropped = images[:, : rows * factor, : columns * factor].astype(np.float32) / 255.0
    blocks = cropped.reshape(count, rows, factor, columns, factor, channels)
    return blocks.mean(axis=(2, 4)).reshape(count, -1)


def hash_images(images: np.ndarray) -> list[bytes]:
    """Returns a digest of 16 bytes per image, equal for equal images."""
    return [
        hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        for image in np.ascontiguousarray(images)
    ]


class TrainingSearch:
    """Searches streamed training images for the nearest one of every query; an `Accumulator`.

    Args:
        points: Features of the queries or, if there are digests, `downsample_pixels`, [M, D].
        digests: Digests of the queries, M, to compare pixels; none to compare features.
    """

    def __init__(self, points: np.ndarray, digests: list[bytes]):
        self._points, self.search = points, NearestSearch(points)
        self.copies, self.count = np.zeros(len(digests), bool), 0
        self._queries: dict[bytes, list[int]] = {}
        for query, digest in enumerate(digests):
            self._queries.setdefault(digest, []).append(query)

    def add(self, batch: ReadBatch, outputs: Outputs | None) -> None:
        """Adds a batch of training images; without outputs of a network its pixels."""
        points = downsample_pixels(batch.image) if outputs is None else outputs.features
        self.search.add(points, self.count)
        for digest in hash_images(batch.image) if self._queries else ():
            self.copies[self._queries.get(digest, [])] = True
        self.count += len(batch.label)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns the state as arrays."""
        arrays = self.search.to_arrays()
        return {**arrays, "copies": self.copies, "count": np.asarray(self.count)}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Restores the state that `to_arrays` returned."""
        part = {name: arrays[name] for name in ("squares", "index")}
        self.search = NearestSearch.from_arrays(self._points, part)
        self.copies, self.count = arrays["copies"], int(arrays["count"])


def pixel_reader(batch_size: int) -> Callable[..., Iterator[tuple[ReadBatch, None]]]:
    """Returns what reads a source like a `FeatureExtractor`, but without a network."""

    def read(source: Source, start: int = 0) -> Iterator[tuple[ReadBatch, None]]:
        for batch in read_batches(source, batch_size, start=start):
            image, label = batch.image[: batch.count], batch.label[: batch.count]
            yield batch._replace(image=image, label=label), None

    return read


def find_nearest_training_images(
    reader: Reader, generated: Source, held_out: Source | None, training: Source, path: Path
) -> NearestImages:
    """Returns the nearest training image of every generated and held-out image.

    Args:
        reader: A `FeatureExtractor`, whose features are compared, or `pixel_reader`.
        generated: A few thousand images; their pixels are held in memory.
        held_out: Real images that were not used for training, as a baseline.
        training: All training images; streamed once.
        path: File that an interrupted search resumes from.
    """
    points, digests = [], []
    for source in (generated, held_out):
        for batch, outputs in () if source is None else reader(source):
            if outputs is None:
                digests += hash_images(batch.image)
            points.append(downsample_pixels(batch.image) if outputs is None else outputs.features)
    search = TrainingSearch(np.concatenate(points), digests)
    accumulate(reader, training, path, search, "nearest training images")
    nearest = search.search
    return NearestImages(nearest.distance, nearest.index, search.copies, len(generated))


def count_duplicates(source: Source, batch_size: int) -> int:
    """Returns the number of images that equal an earlier one; keeps 16 bytes per image."""
    seen: set[bytes] = set()
    for batch in read_batches(source, batch_size):
        seen.update(hash_images(batch.image[: batch.count]))
    return len(source) - len(seen)


def closest_pairs(
    nearest: NearestImages, generated: Source, training: Source, num_pairs: int = 32
) -> np.ndarray:
    """Returns the samples closest to training images in pixels, each followed by its neighbour.

    Returns:
        uint8 [2 * pairs, H, W, C].
    """
    order = np.argsort(nearest.split(nearest.distance)[0], kind="stable")[:num_pairs]
    sides = Subset(generated, order), Subset(training, nearest.index[order])
    columns = [np.stack([side[row]["image"] for row in range(len(order))]) for side in sides]
    return np.stack(columns, axis=1).reshape(-1, *columns[0].shape[1:])
