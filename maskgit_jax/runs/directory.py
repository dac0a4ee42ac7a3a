"""Run directories: how they are written, loaded, and copied into runs that need them.

A run directory holds
    config.json   the resolved configuration
    checkpoints/  see `maskgit_jax.training.checkpoint`
    frozen/NAME/  config.json and variables/ of each finished stage that the run needs
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
from maskgit_jax.arrays import PyTree
from maskgit_jax.configuration import InputError, base
from maskgit_jax.stage import Stage, Variables
from maskgit_jax.stages import stage_module
from maskgit_jax.training import sharding
from maskgit_jax.training.checkpoint import (
    checkpoint_folder,
    restore_model,
    restore_variables,
    save_variables,
    saved_steps,
    with_sharding,
)
from maskgit_jax.training.state import inference_variables

LATER_KEYS = {
    "gpt": {"model": {"attention": "xla"}},
    "maskgit": {"condition_tokenizer": "", "model": {"attention": "xla"}},
    "token_critic": {"model": {"attention": "xla"}},
}


class Run(NamedTuple):
    """A finished (or still running) training, ready to be used.

    Attributes:
        config: Its configuration.
        stage: Its functions.
        variables: What to evaluate and sample with: running averages where they are kept.
        step: Of the checkpoint.
        stages: The finished stages that it needs, by the names of `variables.frozen`.
    """

    config: ConfigDict
    stage: Stage
    variables: Variables
    step: int
    stages: Mapping[str, Stage]


def write_config(folder: Path, config: ConfigDict) -> None:
    """Writes `config.json` of a run or of a frozen stage."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / "config.json.unfinished"
    unfinished.write_text(json.dumps(json.loads(config.to_json()), indent=2) + "\n")
    unfinished.rename(folder / "config.json")


def read_config(folder: str | Path) -> ConfigDict:
    """Returns the configuration in a run directory.

    Raises:
        InputError: The directory holds no run.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        raise InputError(f"{folder} holds no run ({path} is missing)")
    try:
        values = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is damaged ({error}); delete {folder} and train again") from error
    # Keys that came later have defaults that change nothing.
    common = base("", "").to_dict()
    values = _filled_up(values, {group: common[group] for group in ("data", "mesh")})
    values = _filled_up(values, LATER_KEYS.get(values["stage"], {}))
    return ConfigDict(_with_tuples(values)).lock()


def _filled_up(values: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values, with what they lack of the defaults, group by group."""
    filled = {
        key: _filled_up(values.get(key, {}), default)
        if isinstance(default, dict)
        else values.get(key, default)
        for key, default in defaults.items()
    }
    return {**values, **filled}


def _with_tuples(value: Any) -> Any:
    """Turns JSON's lists back into the tuples that configs are made of."""
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
    """Loads a run's newest checkpoint, or the one of step `checkpoint`, for use.

    Raises:
        InputError: There is no run, no checkpoint yet, or it is damaged.
    """
    config = read_config(workdir)
    steps = saved_steps(workdir)
    if not steps:
        raise InputError(
            f"{workdir} has no checkpoint yet; train it with python -m maskgit_jax.train "
            f"--config=configs/{config.stage}.py:{config.preset} --workdir={workdir}"
        )
    if checkpoint != "latest" and not (checkpoint.isdigit() and int(checkpoint) in steps):
        known = ", ".join(map(str, steps))
        raise InputError(f"{workdir} has no checkpoint '{checkpoint}'; there are: latest, {known}")
    step = steps[-1] if checkpoint == "latest" else int(checkpoint)
    stages, frozen = load_frozen(Path(workdir) / "frozen", config, mesh)
    stage = _built(config, stages, workdir)
    shapes = abstract_variables(stage, config)
    averaged = [name for name, player in config.optimizers.items() if player.ema_rate]
    params = dict(shapes.params)
    abstract = {
        "params": params,
        "averages": {name: params[name] for name in averaged if name in params},
        "state": shapes.state,
    }
    folder = checkpoint_folder(workdir) / str(step)
    model = restore_model(folder, _placed(abstract, mesh))
    variables = inference_variables(model["params"], model["averages"], model["state"], frozen)
    return Run(config, stage, variables, step, stages)


def _built(config: ConfigDict, stages: dict[str, Stage], folder: str | Path) -> Stage:
    """Returns the stage of a configuration that was read from `folder`."""
    try:
        return stage_module(config.stage).build(config, stages)
    except (AttributeError, KeyError) as error:
        raise InputError(
            f"{folder} was written by another version: its config.json lacks a key "
            f"({str(error).splitlines()[0]}); train it again"
        ) from error


def _placed(abstract: PyTree, mesh: Mesh) -> PyTree:
    return with_sharding(abstract, sharding.tree_shardings(abstract, mesh))


def load_frozen(
    folder: Path, config: ConfigDict, mesh: Mesh
) -> tuple[dict[str, Stage], dict[str, Variables]]:
    """Loads the finished stages that a run keeps in `folder`, by name."""
    stages, variables = {}, {}
    for name in stage_module(config.stage).needs(config):
        inner = read_config(folder / name)
        inner_stages, inner_variables = load_frozen(folder / name / "frozen", inner, mesh)
        stages[name] = _built(inner, inner_stages, folder / name)
        shapes = abstract_variables(stages[name], inner)
        abstract = _placed({"params": shapes.params, "state": shapes.state}, mesh)
        loaded = restore_variables(folder.resolve() / name / "variables", abstract)
        variables[name] = Variables(loaded["params"], loaded["state"], inner_variables)
    return stages, variables


def copy_frozen(source: str, folder: Path, mesh: Mesh) -> None:
    """Copies what is needed of a finished run into `folder`, so that a run depends on no other.

    All processes call it; until they have met, the copy need not be complete.

    The source may also be such a copy, inside of another run.

    Raises:
        InputError: The source holds no finished stage.
    """
    if (Path(source) / "variables").exists():
        if distributed.is_main():
            unfinished = folder.with_name(f"{folder.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(source, unfinished)
            unfinished.rename(folder)
        return
    run = load_run(source, mesh)
    variables = {"params": run.variables.params, "state": run.variables.state}
    save_variables(folder.resolve() / "variables", variables)  # all processes together
    if not distributed.is_main():
        return
    if run.stages:
        shutil.copytree(Path(source) / "frozen", folder / "frozen", dirs_exist_ok=True)
    # The config comes last: its presence says that the copy is complete.
    write_config(folder, run.config)
