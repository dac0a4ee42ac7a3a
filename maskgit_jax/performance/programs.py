"""The programs that a configuration trains and samples with, as functions and shapes.

No data is opened, no checkpoint read and no array created: frozen stages, perceptual networks and
labels are known by their shapes. The programs can be compiled for devices that do not exist, or
run on those that do.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from maskgit_jax.arrays import Batch, PyTree
from maskgit_jax.configuration import condition_channels, load_config, require, validate
from maskgit_jax.networks import efficientnet, lpips, resnet
from maskgit_jax.performance.flops import Work, count_work
from maskgit_jax.pipelines.generator import sample_pixels
from maskgit_jax.runs.directory import abstract_variables, build_stage, read_config
from maskgit_jax.runs.summary import count_parameters
from maskgit_jax.stage import Generator, Stage, Variables, generator_of
from maskgit_jax.stages import STAGES, stage_module
from maskgit_jax.stages.token_priors import token_grids
from maskgit_jax.training import sharding
from maskgit_jax.training.loop import compile_train_step
from maskgit_jax.training.step import make_create_state, make_train_step
from maskgit_jax.training.variables import with_sharding

DEFAULT_CLASSES = 10
"""Classes of presets that read the number from the data: digits, Fashion-MNIST and CIFAR-10."""


class AbstractRun(NamedTuple):
    """A stage with the shapes of the frozen stages and networks that it uses.

    Attributes:
        config: The resolved configuration; `data.num_classes` is known.
        stage: The functions of the stage.
        frozen: Name -> shapes of a finished stage or a perceptual network.
    """

    config: ConfigDict
    stage: Stage
    frozen: Mapping[str, Variables]

    @property
    def variables(self) -> Variables:
        """Shapes of the variables that inference uses."""
        shapes = abstract_variables(self.stage, self.config)
        stages = {name: value for name, value in self.frozen.items() if name != "perceptual"}
        return Variables(shapes.params, shapes.state, stages)

    @property
    def generator(self) -> Generator | None:
        """The generator of the stage, None for a stage that generates no images."""
        return generator_of(self.stage.exports)

    @property
    def num_parameters(self) -> dict[str, int]:
        """The number of parameters of each network."""
        return count_parameters(self.stage, self.config)


class Program(NamedTuple):
    """A function that is compiled once for a mesh.

    Attributes:
        name: "train" or "sample".
        function: Pure function of `arguments`.
        arguments: Shapes with shardings.
        compiled: `function` under `training.sharding.pjit`; it has `lower(*arguments)`.
        batch_size: Images of one call.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[PyTree, ...]
    compiled: Callable[..., Any]
    batch_size: int

    def count_work(self) -> Work:
        """Returns the FLOPs and the memory traffic of one call, on all devices together."""
        return count_work(self.function, *self.arguments)


def build_abstract_run(config: ConfigDict, configs: str | Path = "configs") -> AbstractRun:
    """Returns a stage on frozen stages of which only the configurations need to exist.

    A frozen stage has the configuration of its run directory if there is one. Otherwise
    `runs/STAGE-PRESET` is the preset of this name, for images of this stage's size and channels.

    Args:
        config: Configuration whose data have not been opened. Where `data.num_classes` is 0 there
            are `DEFAULT_CLASSES`.
        configs: Folder of the configurations.

    Raises:
        InputError: A value is out of range, or a frozen stage is neither a run nor a preset.
    """
    config = _with_classes(config)
    validate(config)
    stage_module(config.stage).validate(config)
    return _build(config, Path(configs), "the configuration")


def _with_classes(config: ConfigDict) -> ConfigDict:
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.num_classes = config.data.num_classes or DEFAULT_CLASSES
    return config


def _build(config: ConfigDict, configs: Path, folder: str) -> AbstractRun:
    config = _with_classes(config)
    runs = {
        name: _build(_frozen_config(name, source, config, configs), configs, source)
        for name, source in stage_module(config.stage).needs(config).items()
    }
    stage = build_stage(config, {name: run.stage for name, run in runs.items()}, folder)
    frozen = {name: run.variables for name, run in runs.items()}
    if "perceptual" in config.losses and config.losses.perceptual:
        network = perceptual_shapes(config.losses.perceptual)
        frozen["perceptual"] = Variables({"network": network}, {}, {})
    return AbstractRun(config, stage, frozen)


def _frozen_config(name: str, source: str, config: ConfigDict, configs: Path) -> ConfigDict:
    """Returns the configuration of the finished stage that `config` calls `name`."""
    folder = Path(source)
    if (folder / "config.json").exists():
        return read_config(folder)
    if folder.parent.name == "frozen":  # a tokenizer in the run directory of a generator
        outer = _frozen_config(name, str(folder.parent.parent), config, configs)
        needs = stage_module(outer.stage).needs(outer)
        require(folder.name in needs, f"stage '{outer.stage}' of {source} has no {folder.name}")
        return _frozen_config(name, needs[folder.name], outer, configs)
    stage, _, preset = folder.name.partition("-")
    require(
        stage in STAGES,
        f"the {name} {source} is neither a run nor named after a preset, such as runs/STAGE-PRESET "
        f"after {configs}/STAGE.py:PRESET; set --config.{name} to one of these",
    )
    frozen = load_config(f"{configs}/{stage}.py:{preset}")
    data = frozen.data
    with frozen.unlocked():
        data.image_size, data.num_classes = config.data.image_size, config.data.num_classes
        if name == "condition_tokenizer":
            data.channels, data.input = condition_channels(config.data), config.data.condition
        else:
            data.channels, data.input = config.data.channels, config.data.input
    return frozen


