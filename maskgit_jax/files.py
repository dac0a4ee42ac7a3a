"""Files and directories: atomic writes, output and cache directories, lists of image files."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from maskgit_jax.configuration import InputError, require

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}


def user_path(place: str | Path) -> str:
    """Returns a path, or a source such as `folder:~/images`, with the home directory for `~`."""
    return re.sub(
        r"^(\w+:)?(~[^/]*)", lambda m: (m[1] or "") + os.path.expanduser(m[2]), str(place)
    )


def expand_user_paths(config: ConfigDict) -> None:
    """Applies `user_path` to all values of a configuration that are words, in place."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            expand_user_paths(value)
        elif isinstance(value, str):
            config[key] = user_path(value)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path, which is renamed to `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    yield unfinished
    unfinished.rename(path)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes an NPZ file atomically."""
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with atomic_path(path) as unfinished:
        unfinished.write_text(text)


def create_output_directory(place: str) -> Path:
    """Creates the directory of --out up front, so that a long run cannot fail at the end.

    Raises:
        InputError: The directory cannot be created or is not writable.
    """
    folder = Path(place)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out={folder} cannot be created: {error.strerror}") from error
    require(os.access(folder, os.W_OK), f"--out={folder} is not writable")
    return folder


def default_cache_directory() -> Path:
    """Returns the directory of files that can be computed again.

    It is MASKGIT_JAX_CACHE, or ~/.cache/maskgit_jax.
    """
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("MASKGIT_JAX_CACHE") or Path(root) / "maskgit_jax")


def compilation_cache_directory() -> Path | None:
    """Returns the directory of compiled programs; None if MASKGIT_JAX_CACHE is set, but empty."""
    if os.environ.get("MASKGIT_JAX_CACHE") == "":
        return None
    return default_cache_directory() / "compiled"


def list_image_files(root: Path) -> list[Path]:
    """Returns the image files in a directory and its subdirectories, sorted by path.

    Raises:
        InputError: There are none.
    """
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    suffixes = " ".join(sorted(IMAGE_SUFFIXES))
    require(bool(paths), f"{root} contains no image files; supported suffixes: {suffixes}")
    return paths
