"""Files that appear under their names only when they are complete."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from maskgit_jax.configuration import InputError, require


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives the path to write to; it becomes `path` when the block has ended without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    yield unfinished
    unfinished.rename(path)


def create_output_directory(place: str) -> Path:
    """Returns the folder that --out names, made now: an hour of work shall not end in vain.

    Raises:
        InputError: It cannot be made, or not be written to.
    """
    folder = Path(place)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out={folder} cannot be made a folder: {error.strerror}") from error
    require(os.access(folder, os.W_OK), f"--out={folder} cannot be written to")
    return folder


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes an NPZ."""
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **arrays)


def write_text(path: Path, text: str) -> None:
    """Writes a text."""
    with atomic_path(path) as unfinished:
        unfinished.write_text(text)


def default_cache_directory() -> Path:
    """Returns the folder where users' programs keep what can be made again."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "maskgit_jax"
