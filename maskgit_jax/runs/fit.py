"""Training of a run directory: checks before anything is compiled, then the training loop."""

import shutil
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from maskgit_jax import distributed
from maskgit_jax.configuration import (
    InputError,
    condition_channels,
    default_workdir,
    require,
    resolve_cadences,
    validate,
)
from maskgit_jax.data.loader import eval_batches, train_batches
from maskgit_jax.data.sources import (
    class_difference,
    list_names,
    open_and_describe,
    resolve_classes,
)
from maskgit_jax.data.tokens import read_description
from maskgit_jax.interop.perceptual import load_perceptual_network
from maskgit_jax.runs.directory import copy_frozen, load_frozen, read_config, write_config
from maskgit_jax.stage import Variables
from maskgit_jax.stages import STAGES, stage_module
from maskgit_jax.stages.token_priors import token_grids
from maskgit_jax.training import sharding
from maskgit_jax.training.loop import Trainer, TrainingData
from maskgit_jax.training.variables import saved_steps


def fit(config: ConfigDict, workdir: str | Path = "") -> Path:
    """Trains the stage of a configuration, or resumes its run; returns the run directory.

    Args:
        config: See `configs/`; the run directory keeps a resolved copy.
        workdir: The run directory; by default runs/STAGE-PRESET.

    Raises:
        InputError: The configuration, the data or the run directory do not fit together; the
            message says what to do, and nothing in the run directory was changed.
        NotFinite: A loss or gradient was not finite.
    """
    config = config.copy_and_resolve_references()
    module = stage_module(config.stage)
    resolve_cadences(config)
    validate(config)
    module.validate(config)
    workdir = Path(workdir or default_workdir(config.stage, config.preset))
    mesh = sharding.make_mesh(config.mesh)
    distributed.require_equal(
        (saved_steps(workdir) or [-1])[-1],
        f"the processes of this run see different checkpoints in {workdir}; --workdir must be on "
        "storage that all hosts share",
    )
    check_resumable(config, workdir)
    check_token_dataset(config)
    perceptual = load_perceptual(config)
    sources = open_and_describe(config.data)
    resolve_classes(config, sources)
    check_resumed_classes(config, workdir)
    copy_frozen_stages(config, workdir, mesh)
    stages, frozen = load_frozen(workdir / "frozen", config, mesh)
    stage = module.build(config, stages)
    processes = (jax.process_index(), jax.process_count())
    batch_size = config.training.batch_size
    data = TrainingData(
        train_batches(sources.train, config.data, batch_size, config.seed, *processes),
        lambda: eval_batches(sources.evaluation, config.data, batch_size, *processes),
    )
    trainer = Trainer(stage, config, workdir, data, {**frozen, **perceptual}, mesh)
    if distributed.is_main():  # only now is it known that the checkpoint fits the configuration
        write_config(workdir, config)
    trainer.run()
    return workdir


def check_resumable(config: ConfigDict, workdir: Path) -> None:
    """Compares a configuration with the run that the directory holds already.

    Raises:
        InputError: The directory holds another stage, or another model.
    """
    if not (workdir / "config.json").exists():
        return
    before = read_config(workdir)
    require(
        before.stage == config.stage,
        f"{workdir} holds a run of stage '{before.stage}', not '{config.stage}'; choose another "
        "--workdir",
    )
    groups = {
        "model": list(config.model),
        "data": ["image_size", "channels", "input", "condition", "condition_channels"],
        "discriminator": list(config.discriminator) if "discriminator" in config else [],
    }
    for group, keys in groups.items():
        for key in keys:
            old = before[group].get(key, "unknown")
            require(
                old == config[group][key] or not saved_steps(workdir),
                f"{workdir} holds another model: config.{group}.{key} was {old} and is "
                f"{config[group][key]}; change it back or choose another --workdir",
            )


def check_resumed_classes(config: ConfigDict, workdir: Path) -> None:
    """Compares the classes of the data, by name, with those that a run has learned.

    Tokenizers and autoencoders, which need no other stage, learn none.

    Raises:
        InputError: They differ.
    """
    if not (saved_steps(workdir) and stage_module(config.stage).needs(config)):
        return
    before, now = read_config(workdir).data.class_names, config.data.class_names
    difference = class_difference(before, now)
    require(
        not difference,
        f"{workdir} was trained on the classes {list_names(before)}, but {config.data.source} has "
        f"{list_names(now)} ({difference}); restore the classes or choose another --workdir",
    )


