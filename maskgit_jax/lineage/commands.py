"""The commands that reproduce the trainings of a lineage, for the page."""

from collections.abc import Iterable
from typing import Any

from maskgit_jax.hints import python_command
from maskgit_jax.lineage.schedule import Schedule
from maskgit_jax.lineage.systems import System, Training, needed_trainings


def train_command(schedule: Schedule, training: Training) -> str:
    """Returns the command that reproduces a training."""

    def word(value: Any) -> str:
        return str(value).replace(" ", "") if isinstance(value, tuple | list) else str(value)

    changes = schedule.scaled_changes(training, schedule.length(training.name))
    return python_command(
        "train",
        [
            f"--config={schedule.preset_name(training)}",
            *(f"--config.{key}={word(value)}" for key, value in changes.items()),
            f"--workdir={schedule.run(training.name)}",
        ],
    )


def encode_command(schedule: Schedule, tokenizer: str) -> str:
    """Returns the command that reproduces the tokens of a tokenizer."""
    run, folder = schedule.run(tokenizer), schedule.tokens(tokenizer)
    return python_command(
        "encode", [f"--workdir={run}", f"--data={schedule.data}", f"--out={folder}"]
    )


def training_commands(schedule: Schedule, systems: Iterable[System]) -> list[str]:
    """Returns the commands of all scheduled trainings and their token datasets."""
    lines = []
    for training in needed_trainings(systems):
        if training.name in schedule.reused or not schedule.has_length(training.name):
            continue
        if training.tokenizer:
            lines.append(encode_command(schedule, training.tokenizer))
        lines.append(train_command(schedule, training))
    return list(dict.fromkeys(lines))
