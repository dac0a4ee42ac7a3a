"""Runs a command: flags in, one call, and one clear line for what the user can mend."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

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
        _fail(_reason(str(error)))
    if len(arguments) > 1:
        _fail(f"'{arguments[1]}' is not a flag: options are written --name=value")
    return arguments


def _guarded(main: Callable[[], None]) -> None:
    try:
        main()
    except InputError as error:
        # Threads that still read a damaged checkpoint print tracebacks of their own from now
        # on; only the one line shall be seen. Whoever raises has saved and closed.
        sys.stdout.flush()
        sys.stderr.flush()
        shown = os.dup(2)
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        os.dup2(sys.stderr.fileno(), 2)
        os.write(shown, f"{_one_line(error)}\n".encode())
        os._exit(2)


def _reason(text: str) -> str:
    # An error inside a config file arrives as the text of its traceback: the last line says it;
    # what was a KeyError arrives with its escapes.
    text = text.replace("\\n", " ").replace("\\", "").strip()
    if "Traceback" in text:
        text = text.splitlines()[-1]
    return text.removeprefix(f"{InputError.__module__}.{InputError.__name__}: ")


def _fail(reason: str) -> NoReturn:
    print(_one_line(reason), file=sys.stderr)
    raise SystemExit(2)


def _one_line(reason: Exception | str) -> str:
    return f"error: {' '.join(str(reason).split())}"
