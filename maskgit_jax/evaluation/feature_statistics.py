"""Statistics of features from one pass over a set of images, in constant memory."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from maskgit_jax.data.batch_reader import ReadBatch
from maskgit_jax.data.image_sets import fingerprint
from maskgit_jax.data.protocol import Source
from maskgit_jax.evaluation.features import FeatureExtractor, FeatureNetwork, Outputs
from maskgit_jax.files import write_arrays
from maskgit_jax.metrics.frechet import Moments
from maskgit_jax.metrics.scores import InceptionScore, softmax64
from maskgit_jax.runs.progress import progress_bar

SAVE_EVERY = 60.0  # seconds of work that an interruption may lose


Reader = Callable[..., Iterator[tuple[ReadBatch, Any]]]
"""(source, start) -> batches from record `start` on, with outputs: a `FeatureExtractor`."""


class Accumulator(Protocol):
    """Accumulates the outputs of a feature network; can be saved and restored."""

    count: int  # images so far

    def add(self, batch: ReadBatch, outputs: Any) -> None: ...

    def to_arrays(self) -> dict[str, np.ndarray]: ...

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None: ...


class FeatureStatistics:
    """Statistics of the features of a set of images.

    Args:
        network: The feature network.
        num_images: Number of images in the set.
        num_kept: Number of images, from the first, whose features are kept.

    Attributes:
        moments: Mean and covariance of "features" and, if the network has them, "spatial" features.
        score: Inception Score.
        kept: float32 [M, D], features of the first M images.
        num_correct: Images that are classified as their label.
        labelled: Whether all images so far have labels.
        count: Images so far.
    """

    def __init__(self, network: FeatureNetwork, num_images: int, num_kept: int):
        features, classes, spatial = network.widths
        self.moments = {"features": Moments(features)}
        if spatial:
            self.moments["spatial"] = Moments(spatial)
        self.score = InceptionScore(classes, num_images, min(10, num_images))
        self.kept = np.zeros((min(num_kept, num_images), features), np.float32)
        self.num_correct, self.count, self.labelled = 0, 0, True

    @property
    def accuracy(self) -> float:
        """Share of images that are classified as their label."""
        assert self.labelled, "these images have no labels"
        return self.num_correct / self.count

    def add(self, batch: ReadBatch, outputs: Outputs) -> None:
        """Adds a batch; unknown labels are -1."""
        label = batch.label
        self.moments["features"].add(outputs.features)
        if "spatial" in self.moments:
            self.moments["spatial"].add(outputs.spatial)
        self.score.add(softmax64(outputs.logits), self.count)
        room = self.kept[self.count : self.count + len(label)]
        room[:] = outputs.features[: len(room)]
        self.labelled &= bool((label >= 0).all())
        self.num_correct += int((outputs.logits.argmax(axis=-1) == label).sum())
        self.count += len(label)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns the state as arrays."""
        parts = {**self.moments, "score": self.score}
        arrays = {
            f"{part}/{name}": array
            for part, accumulator in parts.items()
            for name, array in accumulator.to_arrays().items()
        }
        counts = np.asarray([self.num_correct, self.count, self.labelled], np.int64)
        return {**arrays, "kept": self.kept, "counts": counts}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Restores the state that `to_arrays` returned."""

        def select(part: str) -> dict[str, np.ndarray]:
            prefix = f"{part}/"
            return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

        self.moments = {part: Moments.from_arrays(select(part)) for part in self.moments}
        self.score = InceptionScore.from_arrays(select("score"))
        self.kept = arrays["kept"]
        self.num_correct, self.count, labelled = (int(value) for value in arrays["counts"])
        self.labelled = bool(labelled)


def compute_statistics(
    extractor: FeatureExtractor, source: Source, folder: Path, num_kept: int, title: str
) -> FeatureStatistics:
    """Returns the statistics of a source; a file in `folder` caches them."""
    name = extractor.network.identity
    path = folder / f"feature-statistics-{fingerprint(source)}-{len(source)}-{num_kept}-{name}.npz"
    statistics = FeatureStatistics(extractor.network, len(source), num_kept)
    accumulate(extractor, source, path, statistics, f"{name}: {title}")
    return statistics


def accumulate(
    reader: Reader, source: Source, path: Path, accumulator: Accumulator, title: str
) -> None:
    """Adds every batch of a source to an accumulator, resuming from `path` and saving to it."""
    if path.exists():
        with np.load(path) as file:
            accumulator.restore(dict(file))
    if accumulator.count == len(source):
        return
    saved, start = time.monotonic(), accumulator.count
    with progress_bar(len(source), title, "image", start) as bar:
        for batch, outputs in reader(source, start):
            accumulator.add(batch, outputs)
            bar.update(batch.count)
            if time.monotonic() - saved > SAVE_EVERY:
                write_arrays(path, accumulator.to_arrays())
                saved = time.monotonic()
    write_arrays(path, accumulator.to_arrays())
