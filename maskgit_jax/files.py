"""Files and directories: atomic writes, output and cache directories, lists of image files."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from maskgit_jax.configuration import InputError, require

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.ESTALE)
_REFUSED = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EIO)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path, which is renamed to `path` when the block ends without an error.

    After an error nothing is left of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        yield unfinished
        unfinished.rename(path)
    except BaseException as error:
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and (reason := storage_error(error)):
            raise InputError(f"{path} cannot be written: {reason}") from error
        raise


def storage_error(error: BaseException | None) -> str:
    """Returns why files cannot be written, such as "No space left on device"; "" for other errors.

    Args:
        error: The error, perhaps of a library that wraps that of the operating system.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (*_FULL, *_REFUSED):
            return os.strerror(error.errno)
        for number in _FULL:
            if os.strerror(number) in str(error):
                return os.strerror(number)
        error = error.__cause__ or error.__context__
    return ""


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes an NPZ file atomically."""
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with atomic_path(path) as unfinished:
        unfinished.write_text(text)


def create_output_directory(place: str | Path, name: str = "--out") -> Path:
    """Creates a directory up front, so that a long run cannot fail at the end.

    Args:
        place: The directory.
        name: The flag that names it, for messages.

    Raises:
        InputError: The directory cannot be created or is not writable.
    """
    folder = Path(place).expanduser()
    _try_to_write(folder / "writable", f"{name}={place}")
    return folder


def check_output_file(place: str | Path, name: str = "--out") -> Path:
    """Returns the path of a file to write, and creates its directory up front.

    Args:
        place: The file.
        name: The flag that names it, for messages.

    Raises:
        InputError: It is a directory, or cannot be written.
    """
    path = Path(place).expanduser()
    _try_to_write(path, f"{name}={place}")
    return path


def _try_to_write(path: Path, flag: str) -> None:
    try:
        require(not path.is_dir(), f"{flag} is a directory; name a file in it")
        path.parent.mkdir(parents=True, exist_ok=True)
        trial = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
        trial.touch()
        trial.unlink(missing_ok=True)
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise InputError(f"{flag} cannot be written: {reason}; choose another place") from error


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


def files_state(paths: Iterable[Path]) -> bytes:
    """Returns a hash of the names, sizes and times of files; it changes when one is replaced."""
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.digest()


def list_image_files(root: Path) -> list[Path]:
    """Returns the image files in a directory and its subdirectories, sorted by path.

    Raises:
        InputError: There are none.
    """
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    suffixes = " ".join(sorted(IMAGE_SUFFIXES))
    require(bool(paths), f"{root} contains no image files; supported suffixes: {suffixes}")
    return paths
