"""Values of JSON requests: each is checked by type and range, and unknown ones are refused."""

import json
import math
from typing import Any

from maskgit_jax.configuration import InputError, require

REQUIRED = object()
LARGEST_SEED = 2**32 - 1


def shown(value: Any) -> str:
    """Returns a value of a request as a short text in one line."""
    try:
        text = json.dumps(value)
    except RecursionError:
        return "a value of many levels"
    return text if len(text) <= 40 else f"{text[:40]}..."


def parse_json(body: bytes) -> Any:
    """Returns the value of a JSON text.

    Raises:
        InputError: It is not JSON, or holds numbers that are not finite.
    """

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not a number of JSON")

    try:
        return json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        reason = "too many digits" if "digits" in str(error) else str(error).partition(":")[0]
        raise InputError(f"the request is not JSON ({reason})") from error


class Fields:
    """The members of a JSON object; each is taken out once, and `end` refuses what is left.

    Args:
        values: The value that was parsed.
        what: The name of the object in messages.

    Raises:
        InputError: It is not an object.
    """

    def __init__(self, values: Any, what: str = "the request"):
        require(isinstance(values, dict), f"{what} is {shown(values)}; it must be an object")
        self._values, self._what = dict(values), what

    def take(self, name: str, default: Any = REQUIRED) -> Any:
        """Returns a member as it is."""
        require(name in self._values or default is not REQUIRED, f"{self._what} lacks '{name}'")
        return self._values.pop(name, default)

    def end(self) -> None:
        """Raises `InputError` if a member was not taken."""
        left = next(iter(self._values), None)
        require(left is None, f"{self._what} has the unknown member {shown(left)}; remove it")

    def text(self, name: str, default: Any = REQUIRED) -> str:
        """Returns a text."""
        value = self.take(name, default)
        require(isinstance(value, str), f"{name} is {shown(value)}; it must be a text")
        return value

    def boolean(self, name: str, default: bool = False) -> bool:
        """Returns true or false."""
        value = self.take(name, default)
        require(isinstance(value, bool), f"{name} is {shown(value)}; it must be true or false")
        return value

    def integer(self, name: str, minimum: int, maximum: int, default: Any = REQUIRED) -> int:
        """Returns a whole number in a range."""
        return check_integer(name, self.take(name, default), minimum, maximum)

    def label(self, num_classes: int, name: str = "label") -> int | None:
        """Returns the number of a class, None for none."""
        return check_label(name, self.take(name, None), num_classes)

    def number(self, name: str, default: Any = REQUIRED) -> float:
        """Returns a finite number."""
        return check_number(name, self.take(name, default))

    def integers(
        self, name: str, length: int, minimum: int, maximum: int, default: Any = REQUIRED
    ) -> list[int]:
        """Returns a list of `length` whole numbers in a range."""
        values = self.take(name, default)
        require(
            isinstance(values, list) and len(values) == length,
            f"{name} must be a list of {length} whole numbers",
        )
        return [check_integer(name, value, minimum, maximum) for value in values]


def check_integer(name: str, value: Any, minimum: int, maximum: int) -> int:
    """Returns a value that must be a whole number in a range."""
    require(
        type(value) is int and minimum <= value <= maximum,  # a bool is no number here
        f"{name} is {shown(value)}; it must be a whole number from {minimum} to {maximum}",
    )
    return value


def check_label(name: str, value: Any, num_classes: int) -> int | None:
    """Returns a value that must be the number of a class, or None."""
    if value is None:
        return None
    require(num_classes > 0, f"{name} is {shown(value)}, but this run has no classes; remove it")
    return check_integer(name, value, 0, num_classes - 1)


def check_number(name: str, value: Any) -> float:
    """Returns a value that must be a finite number."""
    require(
        type(value) in (int, float) and abs(value) < 1e30 and math.isfinite(value),
        f"{name} is {shown(value)}; it must be a number",
    )
    return float(value)
