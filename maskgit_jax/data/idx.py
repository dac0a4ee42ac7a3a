"""The gzipped IDX format of MNIST, Fashion-MNIST and KMNIST."""

import gzip
import struct
from pathlib import Path

import numpy as np

from maskgit_jax.configuration import InputError


def read_idx(path: Path) -> np.ndarray:
    """Returns the uint8 array of one IDX file (`.gz` or plain).

    Raises:
        InputError: The file is not IDX, or is cut off.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error}); copy it again") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise InputError(f"{path} is not an IDX file of bytes")
    rank = content[3]
    header = 4 + 4 * rank
    if len(content) < header:
        raise InputError(f"{path} is cut off in its header; copy it again")
    shape = struct.unpack(f">{rank}I", content[4:header])
    if len(content) - header != np.prod(shape, dtype=np.int64):
        raise InputError(f"{path} is cut off: {shape} bytes were announced; copy it again")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def read_split(place: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images uint8 [N, H, W] and labels uint8 [N] of split "train" or "t10k".

    Raises:
        InputError: The folder or one of its files is missing or damaged.
    """
    images = read_idx(_find(place, f"{split}-images-idx3-ubyte"))
    labels = read_idx(_find(place, f"{split}-labels-idx1-ubyte"))
    if images.ndim != 3 or len(images) != len(labels):
        raise InputError(
            f"idx:{place}: {split} has images of shape {images.shape} but labels of shape "
            f"{labels.shape}; the files do not belong together"
        )
    return images, labels


def _find(place: str, stem: str) -> Path:
    folder = Path(place)
    if not folder.is_dir():
        raise InputError(
            f"idx:{place}: there is no such folder; for Fashion-MNIST on Debian: "
            "apt-get install dataset-fashion-mnist"
        )
    for name in (f"{stem}.gz", stem):
        if (folder / name).exists():
            return folder / name
    raise InputError(f"idx:{place}: {stem}.gz is missing in that folder")
