"""Command lines: flags, a cache of compiled programs, and one clear line for a user's error."""

import gc
import inspect
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

import maskgit_jax.decoding.rules  # noqa: F401 (registers the decoders that --help lists)
from maskgit_jax.config_keys import format_config, source_comments, unknown_key
from maskgit_jax.configuration import InputError, base_config, config_file, optimizer, require
from maskgit_jax.decoding.settings import MaskingSettings, declared_settings
from maskgit_jax.distributed import end_with_peers
from maskgit_jax.distributed import start as start_processes
from maskgit_jax.files import (
    check_output_file,
    compilation_cache_directory,
    expand_user_paths,
    storage_error,
    user_path,
)
from maskgit_jax.images import ReadingRules, set_reading_rules
from maskgit_jax.networks.layer_options import LayerOptions
from maskgit_jax.settings import setting_comments

POSITIVE = "a positive integer"
_KINDS: dict[Any, Callable] = {
    int: partial(flags.DEFINE_integer, lower_bound=0),
    POSITIVE: partial(flags.DEFINE_integer, lower_bound=1),
    float: partial(flags.DEFINE_float, lower_bound=0),
    bool: flags.DEFINE_bool,
    list: flags.DEFINE_list,
    str: flags.DEFINE_string,
}


def define_flags(table: Iterable[tuple[Any, str, Any, str]]) -> None:
    """Defines a flag for each row (type, name, default, help).

    The type is int or float (not negative), `POSITIVE`, bool, list, str, or a tuple of choices.
    """
    for kind, name, default, text in table:
        if isinstance(kind, tuple):
            flags.DEFINE_enum(name, default, list(kind), text)
        else:
            _KINDS.get(kind, flags.DEFINE_string)(name, default, text)


def define_sampling_flags() -> Callable[[], dict[str, Any]]:
    """Defines a flag for each declared sampling setting, and --guide.

    Each generator has some of the settings.

    Returns:
        A function to call after parsing: setting -> value, of the flags that were given.
    """
    flags.DEFINE_string(
        "guide",
        "",
        "MaskGIT: RUN or RUN@STEP, a worse run on the same tokens, such as an earlier checkpoint: "
        "guidance uses its logits l_guide in place of l_null, and needs no null label.",
    )
    settings = declared_settings()
    kinds = {int: flags.DEFINE_integer, float: flags.DEFINE_float}  # settings check their ranges
    for name, kind, _, text, choices in settings:
        if choices:
            flags.DEFINE_enum(name, None, list(choices), text)
        else:
            kinds.get(kind, flags.DEFINE_string)(name, None, text)

    def given() -> dict[str, Any]:
        values = {setting.name: flags.FLAGS[setting.name].value for setting in settings}
        if values["size"] is not None:
            values["size"] = _image_size(values["size"])
        if values["guidance_interval"] is not None:
            values["guidance_interval"] = numbers("guidance_interval", 2, float)
        return {name: value for name, value in values.items() if value is not None}

    return given


