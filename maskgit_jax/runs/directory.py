"""Run directories: what training writes and everything else loads.

config.json    the resolved configuration of the last training
lock           host and process of the training that writes here now
checkpoints/   see `maskgit_jax.training.checkpoint`
frozen/NAME/   config.json and variables/ of each finished stage that the run uses
import.json    of a run of published weights: its files, see `maskgit_jax.runs.foreign`
metrics.jsonl, tensorboard/, previews/
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from maskgit_jax import distributed
from maskgit_jax.configuration import InputError, require
from maskgit_jax.files import atomic_path, write_text
from maskgit_jax.hints import changed_keys, train_command
from maskgit_jax.runs.lock import lock_run
from maskgit_jax.stage import Stage, Variables
from maskgit_jax.stages import stage_module
from maskgit_jax.training.variables import (
    checkpoint_folder,
    inference_variables,
    read_saved_config,
    restore_model,
    restore_variables,
    save_variables,
    saved_steps,
)


class Run(NamedTuple):
    """A finished (or still running) training, loaded for inference.

    Attributes:
        config: Its configuration.
        stage: Its functions.
        variables: The variables to evaluate and sample with: the EMA of the parameters where one
            is kept.
        step: The training step of the checkpoint.
        stages: The frozen stages that it uses, by the names of `variables.frozen`.
        guide: Run and step of the stage "guide" among them, "" without one; see `runs.guide`.
    """

    config: ConfigDict
    stage: Stage
    variables: Variables
    step: int
    stages: Mapping[str, Stage]
    guide: str = ""


def write_config(folder: Path, config: ConfigDict) -> None:
    """Writes the `config.json` of a run or of a frozen stage."""
    write_text(folder / "config.json", json.dumps(json.loads(config.to_json()), indent=2) + "\n")


def read_config(folder: str | Path) -> ConfigDict:
    """Returns the configuration of a run directory.

    Raises:
        InputError: The directory holds no run, or one of an older version.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        raise InputError(f"{folder} holds no run ({path} is missing)")
    try:
        values = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is damaged ({error}); delete {folder} and train again") from error
    if "optimizers" not in values:
        raise InputError(_older_version(folder, "'optimizers'"))
    return ConfigDict(_with_tuples(values)).lock()


def write_sampling_defaults(folder: str | Path, settings: Mapping[str, Any]) -> None:
    """Makes settings the defaults of sampling of a run, `config.sampling` of its `config.json`.

    Raises:
        InputError: Another process trains the run, or the file cannot be written.
    """
    with lock_run(Path(folder)):
        config = read_config(folder)
        with config.unlocked():
            config.sampling.update(settings)
        write_config(Path(folder), config)


def _older_version(folder: str | Path, key: str) -> str:
    return (
        f"{folder} was written by an older version of maskgit_jax (its config.json lacks {key}); "
        "train it again"
    )


def _with_tuples(value: Any) -> Any:
    """Turns JSON's lists back into the tuples that configurations use."""
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(_with_tuples(item) for item in value) if isinstance(value, list) else value


def abstract_variables(stage: Stage, config: ConfigDict) -> Variables:
    """Returns the shapes of a stage's variables, without those of its frozen stages."""
    size, channels = config.data.image_size, config.data.channels
    batch = {
        "image": jax.ShapeDtypeStruct((1, size, size, channels), np.uint8),
        "label": jax.ShapeDtypeStruct((1,), np.int32),
    }
    return jax.eval_shape(lambda key, batch: stage.init(key, batch, {}), jax.random.key(0), batch)


def load_run(workdir: str | Path, mesh: Mesh, checkpoint: str = "latest") -> Run:
    """Loads the newest checkpoint of a run, or the one of step `checkpoint`.

    Raises:
        InputError: There is no run, no checkpoint yet, or the checkpoint is damaged.
    """
    config = read_config(workdir)
    step = _checkpoint_step(workdir, config, checkpoint)
    folder = checkpoint_folder(workdir) / str(step)
    _check_same_model(config, folder, workdir)
    stages, frozen = load_frozen(Path(workdir) / "frozen", config, mesh)
    stage = build_stage(config, stages, workdir)
    model = restore_model(folder, mesh)
    variables = inference_variables(model["params"], model["averages"], model["state"], frozen)
    return Run(config, stage, variables, step, stages)


