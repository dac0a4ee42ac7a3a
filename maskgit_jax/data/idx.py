"""The gzipped IDX format of MNIST, Fashion-MNIST and KMNIST."""

import gzip
import struct
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.in_memory import open_arrays
from maskgit_jax.data.protocol import Sources


def open_idx(place: str, data: ConfigDict) -> Sources:
    """Opens a directory of IDX files; the split "t10k" is held out.

    Raises:
        InputError: The directory or one of its files is missing or damaged.
    """
    train, held_out = (read_split(place, split) for split in ("train", "t10k"))
    num_classes = int(train[1].max()) + 1
    return Sources(
        open_arrays(train[0][..., None], train[1], data.image_size, data.channels),
        open_arrays(held_out[0][..., None], held_out[1], data.image_size, data.channels),
        tuple(str(label) for label in range(num_classes)),
    )


def read_split(place: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images uint8 [N, H, W] and labels uint8 [N] of split "train" or "t10k".

    Raises:
        InputError: The directory or one of its files is missing or damaged.
    """
    images = read_idx(_find(place, f"{split}-images-idx3-ubyte"))
    labels = read_idx(_find(place, f"{split}-labels-idx1-ubyte"))
    require(
        images.ndim == 3 and len(images) == len(labels),
        f"idx:{place}: {split} has images of shape {images.shape} but labels of shape "
        f"{labels.shape}; copy both files from the same dataset",
    )
    return images, labels


def read_idx(path: Path) -> np.ndarray:
    """Returns the uint8 array of one IDX file (`.gz` or plain).

    Raises:
        InputError: The file is not IDX, or is truncated.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error}); copy it again") from error
    require(content[:3] == b"\0\0\x08" and len(content) > 3, f"{path} is not an IDX file of bytes")
    rank = content[3]
    header = 4 + 4 * rank
    require(len(content) >= header, f"{path} is truncated in its header; copy it again")
    shape = struct.unpack(f">{rank}I", content[4:header])
    require(
        len(content) - header == np.prod(shape, dtype=np.int64),
        f"{path} is truncated: its header announces {shape} bytes; copy it again",
    )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _find(place: str, stem: str) -> Path:
    folder = Path(place)
    require(
        folder.is_dir(),
        f"idx:{place}: the directory does not exist; for Fashion-MNIST on Debian run "
        "apt-get install dataset-fashion-mnist",
    )
    for name in (f"{stem}.gz", stem):
        if (folder / name).exists():
            return folder / name
    raise InputError(f"idx:{place}: {stem}.gz is missing; copy it into that directory")
