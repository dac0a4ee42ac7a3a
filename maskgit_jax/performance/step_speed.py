"""How fast a configuration trains, samples and reads its data on the devices that are here.

Frozen stages and judges have random weights of the right shapes, which take the same time as
trained ones: neither runs nor files of weights need exist.
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
from maskgit_jax.performance.operations import count_operations, total_operations
from maskgit_jax.performance.programs import (
    Program,
    System,
    build_system,
    sample_program,
    sampler_of,
    train_program,
    without_recomputation,
)
from maskgit_jax.performance.step_record import (
    Seconds,
    TimingOptions,
    machine,
    median_seconds,
    record,
)
from maskgit_jax.stages.token_priors import token_grids
from maskgit_jax.training import sharding
from maskgit_jax.training.state import TrainState
from maskgit_jax.training.step import make_create_state

WARM_UP_STEPS = 2
RANDOM_WEIGHTS = "has random weights, which take the time of trained ones"


def random_arrays(shapes: PyTree, key: Key) -> PyTree:
    """Returns arrays of these shapes and shardings, born sharded, by one program.

    Scales and variances are 1, integers and truth values 0, all others N(0, 0.02^2).
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    if not leaves:
        return shapes

    def make(key: Key) -> PyTree:
        made = []
        for own, (path, leaf) in zip(jax.random.split(key, len(leaves)), leaves, strict=True):
            name = sharding.path_name(path).rpartition("/")[2]
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                made.append(jnp.zeros(leaf.shape, leaf.dtype))
            elif name in ("scale", "var"):
                made.append(jnp.ones(leaf.shape, leaf.dtype))
            else:
                made.append(0.02 * jax.random.normal(own, leaf.shape, leaf.dtype))
        return jax.tree.unflatten(structure, made)

    return jax.jit(make, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, shapes))(key)


def made_up_batch(shapes: Batch, config: ConfigDict, seed: int) -> dict[str, np.ndarray]:
    """Returns noise for images, and any labels and tokens that there are."""
    random, codes = np.random.default_rng(seed), config.model.get("codebook_size", 1)
    below = {"label": max(1, config.data.num_classes), "tokens": codes}
    return {
        name: random.integers(0, below.get(name, 256), leaf.shape, leaf.dtype)
        for name, leaf in shapes.items()
    }


def opened(config: ConfigDict) -> tuple[ConfigDict, Sources]:
    """Returns the sources, and a copy of the configuration that knows their classes.

    Raises:
        InputError: There are no such data, or they have other classes.
    """
    sources, config = open_sources(config.data), config.copy_and_resolve_references()
    resolve_classes(config, sources)
    return config, sources


class _Input:
    """The pipeline of a run, whose batches that were read ahead are used up first."""

    def __init__(self, sources: Sources, config: ConfigDict, mesh: Mesh):
        size, data = config.training.batch_size, config.data
        self.batches, self.mesh = train_batches(sources.train, data, size, config.seed), mesh
        self._ahead = batches_ahead(data, size)
        self.first = next(self.batches)

    def drain(self) -> None:
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
    """A train step, compiled ahead: an executable that refuses other arguments, never recompiles.

    The state is donated, so the newest one is kept here.
    """

    def __init__(self, program: Program, state: TrainState, rest: tuple[PyTree, Batch, Key]):
        self.state, (self.frozen, self.batch, self.key) = state, rest
        start = time.perf_counter()
        self.executable = program.compiled.lower(state, *rest).compile()
        self.compile_seconds = time.perf_counter() - start

    def resident(self, count: int) -> None:
        self._run(count, lambda: self.batch)

    def fed(self, count: int, feed: _Input) -> None:
        self._run(count, feed.put)

    def _run(self, count: int, batch: Callable[[], Batch]) -> None:
        metrics = None
        for _ in range(count):
            self.state, metrics = self.executable(self.state, self.frozen, batch(), self.key)
        jax.block_until_ready((self.state.step, metrics))


