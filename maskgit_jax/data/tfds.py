"""Datasets prepared by TensorFlow Datasets, read without TensorFlow."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.cropping import ChooseCrop, crop_file
from maskgit_jax.data.protocol import Source, Sources
from maskgit_jax.images import UNREADABLE, as_array, to_channels, to_pil


class TFDSSource(Source):
    """Records of a TFDS split with "image", the bytes of its file, and perhaps "label".

    Args:
        records: Records of the split.
        name: Name of the split in error messages.
        channels: 1 or 3.
    """

    def __init__(self, records: Sequence[Any], name: str, channels: int):
        self.records, self.name, self.channels = records, name, channels

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._decode(index, lambda image: as_array(to_channels(image, self.channels)))

    def read_cropped(self, index: int, choose_crop: ChooseCrop, size: int) -> dict[str, Any]:
        return self._decode(
            index, lambda image: crop_file(image, choose_crop, size, self.channels).pixels
        )

    def _decode(self, index: int, decode: Callable[[Image.Image], np.ndarray]) -> dict[str, Any]:
        record = self.records[index]
        content = record["image"]
        try:
            # A feature that is an array, not an image file, is not encoded.
            encoded = isinstance(content, bytes)
            image = Image.open(io.BytesIO(content)) if encoded else to_pil(np.asarray(content))
            return {"image": decode(image), "label": int(record.get("label", 0))}
        except UNREADABLE as error:
            raise InputError(
                f"image {index} of {self.name} cannot be read ({error}); prepare the dataset again"
            ) from error


def open_tfds(name: str, data: ConfigDict) -> Sources:
    """Opens a TFDS dataset by its name ("cifar10") or the directory of a prepared one.

    Held out is the split `validation` or `test`, or the end of `train` if it has neither.

    Raises:
        InputError: The dataset is unknown, has no images, or is neither prepared nor available.
    """
    builder = _open_builder(name)
    require("image" in builder.info.features, f"tfds:{name} has no feature 'image'")
    splits = builder.info.splits
    train = "train"
    held_out = next((split for split in ("validation", "test") if split in splits), None)
    if held_out is None:
        percent = 100 - max(1, round(100 * data.eval_fraction))
        train, held_out = f"train[:{percent}%]", f"train[{percent}%:]"
    try:
        sources = [
            TFDSSource(_open_split(builder, split), f"tfds:{name}, split {split}", data.channels)
            for split in (train, held_out)
        ]
    except Exception as error:
        raise InputError(
            f"tfds:{name} is prepared in a format without random access ({_first_line(error)}); "
            f"{_how_to_prepare(name)}"
        ) from error
    features = builder.info.features
    class_names = tuple(features["label"].names) if "label" in features else ("all",)
    return Sources(sources[0], sources[1], class_names)


def _open_split(builder: Any, split: str) -> Sequence[Any]:
    """Returns the records of a split, images as the bytes of their files."""
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}
    return builder.as_data_source(split=split, decoders=decoders)


def _open_builder(name: str) -> Any:
    # Slow to import, and an optional dependency.
    import tensorflow_datasets as tfds

    try:
        if "/" in name and not name.startswith("huggingface:"):
            builder = tfds.builder_from_directory(name)
        else:
            builder = tfds.builder(name, file_format="array_record", try_gcs=False)
    except Exception as error:
        raise InputError(
            f"tfds:{name} is neither a TFDS dataset nor a directory of one ({_first_line(error)})"
        ) from error
    if not builder.data_path.exists():
        try:
            builder.download_and_prepare()
        except Exception as error:
            raise InputError(
                f"tfds:{name} is not prepared in {builder.data_path} and cannot be downloaded "
                f"here ({_first_line(error)}); {_how_to_prepare(name)}"
            ) from error
    return builder


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def _how_to_prepare(name: str) -> str:
    return (
        'prepare it where TensorFlow and the network are available: python -c "import '
        f"tensorflow_datasets as t; t.builder('{name}', file_format='array_record')"
        '.download_and_prepare()", then copy ~/tensorflow_datasets here'
    )
