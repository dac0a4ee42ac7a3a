"""Image sets of one size for evaluation: an NPZ file, a directory, or a cropped dataset.

Unlike in training, nothing is resized, replaced or skipped in files that a user names: an image
set that is not what it claims to be is refused, because its metrics would be of something else.
"""

import hashlib
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.conditions import select_input
from maskgit_jax.data.cropping import choose_center
from maskgit_jax.data.protocol import Source
from maskgit_jax.files import atomic_path, files_state, list_image_files, top_folder
from maskgit_jax.images import count_channels, read_image

IMAGE_KEYS, LABEL_KEYS = ("images", "arr_0"), ("labels", "arr_1")
STATISTICS = ("mu", "sigma", "mu_s", "sigma_s")


class ArrayFile:
    """The array of a .npy file, or of an uncompressed .npz file, read row by row.

    The file is mapped only while a row is read: memory does not grow with the rows read.

    Args:
        path: File.
        start: Offset in bytes of the array in the file.
    """

    def __init__(self, path: Path, start: int = 0):
        self._path = path
        with path.open("rb") as file:
            file.seek(start)
            old = np.lib.format.read_magic(file) == (1, 0)
            read_header = np.lib.format.read_array_header_1_0 if old else (
                np.lib.format.read_array_header_2_0
            )  # fmt: skip
            self.shape, fortran, self.dtype = read_header(file)
            self._offset = file.tell()
        require(not fortran, f"{path} has an array in Fortran order; write it in C order")

    def __len__(self) -> int:
        return self.shape[0]

    def state(self) -> bytes:
        """See `Source.state`."""
        return files_state([self._path])

    def __getitem__(self, index: int) -> np.ndarray:
        return np.array(np.memmap(self._path, self.dtype, "r", self._offset, self.shape)[index])


class ImageSet(Source):
    """Images of one size.

    Args:
        name: Name in messages.
        images: uint8 [N, H, W, C] or [N, H, W], or something that is indexed like that.
        shape: (H, W, C) of every image.
        labels: int32 [N], None if the set has none.
        class_names: One name for each label; empty if only numbers are known.
    """

    shape: tuple[int, int, int]

    def __init__(
        self,
        name: str,
        images: Any,
        shape: tuple[int, int, int],
        labels: np.ndarray | None,
        class_names: tuple[str, ...] = (),
    ):
        self.name, self.images, self.shape = name, images, shape
        self.labels, self.class_names = labels, class_names

    def __len__(self) -> int:
        return len(self.images)

    def state(self) -> bytes:
        if isinstance(self.images, np.ndarray):
            return hashlib.sha256(np.ascontiguousarray(self.images).data).digest()
        return self.images.state()

    def __getitem__(self, index: int) -> dict[str, Any]:
        label = -1 if self.labels is None else int(self.labels[index])
        return {"image": self.images[index].reshape(self.shape), "label": label}


class CenterCropped(Source):
    """The images of a dataset, center-cropped to one size, as training without augmentation.

    Args:
        source: Images of any size.
        size: Side in pixels.
        channels: 1 or 3, the channels of the source.
        input: Input that replaces the images, see `conditions.select_input`.
        class_names: Names of the labels, if they are known.
    """

    shape: tuple[int, int, int]

    def __init__(
        self,
        source: Source,
        size: int,
        channels: int,
        input: str = "image",
        class_names: tuple[str, ...] = (),
    ):
        self.source, self.size, self.input = source, size, input
        self.shape, self.labels = (size, size, channels), source.labels
        self.class_names = class_names

    def __len__(self) -> int:
        return len(self.source)

    def state(self) -> bytes:
        return self.source.state() + self.input.encode()

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.source.read_cropped(index, choose_center, self.size)
        return select_input(record, self.input)


class Subset(Source):
    """The records of a source at `indices`, in their order."""

    def __init__(self, source: Source, indices: np.ndarray):
        self.source, self.indices, self.shape = source, indices, source.shape
        self.labels = None if source.labels is None else source.labels[indices]

    def __len__(self) -> int:
        return len(self.indices)

    def state(self) -> bytes:
        return self.source.state() + self.indices.tobytes()

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[int(self.indices[index])]


def random_subset(source: Source, limit: int | None = None, seed: int = 0) -> Subset:
    """Returns `limit` records of a source (all by default) in a fixed random order."""
    return Subset(source, np.random.default_rng(seed).permutation(len(source))[:limit])


def fingerprint(source: Source) -> str:
    """Returns 8 hex digits that depend on the number of images, their size, pixels and labels.

    It reads up to 64 evenly spaced images; of the others, the labels and the state of their files.
    """
    assert source.shape is not None
    digest = hashlib.sha256(repr((len(source), tuple(source.shape))).encode())
    digest.update(source.state())
    if source.labels is not None:
        digest.update(np.ascontiguousarray(source.labels, np.int32).data)
    for index in np.unique(np.linspace(0, len(source) - 1, 64).astype(int)):
        record = source[int(index)]
        digest.update(np.ascontiguousarray(record["image"]).tobytes())
        digest.update(str(record["label"]).encode())
    return digest.hexdigest()[:8]


