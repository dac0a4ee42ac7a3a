"""From a run directory to ready functions: what `sample`, `encode` and other stages call.

A run directory holds
    config.json   the resolved configuration
    checkpoints/  see `maskgit_jax.training.checkpoint`
    frozen/NAME/  config.json and variables/ of each finished stage that the run needs
    metrics.jsonl, tensorboard/, previews/
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from maskgit_jax.arrays import Batch, PyTree, normalize, to_uint8
from maskgit_jax.configuration import InputError, base, require
from maskgit_jax.data.given import Given
from maskgit_jax.stage import LatentModel, Stage, Tokenizer, Variables, generator_of
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
    values["data"] = {**base("", "").data.to_dict(), **values["data"]}
    return ConfigDict(_with_tuples(values)).lock()


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
    averaged = [name for name, player in config.players.items() if player.ema_rate]
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

    Raises:
        InputError: The source holds no finished stage.
    """
    run = load_run(source, mesh)
    variables = {"params": run.variables.params, "state": run.variables.state}
    save_variables(folder.resolve() / "variables", variables)
    # The config comes last: its presence says that the copy is complete.
    write_config(folder, run.config)


class ImageGenerator:
    """Makes images with a trained generator; one compiled program for each setting.

    Args:
        run: A run whose stage generates images.
        mesh: Devices.

    Raises:
        InputError: The run's stage makes no images.
    """

    def __init__(self, run: Run, mesh: Mesh):
        generator = generator_of(run.stage.exports)
        if generator is None:
            raise InputError(_without_generator(run))
        self.generator, self.variables, self.mesh = generator, run.variables, mesh
        self.num_classes, self._stage = generator.num_classes, run.config.stage

        def sample(variables: Variables, wanted: Batch, key: jax.Array, settings: Any) -> jax.Array:
            return to_uint8(generator.sample(variables, wanted, key, settings))

        self.program = sharding.pjit(sample, mesh, static_argnums=3)

    def settings(self, **changes: Any) -> Any:
        """Returns the run's own settings with some changed.

        Raises:
            InputError: The generator has no such setting, or the value cannot work.
        """
        known = self.generator.settings
        for name in changes:
            require(
                name in known._fields,
                f"stage '{self._stage}' has no setting '{name}'; its settings are "
                f"{', '.join(known._fields)}",
            )
        settings = known._replace(**changes)
        self.generator.check_settings(settings)
        return settings

    def __call__(
        self,
        labels: Sequence[int],
        seed: int = 0,
        settings: Any | None = None,
        batch_size: int = 64,
        start: int = 0,
        given: Given | None = None,
    ) -> Iterator[np.ndarray]:
        """Yields images uint8 [B, H, W, C] in batches, one image for each label.

        With `start`, a multiple of the batch size, the same images from that one on. `settings`
        are what the method of this name gives; the run's own by default. `given` are the pictures
        that they are made from.

        Raises:
            InputError: A label is out of range, or other pictures are needed than are given.
        """
        settings = settings or self.generator.settings
        self.check_given(given.names if given else ())
        if self.num_classes:
            check_labels(labels, self.num_classes)
        batch_size = sharding.filled_up(min(batch_size, len(labels)), self.mesh)
        labels = np.asarray(labels, np.int32)
        return self._batches(labels, seed, settings, batch_size, start, given)

    def check_given(self, names: Sequence[str]) -> None:
        """Raises `InputError` unless a generator can make images from pictures of these names."""
        generator = self.generator
        for name in generator.needs:
            require(
                name in names,
                f"this run makes images from others, and no {name} is given; name a file or a "
                "folder, or held_out, by --given",
            )
        for name in names:
            require(
                name in (*generator.needs, *generator.accepts),
                f"stage '{self._stage}' of this run makes images of a class only, so nothing can "
                f"be given to it ({name}); train configs/gpt.py or another autoregressive prior",
            )

    def _batches(
        self,
        labels: np.ndarray,
        seed: int,
        settings: Any,
        batch_size: int,
        start: int,
        given: Given | None,
    ) -> Iterator[np.ndarray]:
        root = jax.random.key(seed)
        for first in range(start, len(labels), batch_size):
            chosen = np.arange(first, min(first + batch_size, len(labels)))
            padded = np.resize(chosen, (batch_size,))
            wanted = {"label": labels[padded], **(given.rows(padded) if given else {})}
            placed = sharding.put_batch(wanted, self.mesh)
            key = jax.random.fold_in(root, first // batch_size)
            yield np.asarray(self.program(self.variables, placed, key, settings))[: len(chosen)]


def _without_generator(run: Run) -> str:
    stage = f"this run holds stage '{run.config.stage}'"
    if isinstance(run.stage.exports, LatentModel):
        return (
            f"{stage} without a prior (config.model.posterior is '{run.config.model.posterior}'), "
            "which cannot make images from nothing; train one with "
            "--config.model.posterior=gaussian"
        )
    return (
        f"{stage}, which generates no images; train a prior on it, such as configs/maskgit.py, and "
        "give that run's --workdir"
    )


def check_labels(labels: Sequence[int], num_classes: int) -> None:
    """Raises `InputError` for a label that the generator does not know."""
    for label in labels:
        require(
            0 <= label < num_classes,
            f"label {label} is out of range; this run knows the labels 0 to {num_classes - 1}",
        )


class ImageAutoencoder:
    """Turns images into tokens or latents and back with a trained first stage; compiled.

    Raises:
        InputError: The run's stage encodes no images.
    """

    def __init__(self, run: Run, mesh: Mesh):
        exports = run.stage.exports
        if not isinstance(exports, Tokenizer | LatentModel):
            raise InputError(
                f"this run holds stage '{run.config.stage}', which encodes no images; give the "
                "--workdir of a first stage, such as a run of configs/vqgan.py"
            )
        self.variables, self.mesh = run.variables, mesh

        def encode(variables: Variables, image: jax.Array) -> jax.Array:
            return exports.encode(variables, normalize(image))

        def decode(variables: Variables, encoded: jax.Array) -> jax.Array:
            return to_uint8(exports.decode(variables, encoded))

        def restore(variables: Variables, image: jax.Array) -> jax.Array:
            return decode(variables, encode(variables, image))

        everywhere = sharding.replicated(mesh)
        self._encode, self._decode, self._restore = (
            sharding.pjit(program, mesh, out_shardings=everywhere)
            for program in (encode, decode, restore)
        )

    def encode(self, image: np.ndarray) -> np.ndarray:
        """Returns tokens int32 [B, L] or latents float32 [B, Z] of images uint8 [B, H, W, C]."""
        return self._run(self._encode, image)

    def decode(self, encoded: np.ndarray) -> np.ndarray:
        """Returns images uint8 [B, H, W, C] of what `encode` gives."""
        return self._run(self._decode, encoded)

    def restore(self, image: np.ndarray) -> np.ndarray:
        """Returns what encoding and decoding makes of images, both uint8 [B, H, W, C]."""
        return self._run(self._restore, image)

    def _run(self, program: Any, values: np.ndarray) -> np.ndarray:
        count = sharding.filled_up(len(values), self.mesh)
        padded = np.resize(values, (count, *values.shape[1:]))
        placed = sharding.put_batch({"values": padded}, self.mesh)["values"]
        return np.asarray(program(self.variables, placed))[: len(values)]
