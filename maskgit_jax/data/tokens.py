"""Datasets of tokens: written once by `python -m maskgit_jax.encode`, read in any order."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskgit_jax.configuration import InputError, require

SPLITS = ("train", "evaluation")


class TokenSource:
    """Tokens uint16 or int32 [N, L] and labels int32 [N], mapped from disk."""

    def __init__(self, tokens: np.ndarray, labels: np.ndarray):
        self.tokens, self.labels = tokens, labels

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"tokens": self.tokens[index].astype(np.int32), "label": int(self.labels[index])}

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Returns many records at once: tokens int32 [B, L] and label int32 [B]."""
        tokens = self.tokens[indices].astype(np.int32)
        return {"tokens": tokens, "label": self.labels[indices].astype(np.int32)}


class WrittenTokens(NamedTuple):
    """A token dataset on disk.

    Attributes:
        train: Tokens to learn from.
        evaluation: Held-out tokens.
        class_names: One name for each label.
        codebook_size: Tokens are 0 .. codebook_size - 1.
        grids: Rows and columns of each level's token map, coarsest first; a row of tokens holds
            the maps one after another.
    """

    train: TokenSource
    evaluation: TokenSource
    class_names: tuple[str, ...]
    codebook_size: int
    grids: tuple[tuple[int, int], ...]


def write_split(
    place: Path,
    split: str,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    count: int,
    codebook_size: int,
) -> None:
    """Writes `count` rows of (tokens [B, L], labels [B]) batches; memory does not grow.

    The file appears under its name only when it is complete.
    """
    place.mkdir(parents=True, exist_ok=True)
    labels, start, rows = np.zeros((count,), np.int32), 0, None
    unfinished = place / f"{split}_tokens.unfinished.npy"
    for tokens, label in batches:
        if rows is None:
            shape = (count, tokens.shape[1])
            kind = np.uint16 if codebook_size <= 2**16 else np.int32
            rows = np.lib.format.open_memmap(unfinished, mode="w+", dtype=kind, shape=shape)
        rows[start : start + len(tokens)] = tokens
        labels[start : start + len(label)] = label
        start += len(tokens)
    if rows is None or start != count:
        raise ValueError(f"{count} rows were announced, {start} came")
    rows.flush()
    np.save(place / f"{split}_labels.npy", labels)
    unfinished.rename(place / f"{split}_tokens.npy")


def write_description(place: Path, description: dict[str, Any]) -> None:
    """Writes `tokens.json`; the last thing to be written, so its presence means complete."""
    (place / "tokens.json").write_text(json.dumps(description, indent=2) + "\n")


def is_complete(place: Path) -> bool:
    """Returns whether a folder holds a whole token dataset."""
    return (place / "tokens.json").exists()


def read_description(place: str) -> dict[str, Any]:
    """Returns what `tokens.json` says.

    Raises:
        InputError: There is none, or an earlier version wrote it.
    """
    path = Path(place) / "tokens.json"
    if not is_complete(Path(place)):
        raise InputError(
            f"tokens:{place}: {path} is missing; write the dataset with python -m "
            "maskgit_jax.encode --workdir=runs/vqgan-digits --out=" + place
        )
    description = json.loads(path.read_text())
    require(
        "grids" in description,
        f"tokens:{place} was written by an earlier version, which knew one token map only; write "
        "the dataset again with python -m maskgit_jax.encode",
    )
    return description


def open_tokens(place: str) -> WrittenTokens:
    """Opens a token dataset.

    Raises:
        InputError: It is missing or damaged.
    """
    description = read_description(place)
    sources = []
    for split in SPLITS:
        try:
            rows = np.load(Path(place) / f"{split}_tokens.npy", mmap_mode="r")
            labels = np.load(Path(place) / f"{split}_labels.npy")
        except (OSError, ValueError) as error:
            raise InputError(
                f"tokens:{place}: split {split} is missing or damaged ({error}); write the "
                "dataset again with python -m maskgit_jax.encode"
            ) from error
        sources.append(TokenSource(rows, labels))
    return WrittenTokens(
        *sources,
        tuple(description["class_names"]),
        description["codebook_size"],
        tuple((height, width) for height, width in description["grids"]),
    )
