"""Sampling settings as the page shows them, from their one declaration, and as it sends them."""

import dataclasses
from typing import Any

from maskgit_jax.configuration import InputError, require
from maskgit_jax.decoding.settings import DecodeSettings
from maskgit_jax.demo.fields import check_integer, check_number, shown
from maskgit_jax.stage import Generator

LEFT_OUT = ("size", "use_cache")  # other sizes need other programs; the tokens do not depend on it
LARGEST = 2**31 - 1
_KINDS: dict[Any, str] = {bool: "bool", int: "int", float: "float", str: "text"}


def describe_settings(
    generator: Generator, num_tokens: int, codebook_size: int
) -> list[dict[str, Any]]:
    """Returns name, type, default, range, choices and help of the settings of a generator.

    The default is the run's own. Choices that the run cannot use are left out.

    Args:
        generator: The generator.
        num_tokens: Tokens of an image, the largest number of decoding steps; 0 without tokens.
        codebook_size: Number of codes; 0 without tokens.
    """
    own = generator.settings
    largest = {"top_k": codebook_size}
    if isinstance(own, DecodeSettings):
        largest |= {"steps": num_tokens, "start_step": num_tokens - 1}
    described = []
    for field in dataclasses.fields(own):
        if field.name in LEFT_OUT:
            continue
        limits = field.metadata
        choices = [word for word in limits["choices"] if _usable(generator, field.name, word)]
        described.append(
            {
                "name": field.name,
                "type": "choice" if limits["choices"] else _KINDS.get(field.type, "range"),
                "default": getattr(own, field.name),
                "minimum": limits["minimum"],
                "maximum": largest.get(field.name, limits["maximum"]),
                "above": limits["above"],
                "choices": choices,
                "help": limits["help"],
            }
        )
    return described


def _usable(generator: Generator, name: str, choice: str) -> bool:
    """Whether the generator takes a choice, beside its own settings or the declared defaults."""
    own = generator.settings
    for settings in (own, type(own)()):
        try:
            generator.check_settings(dataclasses.replace(settings, **{name: choice}))
            return True
        except InputError:
            pass
    return False


def read_settings(generator: Generator, values: Any) -> Any:
    """Returns the run's own settings with those of a request in their place.

    Raises:
        InputError: One is unknown, of the wrong type or out of range, or the generator cannot
            use them together.
    """
    require(isinstance(values, dict), f"settings is {shown(values)}; it must be an object")
    fields = {field.name: field for field in dataclasses.fields(generator.settings)}
    names = [name for name in fields if name not in LEFT_OUT]
    for name in values:
        require(name in names, f"there is no setting {shown(name)}; there are: {', '.join(names)}")
    read = {name: _read_setting(fields[name], value) for name, value in values.items()}
    settings = dataclasses.replace(generator.settings, **read)
    generator.check_settings(settings)
    return settings


def _read_setting(field: dataclasses.Field, value: Any) -> Any:
    if field.type is int:
        return check_integer(field.name, value, -LARGEST, LARGEST)
    if field.type is float:
        return check_number(field.name, value)
    if field.type is bool:
        require(isinstance(value, bool), f"{field.name} is {shown(value)}; it is true or false")
        return value
    if field.type is str:
        require(
            isinstance(value, str) and len(value) <= 100,
            f"{field.name} is {shown(value)}; it must be a short text",
        )
        return value
    require(
        isinstance(value, list) and len(value) == 2,
        f"{field.name} is {shown(value)}; it must be a list of two numbers",
    )
    return tuple(check_number(field.name, number) for number in value)
