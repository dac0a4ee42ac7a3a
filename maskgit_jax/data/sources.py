"""Data sources by name: digits, IDX files, directories, pairs, TFDS, token files.

To add a source, write a module with a `Source` and a function `open(place, data) -> Sources`, and
enter the function in `SOURCES`.
"""

import os
from collections.abc import Callable

from ml_collections import ConfigDict

from maskgit_jax.configuration import InputError, require, validate_conditions
from maskgit_jax.data.digits import open_digits
from maskgit_jax.data.folder import open_folder
from maskgit_jax.data.idx import open_idx
from maskgit_jax.data.pairs import open_pairs
from maskgit_jax.data.protocol import Sources
from maskgit_jax.data.tfds import open_tfds
from maskgit_jax.data.tokens import open_tokens, read_description

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
    sources = SOURCES[forms[kind]](os.path.expanduser(place), data)
    for split, source in (("training", sources.train), ("evaluation", sources.evaluation)):
        require(len(source) > 0, f"{data.source} has no {split} images")
    return sources


def open_image_sources(data: ConfigDict) -> Sources:
    """Opens the images of a run: its dataset or, for tokens, the images that were encoded.

    Raises:
        InputError: As `open_sources`; the message says that --data can name other images.
    """
    data = image_data(data)
    try:
        return open_sources(data)
    except InputError as error:
        raise InputError(f"{error}; {_ELSEWHERE}") from error


def absolute_source(source: str) -> str:
    """Returns a `config.data.source` with the absolute path of its directory, if it has one."""
    kind, _, place = source.partition(":")
    if f"{kind}:DIR" not in SOURCES:
        return source
    return f"{kind}:{os.path.abspath(os.path.expanduser(place))}"


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
