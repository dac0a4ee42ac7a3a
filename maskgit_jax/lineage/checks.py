"""Checks of a lineage before anything is trained."""

import json
from collections.abc import Iterable

from maskgit_jax.configuration import require, validate
from maskgit_jax.evaluation.options import EvaluationOptions
from maskgit_jax.evaluation.real_images import check_image_sets, open_real_images
from maskgit_jax.evaluation.sampling import MAX_SAMPLES
from maskgit_jax.files import write_text
from maskgit_jax.lineage.schedule import Schedule, training_minutes
from maskgit_jax.lineage.systems import TRAININGS, System, Training, needed_trainings
from maskgit_jax.runs.directory import read_config
from maskgit_jax.stage import Stage
from maskgit_jax.stages import stage_module
from maskgit_jax.training.variables import saved_steps

_SHARED_KEYS = ("image_size", "channels", "input")  # of config.data, equal in all trainings


def check_lineage(
    schedule: Schedule, systems: Iterable[System], options: EvaluationOptions
) -> None:
    """Checks the options, trainings and images of a lineage.

    Raises:
        InputError: Something cannot work later.
    """
    trainings = needed_trainings(systems)
    check_trainings(schedule, trainings)
    real, sources = open_real_images(schedule.configuration(trainings[0]).data)
    assert real.training is not None and real.held_out is not None
    require(
        len(real.held_out) > 3,
        f"{schedule.data} has {len(real.held_out)} held-out images; metrics need at least 4",
    )
    num = schedule.num or min(MAX_SAMPLES, len(sources.train))
    check_image_sets(real.training.shape, num, real, options.features, options.num_reference)


def check_trainings(schedule: Schedule, trainings: Iterable[Training]) -> None:
    """Checks that the trainings fit together.

    Raises:
        InputError: A value is out of range, or a prior does not fit its tokenizer.
    """
    stages: dict[str, Stage] = {}
    shared = None
    for training in trainings:
        reused = schedule.reused.get(training.name)
        config = read_config(reused) if reused else schedule.configuration(training)
        config = config.copy_and_resolve_references()
        with config.unlocked():
            config.data.num_classes = config.data.num_classes or 1  # any number will do
            if training.tokenizer:
                config.tokenizer = str(schedule.run(training.tokenizer))
        shared = shared or config.data
        for key in _SHARED_KEYS:
            require(
                config.data[key] == shared[key],
                f"{training.name} would have data.{key} {config.data[key]}, others {shared[key]}; "
                "their metrics cannot be compared; --set the same value in all stages",
            )
        validate(config)
        module = stage_module(training.stage)
        module.validate(config)
        require(
            training.stage != "maskgit"
            or not schedule.guidance
            or config.losses.label_dropout_rate > 0,
            "--guidance needs a MaskGIT that is trained without labels, too: "
            "--set=maskgit.losses.label_dropout_rate=0.1",
        )
        frozen = {"tokenizer": stages[training.tokenizer]} if training.tokenizer else {}
        stages[training.name] = module.build(config, frozen)


def open_workdir(schedule: Schedule) -> None:
    """Creates the folder of a lineage, or checks that it holds the same one.

    Raises:
        InputError: It holds another lineage, or a reused run does not fit.
    """
    options = {
        "data": schedule.data,
        "preset": schedule.preset,
        "changes": schedule.changes,
        "minutes": schedule.minutes,
        "num_steps": schedule.num_steps,
        "reused": dict(schedule.reused),
    }
    options = json.loads(json.dumps(options))
    path = schedule.workdir / "schedule.json"
    before = json.loads(path.read_text()) if path.exists() else options
    for key, value in options.items():
        require(
            before.get(key) == value,
            f"{schedule.workdir} holds a lineage with {key} {before.get(key)}, not {value}; change "
            "it back or choose another --workdir",
        )
    for name, run in schedule.reused.items():
        _check_reused(schedule, TRAININGS[name], run)
    write_text(path, json.dumps(options, indent=2) + "\n")


def _check_reused(schedule: Schedule, training: Training, run: str) -> None:
    config, expected = read_config(run), schedule.configuration(training)
    flag = f"--reuse_run={training.name}={run}"
    require(
        config.stage == training.stage,
        f"{flag}: it holds stage '{config.stage}', not '{training.stage}'",
    )
    for key in _SHARED_KEYS:
        require(
            config.data[key] == expected.data[key],
            f"{flag}: it was trained with data.{key} {config.data[key]}, not {expected.data[key]}",
        )
    require(
        not training.tokenizer or training.tokenizer in schedule.reused,
        f"{flag}: its tokenizer is missing; add --reuse_run={training.tokenizer}=RUN",
    )
    require(bool(saved_steps(run)), f"{flag}: it has no checkpoint yet; train it first")
    training_minutes(schedule.run(training.name))
