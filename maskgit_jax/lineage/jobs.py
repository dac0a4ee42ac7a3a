"""Runs the commands that make the page, each as a process of its own.

So this process needs no accelerator, which on some machines only one process can hold, and
whoever stops it stops a command that knows how to be stopped.
"""

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from maskgit_jax.configuration import InputError, require
from maskgit_jax.lineage.schedule import Plan, schedule
from maskgit_jax.lineage.systems import System, Training, needed_trainings


class Stopped(Exception):
    """The user wants to stop; what was done is kept."""


class Task(NamedTuple):
    """One thing to do.

    Attributes:
        title: For the progress that is shown.
        command: Words after `python -m`; built when its turn comes.
        minutes: About how long it takes, None where nobody knows.
        done: Whether that is done already.
        keeps_going: Whether it is done anew each time.
    """

    title: str
    command: Callable[[], list[str]]
    minutes: Callable[[], float | None]
    done: Callable[[], bool]
    keeps_going: bool = False


def train_command(plan: Plan, training: Training) -> list[str]:
    """Returns the words after `python -m` that train."""
    config = f"{plan.chosen.configs}/{training.stage}.py:{plan.chosen.preset}"
    changes = schedule(plan, training, plan.length(training.name))
    return [
        "maskgit_jax.train",
        f"--config={config}",
        *(f"--config.{key}={_word(value)}" for key, value in changes.items()),
        f"--workdir={plan.run(training.name)}",
    ]


def _word(value: Any) -> str:
    return str(value).replace(" ", "") if isinstance(value, tuple | list) else str(value)


def tasks(plan: Plan, systems: list[System], own_words: Sequence[str]) -> list[Task]:
    """Returns all that must be done for the page, in order.

    Args:
        plan: How long everything is trained.
        systems: Of the page.
        own_words: With which this command was called, for the parts of it that are tasks.
    """
    trainings = [each for each in needed_trainings(systems) if each.name not in plan.reused]
    found = []
    for learns_tokens in (False, True):
        group = [each for each in trainings if bool(each.tokenizer) == learns_tokens]
        tokenizers = dict.fromkeys(each.tokenizer for each in group if learns_tokens)
        found += [_encoding(plan, name) for name in tokenizers]
        if group and not plan.num_steps:
            found.append(_speeds(plan, group, own_words))
        found += [_training(plan, each) for each in group]
    found.append(_evaluation(plan, own_words))
    return found


def _training(plan: Plan, training: Training) -> Task:
    name = training.name

    def minutes() -> float | None:
        if plan.num_steps:
            return None
        known = plan.steps().get(name)
        return (
            known["num_steps"] * known["seconds"] / 60 if known else plan.minutes * training.share
        )

    return Task(
        f"training {name}",
        lambda: train_command(plan, training),
        minutes,
        lambda: plan.finished(name),
    )


def _encoding(plan: Plan, name: str) -> Task:
    folder = plan.tokens(name)
    return Task(
        f"encoding the images by {name}",
        lambda: [
            "maskgit_jax.encode",
            f"--workdir={plan.run(name)}",
            f"--data={plan.chosen.data}",
            f"--out={folder}",
        ],
        lambda: None,
        lambda: plan.encoded(name),
    )


def _speeds(plan: Plan, group: list[Training], own_words: Sequence[str]) -> Task:
    names = [each.name for each in group]

    def missing() -> list[str]:
        return [name for name in names if not plan.decided(name)]

    return Task(
        f"measuring how fast {', '.join(names)} train here",
        lambda: ["maskgit_jax.lineage", *own_words, f"--task=speeds:{','.join(missing())}"],
        lambda: None,
        lambda: not missing(),
    )


def _evaluation(plan: Plan, own_words: Sequence[str]) -> Task:
    return Task(
        "evaluating all systems and writing the page",
        lambda: ["maskgit_jax.lineage", *own_words, "--task=evaluate"],
        lambda: None,
        lambda: False,
        keeps_going=True,  # it finds what it has evaluated, and writes the page anew
    )


def run_all(todo: list[Task]) -> None:
    """Does what is not done, and tells before each part what it is and what is left.

    Raises:
        InputError: A command failed; it has said why.
        Stopped: The user wants to stop.
    """
    started = time.monotonic()
    with _Signals() as signals:
        for number, task in enumerate(todo, start=1):
            place = f"[{number} of {len(todo)}] {task.title}"
            if task.done():
                print(f"{place}: done", flush=True)
                continue
            command = task.command()
            spent = (time.monotonic() - started) / 60
            print(f"{place}{_outlook(todo[number - 1 :])}; {spent:.1f} minutes so far", flush=True)
            print(f"  {shown(command)}", flush=True)
            signals.run(command)
            # A training that somebody else stops saves and ends well, before its end.
            require(
                task.keeps_going or task.done(),
                f"{task.title} ended before its end; start this command again to go on",
            )


def _outlook(todo: list[Task]) -> str:
    """Returns how long the first of these takes, and the training in all of them."""
    own = todo[0].minutes()
    known = [minutes for each in todo if not each.done() and (minutes := each.minutes())]
    about = f", about {own:.1f} minutes" if own else ""
    return about + (f"; training left: {sum(known):.1f} minutes" if known else "")


def shown(command: Sequence[str]) -> str:
    """Returns a command as a user would type it."""
    return f"python -m {shlex.join(command)}"


class _Signals:
    """Ctrl-C, SIGTERM and SIGHUP while commands run: the one that runs is told."""

    def __init__(self) -> None:
        self.asked, self.process = False, None

    def __enter__(self) -> "_Signals":
        kinds = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
            kinds.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._ask) for number in kinds}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        if self.process is not None:
            self.process.terminate()  # the second time a training stops without saving
        self.asked = True

    def run(self, command: Sequence[str]) -> None:
        if not self.asked:
            # In a group of its own: Ctrl-C reaches this process alone, which passes it on.
            self.process = subprocess.Popen([sys.executable, "-m", *command], process_group=0)
            if self.asked:  # while it was being started
                self.process.terminate()
            code, self.process = self.process.wait(), None
        if self.asked:
            raise Stopped
        if code:
            raise InputError(f"this command failed (exit code {code}): {shown(command)}")


def training_commands(plan: Plan, systems: list[System]) -> list[str]:
    """Returns the commands of all trainings and encodings that were done, for the page."""
    lines = []
    for training in needed_trainings(systems):
        if training.name in plan.reused or not plan.decided(training.name):
            continue
        if training.tokenizer:
            lines.append(shown(_encoding(plan, training.tokenizer).command()))
        lines.append(shown(train_command(plan, training)))
    return list(dict.fromkeys(lines))
