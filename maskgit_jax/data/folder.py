"""Images in a directory; if it has subdirectories, they are the classes."""

import hashlib
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.cropping import ChooseCrop, CroppedFile, crop_file
from maskgit_jax.data.protocol import Source, Sources
from maskgit_jax.files import files_state, list_image_files
from maskgit_jax.images import BICUBIC, UNREADABLE, as_array, to_channels

TRAIN_NAMES, HELD_OUT_NAMES = ("train",), ("val", "valid", "validation", "eval", "test")
Result = TypeVar("Result")


class LabelledPath(NamedTuple):
    """One image file and its class."""

    path: Path
    label: int


Splits = tuple[list[LabelledPath], list[LabelledPath], tuple[str, ...]]
"""Training files, held-out files, names of the classes."""


def open_folder(place: str, data: ConfigDict) -> Sources:
    """Opens a directory of images, see `list_splits`."""
    *splits, class_names = list_splits(place, data.eval_fraction)
    sources = [FolderSource(files, data.image_size, data.channels) for files in splits]
    return Sources(sources[0], sources[1], class_names)


def list_splits(place: str, eval_fraction: float) -> Splits:
    """Lists the images in a directory.

    Subdirectories `train` and one of `val`, `valid`, `validation`, `eval`, `test` are the splits.
    Without them a fraction of the files is held out, chosen by a hash of their names, so that
    added files move none from one split to the other.

    Raises:
        InputError: The directory is missing, or has fewer than two images.
    """
    root = Path(place)
    require(root.is_dir(), f"folder:{place}: the directory does not exist")
    splits = {child.name: child for child in root.iterdir() if child.is_dir()}
    train = next((splits[name] for name in TRAIN_NAMES if name in splits), None)
    held_out = next((splits[name] for name in HELD_OUT_NAMES if name in splits), None)
    if train and held_out:
        names = _class_names(train)
        return _list_labelled(train, names), _list_labelled(held_out, names), names
    class_names = _class_names(root)
    files = _list_labelled(root, class_names)
    require(
        len(files) > 1, f"folder:{place} has one image; add another one, which will be held out"
    )

    def name_hash(file: LabelledPath) -> bytes:
        return hashlib.sha256(file.path.relative_to(root).as_posix().encode()).digest()

    num_held_out = max(1, round(len(files) * eval_fraction))
    chosen = set(sorted(files, key=name_hash)[:num_held_out])
    kept = [file for file in files if file not in chosen]
    return kept, [file for file in files if file in chosen], class_names


def _class_names(root: Path) -> tuple[str, ...]:
    return tuple(sorted(child.name for child in root.iterdir() if child.is_dir())) or ("all",)


def _list_labelled(root: Path, class_names: tuple[str, ...]) -> list[LabelledPath]:
    paths = list_image_files(root)
    if class_names == ("all",):
        return [LabelledPath(path, 0) for path in paths]
    labels = {name: label for label, name in enumerate(class_names)}
    for path in paths:
        require(
            path.relative_to(root).parts[0] in labels,
            f"{path} is not in a class directory of the training images; move it into one of: "
            f"{', '.join(class_names)}",
        )
    return [LabelledPath(path, labels[path.relative_to(root).parts[0]]) for path in paths]


class _UnreadableError(Exception):
    """An image file cannot be read; it has been reported."""


class FolderSource(Source):
    """Reads image files; an unreadable one is reported, counted, and replaced by the next.

    Args:
        files: Image files and their labels.
        size: Side in pixels of the crops; JPEG files are decoded no larger than they need.
        channels: 1 or 3.

    Attributes:
        unreadable: Files that could not be read so far.
    """

    def __init__(self, files: list[LabelledPath], size: int, channels: int):
        self.files, self.size, self.channels = files, size, channels
        self.labels = np.asarray([file.label for file in files], np.int32)
        self.unreadable: set[Path] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.files)

    def state(self) -> bytes:
        return files_state([file.path for file in self.files])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._first_readable(index, self._read_record)

    def read_cropped(self, index: int, choose_crop: ChooseCrop, size: int) -> dict[str, Any]:
        def read(file: LabelledPath) -> dict[str, Any]:
            return self._read_cropped_record(file, choose_crop, size)

        return self._first_readable(index, read)

    def _first_readable(
        self, index: int, read: Callable[[LabelledPath], dict[str, Any]]
    ) -> dict[str, Any]:
        for offset in range(len(self.files)):
            file = self.files[(index + offset) % len(self.files)]
            try:
                return {**read(file), "label": file.label}
            except _UnreadableError:
                continue
        raise InputError(f"none of the {len(self.files)} images in the directory can be read")

    def _read_record(self, file: LabelledPath) -> dict[str, Any]:
        return {"image": self._read(file.path, self.channels)}

    def _read_cropped_record(
        self, file: LabelledPath, choose_crop: ChooseCrop, size: int
    ) -> dict[str, Any]:
        return {"image": self._read_crop(file.path, choose_crop, size, self.channels).pixels}

    def _read(self, path: Path, channels: int) -> np.ndarray:
        """Returns uint8 [H, W, channels] of a whole file."""

        def decode(image: Image.Image) -> np.ndarray:
            # JPEG only: decodes at a fraction of the size that is still large enough.
            image.draft(image.mode, (self.size, self.size))  # pyright: ignore[reportArgumentType]
            return as_array(to_channels(image, channels))

        return self._open(path, decode)

    def _read_crop(
        self,
        path: Path,
        choose_crop: ChooseCrop,
        size: int,
        channels: int,
        resample: Image.Resampling = BICUBIC,
    ) -> CroppedFile:
        return self._open(
            path, lambda image: crop_file(image, choose_crop, size, channels, resample)
        )

    def _open(self, path: Path, decode: Callable[[Image.Image], Result]) -> Result:
        if path in self.unreadable:
            raise _UnreadableError
        try:
            with Image.open(path) as image:
                return decode(image)
        except UNREADABLE as error:
            self._report(path, error)
            raise _UnreadableError from error

    def _report(self, path: Path, error: Exception) -> None:
        with self._lock:
            if path in self.unreadable:
                return
            self.unreadable.add(path)
        warnings.warn(
            f"unreadable image {path} ({error}); it is skipped ({len(self.unreadable)} so far)",
            stacklevel=2,
        )
