"""Where records come from: digits, IDX files, folders, pairs, TFDS, token files.

A source is a sequence of records {"image": uint8 [H, W, C], "label": int} (or {"tokens": int32
[L], "label": int}) that can be read in any order. Pairs have a "condition", uint8 [H, W, C'],
of the image's size besides.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from ml_collections import ConfigDict

from maskgit_jax.configuration import (
    InputError,
    condition_channels,
    require,
    validate_conditions,
)
from maskgit_jax.data import folder, idx, pairs, tfds, tokens
from maskgit_jax.data.transforms import center_square
from maskgit_jax.images import as_array, to_channels, to_pil

DIGITS_HELD_OUT = 360


class Source(Protocol):
    """A sequence of records."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


class Sources(NamedTuple):
    """The two splits of a dataset.

    Attributes:
        train: What is learnt from.
        evaluation: What is held out.
        class_names: One name for each label, in order.
    """

    train: Source
    evaluation: Source
    class_names: tuple[str, ...]


class ArraySource:
    """Images in memory: uint8 [N, H, W, C] and labels [N]."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "label": int(self.labels[index])}

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Returns many records at once: image uint8 [B, H, W, C] and label int32 [B]."""
        return {"image": self.images[indices], "label": self.labels[indices].astype(np.int32)}


def open_sources(data: ConfigDict) -> Sources:
    """Opens the dataset that `config.data.source` names.

    Raises:
        InputError: It does not exist, is empty or damaged, its kind is unknown, or it does not
            hold what the view or the condition needs.
    """
    kind, _, place = data.source.partition(":")
    openers: dict[str, Callable[[str, ConfigDict], Sources]] = {
        "digits": _digits,
        "idx": _idx,
        "folder": _folder,
        "pairs": _pairs,
        "tfds": _tfds,
        "tokens": _tokens,
    }
    if kind not in openers:
        raise InputError(
            f"config.data.source '{data.source}' is unknown; it is one of digits, idx:DIR, "
            "folder:DIR, pairs:DIR, tfds:NAME, tokens:DIR"
        )
    if kind != "digits" and not place:
        raise InputError(f"config.data.source '{data.source}' lacks its place, as in {kind}:PLACE")
    # Commands put another source into the configuration of a run: it was not checked with this.
    validate_conditions(data)
    sources = openers[kind](place, data)
    for split, source in (("training", sources.train), ("evaluation", sources.evaluation)):
        if len(source) == 0:
            raise InputError(f"{data.source} has no {split} images")
    return sources


def resolve_classes(config: ConfigDict, sources: Sources) -> None:
    """Fills in what only the data knows, in place.

    Raises:
        InputError: `config.data.num_classes` is set to something else.
    """
    found = len(sources.class_names)
    require(
        config.data.num_classes in (0, found),
        f"config.data.num_classes is {config.data.num_classes}, but {config.data.source} has "
        f"{found} classes; set it to 0 to read it from the data",
    )
    with config.unlocked():
        config.data.num_classes = found
        config.data.class_names = sources.class_names


def image_data(data: ConfigDict) -> ConfigDict:
    """Returns a copy of `config.data` that reads images: of a dataset of tokens those encoded.

    Raises:
        InputError: The dataset of tokens is missing.
    """
    data = data.copy_and_resolve_references()
    kind, _, place = data.source.partition(":")
    if kind == "tokens":
        description = tokens.read_description(place)
        with data.unlocked():
            data.source = description["data"]
            data.input = description.get("view", "image")  # older datasets know no views
    return data


def _in_memory(images: np.ndarray, labels: np.ndarray, data: ConfigDict) -> ArraySource:
    size, channels = data.image_size, data.channels
    if images.shape[1:] != (size, size, channels):
        images = np.stack(
            [
                as_array(center_square(to_channels(to_pil(image), channels), size))
                for image in images
            ]
        )
    return ArraySource(images, labels)


def _digits(place: str, data: ConfigDict) -> Sources:
    """The 1,797 digits of scikit-learn; a fixed random fifth is held out."""
    from sklearn.datasets import load_digits

    if place:
        raise InputError(f"config.data.source 'digits:{place}': digits takes no place")
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    order = np.random.default_rng(0).permutation(len(images))
    train, held_out = order[DIGITS_HELD_OUT:], order[:DIGITS_HELD_OUT]
    return Sources(
        _in_memory(images[train], digits.target[train], data),
        _in_memory(images[held_out], digits.target[held_out], data),
        tuple("0123456789"),
    )


def _idx(place: str, data: ConfigDict) -> Sources:
    train, held_out = (idx.read_split(place, split) for split in ("train", "t10k"))
    return Sources(
        _in_memory(train[0][..., None], train[1], data),
        _in_memory(held_out[0][..., None], held_out[1], data),
        tuple(str(label) for label in range(int(train[1].max()) + 1)),
    )


def _folder(place: str, data: ConfigDict) -> Sources:
    found = folder.find_images(place, data.eval_fraction)
    read = dict(size=data.image_size, channels=data.channels)
    return Sources(
        folder.FolderSource(found.train, **read),
        folder.FolderSource(found.evaluation, **read),
        found.class_names,
    )


def _pairs(place: str, data: ConfigDict) -> Sources:
    found = pairs.find_pairs(place, data.eval_fraction)
    read = dict(
        conditions=found.conditions,
        size=data.image_size,
        channels=data.channels,
        # A tokenizer of conditions has the channels of images.
        condition_channels=condition_channels(data) or data.channels,
    )
    return Sources(
        pairs.PairSource(found.images.train, **read),
        pairs.PairSource(found.images.evaluation, **read),
        found.images.class_names,
    )


def _tfds(place: str, data: ConfigDict) -> Sources:
    return Sources(*tfds.open_splits(place, data.eval_fraction, data.channels))


def _tokens(place: str, data: ConfigDict) -> Sources:
    del data
    written = tokens.open_tokens(place)
    return Sources(written.train, written.evaluation, written.class_names)
