"""Are generated images new? Their nearest training images, in pixels and in features."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskgit_jax.data.image_sets import Subset
from maskgit_jax.data.reading import ReadBatch, read_batches
from maskgit_jax.evaluation.feature_statistics import resumable_pass
from maskgit_jax.evaluation.features import Extractor, Outputs
from maskgit_jax.metrics.neighbours import NearestSearch

PIXELS = 32  # images are compared at most this wide: small shifts should not make them new


class Nearest(NamedTuple):
    """Distance of some images to the training set, and who is nearest.

    Attributes:
        distance: float64 [M], Euclidean.
        index: int64 [M], place of the nearest training image.
    """

    distance: np.ndarray
    index: np.ndarray


class Originality(NamedTuple):
    """What the search found; of generated images first, then of held-out ones.

    Attributes:
        pixels: Nearest in pixels.
        features: Nearest in the network's features.
        num_generated: How many of the images are generated.
        copies: Whether each image equals a training image in every pixel.
    """

    pixels: Nearest
    features: Nearest
    num_generated: int
    copies: np.ndarray

    def both(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the part of the generated images and the part of the held-out ones."""
        return values[: self.num_generated], values[self.num_generated :]


def small_pixels(images: np.ndarray) -> np.ndarray:
    """Returns images as points float32 [B, D], pixels in [0, 1], at most 32 pixels wide.

    Larger images are averaged over blocks of a whole number of pixels; what does not fill a
    block at the right and lower border is left out.
    """
    count, height, width, channels = images.shape
    factor = -(-max(height, width) // PIXELS)
    rows, columns = height // factor, width // factor
    cut = images[:, : rows * factor, : columns * factor].astype(np.float32) / 255.0
    blocks = cut.reshape(count, rows, factor, columns, factor, channels)
    return blocks.mean(axis=(2, 4)).reshape(count, -1)


def digests(images: np.ndarray) -> list[bytes]:
    """Returns 16 bytes for each image, equal for equal images."""
    return [
        hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        for image in np.ascontiguousarray(images)
    ]


class Search:
    """Passes over the training images and keeps the nearest of every point."""

    def __init__(self, pixels: np.ndarray, features: np.ndarray, names: list[bytes]):
        self.points = {"pixels": pixels, "features": features}
        self.searches = {name: NearestSearch(points) for name, points in self.points.items()}
        self.names, self.known, self.count = names, np.zeros(len(names), bool), 0
        self._place: dict[bytes, list[int]] = {}
        for place, name in enumerate(names):
            self._place.setdefault(name, []).append(place)

    def add(self, batch: ReadBatch, outputs: Outputs) -> None:
        """Takes in the next training images."""
        self.searches["pixels"].add(small_pixels(batch.image), self.count)
        self.searches["features"].add(outputs.features, self.count)
        for name in digests(batch.image):
            self.known[self._place.get(name, [])] = True
        self.count += len(batch.label)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns what was found so far."""
        arrays = {
            f"{space}/{name}": array
            for space, search in self.searches.items()
            for name, array in search.to_arrays().items()
        }
        return {**arrays, "known": self.known, "count": np.asarray(self.count)}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Goes back to where `to_arrays` was called."""
        for space, points in self.points.items():
            part = {name: arrays[f"{space}/{name}"] for name in ("squares", "index")}
            self.searches[space] = NearestSearch.from_arrays(points, part)
        self.known, self.count = arrays["known"], int(arrays["count"])


def search_training_images(
    extractor: Extractor, generated: Any, held_out: Any | None, training: Any, path: Path
) -> Originality:
    """Looks for the nearest training image of every generated and held-out image.

    Args:
        extractor: Whose features are compared.
        generated: Images to judge; a few thousand, their pixels are held in memory.
        held_out: Real images that were not trained on, the measure of what is normal.
        training: All that could have been copied; streamed once.
        path: Where a broken-off search is kept.
    """
    sets = [part for part in (generated, held_out) if part is not None]
    pixels, features, names = [], [], []
    for part in sets:
        for batch, outputs in extractor(part):
            pixels.append(small_pixels(batch.image))
            features.append(outputs.features)
            names += digests(batch.image)
    search = Search(np.concatenate(pixels), np.concatenate(features), names)
    resumable_pass(extractor, training, path, search, "nearest training images")
    found = {space: Nearest(each.distance, each.index) for space, each in search.searches.items()}
    return Originality(found["pixels"], found["features"], len(generated), search.known)


def count_duplicates(source: Any, batch_size: int) -> int:
    """Returns how many images of a source repeat an earlier one; 16 bytes of each are kept."""
    seen: set[bytes] = set()
    for batch in read_batches(source, batch_size):
        seen.update(digests(batch.image[: batch.count]))
    return len(source) - len(seen)


def closest_pairs(found: Originality, generated: Any, training: Any, pairs: int = 32) -> np.ndarray:
    """Returns uint8 [2 * pairs, H, W, C]: the samples closest to a training image in pixels.

    Each is followed by that training image.
    """
    distance = found.pixels.distance[: found.num_generated]
    order = np.argsort(distance, kind="stable")[:pairs]
    sides = (Subset(generated, order), Subset(training, found.pixels.index[order]))
    columns = [np.stack([side[row]["image"] for row in range(len(order))]) for side in sides]
    return np.stack(columns, axis=1).reshape(-1, *columns[0].shape[1:])
