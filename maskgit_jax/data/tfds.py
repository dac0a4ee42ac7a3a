"""Datasets prepared by TensorFlow Datasets, read without TensorFlow."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from maskgit_jax.configuration import InputError
from maskgit_jax.data.transforms import Choose, cut_opened
from maskgit_jax.images import UNREADABLE, as_array, to_channels, to_pil


class PreparedSource:
    """Records of a TFDS split with `image`, as its file's bytes, and, if there is one, `label`.

    Args:
        records: Of the split.
        name: What the split is called in messages.
        channels: 1 or 3.
    """

    def __init__(self, records: Sequence[Any], name: str, channels: int):
        self.records, self.name, self.channels = records, name, channels

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._decoded(index, lambda image: as_array(to_channels(image, self.channels)))

    def cut(self, index: int, choose: Choose, size: int) -> dict[str, Any]:
        """Returns `conditions.cut_record` of a record, without decoding more than that."""
        return self._decoded(
            index, lambda image: cut_opened(image, choose, size, self.channels).pixels
        )

    def _decoded(self, index: int, decode: Callable[[Image.Image], np.ndarray]) -> dict[str, Any]:
        record = self.records[index]
        image = record["image"]
        try:
            # A feature that is no image file, but an array, comes as that.
            opened = isinstance(image, bytes) and Image.open(io.BytesIO(image))
            pixels = decode(opened or to_pil(np.asarray(image)))
            return {"image": pixels, "label": int(record.get("label", 0))}
        except UNREADABLE as error:
            raise InputError(
                f"image {index} of {self.name} cannot be read ({error}); prepare the dataset again"
            ) from error


def open_splits(
    name: str, eval_fraction: float, channels: int
) -> tuple[PreparedSource, PreparedSource, tuple[str, ...]]:
    """Returns training and held-out records, and the names of the classes.

    The held-out split is `validation` or `test`, or the end of `train` where there is neither.

    Args:
        name: A TFDS name ("cifar10"), or a folder that holds a prepared dataset.
        eval_fraction: Share held out where the dataset has only `train`.
        channels: 1 or 3.

    Raises:
        InputError: The dataset is unknown, has no images, or is neither prepared nor to be had.
    """
    builder = _builder(name)
    if "image" not in builder.info.features:
        raise InputError(f"tfds:{name} has no feature 'image'")
    splits = builder.info.splits
    held_out = next((split for split in ("validation", "test") if split in splits), None)
    train = "train"
    if held_out is None:
        cut = 100 - max(1, round(100 * eval_fraction))
        train, held_out = f"train[:{cut}%]", f"train[{cut}%:]"
    try:
        sources = [_encoded(builder, split) for split in (train, held_out)]
    except Exception as error:
        raise InputError(
            f"tfds:{name} is prepared in a format without random access ({_first_line(error)}); "
            f"{_how_to_prepare(name)}"
        ) from error
    features = builder.info.features
    class_names = tuple(features["label"].names) if "label" in features else ("all",)
    names = (f"tfds:{name}, split {split}" for split in (train, held_out))
    ours = (PreparedSource(*source, channels) for source in zip(sources, names, strict=True))
    return *ours, class_names


def _encoded(builder: Any, split: str) -> Sequence[Any]:
    """Returns the records of a split, images as the bytes of their files."""
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}
    return builder.as_data_source(split=split, decoders=decoders)


def _builder(name: str):
    # Heavy, and absent on machines that read no TFDS.
    import tensorflow_datasets as tfds

    try:
        if "/" in name and not name.startswith("huggingface:"):
            builder = tfds.builder_from_directory(name)
        else:
            builder = tfds.builder(name, file_format="array_record", try_gcs=False)
    except Exception as error:
        raise InputError(
            f"tfds:{name} is neither a TFDS dataset nor a folder of one ({_first_line(error)})"
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
        'prepare it once where TensorFlow and the network are at hand: python -c "import '
        f"tensorflow_datasets as t; t.builder('{name}', file_format='array_record')"
        '.download_and_prepare()", then copy ~/tensorflow_datasets here'
    )
