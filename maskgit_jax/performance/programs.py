"""The programs that a configuration trains and samples with, as functions and shapes only.

No data is opened, no checkpoint read and no array made: all that is missing (frozen stages,
judges, labels) is known by its shape. The same programs can be compiled for devices that do not
exist and be run on those that do.
"""

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from maskgit_jax.arrays import Batch, PyTree
from maskgit_jax.configuration import condition_channels, require, validate
from maskgit_jax.networks import efficientnet, lpips, resnet
from maskgit_jax.pipelines.generator import sample_pixels
from maskgit_jax.runs.directory import abstract_variables, read_config
from maskgit_jax.stage import Generator, Stage, Variables, generator_of
from maskgit_jax.stages import STAGES, stage_module
from maskgit_jax.stages.token_priors import token_grids
from maskgit_jax.training import sharding
from maskgit_jax.training.variables import with_sharding
from maskgit_jax.training.loop import compile_train_step
from maskgit_jax.training.step import make_create_state, make_train_step

DEFAULT_CLASSES = 10
"""Of presets that read their number from the data: that of digits, Fashion-MNIST and CIFAR-10."""


class System(NamedTuple):
    """A stage, with the shapes of all that it stands on.

    Attributes:
        config: Resolved: `data.num_classes` is known.
        stage: Its functions.
        frozen: Name -> shapes of a finished stage or judge.
    """

    config: ConfigDict
    stage: Stage
    frozen: Mapping[str, Variables]


class Program(NamedTuple):
    """A function that is compiled once for a mesh.

    Attributes:
        name: "train" or "sample".
        function: Pure, of `arguments`.
        arguments: Shapes with shardings.
        compiled: `function` by `training.sharding.pjit`; it has `lower(*arguments)`.
        batch_size: Images of one call.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[PyTree, ...]
    compiled: Callable[..., Any]
    batch_size: int


def build_system(config: ConfigDict, configs: str | Path = "configs") -> System:
    """Returns a stage on frozen stages of which nothing but their configurations need exist.

    A frozen stage is what its run directory says, if there is one; otherwise `runs/STAGE-PRESET`
    is the preset of this name in `configs`, for images of this stage's size and channels.

    Args:
        config: Of a run, before its data were seen. Where `data.num_classes` is 0 there are
            `DEFAULT_CLASSES`.
        configs: Folder of the configurations.

    Raises:
        InputError: A value cannot work, or a frozen stage is neither a run nor a preset.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.num_classes = config.data.num_classes or DEFAULT_CLASSES
    module = stage_module(config.stage)
    validate(config)
    module.validate(config)
    systems = {
        name: build_system(_frozen_config(name, source, config, Path(configs)), configs)
        for name, source in module.needs(config).items()
    }
    stage = module.build(config, {name: system.stage for name, system in systems.items()})
    frozen = {name: _finished(system) for name, system in systems.items()}
    if "perceptual" in config.losses and config.losses.perceptual:
        network = perceptual_shapes(config.losses.perceptual)
        frozen["perceptual"] = Variables({"network": network}, {}, {})
    return System(config, stage, frozen)


def _finished(system: System) -> Variables:
    shapes = abstract_variables(system.stage, system.config)
    inner = {name: value for name, value in system.frozen.items() if name != "perceptual"}
    return Variables(shapes.params, shapes.state, inner)


def _frozen_config(name: str, source: str, config: ConfigDict, configs: Path) -> ConfigDict:
    """Returns the configuration of the finished stage that `config` calls `name`."""
    folder = Path(source)
    if (folder / "config.json").exists():
        return read_config(folder)
    if folder.parent.name == "frozen":  # a tokenizer inside of a generator's run
        outer = _frozen_config(name, str(folder.parent.parent), config, configs)
        needed = stage_module(outer.stage).needs(outer)
        require(folder.name in needed, f"stage '{outer.stage}' of {source} has no {folder.name}")
        return _frozen_config(name, needed[folder.name], outer, configs)
    stage, _, preset = folder.name.partition("-")
    require(
        stage in STAGES and (configs / f"{stage}.py").exists(),
        f"the {name} {source} is neither a run nor named after a preset, as runs/STAGE-PRESET is "
        f"after {configs}/STAGE.py:PRESET; set --config.{name} to one of these",
    )
    found = preset_config(stage, preset, configs)
    data = found.data
    with found.unlocked():
        data.image_size, data.num_classes = config.data.image_size, config.data.num_classes
        if name == "condition_tokenizer":
            data.channels, data.input = condition_channels(config.data), config.data.condition
        else:
            data.channels, data.input = config.data.channels, config.data.input
    return found


