"""Any user's images in a folder: class = name of the sub-folder, if there are sub-folders."""

import hashlib
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from maskgit_jax.configuration import InputError
from maskgit_jax.data.transforms import Choose, Part, cut_opened
from maskgit_jax.images import IMAGE_SUFFIXES, UNREADABLE, as_array, to_channels

TRAIN_NAMES, HELD_OUT_NAMES = ("train",), ("val", "valid", "validation", "eval", "test")


class LabelledPath(NamedTuple):
    """One image file and its class."""

    path: Path
    label: int


class FoundImages(NamedTuple):
    """The files of a folder, by split."""

    train: list[LabelledPath]
    evaluation: list[LabelledPath]
    class_names: tuple[str, ...]


def find_images(place: str, eval_fraction: float) -> FoundImages:
    """Lists the images under a folder.

    With sub-folders `train` and one of `val`, `valid`, `validation`, `eval`, `test`, these are
    the splits; otherwise a share of the files, chosen by a hash of their names (so that adding
    files moves none from one split to the other), is held out.

    Raises:
        InputError: The folder is missing or holds no image.
    """
    root = Path(place)
    if not root.is_dir():
        raise InputError(f"folder:{place}: there is no such folder")
    splits = {child.name: child for child in root.iterdir() if child.is_dir()}
    train = next((splits[name] for name in TRAIN_NAMES if name in splits), None)
    held_out = next((splits[name] for name in HELD_OUT_NAMES if name in splits), None)
    if train and held_out:
        class_names = _class_names(train)
        return FoundImages(
            _list(train, class_names, place), _list(held_out, class_names, place), class_names
        )
    class_names = _class_names(root)
    files = _list(root, class_names, place)
    if len(files) == 1:
        raise InputError(f"folder:{place}: one image is too few, one more must be held out")
    by_hash = sorted(files, key=lambda file: _hash(file.path.relative_to(root)))
    chosen = {file.path for file in by_hash[: max(1, round(len(files) * eval_fraction))]}
    return FoundImages(
        [file for file in files if file.path not in chosen],
        [file for file in files if file.path in chosen],
        class_names,
    )


def _class_names(root: Path) -> tuple[str, ...]:
    return tuple(sorted(child.name for child in root.iterdir() if child.is_dir())) or ("all",)


def _list(root: Path, class_names: tuple[str, ...], place: str) -> list[LabelledPath]:
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise InputError(
            f"folder:{place}: there is no image in {root}; endings that count: "
            + " ".join(sorted(IMAGE_SUFFIXES))
        )
    if class_names == ("all",):
        return [LabelledPath(path, 0) for path in files]
    labels = {name: label for label, name in enumerate(class_names)}
    strays = [path for path in files if path.relative_to(root).parts[0] not in labels]
    if strays:
        raise InputError(
            f"folder:{place}: {strays[0]} lies in no class folder of the training images; move "
            f"it into one of: {', '.join(class_names)}"
        )
    return [LabelledPath(path, labels[path.relative_to(root).parts[0]]) for path in files]


def _hash(path: Path) -> bytes:
    return hashlib.sha256(path.as_posix().encode()).digest()


class FolderSource:
    """Reads image files; an unreadable one is named, counted, and replaced by the next.

    Attributes:
        unreadable: Files that could not be read so far.
    """

    def __init__(self, files: list[LabelledPath], size: int, channels: int):
        self.files, self.size, self.channels = files, size, channels
        self.unreadable: set[Path] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.files)

    @property
    def labels(self) -> np.ndarray:
        """Labels of the files, int32 [N]."""
        return np.asarray([file.label for file in self.files], np.int32)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._first_readable(index, self.record)

    def cut(self, index: int, choose: Choose, size: int) -> dict[str, Any]:
        """Returns `conditions.cut_record` of a record, without decoding more than that."""
        return self._first_readable(index, lambda file: self.cut_file(file, choose, size))

    def _first_readable(self, index: int, read: Callable[[LabelledPath], Any]) -> dict[str, Any]:
        for offset in range(len(self.files)):
            record = read(self.files[(index + offset) % len(self.files)])
            if record is not None:
                return record
        raise InputError(f"none of the {len(self.files)} images in the folder can be read")

    def record(self, file: LabelledPath) -> dict[str, Any] | None:
        """Returns the record of one file, None if it cannot be read."""
        image = self.read(file.path, self.channels)
        return None if image is None else {"image": image, "label": file.label}

    def cut_file(self, file: LabelledPath, choose: Choose, size: int) -> dict[str, Any] | None:
        """Returns the record of a square of one file, None if it cannot be read."""
        part = self.part(file.path, choose, size, self.channels)
        return None if part is None else {"image": part.pixels, "label": file.label}

    def read(self, path: Path, channels: int) -> np.ndarray | None:
        """Returns uint8 [H, W, channels]; None, and a warning once, if it cannot be read."""

        def whole(image: Image.Image) -> np.ndarray:
            # JPEG only: decode at a fraction of the size that is still large enough.
            image.draft(image.mode, (self.size, self.size))
            return as_array(to_channels(image, channels))

        return self._opened(path, whole)

    def part(self, path: Path, *how: Any) -> Part | None:
        """Returns `cut_opened` of a file; None, and a warning once, if it cannot be read."""
        return self._opened(path, lambda image: cut_opened(image, *how))

    def _opened(self, path: Path, work: Callable[[Image.Image], Any]) -> Any:
        if path in self.unreadable:
            return None
        try:
            with Image.open(path) as image:
                return work(image)
        except UNREADABLE as error:
            self._report(path, error)
            return None

    def _report(self, path: Path, error: Exception) -> None:
        with self._lock:
            if path in self.unreadable:
                return
            self.unreadable.add(path)
        warnings.warn(
            f"unreadable image {path} ({error}); it is left out ({len(self.unreadable)} so far)",
            stacklevel=2,
        )
