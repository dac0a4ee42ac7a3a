"""Images to generate from: conditions, and images whose upper part is kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image, ImageOps

from maskgit_jax.configuration import condition_channels, require
from maskgit_jax.data.conditions import derive_condition
from maskgit_jax.data.protocol import Records
from maskgit_jax.files import list_image_files, top_folder, user_path
from maskgit_jax.images import (
    BICUBIC,
    NEAREST,
    as_array,
    fill_masked_with_nearest,
    read_image,
    to_channels,
    to_pil,
)


class ImageFiles:
    """Records of image files: one file, or all files of a directory sorted by path.

    If all of them are in subdirectories with names of classes, these are their labels.

    Args:
        place: File or directory.
        channels: 1 or 3.
        key: Key of the images in the records, "image" or "condition".
        class_names: Names of the labels.

    Raises:
        InputError: There is no image, or one cannot be read.
    """

    def __init__(self, place: str, channels: int, key: str, class_names: Sequence[str] = ()):
        path = Path(user_path(place))
        require(path.exists(), f"{place} does not exist")
        self.paths = list_image_files(path) if path.is_dir() else [path]
        self._channels, self._key = channels, key
        labels = {name: label for label, name in enumerate(class_names)}
        found = [labels.get(top_folder(each, path)) for each in self.paths]
        self._labels = None if None in found else found
        for index in range(len(self)):  # Fails before anything is computed.
            self[index]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record: dict[str, Any] = {self._key: read_image(self.paths[index], self._channels)}
        return record if self._labels is None else {**record, "label": self._labels[index]}


class ConditioningImages:
    """Inputs of a generator, prepared from images.

    Image i is generated from record i // num_per_input; after the last record follows the first.

    Args:
        records: Records with "image", or with "condition" if conditions are read from files.
        data: `config.data` of the run.
        size: (H, W) of the images to generate; inputs are center-cropped and resized to it.
        num_per_input: Number of images to generate from each record.
        keep_top: Fraction of the rows, from the top, to keep of each image; None keeps nothing.
        conditioned: Whether the generator needs conditions.
    """

    def __init__(
        self,
        records: Records,
        data: ConfigDict,
        size: tuple[int, int],
        num_per_input: int = 1,
        keep_top: float | None = None,
        conditioned: bool = False,
    ):
        self.records, self.data, self.size = records, data, size
        self.num_per_input, self.keep_top, self.conditioned = num_per_input, keep_top, conditioned
        self._channels = condition_channels(data) if conditioned else 0
        self.keys = ("condition",) * conditioned + ("image", "mask") * (keep_top is not None)

    def read_input(self, number: int) -> dict[str, np.ndarray]:
        """Returns "image" and "condition" uint8 [H, W, C] of input `number`, as available."""
        record = self.records[number % len(self.records)]
        inputs = {}
        if "image" in record:
            inputs["image"] = _fit(record["image"], self.size, BICUBIC)
        if not self.conditioned:
            return inputs
        if self.data.condition == "paired":
            condition = as_array(to_channels(to_pil(record["condition"]), self._channels))
            inputs["condition"] = _fit(condition, self.size, NEAREST)
        else:
            inputs["condition"] = derive_condition(inputs["image"], self.data.condition)
        return inputs

    def labels(self, count: int) -> list[int] | None:
        """Returns the labels of the inputs of `count` images, None if they are unknown."""
        if "label" not in self.records[0]:
            return None
        numbers = [index // self.num_per_input for index in range(count)]
        return [int(self.records[number % len(self.records)]["label"]) for number in numbers]

    def read_batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the generator's inputs of images `indices` [B]: those of `keys`, [B, ...] each.

        "mask" is bool [B, H, W]; masked pixels of "image" are filled with the nearest known ones.
        """
        inputs = [self.read_input(int(index) // self.num_per_input) for index in indices]
        batch = {}
        if self.conditioned:
            batch["condition"] = np.stack([each["condition"] for each in inputs])
        if self.keep_top is not None:
            rows = np.arange(self.size[0])[:, None] >= round(self.keep_top * self.size[0])
            mask = np.broadcast_to(rows, self.size)
            # Masked pixels must not influence the tokens next to them.
            batch["image"] = np.stack(
                [fill_masked_with_nearest(each["image"], mask) for each in inputs]
            )
            batch["mask"] = np.repeat(mask[None], len(indices), axis=0)
        return batch


def _fit(image: np.ndarray, size: tuple[int, int], resample: Image.Resampling) -> np.ndarray:
    """Returns the center of an image, resized to (H, W)."""
    if image.shape[:2] == size:
        return image
    height, width = size
    return as_array(ImageOps.fit(to_pil(image), (width, height), resample))