def numbers(name: str, count: int, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    """Returns the comma-separated numbers of a flag.

    Raises:
        InputError: They are not `count` numbers.
    """
    value: Any = flags.FLAGS[name].value
    words = value.split(",") if isinstance(value, str) else value
    try:
        values = tuple(kind(word) for word in words)
    except ValueError:
        values = ()
    if len(values) != count:
        raise InputError(
            f"--{name} is '{','.join(words)}'; it takes {count} numbers with commas: "
            f"{flags.FLAGS[name].help}"
        )
    return values


def command_options(
    command: str, flags_of: Mapping[str, Collection[str]], required: Mapping[str, Collection[str]]
) -> dict[str, Any]:
    """Returns flag -> value of the flags of a subcommand that were given.

    Args:
        command: The subcommand.
        flags_of: Subcommand -> flags that some subcommands do not have.
        required: Subcommand -> flags that it needs.

    Raises:
        InputError: A flag has no effect on the command, or one that it needs is missing.
    """
    names = {name for names in flags_of.values() for name in names}
    given = {name: flags.FLAGS[name].value for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    unused = sorted(set(given) - set(flags_of[command]))
    if unused:
        raise InputError(f"--{unused[0]} has no effect on '{command}'; remove it")
    missing = [name for name in required.get(command, ()) if flags.FLAGS[name].value is None]
    if missing:
        raise InputError(f"'{command}' needs --{missing[0]}: {flags.FLAGS[missing[0]].help}")
    return given


def output_file(name: str, *suffixes: str) -> Path:
    """Returns the file that a flag names, whose suffix is one of `suffixes` in any case.

    Raises:
        InputError: It has another suffix, or cannot be written.
    """
    path = Path(str(flags.FLAGS[name].value))
    *others, last = suffixes
    words = f"{', '.join(others)} or {last}" if others else last
    require(path.suffix.lower() in suffixes, f"--{name} is {path}; it must end in {words}")
    return check_output_file(path, f"--{name}")


def _image_size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdigit() for side in sides):
        raise InputError(f"--size is '{text}'; it is written HEIGHTxWIDTH, such as 32x64")
    return int(sides[0]), int(sides[1])


def define_config(default: str | None) -> flags.FlagHolder:
    """Defines --config: a file or a stage, with an optional preset; --config.KEY changes a key."""
    holder = config_flags.DEFINE_config_file(
        "config",
        None,
        "FILE[:PRESET] or STAGE[:PRESET], such as configs/vqgan.py:digits; --config.KEY=VALUE "
        "after it changes a key.",
    )
    parser = flags.FLAGS["config"].parser
    load = parser.parse

    def parse(value: str) -> Any:
        path, *preset = value.split(":", 1)
        config = load(":".join([str(config_file(path)), *preset]))
        changed = (re.match(r"--?(?:no)?config\.([^=]+)", word) for word in sys.argv)
        wrong = [unknown_key(config, match[1]) for match in changed if match and config]
        if any(wrong):
            _fail(f"{value}: {next(filter(None, wrong))}")
        return config

    parser.parse = parse  # pyright: ignore[reportAttributeAccessIssue]
    try:
        flags.set_default(holder, default)  # parses the changed keys, unless --config is given
    except (TypeError, flags.Error) as error:
        _fail(_reason(str(error)))
    return holder


def chosen_config(holder: flags.FlagHolder) -> ConfigDict:
    """Returns the configuration of a config flag.

    Raises:
        InputError: Its file cannot be loaded, or none was given.
    """
    try:
        config = holder.value
        require(config is not None, "--config is needed, such as --config=configs/vqgan.py:digits")
        _ = config.stage  # a missing file is reported when the first key is read
        expand_user_paths(config)
    except OSError as error:
        raise InputError(f"--config cannot be loaded: {error}") from error
    return config


def describe_config(config: ConfigDict) -> str:
    """Returns a line for each key of a configuration, with the comment of its source."""
    base, network = (source_comments(inspect.getsource(part)) for part in (base_config, optimizer))
    own = source_comments(config_file(config.stage).read_text())
    networks = {f"optimizers.{key}": text for key, text in network.items()}
    sampling = {f"sampling.{setting.name}": setting.help for setting in declared_settings()}
    layers = setting_comments(LayerOptions, "model.layer_options")
    masking = setting_comments(MaskingSettings, "masking")
    return format_config(config, {**base, **networks, **sampling, **layers, **masking, **own})


def _define_processes() -> Callable[[], tuple[str, int, int]]:
    defined = (
        flags.DEFINE_string(
            "coordinator",
            "",
            "HOST:PORT of process 0, if several processes form one program; processes on TPU "
            "slices and under Slurm find each other without it.",
        ),
        flags.DEFINE_integer("num_processes", 0, "Number of processes.", lower_bound=0),
        flags.DEFINE_integer("process_id", -1, "Number of this process, from 0.", lower_bound=-1),
    )
    return lambda: (defined[0].value, defined[1].value, defined[2].value)


def _define_reading_rules() -> Callable[[], ReadingRules]:
    default = ReadingRules()
    flags.DEFINE_list(
        "float_range",
        list(map(str, default.float_range)),
        "LOW,HIGH: values of black and white in images of floating-point numbers, the same for "
        "all of them.",
    )
    largest = flags.DEFINE_integer(
        "max_megapixels",
        default.max_megapixels,
        "Largest image that is read, in millions of pixels.",
        lower_bound=1,
    )
    return lambda: ReadingRules(numbers("float_range", 2, float), largest.value)


def _expand_home() -> None:
    """Replaces ~ in the values of all flags of this package."""
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        for flag in defined if module.startswith("maskgit_jax") or module == sys.argv[0] else ():
            if isinstance(flag.value, str):
                flag.value = user_path(flag.value)
            elif isinstance(flag.value, list):
                flag.value = [user_path(word) for word in flag.value]


def run(main: Callable[..., None], commands: Sequence[str] = (), distributed: bool = False) -> None:
    """Parses the flags and calls `main`; an `InputError` ends with one line and exit code 2.

    Args:
        main: The function of the command; it gets the subcommand, if there are any.
        commands: The subcommands, of which the user gives exactly one.
        distributed: Whether several processes can run the command together.
    """
    processes = _define_processes() if distributed else None
    reading_rules = _define_reading_rules()

    def start(*words: str) -> None:
        _expand_home()
        set_reading_rules(reading_rules())
        if processes is not None:
            start_processes(*processes())
        main(*words)

    # Orbax logs thirty lines per checkpoint, and each error that it raises several times.
    absl_logging.set_verbosity(absl_logging.FATAL)
    # Orbax reads with a hundred tasks; when one fails, the others would each report the failure.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = _unraisable
    warnings.showwarning = _show_warning
    enable_compilation_cache()
    collect_less_garbage()
    _show_all_flags_in_help()
    app.run(
        lambda argv: _report_errors(lambda: start(*argv[1:])),
        flags_parser=lambda argv: _parse(argv, commands),
    )


def enable_compilation_cache() -> None:
    """Keeps compiled programs on disk, so that the next call of a command need not compile them.

    MASKGIT_JAX_CACHE moves the cache directory, or disables it if it is empty; a directory that
    JAX_COMPILATION_CACHE_DIR names is used as it is.
    """
    directory = compilation_cache_directory()
    if directory is None or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


def collect_less_garbage() -> None:
    """Lets the garbage collector run less often, and look at new objects only.

    Tracing a network makes so many objects that collection would take a sixth of its time.
    """
    gc.freeze()
    gc.set_threshold(200_000, 50, 100)


def _show_all_flags_in_help() -> None:
    """Lists the flags that this package defines in other modules under --help too."""
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("maskgit_jax"):
            for flag in defined:
                flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def _unraisable(event: "sys.UnraisableHookArgs") -> None:
    if str(event.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(event)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Prints a warning as one line, without the source line that caused it."""
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr, flush=True)


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
        _fail(f"'{words[0]}' is not a flag; flags are written --name=value")
    return arguments


def _report_errors(main: Callable[[], None]) -> None:
    try:
        main()
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os._exit(1)
    except (InputError, OSError) as error:
        if not (isinstance(error, InputError) or storage_error(error)):
            raise
        print(_one_line(error), file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        # Everything is saved and closed; threads that still read ahead are not waited for.
        os._exit(2)
    except jax.errors.JaxRuntimeError as error:
        end_with_peers(error)
        raise


def _reason(text: str) -> str:
    # An error inside a config file arrives as the text of its traceback, whose last line has the
    # message; a KeyError arrives with escapes.
    text = re.sub(r"invalid literal for int\(\) with base 10", "not a whole number", text)
    # ml_collections' words for a key that a configuration file changes but the base lacks.
    suggestion = re.search(r'Did you mean "(\w+)" instead of "(\w+)"', text)
    if suggestion:
        return f"the configuration has no key '{suggestion[2]}'; did you mean '{suggestion[1]}'?"
    text = text.replace("could not convert string to float", "not a number")
    text = text.replace("\\n", " ").replace("\\", "").strip()
    if "Traceback" in text:
        text = text.splitlines()[-1]
    return text.removeprefix(f"{InputError.__module__}.{InputError.__name__}: ")


def _fail(reason: str) -> NoReturn:
    print(_one_line(reason), file=sys.stderr)
    raise SystemExit(2)


def _one_line(reason: Exception | str) -> str:
    return f"error: {' '.join(str(reason).split())}"