def perceptual_shapes(name: str) -> PyTree:
    """Returns the shapes of the parameters that `load_perceptual_network` reads from a file.

    Raises:
        InputError: There is no perceptual network of this name.
    """

    def params(network: Any, side: int) -> PyTree:
        image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        return jax.eval_shape(network.init, abstract_key(), image)["params"]

    if name.startswith("resnet50"):
        return params(resnet.ResNet50(), resnet.IMAGE_SIZE)
    if name.startswith("efficientnet"):
        return params(efficientnet.EfficientNetLite(), efficientnet.IMAGE_SIZE)
    require(name == "lpips", f"there is no perceptual network '{name}'")
    weights = {
        layer: jax.ShapeDtypeStruct((width,), jnp.float32)
        for layer, width in zip(lpips.LAYERS, lpips.WIDTHS, strict=True)
    }
    return {"vgg16": params(lpips.VGG16(), 2 * lpips.MIN_IMAGE_SIZE), "weights": weights}


def abstract_key(mesh: Mesh | None = None) -> jax.ShapeDtypeStruct:
    """Returns the shape of a random key, replicated over a mesh."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    return key if mesh is None else _place(key, sharding.replicated(mesh))


def abstract_batch(run: AbstractRun, batch_size: int, mesh: Mesh) -> Batch:
    """Returns the shapes of a training batch: images, or tokens for `tokens:DIR`.

    Raises:
        InputError: The stage cannot be trained on tokens.
    """
    config, data = run.config, run.config.data
    square = (batch_size, data.image_size, data.image_size)
    if data.source.startswith("tokens:"):
        require(
            "grid" in config.model or "grids" in config.model,
            f"stage '{config.stage}' learns from images, not from {data.source}",
        )
        length = sum(height * width for height, width in token_grids(config))
        batch = {"tokens": jax.ShapeDtypeStruct((batch_size, length), jnp.int32)}
    else:
        batch = {"image": jax.ShapeDtypeStruct((*square, data.channels), jnp.uint8)}
    if data.condition:
        shape = (*square, condition_channels(data))
        batch["condition"] = jax.ShapeDtypeStruct(shape, jnp.uint8)
    batch["label"] = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    return _place(batch, sharding.batch_sharding(mesh))


def _place(tree: PyTree, placement: Any) -> PyTree:
    return jax.tree.map(lambda leaf: with_sharding(leaf, placement), tree)


def train_program(run: AbstractRun, mesh: Mesh) -> Program:
    """Returns the step (state, frozen, batch, root key) -> (state, metrics) of `Trainer`.

    Raises:
        InputError: The batch size is not a multiple of the data shards.
    """
    stage, config = run.stage, run.config
    sharding.check_training_batch(config.training, mesh)
    size = config.training.batch_size
    batch, key = abstract_batch(run, size, mesh), abstract_key(mesh)
    state = jax.eval_shape(make_create_state(stage, config), key, batch, run.frozen)
    shardings = sharding.tree_shardings(state, mesh)
    step = make_train_step(stage, config)
    frozen = _place(run.frozen, sharding.replicated(mesh))
    arguments = (with_sharding(state, shardings), frozen, batch, key)
    return Program("train", step, arguments, compile_train_step(step, mesh, shardings), size)


def sample_program(run: AbstractRun, mesh: Mesh, batch_size: int) -> Program:
    """Returns the program (variables, inputs, key) -> images uint8 of `GeneratorPipeline`.

    Args:
        run: A stage that generates images.
        mesh: Devices.
        batch_size: Images at a time, on all devices together.

    Raises:
        InputError: The stage generates no images, or the batch size is not a multiple of the data
            shards.
    """
    generator = run.generator
    require(
        generator is not None,
        f"stage '{run.config.stage}' generates no images, so it has no sampler",
    )
    assert generator is not None
    sharding.check_batch_size(batch_size, mesh, "the batch size of the sampler")
    variables = with_sharding(run.variables, sharding.tree_shardings(run.variables, mesh))
    batch = abstract_batch(run, batch_size, mesh)
    inputs = {name: batch[name] for name in ("label", *generator.needs)}
    inputs["number"] = batch["label"]
    pixels, settings = sample_pixels(generator), generator.settings

    def sample(variables: Variables, inputs: Batch, key: jax.Array) -> jax.Array:
        return pixels(variables, inputs, key, settings)[0]

    compiled = sharding.pjit(sample, mesh, out_shardings=sharding.replicated(mesh))
    return Program("sample", sample, (variables, inputs, abstract_key(mesh)), compiled, batch_size)


def without_rematerialization(config: ConfigDict) -> ConfigDict:
    """Returns the configuration with `model.remat` off, of which MFU counts the FLOPs."""
    config = config.copy_and_resolve_references()
    if "remat" in config.model:
        with config.unlocked():
            config.model.remat = False
    return config
