"""The jobs of a lineage in order: measure training speeds, train, encode, evaluate."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax

from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.files import create_output_directory
from maskgit_jax.lineage.checks import check_lineage, open_workdir
from maskgit_jax.lineage.commands import encode_command, train_command
from maskgit_jax.lineage.measure import measure_system, read_result
from maskgit_jax.lineage.report import build_report, write_report
from maskgit_jax.lineage.schedule import Schedule, measure_length
from maskgit_jax.lineage.systems import System, Training, needed_trainings
from maskgit_jax.model import load
from maskgit_jax.runs.fit import fit


class Job(NamedTuple):
    """A part of the work.

    Attributes:
        title: Title for progress messages.
        run: Does the work, or as much as it can before the user stops it.
        is_done: Whether the work is done.
        minutes: Expected minutes; None if unknown.
        command: The command that does the same; "" if there is none.
    """

    title: str
    run: Callable[[], object]
    is_done: Callable[[], bool]
    minutes: Callable[[], float | None] = lambda: None
    command: Callable[[], str] = lambda: ""


def run_lineage(
    schedule: Schedule, systems: Sequence[System], options: EvaluationOptions, command: str
) -> None:
    """Trains and evaluates systems, and writes the page; finished jobs are not repeated.

    Args:
        schedule: Options, folders, length of the trainings.
        systems: The systems to compare.
        options: Options of the evaluations.
        command: The command that the user typed.

    Raises:
        InputError: Something cannot work; most is found before the first job.
    """
    check_lineage(schedule, systems, options)
    create_output_directory(schedule.workdir, "--workdir")
    open_workdir(schedule)
    if not run_jobs(list_jobs(schedule, systems, options, command)):
        print(f"stopped; the same command resumes: {command}")
        return
    files = write_report(schedule.workdir, build_report(schedule, systems, command))
    print((schedule.workdir / "lineage.md").read_text())
    print(f"wrote {', '.join(map(str, files))}")


def list_jobs(
    schedule: Schedule, systems: Sequence[System], options: EvaluationOptions, command: str
) -> list[Job]:
    """Returns all jobs of a lineage, in order."""
    trainings = [each for each in needed_trainings(systems) if each.name not in schedule.reused]
    jobs = []
    for on_tokens in (False, True):
        group = [each for each in trainings if bool(each.tokenizer) == on_tokens]
        tokenizers = dict.fromkeys(each.tokenizer for each in group if on_tokens)
        jobs += [_encoding(schedule, tokenizer) for tokenizer in tokenizers]
        if group and not schedule.num_steps:
            jobs.append(_timing(schedule, group))
        jobs += [_training(schedule, training) for training in group]

    def evaluate(system: System) -> None:
        measure_system(schedule, system, options)
        write_report(schedule.workdir, build_report(schedule, systems, command))

    def is_evaluated(system: System) -> bool:
        return read_result(schedule, system) is not None

    return jobs + [
        Job(f"evaluating {system.title}", partial(evaluate, system), partial(is_evaluated, system))
        for system in systems
    ]


def _timing(schedule: Schedule, trainings: Sequence[Training]) -> Job:
    def missing() -> list[Training]:
        return [training for training in trainings if not schedule.has_length(training.name)]

    def measure() -> None:
        for training in missing():
            measure_length(schedule, training)

    names = ", ".join(training.name for training in trainings)
    return Job(f"measuring the training speed of {names}", measure, lambda: not missing())


def _training(schedule: Schedule, training: Training) -> Job:
    name = training.name

    def minutes() -> float | None:
        if schedule.num_steps:
            return None
        measured = schedule.steps().get(name)
        if measured is None:
            return schedule.minutes * training.share
        return measured["num_steps"] * measured["seconds"] / 60

    return Job(
        f"training {name}",
        lambda: fit(schedule.training_configuration(training), schedule.run(name)),
        partial(schedule.is_finished, name),
        minutes,
        partial(train_command, schedule, training),
    )


def _encoding(schedule: Schedule, tokenizer: str) -> Job:
    def encode() -> None:
        folder = schedule.tokens(tokenizer)
        load(schedule.run(tokenizer)).write_tokens(folder, schedule.data)
        schedule.note_encoded(tokenizer)

    return Job(
        f"encoding the images with {tokenizer}",
        encode,
        partial(schedule.is_encoded, tokenizer),
        command=partial(encode_command, schedule, tokenizer),
    )


def run_jobs(jobs: Sequence[Job]) -> bool:
    """Runs the jobs that are not done; returns False if the user stopped one.

    A training that gets Ctrl-C or SIGTERM saves its state and returns early; other jobs keep what
    is stored already.

    Raises:
        InputError: A job cannot be done.
    """
    start = time.monotonic()
    try:
        for number, job in enumerate(jobs, start=1):
            title = f"[{number} of {len(jobs)}] {job.title}"
            if job.is_done():
                print(f"{title}: done", flush=True)
                continue
            spent = (time.monotonic() - start) / 60
            expected = _expected_time(jobs[number - 1 :])
            print(f"{title}{expected}; {spent:.1f} minutes so far", flush=True)
            if command := job.command():
                print(f"  {command}", flush=True)
            job.run()
            jax.clear_caches()
            if not job.is_done():
                return False
    except KeyboardInterrupt:
        return False
    return True


def _expected_time(jobs: Sequence[Job]) -> str:
    """Returns the expected minutes of the first job, and of the trainings among all, as text."""
    first = jobs[0].minutes()
    known = [minutes for job in jobs if not job.is_done() and (minutes := job.minutes())]
    about = f", about {first:.1f} minutes" if first else ""
    return about + (f"; training left: {sum(known):.1f} minutes" if known else "")