def preset_config(stage: str, preset: str, configs: str | Path = "configs") -> ConfigDict:
    """Returns the configuration `configs/STAGE.py:PRESET`.

    Raises:
        InputError: There is no such file or preset.
    """
    path = Path(configs) / f"{stage}.py"
    require(path.is_file(), f"{path} does not exist")
    spec = spec_from_file_location(f"preset_{stage}", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(preset)


def perceptual_shapes(name: str) -> PyTree:
    """Returns the shapes of what `interop.perceptual.load_perceptual_network` loads, without any file.

    Raises:
        InputError: There is no such judge.
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
    return {"vgg16": params(lpips.VGG16(), 2 * lpips.SMALLEST_SIDE), "weights": weights}


def abstract_key(mesh: Mesh | None = None) -> jax.ShapeDtypeStruct:
    """Returns the shape of a random key, on all devices of a mesh."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    return key if mesh is None else with_sharding(key, sharding.replicated(mesh))


def abstract_batch(system: System, batch_size: int, mesh: Mesh) -> Batch:
    """Returns the shapes of a training batch: images, or tokens for `tokens:DIR`.

    Raises:
        InputError: The stage cannot learn from tokens.
    """
    config, data = system.config, system.config.data
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
    return _everywhere(batch, sharding.batch_sharding(mesh))


def _everywhere(tree: PyTree, place: Any) -> PyTree:
    return jax.tree.map(lambda leaf: with_sharding(leaf, place), tree)


def train_program(system: System, mesh: Mesh) -> Program:
    """Returns the step (state, frozen, batch, root key) -> (state, metrics) of `Trainer`.

    Raises:
        InputError: The devices cannot share the batch evenly.
    """
    stage, config = system.stage, system.config
    sharding.check_training_batch(config.training, mesh)
    size = config.training.batch_size
    batch, key = abstract_batch(system, size, mesh), abstract_key(mesh)
    state = jax.eval_shape(make_create_state(stage, config), key, batch, system.frozen)
    shardings = sharding.tree_shardings(state, mesh)
    step = make_train_step(stage, config)
    compiled = compile_train_step(step, mesh, shardings)
    frozen = _everywhere(system.frozen, sharding.replicated(mesh))
    return Program("train", step, (with_sharding(state, shardings), frozen, batch, key),
                   compiled, size)  # fmt: skip


def sample_program(
    system: System, mesh: Mesh, batch_size: int, settings: Any | None = None
) -> Program:
    """Returns the program (variables, wanted, key) -> images uint8 of `GeneratorPipeline`.

    Args:
        system: Of a stage that generates images.
        mesh: Devices.
        batch_size: Images at a time, of all devices together.
        settings: Of the generator; its own by default.

    Raises:
        InputError: The stage makes no images, or the devices cannot share the batch evenly.
    """
    generator = sampler_of(system)
    require(
        generator is not None,
        f"stage '{system.config.stage}' generates no images, so it has no sampler",
    )
    assert generator is not None
    sharding.check_batch_size(batch_size, mesh, "the batch size of the sampler")
    settings = settings or generator.settings
    variables = _finished(system)
    variables = with_sharding(variables, sharding.tree_shardings(variables, mesh))
    whole = abstract_batch(system, batch_size, mesh)
    wanted = {name: whole[name] for name in ("label", *generator.needs)}

    sample = partial(sample_pixels(generator), settings=settings)
    compiled = sharding.pjit(sample, mesh, out_shardings=sharding.replicated(mesh))
    return Program("sample", sample, (variables, wanted, abstract_key(mesh)), compiled, batch_size)


def sampler_of(system: System) -> Generator | None:
    """Returns what makes images, None for a stage that cannot."""
    return generator_of(system.stage.exports)


def parameters_of(system: System) -> dict[str, int]:
    """Returns the number of parameters of each player."""
    params = abstract_variables(system.stage, system.config).params
    return {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in params.items()}


def without_recomputation(config: ConfigDict) -> ConfigDict:
    """Returns the configuration with `model.remat` off: what utilisation is measured by."""
    config = config.copy_and_resolve_references()
    if "remat" in config.model:
        with config.unlocked():
            config.model.remat = False
    return config
