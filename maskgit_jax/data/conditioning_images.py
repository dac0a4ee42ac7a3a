"""Pictures that new images are made from: conditions, and images of which a part is kept."""

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageOps

from maskgit_jax.configuration import condition_channels, require
from maskgit_jax.data.conditions import derived
from maskgit_jax.data.sources import Source
from maskgit_jax.images import (
    BICUBIC,
    IMAGE_SUFFIXES,
    NEAREST,
    as_array,
    fill_masked_with_nearest,
    read_image,
    to_channels,
    to_pil,
)


class ImageFiles:
    """A user's pictures: one file or all of a folder, in order of their names.

    Args:
        place: File or folder.
        channels: 1 or 3.
        key: What the pictures are: "image" or "condition".

    Raises:
        InputError: There is none, or one cannot be read.
    """

    def __init__(self, place: str, channels: int, key: str):
        path = Path(place)
        require(path.exists(), f"{place}: there is no such file or folder")
        paths = [path]
        if path.is_dir():
            paths = sorted(
                file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES
            )
            require(bool(paths), f"{place}: there is no image in this folder")
        self.paths, self._channels, self._key = paths, channels, key
        for file in paths:
            self._read(file)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {self._key: self._read(self.paths[index])}

    def _read(self, path: Path) -> np.ndarray:
        return read_image(path, self._channels)


class ConditioningImages:
    """What is given for each image to be made, ready for a generator.

    Image number i is made from picture number i // times, again and again.

    Args:
        source: Records with "image", or with "condition" where that is read from a file.
        data: `config.data` of the run.
        size: (H, W) of the images to be made; pictures are cut in the middle to this shape.
        times: How many images are made from each picture.
        kept: Share of the rows, from above, that is kept of each image; None keeps nothing.
        conditioned: Whether the generator makes images from conditions.
    """

    def __init__(
        self,
        source: Source,
        data: ConfigDict,
        size: tuple[int, int],
        times: int = 1,
        kept: float | None = None,
        conditioned: bool = False,
    ):
        self.source, self.data, self.size, self.times = source, data, size, times
        self.kept, self.conditioned = kept, conditioned
        self._channels = condition_channels(data) if conditioned else 0
        self.names = ("condition",) * conditioned + ("image", "mask") * (kept is not None)

    def picture(self, number: int) -> dict[str, np.ndarray]:
        """Returns "image" and "condition" uint8 [H, W, C] of picture `number`, as there are."""
        record = self.source[number % len(self.source)]
        found = {}
        if "image" in record:
            found["image"] = _fitted(record["image"], self.size, BICUBIC)
        if not self.conditioned:
            return found
        if self.data.condition == "paired":
            condition = to_pil(record["condition"])
            found["condition"] = _fitted(
                as_array(to_channels(condition, self._channels)), self.size, NEAREST
            )
        else:
            found["condition"] = derived(found["image"], self.data.condition)
        return found

    def labels(self, count: int) -> list[int] | None:
        """Returns the classes of the pictures that `count` images are made from, if known."""
        if "label" not in self.source[0]:
            return None
        pictures = [number // self.times for number in range(count)]
        return [int(self.source[number % len(self.source)]["label"]) for number in pictures]

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Returns what is given for the images of these numbers, [B, ...] each."""
        pictures = [self.picture(int(index) // self.times) for index in indices]
        found = {}
        if self.conditioned:
            found["condition"] = np.stack([picture["condition"] for picture in pictures])
        if self.kept is not None:
            rows = np.arange(self.size[0])[:, None] >= round(self.kept * self.size[0])
            mask = np.broadcast_to(rows, self.size)
            # What is masked must not speak through the tokens next to it.
            found["image"] = np.stack(
                [fill_masked_with_nearest(picture["image"], mask) for picture in pictures]
            )
            found["mask"] = np.repeat(mask[None], len(indices), axis=0)
        return found


def _fitted(image: np.ndarray, size: tuple[int, int], resample: Image.Resampling) -> np.ndarray:
    """Returns the middle of an image, cut and scaled to (H, W)."""
    if image.shape[:2] == size:
        return image
    return as_array(ImageOps.fit(to_pil(image), size[::-1], resample))
