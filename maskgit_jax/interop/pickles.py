"""Pickles read without running their code."""

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from maskgit_jax.configuration import InputError, require


class RestrictedUnpickler(pickle.Unpickler):
    """Reads plain containers and the allowed names; refuses every other name.

    Args:
        file: A binary file.
        allowed: (module, name) -> the object that stands for it.
        contents: The allowed objects in words, for the message.
    """

    def __init__(
        self, file: BinaryIO, allowed: Mapping[tuple[str, str], Any], contents: str
    ) -> None:
        super().__init__(file, encoding="utf-8")
        self.allowed, self.contents = allowed, contents

    def find_class(self, module: str, name: str) -> Any:
        message = f"holds {module}.{name}; only {self.contents} can be read"
        require((module, name) in self.allowed, message)
        return self.allowed[module, name]


@contextmanager
def open_untrusted(path: str | Path, kind: str) -> Iterator[BinaryIO]:
    """Opens a file; every error in the block becomes an `InputError` that names the file.

    Args:
        path: The file.
        kind: Its format, for the message.
    """
    try:
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except InputError as error:
        raise InputError(f"{path} {error}") from error
    except Exception as error:  # a damaged pickle can raise anything
        message = f"{path} is no {kind}, or is damaged ({type(error).__name__}: {error})"
        raise InputError(message) from error
