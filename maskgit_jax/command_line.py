"""Runs a command: flags in, one call, and one clear line for what the user can mend."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict

from maskgit_jax.configuration import InputError, require
from maskgit_jax.distributed import end_with_peers
from maskgit_jax.distributed import start as start_processes


def define_sampling_flags() -> Callable[[], dict[str, Any]]:
    """Defines the flags that change how images are made; each generator knows some of them.

    Returns:
        A function for after parsing: name of the setting -> value, of the flags that were given.
    """
    defined = (
        flags.DEFINE_integer("steps", None, "Decoding steps; default: the run's config."),
        flags.DEFINE_float("guidance", None, "Classifier-free guidance; 0 for none."),
        flags.DEFINE_float("choice_temperature", None, "Randomness of the places chosen."),
        flags.DEFINE_float(
            "temperature",
            None,
            "Divides the logits; of a VAE, multiplies the prior's standard deviation.",
        ),
        flags.DEFINE_float(
            "last_temperature", None, "Temperature of the last step; 0: as the first."
        ),
        flags.DEFINE_string(
            "decoder",
            None,
            "confidence, random, halton, token_critic, self_critic, remask or corrector.",
        ),
        flags.DEFINE_string(
            "schedule",
            None,
            "How many tokens are hidden after each step: cosine, linear, square, cubic, sqrt, "
            "pow2.5, exponential, logarithmic, arccos.",
        ),
        flags.DEFINE_string("guidance_schedule", None, "constant, linear, cosine or interval."),
        flags.DEFINE_list(
            "guidance_interval", None, "low,high: shares of the steps in which guidance acts."
        ),
        flags.DEFINE_float(
            "revised", None, "Share of accepted tokens that a revising decoder looks at."
        ),
        flags.DEFINE_string(
            "remask", None, "cap, rescale, confidence or loop, of --decoder=remask."
        ),
        flags.DEFINE_integer("top_k", None, "Draw only the k most likely codes; 0 for all."),
        flags.DEFINE_float(
            "top_p", None, "Draw only the most likely codes that make up this probability."
        ),
        flags.DEFINE_bool(
            "cached",
            None,
            "Remember what was computed for the tokens before (--nouse_cache: the same images, "
            "slowly).",
        ),
        flags.DEFINE_string("size", None, "HEIGHTxWIDTH of the images in pixels, for GPT."),
        flags.DEFINE_enum(
            "pixels", None, ["mean", "draw"], "Of a VAE: the mean of p(x | z), or a draw from it."
        ),
    )

    def given() -> dict[str, Any]:
        values = {flag.name: flag.value for flag in defined}
        values["size"] = values["size"] and _size(values["size"])
        if values["guidance_interval"] is not None:
            values["guidance_interval"] = numbers("guidance_interval", 2, float)
        return {name: value for name, value in values.items() if value is not None}

    return given


def numbers(name: str, count: int, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    """Returns the numbers, separated by commas, of a list flag."""
    words = flags.FLAGS[name].value
    try:
        values = tuple(kind(word) for word in words)
    except ValueError:
        values = ()
    if len(values) != count:
        raise InputError(f"--{name} is '{','.join(words)}'; it is {count} numbers with commas")
    return values


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdigit() for side in sides):
        raise InputError(f"--size is '{text}'; it is written HEIGHTxWIDTH, such as 32x64")
    return int(sides[0]), int(sides[1])


def chosen_config(holder: flags.FlagHolder) -> ConfigDict:
    """Returns the configuration of a config flag.

    Raises:
        InputError: Its file cannot be loaded, or none was given.
    """
    try:
        config = holder.value
        require(config is not None, "--config is needed, such as --config=configs/vqgan.py:digits")
        _ = config.stage  # a missing file comes up when it is first read
    except OSError as error:
        raise InputError(f"--config cannot be loaded: {error}") from error
    return config


def _define_processes() -> Callable[[], tuple[str, int, int]]:
    defined = (
        flags.DEFINE_string(
            "coordinator",
            "",
            "HOST:PORT of process 0, where several processes form one program; on TPU slices and "
            "under Slurm they find each other without.",
        ),
        flags.DEFINE_integer("num_processes", 0, "Of the program.", lower_bound=0),
        flags.DEFINE_integer("process_id", -1, "Of this process, from 0 on.", lower_bound=-1),
    )
    return lambda: tuple(flag.value for flag in defined)


def run(main: Callable[..., None], commands: Sequence[str] = (), distributed: bool = False) -> None:
    """Parses the flags and calls `main`; an input error ends with one line and exit code 2.

    Args:
        main: Called with the command, if there are some, otherwise with nothing.
        commands: Words of which the user gives exactly one beside the flags.
        distributed: Whether several processes can run it together.
    """
    processes = _define_processes() if distributed else None

    def start(*words: str) -> None:
        if processes is not None:
            start_processes(*processes())
        main(*words)

    absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax tells every save in thirty lines
    # One failed read of a damaged checkpoint raises; the hundred others, still under way, would
    # complain one by one, on this logger and to this hook, around the one line that says it.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = _unraisable
    app.run(
        lambda argv: _guarded(lambda: start(*argv[1:])),
        flags_parser=lambda argv: _parse(argv, commands),
    )


def _unraisable(event: "sys.UnraisableHookArgs") -> None:
    if str(event.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(event)


def _parse(argv: list[str], commands: Sequence[str]) -> list[str]:
    try:
        arguments = flags.FLAGS(argv)
    except (InputError, AttributeError, KeyError, TypeError, OSError, flags.Error) as error:
        _fail(_reason(str(error)))
    words = arguments[1:]
    if commands and (len(words) != 1 or words[0] not in commands):
        given = f"'{' '.join(words)}'" if words else "nothing"
        _fail(f"one command is needed and {given} was given; the commands are: "
              f"{', '.join(commands)}")  # fmt: skip
    if words and not commands:
        _fail(f"'{words[0]}' is not a flag: options are written --name=value")
    return arguments


def _guarded(main: Callable[[], None]) -> None:
    try:
        main()
    except InputError as error:
        print(_one_line(error), file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        # Whoever raises has saved and closed; threads that still read are not waited for.
        os._exit(2)
    except jax.errors.JaxRuntimeError as error:
        end_with_peers(error)
        raise


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
