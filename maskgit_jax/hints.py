"""Commands in messages: each works when it is pasted into a terminal."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from maskgit_jax.config_keys import flat_values
from maskgit_jax.configuration import InputError, load_config, resolve_cadences

ABSENT = "absent"
_FROM_DATA = ("data.num_classes", "data.class_names")


def python_command(module: str, words: Iterable[str]) -> str:
    """Returns a command of this package as a user types it."""
    return shlex.join(["python", "-m", f"maskgit_jax.{module}", *words])


def train_command(config: ConfigDict, workdir: str | Path) -> str:
    """Returns the command that trains a run: its preset, and all keys that differ from it."""
    preset = f"configs/{config.stage}.py:{config.preset}"
    try:
        base = load_config(preset, **{"training.num_steps": config.training.num_steps}).unlock()
    except InputError:  # A configuration file of the user's own.
        return python_command("train", [f"--config={preset}", f"--workdir={workdir}"])
    resolve_cadences(base)
    changes = {
        key: new
        for key, (old, new) in changed_keys(base, config).items()
        if ABSENT not in (old, new) and key not in _FROM_DATA
    }
    num_steps = load_config(preset).training.num_steps
    if config.training.num_steps != num_steps:
        changes["training.num_steps"] = config.training.num_steps
    words = [f"--config.{key}={_word(value)}" for key, value in changes.items()]
    return python_command("train", [f"--config={preset}", *words, f"--workdir={workdir}"])


def _word(value: Any) -> str:
    return str(value).replace(" ", "") if isinstance(value, tuple | list) else str(value)


def changed_keys(before: ConfigDict, after: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """Returns dotted key -> (old, new value) where two configurations differ, or `ABSENT`."""
    old, new = flat_values(before), flat_values(after)
    pairs = {key: (old.get(key, ABSENT), new.get(key, ABSENT)) for key in {**new, **old}}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
