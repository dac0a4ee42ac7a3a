"""Datasets of tokens: written once by `python -m maskgit_jax.encode`, read in any order."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.protocol import Source, Sources
from maskgit_jax.files import atomic_path, user_path, write_text
from maskgit_jax.hints import python_command

SPLITS = ("train", "evaluation")


class TokenSource(Source):
    """Tokens uint16 or int32 [N, L], memory-mapped, and labels int32 [N]."""

    labels: np.ndarray

    def __init__(self, tokens: np.ndarray, labels: np.ndarray):
        self.tokens, self.labels = tokens, labels.astype(np.int32)
        self.shape = tokens.shape[1:]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"tokens": self.tokens[index].astype(np.int32), "label": int(self.labels[index])}

    def read_batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {"tokens": self.tokens[indices].astype(np.int32), "label": self.labels[indices]}


def write_split(
    place: Path,
    split: str,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    count: int,
    codebook_size: int,
) -> None:
    """Writes `count` rows of batches (tokens [B, L], labels [B]) in bounded memory.

    The token file appears under its name only when it is complete.
    """
    labels, start, rows = np.zeros((count,), np.int32), 0, None
    dtype = np.uint16 if codebook_size <= 2**16 else np.int32
    with atomic_path(place / f"{split}_tokens.npy") as unfinished:
        for tokens, label in batches:
            if rows is None:
                shape = (count, tokens.shape[1])
                rows = np.lib.format.open_memmap(unfinished, "w+", dtype, shape)
                with unfinished.open("r+b") as file:  # A full disk is an error, not a crash.
                    os.posix_fallocate(file.fileno(), 0, unfinished.stat().st_size)
            rows[start : start + len(tokens)] = tokens
            labels[start : start + len(label)] = label
            start += len(tokens)
        if rows is None or start != count:
            raise ValueError(f"expected {count} rows of tokens, got {start}")
        rows.flush()
        np.save(place / f"{split}_labels.npy", labels)


def write_description(place: Path, description: dict[str, Any]) -> None:
    """Writes `tokens.json`, after everything else: a dataset is complete if it exists.

    It has codebook_size, class_names, data, input, the tokenizer with its step and a checksum of
    its weights, and grids: rows and columns of each level's token map, coarsest first. A row of
    tokens is the concatenation of its maps.
    """
    write_text(place / "tokens.json", json.dumps(description, indent=2) + "\n")


def is_complete(place: Path) -> bool:
    """Returns whether a directory has a complete token dataset."""
    return (place / "tokens.json").exists()


def read_description(place: str) -> dict[str, Any]:
    """Returns the content of `tokens.json`.

    Raises:
        InputError: It is missing, or was written by an earlier version.
    """
    folder = Path(user_path(place))
    path = folder / "tokens.json"
    require(is_complete(folder), f"tokens:{place}: {path} is missing, so it is no token dataset")
    description = json.loads(path.read_text())
    require(
        "grids" in description and "input" in description,
        f"tokens:{place} was written by an earlier version; {_write_again(place, description)}",
    )
    return description


def _write_again(place: str, description: dict[str, Any]) -> str:
    words = {"workdir": description.get("tokenizer"), "data": description.get("data"), "out": place}
    given = [f"--{name}={value}" for name, value in words.items() if value]
    return f"write it again with {python_command('encode', given)}"


def open_tokens(place: str, data: ConfigDict) -> Sources:
    """Opens a token dataset.

    Raises:
        InputError: It is missing or damaged.
    """
    del data
    description = read_description(place)
    class_names = tuple(description["class_names"])
    sources = []
    for split in SPLITS:
        try:
            tokens = np.load(Path(place) / f"{split}_tokens.npy", mmap_mode="r")
            labels = np.load(Path(place) / f"{split}_labels.npy")
        except (OSError, ValueError) as error:
            raise InputError(
                f"tokens:{place}: split {split} is missing or damaged ({error}); "
                f"{_write_again(place, description)}"
            ) from error
        sources.append(TokenSource(tokens, labels))
    return Sources(sources[0], sources[1], class_names)
