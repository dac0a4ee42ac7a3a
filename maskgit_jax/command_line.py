"""Runs a command: flags in, one call, and one clear line for what the user can mend."""

import sys
from collections.abc import Callable

from absl import app, flags, logging

from maskgit_jax.configuration import InputError


def run(main: Callable[[], None]) -> None:
    """Parses the flags and calls `main`; an input error ends with one line and exit code 2."""
    logging.set_verbosity(logging.WARNING)  # Orbax tells every save in thirty lines
    app.run(lambda _: _guarded(main), flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        arguments = flags.FLAGS(argv)
    except (InputError, AttributeError, KeyError, TypeError, OSError, flags.Error) as error:
        _fail(error)
    if len(arguments) > 1:
        _fail(f"'{arguments[1]}' is not a flag: options are written --name=value")
    return arguments


def _guarded(main: Callable[[], None]) -> None:
    try:
        main()
    except InputError as error:
        _fail(error)


def _fail(reason: Exception | str) -> None:
    # An error inside a config file arrives as the text of its traceback: the last line says it.
    # (and what was a KeyError keeps its escapes).
    reason = str(reason).replace("\\n", " ").replace("\\", "")
    lines = reason.strip().splitlines()
    text = lines[-1].removeprefix(f"{InputError.__module__}.{InputError.__name__}: ")
    text = text if "Traceback" in reason else " ".join(" ".join(lines).split())
    print(f"error: {text}", file=sys.stderr)
    raise SystemExit(2)
