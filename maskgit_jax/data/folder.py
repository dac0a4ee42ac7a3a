"""Images in a directory; if it has subdirectories, they are the classes."""

import hashlib
import os
import threading
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.cropping import ChooseCrop, CroppedFile, crop_file
from maskgit_jax.data.protocol import Source, Sources
from maskgit_jax.files import files_state, find_images, summarize_left_out, top_folder
from maskgit_jax.images import BICUBIC, UNREADABLE, as_array, open_file, to_channels

TRAIN_NAMES = ("train", "training")
HELD_OUT_NAMES = ("val", "valid", "validation", "eval", "evaluation", "test", "testing")
"""Names of split folders, in any case; of several held-out folders the first of these is used."""
Result = TypeVar("Result")


class LabelledPath(NamedTuple):
    """One image file and its class."""

    path: Path
    label: int


class Splits(NamedTuple):
    """The images of a directory; names and what is left out as in `protocol.Sources`."""

    train: list[LabelledPath]
    held_out: list[LabelledPath]
    class_names: tuple[str, ...]
    left_out: tuple[str, ...]


def open_folder(place: str, data: ConfigDict) -> Sources:
    """Opens a directory of images, see `list_splits`."""
    splits = list_splits(place, data.eval_fraction)
    train, held_out = (
        FolderSource(files, data.image_size, data.channels)
        for files in (splits.train, splits.held_out)
    )
    return Sources(train, held_out, splits.class_names, splits.left_out)


def list_splits(place: str, eval_fraction: float) -> Splits:
    """Lists the images in a directory, see `files.find_images`.

    Subdirectories such as `train` and `val` are the splits. Without a held-out one a fraction of
    the files is held out, chosen by a hash of their names, so that added files move few from one
    split to the other. Subdirectories with training images are the classes.

    Raises:
        InputError: The directory is missing, has fewer than two images, or only held-out ones.
    """
    root = Path(place)
    require(root.is_dir(), f"folder:{place}: the directory does not exist")
    found = find_images(root)
    groups = _by_subdirectory(found.paths, root)
    train, held_out = _find_split_folders(place, groups)
    class_root, kept = (root / train, groups[train]) if train else (root, found.paths)
    class_names = tuple(sorted(set(_by_subdirectory(kept, class_root)) - {""})) or ("all",)
    files, left_out = _label(kept, class_root, class_names), found.left_out
    if held_out:
        others = _label(groups[held_out], root / held_out, class_names)
    else:
        require(len(files) > 1, f"folder:{place} has one image; add another one, which is held out")
        files, others = _hold_out(files, root, eval_fraction)
    for name in sorted(groups.keys() - {train, held_out or None}) if train else ():
        left_out["outside of the split folders", name or "in no folder"] = len(groups[name])
    used = {path.parent for path in found.paths}
    used |= {parent for folder in used for parent in folder.parents}
    for folder in sorted(set(found.folders) - used):
        if folder.parent in (root, class_root):
            left_out["folder without images", folder.name] += 1
    for label in set(range(len(class_names))) - {file.label for file in files}:
        left_out["class without training images", class_names[label]] += 1
    return Splits(files, others, class_names, summarize_left_out(left_out))


def _by_subdirectory(paths: list[Path], root: Path) -> dict[str, list[Path]]:
    """Returns the paths in each subdirectory of `root`; "" for those in no subdirectory."""
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(top_folder(path, root), []).append(path)
    return groups


def _find_split_folders(place: str, groups: dict[str, list[Path]]) -> tuple[str, str]:
    """Returns the names of the training and held-out subdirectories, "" where there is none."""

    def named(words: tuple[str, ...]) -> list[str]:
        known = [name for name in sorted(groups) if name.casefold() in words]
        return sorted(known, key=lambda name: words.index(name.casefold()))

    train, held_out = named(TRAIN_NAMES), named(HELD_OUT_NAMES)
    require(
        len(train) < 2,
        f"folder:{place} has several folders of training images, {' and '.join(train)}; merge them",
    )
    require(
        bool(train) or not held_out,
        f"folder:{place} has held-out images in '{''.join(held_out[:1])}', but no folder 'train'; "
        "put the training images there, or rename the folder if it is a class",
    )
    if not train:
        _refuse_splits_of_classes(place, groups)
    if not train or held_out:
        return "".join(train), "".join(held_out[:1])
    # A class may have the name: it has images, not folders of classes, and stands beside others.
    depth = len(Path(place, train[0]).parts) + 1
    has_classes = any(len(path.parts) > depth for path in groups[train[0]])
    return train[0] if has_classes or not set(groups) - {"", train[0]} else "", ""


def _refuse_splits_of_classes(place: str, groups: dict[str, list[Path]]) -> None:
    """Raises `InputError` if a subdirectory, which would be a class, has split folders."""
    for name, paths in groups.items():
        inner = {folder.casefold() for folder in _by_subdirectory(paths, Path(place, name))}
        require(
            not name or inner.isdisjoint(TRAIN_NAMES) or inner.isdisjoint(HELD_OUT_NAMES),
            f"folder:{place} has folders of training and held-out images in {Path(place, name)}; "
            f"if that is the dataset, give folder:{Path(place, name)}, otherwise put folders of "
            "classes into those of the splits",
        )


def _label(paths: list[Path], root: Path, class_names: tuple[str, ...]) -> list[LabelledPath]:
    """Labels the paths of a split with the class of the subdirectory of `root` that they are in."""
    if class_names == ("all",):
        return [LabelledPath(path, 0) for path in paths]
    labels = {name: label for label, name in enumerate(class_names)}
    files = []
    for folder, group in _by_subdirectory(paths, root).items():
        require(
            folder in labels,
            f"{group[0]} is not in a class directory of the training images; move it into one of: "
            f"{', '.join(class_names[:10])}, or out of {root}",
        )
        files += [LabelledPath(path, labels[folder]) for path in group]
    return sorted(files)


def _hold_out(
    files: list[LabelledPath], root: Path, fraction: float
) -> tuple[list[LabelledPath], list[LabelledPath]]:
    """Returns the files to train on and those to hold out; each class keeps an image if it can."""

    def name_hash(file: LabelledPath) -> bytes:
        name = unicodedata.normalize("NFC", file.path.relative_to(root).as_posix())
        return hashlib.sha256(os.fsencode(name)).digest()

    count, order = max(1, round(len(files) * fraction)), sorted(files, key=name_hash)
    num_left, chosen = Counter(file.label for file in files), set()
    for file in order:
        if len(chosen) < count and num_left[file.label] > 1:
            num_left[file.label] -= 1
            chosen.add(file)
    chosen = chosen or set(order[:count])
    return [file for file in files if file not in chosen], [
        file for file in files if file in chosen
    ]


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
            with open_file(path) as image:
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
