"""Sets of finished images, of one size, for judging: an NPZ file, a folder, or stored samples.

Unlike a dataset for training nothing is resized, replaced or left out here: a set that is not
what it claims to be is refused, because figures would be about something else.
"""

import hashlib
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.conditions import cut_from, viewed
from maskgit_jax.data.sources import Source
from maskgit_jax.data.transforms import middle_square
from maskgit_jax.images import IMAGE_SUFFIXES, UNREADABLE, as_array, to_channels

IMAGE_KEYS, LABEL_KEYS = ("images", "arr_0"), ("labels", "arr_1")
STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")


class RowsOnDisk:
    """One array of a .npy file or of an uncompressed .npz, read row by row.

    Rows are read, not mapped: memory does not grow with what was looked at.
    """

    def __init__(self, path: Path, start: int = 0):
        self._file = open(path, "rb")  # noqa: SIM115 (open as long as the object lives)
        self._file.seek(start)
        version = np.lib.format.read_magic(self._file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else (
            np.lib.format.read_array_header_2_0
        )  # fmt: skip
        self.shape, fortran, self.dtype = read(self._file)
        require(not fortran, f"{path} holds an array in Fortran order; write it in C order")
        self._offset = self._file.tell()
        self._row_bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> np.ndarray:
        # pread has no position of its own, so threads can share the file.
        row = os.pread(
            self._file.fileno(), self._row_bytes, self._offset + int(index) * self._row_bytes
        )
        return np.frombuffer(row, self.dtype).reshape(self.shape[1:])


class ImageSet:
    """A source of images of one size.

    Attributes:
        name: What the user called it.
        shape: (H, W, C) of every image.
        labels: int32 [N], None where the set has none.
        class_names: One name for each label; empty where only numbers are known.
    """

    def __init__(
        self,
        name: str,
        rows: Any,
        shape: tuple[int, int, int],
        labels: np.ndarray | None,
        class_names: tuple[str, ...] = (),
    ):
        self.name, self.rows, self.shape = name, rows, shape
        self.labels, self.class_names = labels, class_names

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.rows[index]
        if image.ndim == 2:
            image = image[..., None]
        return {"image": image, "label": -1 if self.labels is None else int(self.labels[index])}


class CenterCropped:
    """The images of a dataset as squares of one size, as training without augmentation sees them.

    Args:
        source: Images of any size.
        size: Side in pixels.
        channels: 1 or 3, what the source gives.
        view: What is seen of each record, see `conditions.viewed`.
    """

    def __init__(self, source: Source, size: int, channels: int, view: str = "image"):
        self.source, self.size, self.shape = source, size, (size, size, channels)
        self.view = view

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = viewed(cut_from(self.source, index, middle_square, self.size), self.view)
        return {"image": record["image"], "label": int(record["label"])}


class Subset:
    """Some records of a source, in an order of their own; it has labels if the source has."""

    def __init__(self, source: Any, indices: np.ndarray):
        self.source, self.indices, self.shape = source, indices, source.shape

    @property
    def labels(self) -> np.ndarray | None:
        labels = getattr(self.source, "labels", None)
        return None if labels is None else labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[int(self.indices[index])]


def random_subset(source: Any, limit: int | None = None, seed: int = 0) -> Subset:
    """Returns `limit` records of a source (all by default) in a fixed random order."""
    return Subset(source, np.random.default_rng(seed).permutation(len(source))[:limit])


def fingerprint(source: Any) -> str:
    """Returns 8 hex digits that change with the number of images, their size, or their pixels.

    Up to 64 images, evenly spaced, are looked at.
    """
    digest = hashlib.sha256(repr((len(source), tuple(source.shape))).encode())
    for index in np.unique(np.linspace(0, len(source) - 1, 64).astype(int)):
        record = source[int(index)]
        digest.update(np.ascontiguousarray(record["image"]).tobytes())
        digest.update(str(record["label"]).encode())
    return digest.hexdigest()[:8]


def open_images(place: str | Path) -> ImageSet:
    """Opens `FILE.npz` or a folder of images that all have one size.

    An NPZ has `images` (or `arr_0`, as ADM's evaluation suite writes it) uint8 [N, H, W, C] and
    perhaps `labels` (or `arr_1`) [N]. In a folder the sub-folders are the classes.

    Raises:
        InputError: It is missing, damaged, of uneven size, or not 8-bit.
    """
    path = Path(place)
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise InputError(f"{place}: there is no such file or folder")
    return _open_npz(path)


def read_statistics(place: str | Path) -> dict[str, np.ndarray]:
    """Returns what an NPZ holds of `mu`, `sigma` (and `mu_s`, `sigma_s`): Inception statistics.

    Raises:
        InputError: The file cannot be read.
    """
    path = Path(place)
    if path.suffix != ".npz":
        return {}
    try:
        with np.load(path) as file:
            return {name: file[name] for name in STATISTICS if name in file}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{place} is no NPZ file ({error})") from error


def _open_npz(path: Path) -> ImageSet:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
        key = next((key for key in IMAGE_KEYS if key in names), None)
        if key is None:
            raise InputError(
                f"{path} holds no images: it has {', '.join(names)}, but neither `images` nor "
                "`arr_0`"
            )
        rows = _member(path, key)
        with np.load(path) as file:
            label_key = next((key for key in LABEL_KEYS if key in names), None)
            labels = None if label_key is None else file[label_key]
    except InputError:  # it is a ValueError too
        raise
    except (OSError, ValueError, zipfile.BadZipFile, struct.error) as error:
        raise InputError(f"{path} is no NPZ file ({error})") from error
    shape = (*rows.shape, 1) if len(rows.shape) == 3 else tuple(rows.shape)
    require(
        len(shape) == 4 and shape[-1] in (1, 3) and shape[0] > 0,
        f"{path}: {key} has shape {rows.shape}; images are [N, H, W, 1] or [N, H, W, 3]",
    )
    require(
        rows.dtype == np.uint8,
        f"{path}: {key} is {rows.dtype}; images are uint8, from 0 to 255 (multiply by 255 and "
        "round if they run from 0 to 1)",
    )
    if labels is not None:
        require(
            labels.shape == shape[:1] and np.issubdtype(labels.dtype, np.integer),
            f"{path}: there are {shape[0]} images, but labels {labels.dtype} {labels.shape}",
        )
        labels = labels.astype(np.int32)
    images = ImageSet(str(path), rows, shape[1:], labels)
    _require_range(images)
    return images


def _require_range(images: ImageSet) -> None:
    first = [images[index]["image"] for index in range(min(64, len(images)))]
    require(
        max(int(image.max()) for image in first) > 1,
        f"{images.name}: no pixel of the first images is above 1; images run from 0 to 255",
    )


def _member(path: Path, key: str) -> RowsOnDisk:
    """Opens one array of an NPZ; a compressed one is unpacked beside it first."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{key}.npy")
        if info.compress_type != zipfile.ZIP_STORED:
            unpacked = path.with_name(f"{path.stem}.{key}.{info.CRC:08x}.npy")
            if not unpacked.exists():
                unfinished = unpacked.with_suffix(".unfinished")
                with archive.open(info) as packed, open(unfinished, "wb") as file:
                    while block := packed.read(2**24):
                        file.write(block)
                unfinished.rename(unpacked)
            return RowsOnDisk(unpacked)
    with open(path, "rb") as file:
        file.seek(info.header_offset + 26)  # the local header's lengths of name and extra field
        name_length, extra_length = struct.unpack("<HH", file.read(4))
    return RowsOnDisk(path, info.header_offset + 30 + name_length + extra_length)


class _Files:
    """Images from files; every one must be readable and as large as the first."""

    def __init__(self, paths: list[Path]):
        self.paths, self.shape, self.channels = paths, None, 3
        self.shape = self._read(paths[0]).shape
        for path in paths:
            self._check_head(path)

    def __len__(self) -> int:
        return len(self.paths)

    def _read(self, path: Path) -> np.ndarray:
        try:
            with Image.open(path) as image:
                grey = image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16")
                if self.shape is None:
                    self.channels = 1 if grey else 3
                return as_array(to_channels(image, self.channels))
        except UNREADABLE as error:
            raise _unreadable(path, error) from error

    def _check_head(self, path: Path) -> None:
        """Refuses what is no image before anything is computed; pixels are not read yet."""
        try:
            Image.open(path).close()
        except UNREADABLE as error:
            raise _unreadable(path, error) from error

    def __getitem__(self, index: int) -> np.ndarray:
        path = self.paths[index]
        image = self._read(path)
        if image.shape != self.shape:
            raise InputError(
                f"{path} is {image.shape[1]}x{image.shape[0]} pixels, but {self.paths[0]} is "
                f"{self.shape[1]}x{self.shape[0]}; images that are judged have one size"
            )
        return image


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} cannot be read ({error}); repair it or take it out of the folder")


def _open_folder(root: Path) -> ImageSet:
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    require(bool(paths), f"{root} holds no image")
    files = _Files(paths)
    parts = [path.relative_to(root).parts for path in paths]
    names = tuple(sorted({part[0] for part in parts if len(part) > 1}))
    if not names or any(len(part) == 1 for part in parts):
        return ImageSet(str(root), files, files.shape, None)
    labels = np.asarray([names.index(part[0]) for part in parts], np.int32)
    return ImageSet(str(root), files, files.shape, labels, names)
