"""Speed of training, sampling and reading data on the devices at hand.

Frozen stages and perceptual networks have random weights of the right shapes, which take the same
time as trained ones: neither runs nor weight files need to exist.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from maskgit_jax.arrays import Batch, Key, PyTree
from maskgit_jax.configuration import InputError, require
from maskgit_jax.data.loader import batches_ahead, train_batches
from maskgit_jax.data.sources import Sources, open_sources, resolve_classes
from maskgit_jax.performance.programs import (
    AbstractRun,
    Program,
    build_abstract_run,
    sample_program,
    train_program,
    without_rematerialization,
)
from maskgit_jax.performance.step_record import Seconds, TimingOptions, median_seconds, record
from maskgit_jax.stages.token_priors import token_grids
from maskgit_jax.training import sharding
from maskgit_jax.training.state import TrainState
from maskgit_jax.training.step import make_create_state

WARM_UP_STEPS = 2
RANDOM_WEIGHTS = "has random weights, which take the time of trained ones"


def random_arrays(shapes: PyTree, key: Key) -> PyTree:
    """Returns arrays of these shapes and shardings, created sharded by one program.

    Scales and variances are 1, integers and booleans 0, all others N(0, 0.02^2).
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    if not leaves:
        return shapes

    def create(key: Key) -> PyTree:
        arrays = []
        for leaf_key, (path, leaf) in zip(jax.random.split(key, len(leaves)), leaves, strict=True):
            name = sharding.path_name(path).rpartition("/")[2]
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                arrays.append(jnp.zeros(leaf.shape, leaf.dtype))
            elif name in ("scale", "var"):
                arrays.append(jnp.ones(leaf.shape, leaf.dtype))
            else:
                arrays.append(0.02 * jax.random.normal(leaf_key, leaf.shape, leaf.dtype))
        return jax.tree.unflatten(structure, arrays)

    return jax.jit(create, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, shapes))(key)


def synthetic_batch(shapes: Batch, config: ConfigDict, seed: int) -> dict[str, np.ndarray]:
    """Returns a batch of random images, labels and tokens."""
    random, codes = np.random.default_rng(seed), config.model.get("codebook_size", 1)
    below = {"label": max(1, config.data.num_classes), "tokens": codes}
    return {
        name: random.integers(0, below.get(name, 256), leaf.shape, leaf.dtype)
        for name, leaf in shapes.items()
    }


def _open_data(config: ConfigDict) -> tuple[ConfigDict, Sources]:
    """Returns a copy of the configuration with the number of classes, and the sources."""
    sources, config = open_sources(config.data), config.copy_and_resolve_references()
    resolve_classes(config, sources)
    return config, sources


class _Input:
    """The input pipeline of a run."""

    def __init__(self, sources: Sources, config: ConfigDict, mesh: Mesh):
        size, data = config.training.batch_size, config.data
        self.batches, self.mesh = train_batches(sources.train, data, size, config.seed), mesh
        self._ahead = batches_ahead(data, size)
        self.first = next(self.batches)

    def skip_prefetched(self) -> None:
        self.read(self._ahead)

    def read(self, count: int) -> None:
        for _ in range(count):
            next(self.batches)

    def put(self) -> dict[str, jax.Array]:
        return sharding.put_batch(next(self.batches), self.mesh)

    def deliver(self, count: int) -> None:
        for _ in range(count):
            jax.block_until_ready(self.put())


class _Steps:
    """A train step, compiled ahead, so that it never recompiles; it keeps the donated state."""

    def __init__(self, program: Program, state: TrainState, rest: tuple[PyTree, Batch, Key]):
        self.state, (self.frozen, self.batch, self.key) = state, rest
        start = time.perf_counter()
        self.executable = program.compiled.lower(state, *rest).compile()
        self.compile_seconds = time.perf_counter() - start

    def run(self, count: int, next_batch: Callable[[], Batch] | None = None) -> None:
        """Runs so many steps, all on the same batch unless `next_batch` gives others."""
        metrics = None
        for _ in range(count):
            batch = next_batch() if next_batch else self.batch
            self.state, metrics = self.executable(self.state, self.frozen, batch, self.key)
        jax.block_until_ready((self.state.step, metrics))


def measure_train(
    config: ConfigDict, configs: str | Path, options: TimingOptions, synthetic: bool
) -> dict[str, Any]:
    """Returns the speed of training.

    Args:
        config: Configuration of a run.
        configs: Folder of the presets, for frozen stages without a run.
        options: Time for the devices, the input pipeline and both together.
        synthetic: Whether to train on one random batch instead of the data.

    Raises:
        InputError: A value is out of range, or the data are missing.
    """
    sources, mesh = None, sharding.make_mesh(config.mesh)
    if not synthetic:
        try:
            config, sources = _open_data(config)
        except InputError as error:
            raise InputError(f"{error}; or add --synthetic to measure with random data") from error
    run = build_abstract_run(config, configs)
    config, program = run.config, train_program(run, mesh)
    feed = _Input(sources, config, mesh) if sources else None
    notes = [f"{name} {RANDOM_WEIGHTS}" for name in run.frozen]
    options.log("compiling the train step")
    steps = _prepare_steps(run, program, mesh, feed)
    options.log(f"compiled in {steps.compile_seconds:.1f} s; measuring")
    seconds = _time_steps(steps, feed, options)
    if any(int(step) >= 0 for step in steps.state.failed_at.values()):
        notes.append("a loss was not finite; a step takes the same time then")
    plain = build_abstract_run(without_rematerialization(config), configs)
    model = _flops(train_program(plain, mesh), notes)
    executed = _flops(program, notes) if config.model.get("remat", False) else model
    values = record("train", config, mesh, program.batch_size, seconds, (model, executed), notes,
                   steps.executable, steps.compile_seconds)  # fmt: skip
    return {**values, "synthetic": synthetic}


