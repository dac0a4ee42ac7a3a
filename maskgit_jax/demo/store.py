"""Images in memory by id: the uploaded and the generated ones, the oldest of which are dropped."""

import hashlib
import io
import threading
from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from maskgit_jax.configuration import InputError
from maskgit_jax.images import to_pil

MAX_BYTES = 256 * 2**20


def png_bytes(image: np.ndarray) -> bytes:
    """Returns an image uint8 [H, W] or [H, W, C] as a PNG file."""
    file = io.BytesIO()
    to_pil(image).save(file, "PNG", compress_level=1)  # level 6 takes five times as long
    return file.getvalue()


class StoredImage(NamedTuple):
    """An image of the store: the bytes of a PNG file, and its size."""

    png: bytes
    width: int
    height: int


class ImageStore:
    """Images by id, a hash of the content; the least recently used ones are dropped.

    Args:
        max_bytes: Of all PNG files together.
    """

    def __init__(self, max_bytes: int = MAX_BYTES):
        self._max_bytes, self._lock = max_bytes, threading.Lock()
        self._images: OrderedDict[str, StoredImage] = OrderedDict()
        self.num_bytes = 0

    def add(self, image: np.ndarray) -> str:
        """Stores an image uint8 [H, W, C] and returns its id."""
        stored = StoredImage(png_bytes(image), image.shape[1], image.shape[0])
        name = hashlib.sha256(stored.png).hexdigest()[:32]
        with self._lock:
            if name not in self._images:
                self.num_bytes += len(stored.png)
            self._images[name] = stored
            self._images.move_to_end(name)
            while self.num_bytes > self._max_bytes and len(self._images) > 1:
                self.num_bytes -= len(self._images.popitem(last=False)[1].png)
        return name

    def get(self, name: str) -> StoredImage:
        """Returns an image.

        Raises:
            UnknownImageError: The store does not hold it (any more).
        """
        with self._lock:
            if name not in self._images:
                raise UnknownImageError(
                    "the server does not hold this image (any more); upload it again"
                )
            self._images.move_to_end(name)
            return self._images[name]


class UnknownImageError(InputError):
    """The store does not hold an image."""