def measure_train(
    config: ConfigDict, configs: str | Path, effort: TimingOptions, synthetic: bool
) -> dict[str, Any]:
    """Returns how fast training is.

    Args:
        config: Of a run.
        configs: Folder of the presets, for frozen stages that are no runs yet.
        effort: For the devices, the pipeline and both together.
        synthetic: With one made-up batch, instead of the data.

    Raises:
        InputError: A value cannot work, or the data are missing.
    """
    notes, sources, mesh = [], None, sharding.make_mesh(config.mesh)
    if not synthetic:
        try:
            config, sources = opened(config)
        except InputError as error:
            raise InputError(f"{error}; or add --synthetic to measure with made-up data") from error
    system = build_system(config, configs)
    config, program = system.config, train_program(system, mesh)
    feed = _Input(sources, config, mesh) if sources else None
    shapes = program.arguments[2]
    host = feed.first if feed else made_up_batch(shapes, config, config.seed)
    _check_batch(host, shapes)
    notes += [f"{name} {RANDOM_WEIGHTS}" for name in system.frozen]
    batch = sharding.put_batch(host, mesh)
    weights_key, init_key = _fast_key(config.seed), jax.random.key(config.seed)
    frozen = random_arrays(program.arguments[1], weights_key)
    places = jax.tree.map(lambda leaf: leaf.sharding, program.arguments[0])
    create = sharding.pjit(make_create_state(system.stage, config), mesh, out_shardings=places)
    state = create(init_key, batch, frozen)
    key = jax.device_put(jax.random.key(config.seed), sharding.replicated(mesh))
    effort.tell("compiling the train step")
    steps = _Steps(program, state, (frozen, batch, key))
    del state
    effort.tell(f"compiled in {steps.compile_seconds:.1f} s; measuring")
    steps.resident(WARM_UP_STEPS)
    effort = effort._replace(seconds=effort.seconds / (3 if feed else 1))
    device = median_seconds(steps.resident, effort)
    seconds = Seconds(device, device, None, 0.0)
    if feed:
        feed.drain()
        host_input = median_seconds(feed.deliver, effort)
        total = median_seconds(partial(steps.fed, feed=feed), effort)
        seconds = Seconds(total, device, host_input, max(0.0, total - device))
    if any(int(step) >= 0 for step in steps.state.failed_at.values()):
        notes.append("a loss was not finite; a step takes the same time then")
    plain = build_system(without_recomputation(config), configs)
    model = _operations(train_program(plain, mesh), notes)
    executed = _operations(program, notes) if _recomputes(config) else model
    found = record("train", config, mesh, program.batch_size, seconds, (model, executed), notes)
    return {**found, **machine(steps.executable, steps.compile_seconds), "synthetic": synthetic}


def measure_sample(
    config: ConfigDict, configs: str | Path, effort: TimingOptions, batch_size: int = 0
) -> dict[str, Any]:
    """Returns how fast images are made, by networks with random weights and for random labels.

    Args:
        config: Of a run of a stage that generates images.
        configs: Folder of the presets, for frozen stages that are no runs yet.
        effort: Of measuring.
        batch_size: Images at a time; 0 for those of a train step.

    Raises:
        InputError: The stage generates no images, or a value cannot work.
    """
    mesh, system = sharding.make_mesh(config.mesh), build_system(config, configs)
    config, size = system.config, batch_size or config.training.batch_size or 64
    program = sample_program(system, mesh, size)
    notes = [f"{name} {RANDOM_WEIGHTS}" for name in (config.stage, *program.arguments[0].frozen)]
    variables = random_arrays(program.arguments[0], _fast_key(config.seed))
    wanted = made_up_batch(program.arguments[1], config, config.seed)
    wanted = sharding.put_batch(wanted, mesh)
    key = jax.device_put(jax.random.key(config.seed), sharding.replicated(mesh))
    effort.tell("compiling the sampler")
    start = time.perf_counter()
    executable = program.compiled.lower(variables, wanted, key).compile()
    compile_seconds = time.perf_counter() - start
    effort.tell(f"compiled in {compile_seconds:.1f} s; measuring")

    def run(count: int) -> None:
        for _ in range(count):
            images = executable(variables, wanted, key)
        jax.block_until_ready(images)

    run(1)
    device = median_seconds(run, effort)
    count = _operations(program, notes)
    seconds = Seconds(device, device, None, 0.0)
    found = record("sample", config, mesh, size, seconds, (count, count), notes)
    return {**found, **machine(executable, compile_seconds), "passes": _passes(system)}


def measure_data(config: ConfigDict, effort: TimingOptions) -> dict[str, Any]:
    """Returns how fast batches are read, alone and with putting them on the devices.

    Raises:
        InputError: The data are missing.
    """
    mesh = sharding.make_mesh(config.mesh)
    config, sources = opened(config)
    size = config.training.batch_size
    sharding.check_batch_size(size, mesh, "config.training.batch_size")
    feed = _Input(sources, config, mesh)
    effort = effort._replace(seconds=effort.seconds / 2)
    effort.tell("reading")
    feed.drain()
    read = median_seconds(feed.read, effort)
    feed.deliver(1)  # the first time something is compiled
    total = median_seconds(feed.deliver, effort)
    found = record("data", config, mesh, size, Seconds(total, None, total, None), (None, None), [])
    reading = {"read_seconds": read, "images_per_second_read": size / read}
    return {**found, **machine(None, None), **reading}


def _fast_key(seed: int) -> Key:
    return jax.random.key(seed, impl="unsafe_rbg")  # whose programs compile quickly


def _check_batch(host: Mapping[str, np.ndarray], shapes: Batch) -> None:
    given = {name: (value.shape, str(value.dtype)) for name, value in host.items()}
    wanted = {name: (leaf.shape, str(leaf.dtype)) for name, leaf in shapes.items()}
    require(given == wanted, f"the data give batches of {given}, but the step needs {wanted}")


def _recomputes(config: ConfigDict) -> bool:
    return "remat" in config.model and config.model.remat


def _operations(program: Program, notes: list[str]) -> float | None:
    try:
        return total_operations(count_operations(program.function, *program.arguments))
    except ValueError as error:
        notes.append(f"no FLOPs: {error}")
        return None


def _passes(system: System) -> int:
    """Returns how often the network runs, one after another, for a batch of images."""
    generator, model = sampler_of(system), system.config.model
    assert generator is not None
    if hasattr(generator.settings, "steps"):
        return generator.settings.steps
    if "grid" in model or "grids" in model:  # token after token
        return sum(height * width for height, width in token_grids(system.config))
    return 1