def open_images(place: str | Path) -> ImageSet:
    """Opens `FILE.npz` or a directory of images that all have one size.

    An NPZ file has `images` (or `arr_0`, as ADM's evaluation suite writes it) uint8 [N, H, W, C]
    and perhaps `labels` (or `arr_1`) [N]. The subdirectories of a directory are the classes.

    Raises:
        InputError: The set is missing, damaged, not 8-bit, or has images of several sizes.
    """
    path = Path(place)
    if path.is_dir():
        return _open_directory(path)
    require(path.exists(), f"{place} does not exist")
    return _open_npz(path)


def read_statistics(place: str | Path) -> dict[str, np.ndarray]:
    """Returns the Inception statistics `mu`, `sigma`, `mu_s` and `sigma_s` that an NPZ file has.

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
        raise InputError(f"{place} is not an NPZ file ({error})") from error


def _open_npz(path: Path) -> ImageSet:
    require(
        zipfile.is_zipfile(path), f"{path} is not an NPZ file; name a file or a directory of images"
    )
    try:
        with np.load(path) as file:
            key = next((key for key in IMAGE_KEYS if key in file), None)
            label_key = next((key for key in LABEL_KEYS if key in file), None)
            labels = None if label_key is None else file[label_key]
            names = ", ".join(file)
        rows = None if key is None else _open_member(path, key)
    except InputError:  # It is a ValueError too.
        raise
    except (OSError, ValueError, zipfile.BadZipFile, struct.error) as error:
        raise InputError(f"{path} is not an NPZ file ({error})") from error
    if rows is None:
        raise InputError(
            f"{path} holds no images: it has {names}, but neither `images` nor `arr_0`"
        )
    shape = (*rows.shape, 1) if len(rows.shape) == 3 else tuple(rows.shape)
    require(
        len(shape) == 4 and shape[-1] in (1, 3) and shape[0] > 0,
        f"{path}: {key} has shape {rows.shape}; images are [N, H, W, 1] or [N, H, W, 3]",
    )
    require(
        rows.dtype == np.uint8,
        f"{path}: {key} is {rows.dtype}; images are uint8, from 0 to 255 (multiply by 255 and "
        "round if they are in [0, 1])",
    )
    if labels is not None:
        require(
            labels.shape == shape[:1] and np.issubdtype(labels.dtype, np.integer),
            f"{path}: {shape[0]} images, but labels {labels.dtype} {labels.shape}; labels are "
            f"integers [{shape[0]}]",
        )
        labels = labels.astype(np.int32)
    require(
        max(int(rows[index].max()) for index in range(min(64, len(rows)))) > 1,
        f"{path}: no pixel of the first images is above 1; images are in [0, 255]",
    )
    return ImageSet(str(path), rows, (shape[1], shape[2], shape[3]), labels)


def _open_member(path: Path, key: str) -> ArrayFile:
    """Opens one array of an NPZ file; a compressed one is first extracted beside the file."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{key}.npy")
        if info.compress_type != zipfile.ZIP_STORED:
            extracted = path.with_name(f"{path.stem}.{key}.{info.CRC:08x}.npy")
            if not extracted.exists():
                with (
                    archive.open(info) as member,
                    atomic_path(extracted) as unfinished,
                    unfinished.open("wb") as file,
                ):
                    shutil.copyfileobj(member, file, 2**24)
            return ArrayFile(extracted)
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)  # Lengths of name and extra field in the local header.
        return ArrayFile(path, info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4))))


class _ImageFiles:
    """Images from files, all of which must be readable and of the first one's size."""

    def __init__(self, paths: list[Path]):
        # Refuses files that are not images before anything is computed.
        self.paths, channels = paths, [count_channels(path) for path in paths]
        height, width, _ = read_image(paths[0], channels[0]).shape
        self.shape = height, width, channels[0]

    def __len__(self) -> int:
        return len(self.paths)

    def state(self) -> bytes:
        return files_state(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        path, (height, width, channels) = self.paths[index], self.shape
        image = read_image(path, channels)
        require(
            image.shape == self.shape,
            f"{path} is {image.shape[1]}x{image.shape[0]} pixels, but {self.paths[0]} is "
            f"{width}x{height}; evaluated images must have one size",
        )
        return image


def _open_directory(root: Path) -> ImageSet:
    images = _ImageFiles(list_image_files(root))
    classes = [top_folder(path, root) for path in images.paths]
    names = tuple(sorted(set(classes)))
    if "" in names:
        return ImageSet(str(root), images, images.shape, None)
    labels = np.asarray([names.index(name) for name in classes], np.int32)
    return ImageSet(str(root), images, images.shape, labels, names)