def copy_frozen_stages(config: ConfigDict, workdir: Path, mesh: jax.sharding.Mesh) -> None:
    """Copies the frozen stages that a run uses into it, unless they are there.

    Raises:
        InputError: One is missing, or was trained on other images; the message says what to do.
    """
    if distributed.is_main() and not saved_steps(workdir):
        # A run without a checkpoint may have been started with other frozen stages.
        shutil.rmtree(workdir / "frozen", ignore_errors=True)
    distributed.wait_for_all("frozen stages removed")
    for name, source in stage_module(config.stage).needs(config).items():
        folder, expected = workdir / "frozen" / name, _expected_data(name, config)
        missing = not (folder / "config.json").exists()
        distributed.wait_for_all(f"{name} looked up")
        if missing:
            if not (Path(source) / "config.json").exists():
                raise InputError(_missing_stage(name, source, expected, config))
            copy_frozen(source, folder, mesh)
            distributed.wait_for_all(f"{name} copied")
        data = read_config(folder).data
        for key, value in expected.items():
            require(
                data[key] == value,
                f"the {name} was trained with data.{key} {data[key]}, but this run needs "
                f"{value}, by config.data; make them equal",
            )
        if name == "generator":  # A critic gives the labels of its data to it.
            difference = class_difference(data.class_names, config.data.class_names)
            require(
                not difference,
                f"the classes of the generator {source} are not those of {config.data.source} "
                f"({difference}); train the critic on the images of the generator",
            )


def _expected_data(name: str, config: ConfigDict) -> dict[str, Any]:
    """Returns the keys of `config.data` with which a frozen tokenizer must have been trained."""
    data = config.data
    if name == "condition_tokenizer":
        channels = condition_channels(data)
        return {"image_size": data.image_size, "channels": channels, "input": data.condition}
    return {"image_size": data.image_size, "channels": data.channels, "input": data.input}


def _missing_stage(name: str, source: str, expected: dict[str, Any], config: ConfigDict) -> str:
    if name not in config:
        return f"{Path(source).parent.parent} holds no {name}; give a run of configs/maskgit.py"
    stage = Path(config[name]).name.partition("-")[0]  # of the default, runs/STAGE-PRESET
    if stage not in STAGES:
        stage = "vqgan" if expected["input"] == "image" else "vqvae"
    option = "" if expected["input"] == "image" else f" --config.data.input={expected['input']}"
    return (
        f"the {name} is missing: {source} holds no run; train it with python -m maskgit_jax.train "
        f"--config=configs/{stage}.py:{config.preset}{option} --workdir={source}, or set "
        f"--config.{name}=RUN"
    )


def check_token_dataset(config: ConfigDict) -> None:
    """Raises `InputError` if the data are a token dataset that the model does not fit."""
    kind, _, path = config.data.source.partition(":")
    if kind != "tokens":
        return
    several = "grids" in config.model
    require(
        several or "grid" in config.model,
        f"stage '{config.stage}' is trained on images, not on {config.data.source}",
    )
    description = read_description(path)
    grids = tuple(tuple(grid) for grid in description["grids"])
    require(
        several or len(grids) == 1,
        f"{config.data.source} holds {len(grids)} token maps of each image, but stage "
        f"'{config.stage}' models one; encode with a tokenizer of one level",
    )
    key, dataset, model = ("grids", grids, token_grids(config))
    if not several:
        key, dataset, model = "grid", grids[0], token_grids(config)[0]
    pairs = {
        "codebook_size": (description["codebook_size"], config.model.codebook_size),
        key: (dataset, model),
    }
    for key, (dataset, model) in pairs.items():
        require(
            dataset == model,
            f"{config.data.source} was written with {key} {dataset}, but config.model.{key} is "
            f"{model}; make them equal",
        )


def load_perceptual(config: ConfigDict) -> dict[str, Variables]:
    """Returns the frozen network of a perceptual loss; it is not copied into the run.

    Raises:
        InputError: Its weights are missing; the message says where to get them.
    """
    if "losses" not in config or not config.losses.get("perceptual", ""):
        return {}
    name, weights = config.losses.perceptual, config.losses.perceptual_weights
    try:
        network = load_perceptual_network(name, weights)
    except InputError as error:
        raise InputError(
            f"config.losses.perceptual is '{name}': {error}; give the file with "
            "--config.losses.perceptual_weights=FILE, or train without it: "
            "--config.losses.perceptual="
        ) from error
    return {"perceptual": Variables({"network": network}, {}, {})}
