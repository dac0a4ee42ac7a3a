"""Training of a run directory: checks before anything is compiled, then the training loop."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from maskgit_jax import distributed
from maskgit_jax.configuration import (
    InputError,
    condition_channels,
    default_workdir,
    load_config,
    require,
    resolve_cadences,
    resolve_start_steps,
    validate,
)
from maskgit_jax.data.loader import eval_batches, train_batches
from maskgit_jax.data.protocol import Sources
from maskgit_jax.data.sources import (
    absolute_source,
    class_difference,
    list_names,
    open_sources,
    resolve_classes,
)
from maskgit_jax.data.tokens import is_complete, read_description
from maskgit_jax.files import create_output_directory, user_path
from maskgit_jax.hints import python_command, train_command
from maskgit_jax.interop.perceptual import load_perceptual_network
from maskgit_jax.runs.directory import copy_frozen, load_frozen, read_config, write_config
from maskgit_jax.runs.init_from import load_source, plan_start, start_training
from maskgit_jax.runs.lock import lock_run
from maskgit_jax.runs.resume import check_frozen, check_resumable
from maskgit_jax.runs.summary import training_summary
from maskgit_jax.stage import Variables
from maskgit_jax.stages import STAGES, stage_module
from maskgit_jax.stages.token_priors import token_grids
from maskgit_jax.training import sharding
from maskgit_jax.training.loop import Trainer, TrainingData
from maskgit_jax.training.variables import saved_steps, weights_checksum


def fit(config: ConfigDict, workdir: str | Path = "", allow_change: Sequence[str] = ()) -> Path:
    """Trains the stage of a configuration, or resumes its run; returns the run directory.

    Args:
        config: See `configs/`; the run directory keeps a resolved copy.
        workdir: The run directory; by default runs/STAGE-PRESET.
        allow_change: Keys of a resumed run that may change beside those of `resume.MAY_CHANGE`.

    Raises:
        InputError: The configuration, the data or the run directory do not fit together; the
            message says what to do, and nothing in the run directory was changed.
        NotFinite: A loss or gradient was not finite.
    """
    workdir = Path(workdir or default_workdir(config.stage, config.preset))
    # A resumed run keeps the start steps of its networks.
    config = resolved(config, read_config(workdir) if saved_steps(workdir) else None)
    create_output_directory(str(workdir), "--workdir")
    with ExitStack() as stack:
        distributed.in_first_process(lambda: stack.enter_context(lock_run(workdir)))
        _fit(config, workdir, allow_change)
    return workdir


def _fit(config: ConfigDict, workdir: Path, allow_change: Sequence[str]) -> None:
    mesh, steps = sharding.make_mesh(config.mesh), saved_steps(workdir)
    step = steps[-1] if steps else 0
    distributed.require_equal(
        step,
        f"the processes of this run see different checkpoints in {workdir}; --workdir must be on "
        "storage that all hosts share",
    )
    changes = check_resumable(config, workdir, allow_change)
    check_token_dataset(config)
    use_tokenizer_of_tokens(config)
    check_frozen(config, workdir, mesh)
    _report_resume(config, workdir, step, changes)
    if step == config.training.num_steps:
        return
    source = load_source(config, mesh) if config.init_from and not steps else None
    perceptual = load_perceptual(config)
    sources = open_sources(config.data)
    resolve_classes(config, sources)
    check_resumed_classes(config, workdir)
    copy_frozen_stages(config, workdir, mesh)
    stages, frozen = load_frozen(workdir / "frozen", config, mesh)
    check_token_weights(config, frozen, mesh)
    stage = stage_module(config.stage).build(config, stages)
    start = plan_start(config, stage, source, frozen, mesh) if source else None
    data = _training_data(config, sources)
    with config.unlocked():
        config.data.source = absolute_source(config.data.source)
    if distributed.is_main():
        print(training_summary(config, workdir, stage, sources, mesh, step), flush=True)
        print(start.report if start else "", end="", file=sys.stderr, flush=True)
    trainer = Trainer(stage, config, workdir, data, {**frozen, **perceptual}, mesh)
    if start:
        trainer.state = start_training(trainer.state, start, mesh)
        source = start = None  # frees the memory of the other run
    if distributed.is_main():  # only now is it known that the checkpoint fits the configuration
        write_config(workdir, config)
    trainer.run()


def _report_resume(config: ConfigDict, workdir: Path, step: int, changes: list[str]) -> None:
    num_steps = config.training.num_steps
    if not step or not distributed.is_main():
        return
    if step == num_steps:
        unused = f"; not used: {', '.join(changes)}" if changes else ""
        print(
            f"{workdir} is finished: step {step} of {num_steps}; nothing is trained and nothing "
            f"changed{unused}; set config.training.num_steps to more to train on",
            flush=True,
        )
        return
    for change in changes:
        print(f"from step {step} on: {change}", flush=True)


def _training_data(config: ConfigDict, sources: Sources) -> TrainingData:
    processes = (jax.process_index(), jax.process_count())
    batch_size = config.training.batch_size
    return TrainingData(
        train_batches(sources.train, config.data, batch_size, config.seed, *processes),
        lambda: eval_batches(sources.evaluation, config.data, batch_size, *processes),
    )


def resolved(config: ConfigDict, resumed: ConfigDict | None = None) -> ConfigDict:
    """Returns a valid copy of a configuration, with the steps that derive from its length.

    Raises:
        InputError: A value is out of range.
    """
    config = config.copy_and_resolve_references()
    resolve_cadences(config)
    resolve_start_steps(config, resumed)
    validate(config)
    stage_module(config.stage).validate(config)
    return config


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
    missing = f"the {name} is missing: {source} holds no run"
    missing += f"; set --config.{name}=RUN"
    if Path(source).parent.name == "frozen" or config.data.source.startswith("tokens:"):
        return f"{missing} to the run of a finished {name}"
    stage = Path(config[name]).name.partition("-")[0]  # of the default, runs/STAGE-PRESET
    if stage not in STAGES:
        stage = "vqgan" if expected["input"] == "image" else "vqvae"
    try:
        needed = load_config(f"configs/{stage}.py:{config.preset}").unlock()
    except InputError:  # a preset of the user's own
        return f"{missing}, or train it"
    data = {"source": config.data.source, "eval_fraction": config.data.eval_fraction}
    needed.data.update({**data, **expected})
    for key in ("codebook_size", "grid"):
        if name != "condition_tokenizer" and key in needed.model and key in config.model:
            needed.model[key] = config.model[key]
    resolve_cadences(needed)
    return f"{missing}, or train it with: {train_command(needed, source)}"


def use_tokenizer_of_tokens(config: ConfigDict) -> None:
    """Sets `config.tokenizer` to the tokenizer that wrote a token dataset, in place.

    A tokenizer that the user names stays: one that differs from that of the preset.
    """
    kind, _, path = config.data.source.partition(":")
    if kind != "tokens" or "tokenizer" not in config:
        return
    run = read_description(path).get("tokenizer", "")
    try:
        default = load_config(f"configs/{config.stage}.py:{config.preset}").tokenizer
    except InputError:  # a preset of the user's own
        return
    if config.tokenizer == default and (Path(run) / "config.json").exists():
        with config.unlocked():
            config.tokenizer = run


def check_token_weights(
    config: ConfigDict, frozen: Mapping[str, Variables], mesh: jax.sharding.Mesh
) -> None:
    """Raises `InputError` if a token dataset was written by another tokenizer than the run's."""
    kind, _, path = config.data.source.partition(":")
    if kind != "tokens" or "tokenizer" not in frozen:
        return
    description = read_description(path)
    checksum = weights_checksum(frozen["tokenizer"], mesh)
    require(
        description.get("weights", checksum) == checksum,
        f"{config.data.source} was written by {description['tokenizer']} at step "
        f"{description['step']}, which has other weights than the tokenizer of this run; write it "
        "again with the tokenizer of this run, or train in a new --workdir",
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
    try:
        description = read_description(path)
    except InputError as error:
        raise InputError(f"{error}{_encode_hint(config, path)}") from error
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


def _encode_hint(config: ConfigDict, folder: str) -> str:
    """Returns the end of a message: the command that writes a token dataset, if it can work."""
    run = config.get("tokenizer", "")
    if is_complete(Path(user_path(folder))) or not (run and saved_steps(run)):
        return ""
    return f"; write it with: {python_command('encode', [f'--workdir={run}', f'--out={folder}'])}"


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
