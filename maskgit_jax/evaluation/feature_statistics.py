"""One pass over a set: what its figures need, in memory that does not grow with the set."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from maskgit_jax.data.image_sets import fingerprint
from maskgit_jax.data.reading import ReadBatch
from maskgit_jax.evaluation.features import Extractor, FeatureNetwork, Outputs
from maskgit_jax.files import write_arrays
from maskgit_jax.metrics.frechet import Moments
from maskgit_jax.metrics.scores import ScoreSums, softmax64

SAVE_EVERY = 60.0  # seconds of work that a broken-off pass may lose


class Summary:
    """What is kept of a set's features.

    Attributes:
        moments: Mean and covariance of the features.
        spatial: The same of the spatial features, None where the network has none.
        scores: Sums of the Inception Score.
        kept: float32 [M, D], the features of the first M images.
        num_right: Images recognised as their label, None without labels.
        count: Images seen.
    """

    def __init__(self, network: FeatureNetwork, num_images: int, kept: int):
        features, classes, spatial = network.widths
        self.moments = Moments(features)
        self.spatial = Moments(spatial) if spatial else None
        self.scores = ScoreSums(classes, num_images, min(10, num_images))
        self.kept = np.zeros((min(kept, num_images), features), np.float32)
        self._right, self.count, self._labelled = 0, 0, True

    @property
    def num_right(self) -> int | None:
        return self._right if self._labelled else None

    def add(self, batch: ReadBatch, outputs: Outputs) -> None:
        """Takes in the next images; a label is -1 where it is unknown."""
        label = batch.label
        self.moments.add(outputs.features)
        if self.spatial is not None:
            self.spatial.add(outputs.spatial)
        self.scores.add(softmax64(outputs.logits), self.count)
        room = self.kept[self.count : self.count + len(label)]
        room[:] = outputs.features[: len(room)]
        self._labelled &= bool((label >= 0).all())
        self._right += int((outputs.logits.argmax(axis=-1) == label).sum())
        self.count += len(label)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns everything as arrays, for `restore`."""
        parts = {"moments": self.moments, "scores": self.scores, "spatial": self.spatial}
        arrays = {
            f"{part}/{name}": array
            for part, holder in parts.items()
            if holder is not None
            for name, array in holder.to_arrays().items()
        }
        own = np.asarray([self._right, self.count, self._labelled], np.int64)
        return {**arrays, "kept": self.kept, "own": own}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Goes back to where `to_arrays` was called."""

        def part(name: str) -> dict[str, np.ndarray]:
            return {
                key.removeprefix(f"{name}/"): array
                for key, array in arrays.items()
                if key.startswith(f"{name}/")
            }

        self.moments = Moments.from_arrays(part("moments"))
        self.scores = ScoreSums.from_arrays(part("scores"))
        if self.spatial is not None:
            self.spatial = Moments.from_arrays(part("spatial"))
        self.kept = arrays["kept"]
        right, self.count, labelled = (int(value) for value in arrays["own"])
        self._right, self._labelled = right, bool(labelled)


def summarize(extractor: Extractor, source: Any, folder: Path, kept: int, title: str) -> Summary:
    """Returns the summary of a source; what a file in `folder` holds of it is not done again."""
    name = extractor.network.identity
    path = folder / f"features-{fingerprint(source)}-{len(source)}-{kept}-{name}.npz"
    summary = Summary(extractor.network, len(source), kept)
    resumable_pass(extractor, source, path, summary, f"{name}: {title}")
    return summary


def resumable_pass(extractor: Extractor, source: Any, path: Path, summary: Any, title: str) -> None:
    """Adds every batch of a source to `summary`, which is saved in `path` now and then.

    `summary` has `count`, `add`, `to_arrays` and `restore`, as `Summary` has.
    """
    if path.exists():
        with np.load(path) as file:
            summary.restore({name: file[name] for name in file.files})
    if summary.count == len(source):
        return
    saved = time.monotonic()
    for batch, outputs in _progress(extractor, source, summary.count, title):
        summary.add(batch, outputs)
        if time.monotonic() - saved > SAVE_EVERY:
            write_arrays(path, summary.to_arrays())
            saved = time.monotonic()
    write_arrays(path, summary.to_arrays())


def _progress(extractor: Extractor, source: Any, start: int, title: str) -> Iterator:
    with tqdm(total=len(source), initial=start, desc=title, unit="image", disable=None) as bar:
        for batch, outputs in extractor(source, start):
            yield batch, outputs
            bar.update(batch.count)
