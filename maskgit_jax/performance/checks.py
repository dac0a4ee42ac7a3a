"""Estimates for programs on other machines: compiled for TPUs, calculated for GPUs."""

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh
from ml_collections import ConfigDict

from maskgit_jax.arrays import PyTree
from maskgit_jax.configuration import InputError, require
from maskgit_jax.performance.collectives import Collective, bytes_sent, read_collectives
from maskgit_jax.performance.flops import Work
from maskgit_jax.performance.machines import EXAMPLES, Machine, prepare_environment, read_machine
from maskgit_jax.performance.programs import (
    DEFAULT_CLASSES,
    AbstractRun,
    Program,
    build_abstract_run,
    sample_program,
    train_program,
    without_rematerialization,
)
from maskgit_jax.performance.roofline import Roofline, mfu, roofline
from maskgit_jax.training import sharding

PROGRAMS = ("train", "sample")


class CheckOptions(NamedTuple):
    """What to check of a configuration.

    Attributes:
        programs: Of `PROGRAMS`; all that the stage has if empty.
        sample_batch_size: Images that the sampler generates at a time; 0: the training batch.
        images_per_device: Sets `training.batch_size` to this times the devices; 0: unchanged.
        num_classes: Number of classes where the configuration reads it from the data.
    """

    programs: Sequence[str] = ()
    sample_batch_size: int = 0
    images_per_device: int = 0
    num_classes: int = DEFAULT_CLASSES


