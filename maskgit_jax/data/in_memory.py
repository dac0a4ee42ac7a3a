"""Images in memory."""

import hashlib
from typing import Any

import numpy as np

from maskgit_jax.data.cropping import center_crop
from maskgit_jax.data.protocol import Source
from maskgit_jax.images import as_array, to_channels, to_pil


class ArraySource(Source):
    """Images uint8 [N, H, W, C] and labels [N] in memory."""

    labels: np.ndarray

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self.images, self.labels = images, labels.astype(np.int32)
        self.shape = images.shape[1:]

    def __len__(self) -> int:
        return len(self.images)

    def state(self) -> bytes:
        return hashlib.sha256(np.ascontiguousarray(self.images).data).digest()

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "label": int(self.labels[index])}

    def read_batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {"image": self.images[indices], "label": self.labels[indices]}


def open_arrays(images: np.ndarray, labels: np.ndarray, size: int, channels: int) -> ArraySource:
    """Returns images uint8 [N, H, W, C], center-cropped to a size, with 1 or 3 channels."""
    if images.shape[1:] != (size, size, channels):
        converted = (as_array(to_channels(to_pil(image), channels)) for image in images)
        images = np.stack([center_crop(image, size) for image in converted])
    return ArraySource(images, labels)
