"""Data sources by name: digits, IDX files, directories, pairs, TFDS, token files.

To add a source, write a module with a `Source` and a function `open(place, data) -> Sources`, and
enter the function in `SOURCES`.
"""

import os
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from maskgit_jax import distributed
from maskgit_jax.configuration import InputError, require, validate_conditions
from maskgit_jax.data.cropping import ChooseCrop
from maskgit_jax.data.digits import open_digits
from maskgit_jax.data.folder import open_folder
from maskgit_jax.data.idx import open_idx
from maskgit_jax.data.pairs import open_pairs
from maskgit_jax.data.protocol import Source, Sources
from maskgit_jax.data.tfds import open_tfds
from maskgit_jax.data.tokens import open_tokens, read_description
from maskgit_jax.files import printable, user_path

SOURCES: dict[str, Callable[[str, ConfigDict], Sources]] = {
    "digits": open_digits,
    "idx:DIR": open_idx,
    "folder:DIR": open_folder,
    "pairs:DIR": open_pairs,
    "tfds:NAME": open_tfds,
    "tokens:DIR": open_tokens,
}
"""Form of `config.data.source` -> function of what follows the colon and of `config.data`."""

_ELSEWHERE = "if the images of the run are elsewhere, name them with --data=SOURCE"


def open_sources(data: ConfigDict) -> Sources:
    """Opens the dataset of `config.data.source`.

    Raises:
        InputError: It is unknown, missing, empty or damaged, or lacks what `config.data.input` or
            `config.data.condition` needs.
    """
    kind, _, place = data.source.partition(":")
    forms = {form.partition(":")[0]: form for form in SOURCES}
    require(
        kind in forms,
        f"config.data.source is '{data.source}'; allowed: {', '.join(SOURCES)}",
    )
    require(
        bool(place) or ":" not in forms[kind],
        f"config.data.source is '{data.source}'; write it as {forms[kind]}",
    )
    # Commands replace the source of a run's configuration after its validation.
    validate_conditions(data)
    sources = SOURCES[forms[kind]](user_path(place), data)
    for split, source in (("training", sources.train), ("evaluation", sources.evaluation)):
        require(len(source) > 0, f"{data.source} has no {split} images")
    return sources


def open_image_sources(data: ConfigDict) -> Sources:
    """Opens the images of a run: its dataset or, for tokens, the images that were encoded.

    The first of several processes prints their description.

    Raises:
        InputError: As `open_sources`; the message says that --data can name other images.
    """
    data = image_data(data)
    try:
        sources = open_sources(data)
    except InputError as error:
        raise InputError(f"{error}; {_ELSEWHERE}") from error
    if distributed.is_main():
        print(describe_sources(data.source, sources), flush=True)
    return sources


def absolute_source(source: str) -> str:
    """Returns a `config.data.source` with the absolute path of its directory, if it has one."""
    kind, _, place = source.partition(":")
    if f"{kind}:DIR" not in SOURCES:
        return source
    return f"{kind}:{os.path.abspath(user_path(place))}"


def resolve_classes(config: ConfigDict, sources: Sources) -> None:
    """Sets `config.data.num_classes` and `class_names` from the data, in place.

    Raises:
        InputError: `config.data.num_classes` is set to another number.
    """
    num_classes = len(sources.class_names)
    require(
        config.data.num_classes in (0, num_classes),
        f"config.data.num_classes is {config.data.num_classes}, but {config.data.source} has "
        f"{num_classes} classes; set it to 0 to read it from the data",
    )
    with config.unlocked():
        config.data.num_classes = num_classes
        config.data.class_names = sources.class_names


def describe_sources(name: str, sources: Sources) -> str:
    """Returns one line: numbers of images, classes, and what is left out and why."""
    names = sources.class_names
    classes = f"{len(names)} class{'es' * (len(names) > 1)} ({list_names(names)})"
    classes = "no classes" if names == ("all",) else classes
    counts = f"{len(sources.train)} training and {len(sources.evaluation)} held-out images"
    line = f"{printable(name)}: {counts}, {classes}"
    return f"{line}; left out: {'; '.join(sources.left_out)}" if sources.left_out else line


def list_names(names: Sequence[str], limit: int = 10) -> str:
    """Returns the first names for a message."""
    return ", ".join(map(printable, names[:limit])) + ", ..." * (len(names) > limit)


def class_difference(before: Sequence[str], now: Sequence[str]) -> str:
    """Returns how two lists of class names differ, "" if they are equal."""
    before, now = _normalized(before), _normalized(now)
    changes = {
        "missing": [name for name in before if name not in now],
        "new": [name for name in now if name not in before],
    }
    texts = [f"{word}: {list_names(names, 5)}" for word, names in changes.items() if names]
    return "; ".join(texts) or "in another order" * (before != now)


def class_numbers(names: Sequence[str], known: Sequence[str]) -> tuple[int, ...]:
    """Returns the number of each class among the known ones, -1 where it is none of them."""
    known = _normalized(known)
    return tuple(known.index(each) if each in known else -1 for each in _normalized(names))


def match_classes(name: str, sources: Sources, class_names: Sequence[str]) -> Sources:
    """Returns a dataset whose labels are the numbers of its classes among those of a run.

    Args:
        name: Name of the dataset.
        sources: The dataset.
        class_names: Classes of the run; if there is only one, all images have its label.

    Raises:
        InputError: The dataset has a class that the run lacks.
    """
    known, names = _normalized(class_names), _normalized(sources.class_names)
    if known == names or not known:
        return sources
    unknown = [each for each in names if each not in known]
    require(
        len(known) == 1 or not unknown,
        f"{name} has classes that the run lacks ({list_names(unknown, 5)}); those of the run are "
        f"{list_names(known)}; rename or remove the others, or use other images",
    )
    labels = np.asarray([known.index(each) if len(known) > 1 else 0 for each in names], np.int32)
    train, evaluation = (Relabelled(each, labels) for each in (sources.train, sources.evaluation))
    return sources._replace(train=train, evaluation=evaluation, class_names=known)


def _normalized(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(unicodedata.normalize("NFC", name) for name in names)


class Relabelled(Source):
    """A source with other labels.

    Args:
        source: The source.
        new: The new label of each old one, int32 [K].
    """

    def __init__(self, source: Source, new: np.ndarray):
        self.source, self.new, self.shape = source, new, source.shape
        self.labels = None if source.labels is None else new[source.labels]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.source[index]
        return {**record, "label": int(self.new[record["label"]])}

    def read_batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        batch = self.source.read_batch(indices)
        return {**batch, "label": self.new[batch["label"]]}

    def read_cropped(self, index: int, choose_crop: ChooseCrop, size: int) -> dict[str, Any]:
        record = self.source.read_cropped(index, choose_crop, size)
        return {**record, "label": int(self.new[record["label"]])}


def image_data(data: ConfigDict) -> ConfigDict:
    """Returns a copy of `config.data` that reads images: for tokens, the encoded images.

    Raises:
        InputError: The token dataset is missing; the message says that --data can name images.
    """
    data = data.copy_and_resolve_references()
    kind, _, place = data.source.partition(":")
    if kind == "tokens":
        try:
            description = read_description(place)
        except InputError as error:
            raise InputError(f"{error}; {_ELSEWHERE}") from error
        with data.unlocked():
            data.source, data.input = description["data"], description["input"]
    return data
