"""Files and directories: atomic writes, output and cache directories, lists of image files."""

import errno
import hashlib
import os
import re
import shutil
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from maskgit_jax import distributed
from maskgit_jax.configuration import InputError, require

SYSTEM_NAMES = {
    "__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found",
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip
"""Files and folders that systems add, in lower case. Names that begin with a dot are hidden."""
_NO_PIXELS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow identifies, but does not decode without other programs."""


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
    folder = Path(user_path(place))
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
    path = Path(user_path(place))
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


class FoundImages(NamedTuple):
    """What a directory and its subdirectories hold.

    Attributes:
        paths: Image files, sorted.
        folders: Subdirectories.
        left_out: (reason, name or ending) -> number of files and folders that are not used.
    """

    paths: list[Path]
    folders: list[Path]
    left_out: Counter[tuple[str, str]]


def files_state(paths: Iterable[Path]) -> bytes:
    """Returns a hash of the names, sizes and times of files; it changes when one is replaced."""
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.digest()


def list_image_files(root: Path) -> list[Path]:
    """Returns the image files in a directory that a user names, see `find_images`.

    Prints how many there are, and what is left out.

    Raises:
        InputError: There are none.
    """
    found = find_images(root)
    left_out = "; ".join(summarize_left_out(found.left_out))
    if distributed.is_main():
        print(
            f"{printable(str(root))}: {len(found.paths)} images"
            + f"; left out: {left_out}" * bool(left_out)
        )
    return found.paths


def top_folder(path: Path, root: Path) -> str:
    """Returns the subdirectory of `root` that a path below it is in, "" for `root` itself.

    Names of classes are compared: equal texts have one form, however a system encodes them.

    Raises:
        InputError: The name is not encoded in UTF-8.
    """
    parts = path.parts[len(root.parts) :]
    name = parts[0] if len(parts) > 1 else ""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the name of the folder {printable(name)} in {root} is not encoded in UTF-8; rename it"
        ) from error
    return unicodedata.normalize("NFC", name)


def find_images(root: Path) -> FoundImages:
    """Finds the image files in a directory and its subdirectories; links are followed.

    This is the rule of all commands. Hidden and system files and folders, broken links and links
    to a folder around them are left out. A file is an image if it has an ending of Pillow's
    formats, whether it can be read or not, or if Pillow identifies its content.

    Raises:
        InputError: There are none, or a directory cannot be listed.
    """
    images: list[Path] = []
    folders: list[Path] = []
    others: list[Path] = []
    left_out: Counter[tuple[str, str]] = Counter()
    endings, formats = _pillow_formats()
    for path, kind in _walk(root, (os.path.realpath(root),)):
        if kind == "file":
            (images if path.suffix.lower() in endings else others).append(path)
        elif kind == "folder":
            folders.append(path)
        else:
            left_out[kind, "._*" if path.name.startswith("._") else path.name] += 1
    # Opening many files on network storage is a matter of waiting.
    with ThreadPoolExecutor(16) as pool, warnings.catch_warnings(action="ignore"):
        identified = pool.map(lambda path: _has_image_content(path, formats), others)
        for path, is_image in zip(others, identified, strict=True):
            if is_image:
                images.append(path)
            else:
                left_out["not an image", path.suffix.lower() or path.name] += 1
    counts = "; ".join(summarize_left_out(left_out)) or "it is empty"
    require(bool(images), f"{root} contains no image files that Pillow reads ({counts})")
    return FoundImages(sorted(images), sorted(folders), left_out)


def summarize_left_out(left_out: Counter[tuple[str, str]]) -> tuple[str, ...]:
    """Returns a text for each reason, such as "not an image: 80 (.heic 70, .txt 10)"."""
    texts = []
    for reason in sorted({reason for reason, _ in left_out}):
        names = Counter({name: number for (key, name), number in left_out.items() if key == reason})
        shown = [
            f"{printable(name)} {number}" if number > 1 else printable(name)
            for name, number in names.most_common(3)
        ]
        more = ", ..." * (len(names) > len(shown))
        texts.append(f"{reason}: {names.total()} ({', '.join(shown)}{more})")
    return tuple(texts)


def printable(name: str) -> str:
    """Returns a file name that can be printed in one line anywhere."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def _walk(folder: Path, real_parents: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    """Yields what is below a folder: paths, and "file", "folder" or why one is ignored.

    Args:
        folder: The folder.
        real_parents: Its path and those of the folders around it, without links.
    """
    for entry in _list_directory(folder):
        path, real, is_loop = folder / entry.name, f"{real_parents[-1]}/{entry.name}", False
        if entry.is_symlink():
            real = os.path.realpath(real)
            is_folder, is_file = os.path.isdir(real), os.path.isfile(real)
            is_loop = any(Path(parent).is_relative_to(real) for parent in real_parents)
        else:  # Known from the listing, without another request to the file system.
            is_folder, is_file = entry.is_dir(), entry.is_file()
        if entry.name.startswith(".") or entry.name.lower() in SYSTEM_NAMES:
            yield path, "hidden or system file"
        elif is_loop:
            yield path, "link to a folder around it"
        elif is_folder:
            yield path, "folder"
            yield from _walk(path, (*real_parents, real))
        else:
            yield path, "file" if is_file else "broken link or special file"


def _list_directory(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be listed ({error.strerror}); make it readable or move it elsewhere"
        ) from error


def _pillow_formats() -> tuple[set[str], list[str]]:
    """Returns the endings of Pillow's image formats, and the formats that content identifies."""
    Image.init()
    formats = Image.OPEN.keys() - _NO_PIXELS
    endings = {end for end, name in Image.registered_extensions().items() if name in formats}
    # Formats without a signature would claim files of other programs.
    return endings, [name for name in Image.ID if name in formats and Image.OPEN[name][1]]


def _has_image_content(path: Path, formats: list[str]) -> bool:
    try:
        Image.open(path, formats=formats).close()
    except Image.DecompressionBombError:
        return True
    except Exception:  # Plugins raise errors of any kind for files that are not theirs.
        return False
    return True