class Memory(NamedTuple):
    """Bytes of HBM on each device.

    Attributes:
        arguments: All that the program is given, including arguments that it never reads.
        outputs: Results.
        aliased: The part of the outputs that reuses the memory of donated arguments.
        temporaries: Intermediate values; 0 if nothing was compiled.
        code: The program itself; 0 if nothing was compiled.
        capacity: Bytes that programs can use.
    """

    arguments: float
    outputs: float
    aliased: float
    temporaries: float
    code: float
    capacity: float

    @property
    def total(self) -> float:
        """The bytes that must be available at once."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code

    @property
    def fits(self) -> bool:
        """Whether the device has that much memory."""
        return self.total <= self.capacity


class Check(NamedTuple):
    """Estimates for one program on one machine.

    Attributes:
        machine: Chips.
        mesh: Axis -> size.
        program: One of `PROGRAMS`.
        batch_size: Images of one run, on all devices together.
        compile_seconds: Seconds to trace and compile; None if the program was not compiled. Then
            temporaries are unknown and the collectives are those of the gradients.
        memory: Of each device.
        model_flops: FLOPs on all devices together, without rematerialization, by kind of number.
        flops: Executed FLOPs of each device.
        traffic: Bytes that each device reads from and writes to HBM: arguments, results, and the
            factors and results of products, everything else fused.
        collectives: Collective -> how often it runs on each device.
        failure: Why the program cannot be compiled, "" if it can.
        notes: Remarks.
    """

    machine: Machine
    mesh: dict[str, int]
    program: str
    batch_size: int
    compile_seconds: float | None
    memory: Memory
    model_flops: Mapping[str, float]
    flops: Mapping[str, float]
    traffic: float
    collectives: Mapping[Collective, float]
    failure: str = ""
    notes: tuple[str, ...] = ()

    @property
    def sent(self) -> float:
        """The bytes that each device sends to others."""
        return bytes_sent(self.collectives)

    @property
    def roofline(self) -> Roofline:
        """The lower bounds of the time of one run."""
        return roofline(self.machine.chip, self.flops, self.traffic, self.sent)

    @property
    def mfu(self) -> float:
        """The highest possible model FLOPs utilization."""
        total, devices = sum(self.model_flops.values()), len(self.machine.devices)
        return mfu(self.machine.chip, total, devices, self.roofline.overlapped)


def check_config(
    config: ConfigDict,
    machines: Sequence[str],
    options: CheckOptions,
    configs: str | Path = "configs",
    report: Callable[[Check], None] = lambda check: None,
) -> tuple[AbstractRun, list[Check]]:
    """Returns the shapes of a configuration, and a check for each machine and program.

    It must run before the first use of JAX's devices.

    Args:
        config: Configuration of a run.
        machines: Names, such as "v5e:4x4" or "h100:8".
        options: What to check.
        configs: Folder of the configurations, for frozen stages without a run.
        report: Called with each check as soon as it is done.

    Raises:
        InputError: A value is out of range, or a program cannot be compiled.
    """
    for name in options.programs:
        require(name in PROGRAMS, f"--programs holds '{name}'; allowed: {', '.join(PROGRAMS)}")
    require(bool(machines), f"--topology is empty; give one or several of {EXAMPLES}")
    prepare_environment(machines)
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.num_classes = config.data.num_classes or options.num_classes
    run = build_abstract_run(config, configs)
    plain = build_abstract_run(without_rematerialization(config), configs)
    programs = options.programs or (PROGRAMS if run.generator else PROGRAMS[:1])
    checks = []
    for machine in map(read_machine, machines):
        mesh = sharding.make_mesh(config.mesh, machine.devices)
        size = options.images_per_device * mesh.size or config.training.batch_size
        for name in programs:
            count = (options.sample_batch_size or size) if name == "sample" else size
            model = _program(plain, name, mesh, count).count_work()
            checks.append(check_program(run, machine, mesh, name, count, model))
            report(checks[-1])
    return run, checks


def _program(run: AbstractRun, name: str, mesh: Mesh, batch_size: int) -> Program:
    if name == "sample":
        return sample_program(run, mesh, batch_size)
    config = run.config.copy_and_resolve_references()
    with config.unlocked():
        config.training.batch_size = batch_size
    return train_program(run._replace(config=config), mesh)


def check_program(
    run: AbstractRun, machine: Machine, mesh: Mesh, name: str, batch_size: int, model: Work
) -> Check:
    """Returns the estimates for a program, which is compiled if the machine has TPUs.

    Args:
        run: A stage.
        machine: Chips.
        mesh: Its devices.
        name: One of `PROGRAMS`.
        batch_size: Images of one run, on all devices together.
        model: Work of the program without rematerialization.

    Raises:
        InputError: Compilation fails for another reason than too little memory.
    """
    program = _program(run, name, mesh, batch_size)
    work = _work_of_device(run, name, mesh, batch_size)
    leaves = jax.tree.leaves(program.arguments)
    unused = sum(_device_bytes(leaf) for leaf, used in zip(leaves, work.used, strict=True)
                 if not used)  # fmt: skip
    check = Check(machine, dict(mesh.shape), name, batch_size, None,
                  _argument_memory(program, machine), model.flops, work.flops, 0.0, {})  # fmt: skip
    if machine.chip.is_tpu:
        check = _compile(program, check, unused)
    elif name == "train":
        check = check._replace(collectives=_gradient_exchange(program.arguments[0].params, mesh))
    memory = check.memory
    return check._replace(traffic=work.bytes + memory.arguments - unused + memory.outputs)


def _work_of_device(run: AbstractRun, name: str, mesh: Mesh, batch_size: int) -> Work:
    """Returns the work of one device: that of its share of the batch, its share of each matrix.

    What a partitioned program computes redundantly is not included.
    """
    one = Mesh(mesh.devices[:1, :1, :1], mesh.axis_names, axis_types=(AxisType.Auto,) * 3)
    work = _program(run, name, one, batch_size // sharding.num_shards(mesh)).count_work()
    share = 1 / mesh.shape["tensor"]
    flops = {kind: share * value for kind, value in work.flops.items()}
    return Work(flops, share * work.bytes, work.used)


def _argument_memory(program: Program, machine: Machine) -> Memory:
    """Returns the memory of arguments and state, all that is known without compiling."""
    size = _tree_bytes(program.arguments)
    state = _tree_bytes(program.arguments[0]) if program.name == "train" else 0.0
    return Memory(size, state, state, 0.0, 0.0, machine.chip.memory)


def _compile(program: Program, check: Check, unused: float) -> Check:
    start = time.perf_counter()
    lowered = program.compiled.lower(*program.arguments)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return _out_of_memory(check, str(error))
    seconds = time.perf_counter() - start
    sizes = compiled.memory_analysis()
    memory = Memory(
        arguments=sizes.argument_size_in_bytes + unused,
        outputs=sizes.output_size_in_bytes,
        aliased=sizes.alias_size_in_bytes,
        temporaries=sizes.temp_size_in_bytes,
        code=sizes.generated_code_size_in_bytes,
        capacity=check.memory.capacity,
    )
    collectives, unknown = read_collectives(compiled.as_text())
    notes = tuple(
        f"the collectives of loop {name} count once: its number of iterations is unknown"
        for name in unknown
    )
    return check._replace(
        compile_seconds=seconds, memory=memory, collectives=collectives, notes=notes
    )


def _out_of_memory(check: Check, error: str) -> Check:
    """Returns a check that says how much memory the program needs.

    Raises:
        InputError: The program cannot be compiled for another reason.
    """
    sizes = re.findall(r"([\d.]+)([KMG])\b", error)
    if "RESOURCE_EXHAUSTED" not in error or not sizes:
        raise InputError(
            f"{check.program} does not compile for {check.machine.name}: {error[:400]}"
        )
    needed = float(sizes[0][0]) * {"K": 2**10, "M": 2**20, "G": 2**30}[sizes[0][1]]
    arguments = check.memory.arguments
    memory = Memory(arguments, 0, 0, max(0, needed - arguments), 0, check.memory.capacity)
    failure = error.splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")
    return check._replace(memory=memory, failure=failure)


def _gradient_exchange(params: PyTree, mesh: Mesh) -> dict[Collective, float]:
    """Returns the collectives that sum gradients over `data` and gather parameters over `fsdp`."""
    size, collectives = _tree_bytes(params), {}
    if mesh.shape["data"] > 1:
        collectives[Collective("all-reduce", size, mesh.shape["data"])] = 1.0
    if mesh.shape["fsdp"] > 1:
        shards = mesh.shape["fsdp"]
        collectives[Collective("all-gather", size, shards)] = 2.0
        collectives[Collective("reduce-scatter", size * shards, shards)] = 1.0
    return collectives


def _tree_bytes(tree: PyTree) -> float:
    return sum(map(_device_bytes, jax.tree.leaves(tree)))


def _device_bytes(leaf: Any) -> float:
    """Returns the bytes of an array on one device; a random key has eight."""
    shape = leaf.sharding.shard_shape(leaf.shape)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return 8.0 * math.prod(shape)
    return float(leaf.dtype.itemsize * math.prod(shape))
