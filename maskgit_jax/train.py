"""Trains a stage: `python -m maskgit_jax.train --config=configs/vqgan.py[:preset]`.

Running the same command again resumes where it stopped. `--config.key=value` (after --config)
changes any key, for example `--config.training.num_steps=2000`.
"""

import shutil
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from maskgit_jax import command_line, distributed
from maskgit_jax.configuration import (
    InputError,
    condition_channels,
    default_workdir,
    require,
    validate,
)
from maskgit_jax.data.loader import eval_batches, train_batches
from maskgit_jax.data.sources import open_sources, resolve_classes
from maskgit_jax.data.tokens import read_description
from maskgit_jax.interop.perceptual import load_perceptual_network
from maskgit_jax.runs.directory import copy_frozen, load_frozen, read_config, write_config
from maskgit_jax.stage import Variables
from maskgit_jax.stages import STAGES, stage_module
from maskgit_jax.stages.token_priors import token_grids
from maskgit_jax.training import sharding
from maskgit_jax.training.checkpoint import saved_steps
from maskgit_jax.training.loop import Trainer, TrainingData

CONFIG = config_flags.DEFINE_config_file("config", "configs/vqgan.py", "Stage and preset.")
WORKDIR = flags.DEFINE_string("workdir", "", "Run directory; default runs/STAGE-PRESET.")


def check_resumable(config: ConfigDict, workdir: Path) -> None:
    """Compares with the run that is there already.

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
    seen = ["image_size", "channels", "view", "condition", "condition_channels"]
    groups = {"model": list(config.model), "data": seen}
    if "discriminator" in config:
        groups["discriminator"] = list(config.discriminator)
    changed = [
        f"config.{group}.{key} was {before[group].get(key, 'unknown')} and is {config[group][key]}"
        for group, keys in groups.items()
        for key in keys
        if key not in before[group] or before[group][key] != config[group][key]
    ]
    if changed and saved_steps(workdir):
        raise InputError(
            f"{workdir} holds another model: {changed[0]}; change it back or choose another "
            "--workdir"
        )


def provide_frozen(config: ConfigDict, workdir: Path, mesh: jax.sharding.Mesh) -> None:
    """Copies the finished stages that a run needs into it, unless they are there.

    Raises:
        InputError: One is missing, or made for other images; the message says what to do.
    """
    # What an attempt before left may be of another run.
    if distributed.is_main() and not saved_steps(workdir):
        shutil.rmtree(workdir / "frozen", ignore_errors=True)
    distributed.wait_for_all("frozen stages removed")
    for name, source in stage_module(config.stage).needs(config).items():
        folder, wanted = workdir / "frozen" / name, _seen_by(name, config)
        missing = not (folder / "config.json").exists()
        distributed.wait_for_all(f"{name} looked for")
        if missing:
            if not (Path(source) / "config.json").exists():
                require(
                    name in config,
                    f"{Path(source).parent.parent} holds no {name}; give a run of "
                    "configs/maskgit.py",
                )
                raise InputError(
                    f"the {name} is missing: {source} holds no run; make it with "
                    f"{_how_to_make(name, source, wanted, config)}, or set --config.{name}=RUN"
                )
            copy_frozen(source, folder, mesh)
            distributed.wait_for_all(f"{name} copied")
        inner = read_config(folder).data
        for key, value in wanted.items():
            require(
                inner[key] == value,
                f"the {name} was trained with data.{key} {inner[key]}, but this run needs "
                f"{value}, by config.data; make them equal",
            )


def _seen_by(name: str, config: ConfigDict) -> dict[str, Any]:
    """Returns the keys of `config.data` that a frozen tokenizer must have been trained with."""
    data = config.data
    if name == "condition_tokenizer":
        channels = condition_channels(data)
        return {"image_size": data.image_size, "channels": channels, "view": data.condition}
    return {"image_size": data.image_size, "channels": data.channels, "view": data.input}


def _how_to_make(name: str, source: str, wanted: dict[str, Any], config: ConfigDict) -> str:
    stage = Path(config[name]).name.partition("-")[0]  # of the default, runs/STAGE-PRESET
    stage = stage if stage in STAGES else "vqvae" if wanted["view"] != "image" else "vqgan"
    view = f" --config.data.input={wanted['view']}" if wanted["view"] != "image" else ""
    return (
        f"python -m maskgit_jax.train --config=configs/{stage}.py:{config.preset}{view} "
        f"--workdir={source}"
    )


def check_tokens(config: ConfigDict) -> None:
    """Raises `InputError` if a token dataset does not fit the model."""
    kind, _, place = config.data.source.partition(":")
    if kind != "tokens":
        return
    require(
        "grid" in config.model or "grids" in config.model,
        f"stage '{config.stage}' learns from images, not from {config.data.source}",
    )
    description = read_description(place)
    grids = tuple(tuple(grid) for grid in description["grids"])
    require(
        "grids" in config.model or len(grids) == 1,
        f"{config.data.source} holds {len(grids)} token maps of each image, but stage "
        f"'{config.stage}' learns one; encode with a tokenizer of one level",
    )
    several = "grids" in config.model
    for key, written, wanted in (
        ("codebook_size", description["codebook_size"], config.model.codebook_size),
        ("grids", grids, token_grids(config)) if several else
        ("grid", grids[0], token_grids(config)[0]),
    ):  # fmt: skip
        require(
            written == wanted,
            f"{config.data.source} was written with {key} {written}, but config.model.{key} is "
            f"{wanted}; make them equal",
        )


def load_perceptual(config: ConfigDict) -> dict[str, Variables]:
    """Returns the frozen networks of a stage's losses; they are not copied into the run.

    Raises:
        InputError: Weights are missing; the message says where to get them.
    """
    if "judge" not in config.losses or not config.losses.perceptual:
        return {}
    try:
        network = load_perceptual_network(
            config.losses.perceptual, config.losses.perceptual_weights
        )
    except InputError as error:
        raise InputError(
            f"config.losses.perceptual is '{config.losses.perceptual}': {error}; name the file by "
            "--config.losses.perceptual_weights=FILE, or train without it: --config.losses.perceptual="
        ) from error
    return {"judge": Variables({"network": network}, {}, {})}


def main() -> None:
    """Trains what the flags say."""
    config = command_line.chosen_config(CONFIG)
    module = stage_module(config.stage)
    validate(config)
    module.validate(config)
    workdir = Path(WORKDIR.value or default_workdir(config.stage, config.preset))
    mesh = sharding.make_mesh(config.mesh)
    distributed.require_equal(
        (saved_steps(workdir) or [-1])[-1],
        f"the processes of this run see different checkpoints in {workdir}; --workdir must be on "
        "storage that all hosts share",
    )
    check_resumable(config, workdir)
    check_tokens(config)
    judges = load_perceptual(config)
    sources = open_sources(config.data)
    resolve_classes(config, sources)
    provide_frozen(config, workdir, mesh)
    stages, frozen = load_frozen(workdir / "frozen", config, mesh)
    stage = module.build(config, stages)
    processes = (jax.process_index(), jax.process_count())
    batch_size = config.training.batch_size
    data = TrainingData(
        train_batches(sources.train, config.data, batch_size, config.seed, *processes),
        lambda: eval_batches(sources.evaluation, config.data, batch_size, *processes),
    )
    trainer = Trainer(stage, config, workdir, data, {**frozen, **judges}, mesh)
    if distributed.is_main():
        write_config(workdir, config)  # not before the checkpoint proved to be of this config
    trainer.run()


if __name__ == "__main__":
    command_line.run(main, distributed=True)