def _check_same_model(config: ConfigDict, folder: Path, workdir: str | Path) -> None:
    """Refuses a config.json, perhaps edited by hand, of another model than the checkpoint's."""
    saved = ConfigDict(_with_tuples(read_saved_config(folder)))
    for key, (old, new) in changed_keys(saved, config).items():
        require(
            not key.startswith(_MODEL_KEYS) or key in ("model.remat", "model.attention"),
            f"{workdir}/config.json is of another model than the checkpoint of step {folder.name}: "
            f"config.{key} was {old!r} in training and is {new!r}; change it back",
        )


_MODEL_KEYS = ("model.", "data.image_size", "data.channels", "data.num_classes")


def _checkpoint_step(workdir: str | Path, config: ConfigDict, checkpoint: str) -> int:
    steps = saved_steps(workdir)
    if not steps:
        require(
            not (Path(workdir) / "variables").exists(),
            f"{workdir} is the copy of a finished stage inside another run; give the run itself",
        )
        raise InputError(
            f"{workdir} has no checkpoint yet; wait for its first one, or train it with: "
            f"{train_command(config, workdir)}"
        )
    if checkpoint == "latest":
        return steps[-1]
    if not (checkpoint.isdigit() and int(checkpoint) in steps):
        known = ", ".join(map(str, steps))
        raise InputError(f"{workdir} has no checkpoint '{checkpoint}'; there are: latest, {known}")
    return int(checkpoint)


def build_stage(config: ConfigDict, stages: Mapping[str, Stage], folder: str | Path) -> Stage:
    """Returns the stage of a configuration that was read from `folder`.

    Raises:
        InputError: The configuration is of an older version.
    """
    try:
        return stage_module(config.stage).build(config, stages)
    except (AttributeError, KeyError) as error:
        raise InputError(_older_version(folder, str(error).splitlines()[0])) from error


def load_frozen(
    folder: Path, config: ConfigDict, mesh: Mesh
) -> tuple[dict[str, Stage], dict[str, Variables]]:
    """Loads the frozen stages that a run keeps in `folder`, by name."""
    stages, variables = {}, {}
    for name in stage_module(config.stage).needs(config):
        inner = read_config(folder / name)
        inner_stages, inner_variables = load_frozen(folder / name / "frozen", inner, mesh)
        stages[name] = build_stage(inner, inner_stages, folder / name)
        loaded = restore_variables(folder.resolve() / name / "variables", mesh)
        variables[name] = Variables(loaded["params"], loaded["state"], inner_variables)
    return stages, variables


def load_variables(folder: str | Path, mesh: Mesh) -> Variables:
    """Loads the variables of a run, or of a copy of a finished stage inside another run."""
    folder = Path(folder)
    if not (folder / "variables").exists():
        return load_run(folder, mesh).variables
    loaded = restore_variables(folder.resolve() / "variables", mesh)
    _, frozen = load_frozen(folder / "frozen", read_config(folder), mesh)
    return Variables(loaded["params"], loaded["state"], frozen)


def copy_frozen(source: str, folder: Path, mesh: Mesh) -> None:
    """Copies what inference needs of a finished run into `folder`; the copy is self-contained.

    All processes call it; the copy is complete when all of them have returned. The source may
    also be such a copy inside another run.

    Raises:
        InputError: The source holds no finished stage.
    """
    if (Path(source) / "variables").exists():
        if distributed.is_main():
            with atomic_path(folder) as unfinished:
                shutil.rmtree(unfinished, ignore_errors=True)
                shutil.copytree(source, unfinished)
        return
    run = load_run(source, mesh)
    variables = {"params": run.variables.params, "state": run.variables.state}
    save_variables(folder.resolve() / "variables", variables)  # all processes together
    if not distributed.is_main():
        return
    if run.stages:
        shutil.copytree(Path(source) / "frozen", folder / "frozen", dirs_exist_ok=True)
    # The configuration comes last: its presence says that the copy is complete.
    write_config(folder, run.config)
