"""The held-out images of a run, which users can open in place of their own."""

import numpy as np
from ml_collections import ConfigDict

from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.image_sets import CenterCropped
from maskgit_jax.data.sources import image_data, open_image_sources


class HeldOut:
    """The held-out images of a run; none if its images are not on this machine.

    Args:
        data: `config.data` of the run.
    """

    def __init__(self, data: ConfigDict):
        try:
            data = image_data(data)
            source = open_image_sources(data).evaluation
            self._images = CenterCropped(source, data.image_size, data.channels, data.input)
        except InputError as error:
            print(f"no held-out images: {error}", flush=True)
            self._images = ()

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int) -> np.ndarray:
        """Returns an image as the run saw it, uint8 [H, W, C].

        Raises:
            InputError: There is no such image, or its file is damaged.
        """
        count = len(self)
        require(count > 0, "the held-out images of this run are not on the server's machine")
        require(0 <= index < count, f"held-out image {index} is out of range, 0 to {count - 1}")
        try:
            return self._images[index]["image"]
        except InputError as error:  # which has the path of the file
            raise InputError(f"held-out image {index} cannot be read") from error