def _prepare_steps(run: AbstractRun, program: Program, mesh: Mesh, feed: _Input | None) -> _Steps:
    config, (state_shapes, frozen_shapes, batch_shapes, _) = run.config, program.arguments
    host = feed.first if feed else synthetic_batch(batch_shapes, config, config.seed)
    _check_batch(host, batch_shapes)
    batch = sharding.put_batch(host, mesh)
    weights_key, init_key = _fast_key(config.seed), jax.random.key(config.seed)
    frozen = random_arrays(frozen_shapes, weights_key)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state_shapes)
    create = sharding.pjit(make_create_state(run.stage, config), mesh, out_shardings=shardings)
    state = create(init_key, batch, frozen)
    key = jax.device_put(jax.random.key(config.seed), sharding.replicated(mesh))
    return _Steps(program, state, (frozen, batch, key))


def _time_steps(steps: _Steps, feed: _Input | None, options: TimingOptions) -> Seconds:
    steps.run(WARM_UP_STEPS)
    options = options._replace(seconds=options.seconds / (3 if feed else 1))
    device = median_seconds(steps.run, options)
    if feed is None:
        return Seconds(device, device, None, 0.0)
    feed.skip_prefetched()
    host_input = median_seconds(feed.deliver, options)
    total = median_seconds(partial(steps.run, next_batch=feed.put), options)
    return Seconds(total, device, host_input, max(0.0, total - device))


def measure_sample(
    config: ConfigDict, configs: str | Path, options: TimingOptions, batch_size: int = 0
) -> dict[str, Any]:
    """Returns the speed of sampling, with random weights and labels.

    Args:
        config: Configuration of a stage that generates images.
        configs: Folder of the presets, for frozen stages without a run.
        options: Time to measure.
        batch_size: Images at a time; 0 for the batch size of training.

    Raises:
        InputError: The stage generates no images, or a value is out of range.
    """
    mesh, run = sharding.make_mesh(config.mesh), build_abstract_run(config, configs)
    config, size = run.config, batch_size or config.training.batch_size
    program = sample_program(run, mesh, size)
    notes = [f"{name} {RANDOM_WEIGHTS}" for name in (config.stage, *program.arguments[0].frozen)]
    variables = random_arrays(program.arguments[0], _fast_key(config.seed))
    inputs = synthetic_batch(program.arguments[1], config, config.seed)
    inputs = sharding.put_batch(inputs, mesh)
    key = jax.device_put(jax.random.key(config.seed), sharding.replicated(mesh))
    options.log("compiling the sampler")
    start = time.perf_counter()
    executable = program.compiled.lower(variables, inputs, key).compile()
    compile_seconds = time.perf_counter() - start
    options.log(f"compiled in {compile_seconds:.1f} s; measuring")

    def sample(count: int) -> None:
        for _ in range(count):
            images = executable(variables, inputs, key)
        jax.block_until_ready(images)

    sample(1)
    device = median_seconds(sample, options)
    flops = _flops(program, notes)
    values = record("sample", config, mesh, size, Seconds(device, device, None, 0.0),
                   (flops, flops), notes, executable, compile_seconds)  # fmt: skip
    return {**values, "nfe": _sequential_evaluations(run)}


def measure_data(config: ConfigDict, options: TimingOptions) -> dict[str, Any]:
    """Returns the speed of reading batches, alone and with their transfer to the devices.

    Raises:
        InputError: The data are missing.
    """
    mesh = sharding.make_mesh(config.mesh)
    config, sources = _open_data(config)
    size = config.training.batch_size
    sharding.check_batch_size(size, mesh, "config.training.batch_size")
    feed = _Input(sources, config, mesh)
    options = options._replace(seconds=options.seconds / 2)
    options.log("reading")
    feed.skip_prefetched()
    read = median_seconds(feed.read, options)
    feed.deliver(1)  # the first transfer compiles a program
    total = median_seconds(feed.deliver, options)
    values = record("data", config, mesh, size, Seconds(total, None, total, None))
    return {**values, "read_seconds": read, "images_per_second_read": size / read}


def _fast_key(seed: int) -> Key:
    return jax.random.key(seed, impl="unsafe_rbg")  # its programs compile quickly


def _check_batch(host: Mapping[str, np.ndarray], shapes: Batch) -> None:
    batch = {name: (value.shape, str(value.dtype)) for name, value in host.items()}
    expected = {name: (leaf.shape, str(leaf.dtype)) for name, leaf in shapes.items()}
    require(batch == expected, f"the data give batches of {batch}, but the step needs {expected}")


def _flops(program: Program, notes: list[str]) -> float | None:
    try:
        return program.count_work().total_flops
    except ValueError as error:
        notes.append(f"no FLOPs: {error}")
        return None


def _sequential_evaluations(run: AbstractRun) -> int:
    """Returns how often the network is evaluated, one after another, for a batch of images."""
    generator, model = run.generator, run.config.model
    assert generator is not None
    if hasattr(generator.settings, "steps"):
        return generator.settings.steps
    if "grid" in model or "grids" in model:  # token after token
        return sum(height * width for height, width in token_grids(run.config))
    return 1
