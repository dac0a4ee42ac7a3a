"""What a program needs of a machine: compiled for TPUs that need not exist, reckoned for GPUs."""

import math
import re
import time
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from maskgit_jax.arrays import PyTree
from maskgit_jax.configuration import InputError
from maskgit_jax.performance.machines import Machine
from maskgit_jax.performance.operations import (
    Operations,
    count_operations,
    total_operations,
    used_arguments,
)
from maskgit_jax.performance.programs import Program
from maskgit_jax.performance.roofline import Roofline, roofline, utilisation
from maskgit_jax.performance.usage import Collective, usage_of


class Memory(NamedTuple):
    """Bytes of HBM on each device, tiles filled up.

    Attributes:
        arguments: What the program reads.
        outputs: What it gives.
        aliased: The part of the outputs that takes the place of arguments (donated).
        temporaries: What it needs between; 0 where nothing was compiled.
        code: The program itself; 0 where nothing was compiled.
        unread: Arguments that it is given but does not read; they lie there all the same.
        capacity: That programs can have.
    """

    arguments: float
    outputs: float
    aliased: float
    temporaries: float
    code: float
    unread: float
    capacity: float

    @property
    def total(self) -> float:
        """Returns the bytes that must be there at once."""
        return (
            self.arguments
            + self.outputs
            - self.aliased
            + self.temporaries
            + self.code
            + self.unread
        )

    @property
    def fits(self) -> bool:
        """Returns whether the device has as many."""
        return self.total <= self.capacity


class Check(NamedTuple):
    """What was found of one program on one machine.

    Attributes:
        machine: What it is for.
        mesh: Axis -> size.
        program: "train" or "sample".
        batch_size: Images of one run, of all devices together.
        compiled: Whether it was compiled; otherwise memory and traffic are those of the arguments
            alone, and what is sent that of the gradients.
        compile_seconds: With tracing; 0 if it was not compiled.
        memory: Of each device.
        model_operations: Of all devices together, without recomputation.
        operations: Of each device, as they are executed.
        traffic: Bytes that each device reads from and writes to HBM.
        collectives: With how often they run, on each device.
        roofline: Seconds of one run.
        failure: Why it cannot be compiled, "" if it can.
        notes: What else must be known.
    """

    machine: Machine
    mesh: dict[str, int]
    program: str
    batch_size: int
    compiled: bool
    compile_seconds: float
    memory: Memory
    model_operations: Operations
    operations: Operations
    traffic: float
    collectives: tuple[tuple[Collective, float], ...]
    roofline: Roofline
    failure: str = ""
    notes: tuple[str, ...] = ()

    @property
    def sent(self) -> float:
        """Returns the bytes that each device sends to others."""
        return sum(times * collective.sent for collective, times in self.collectives)

    @property
    def utilisation(self) -> float:
        """Returns the highest model FLOPs utilisation possible."""
        model, devices = total_operations(self.model_operations), len(self.machine.devices)
        return utilisation(self.machine.chip, model, devices, self.roofline.overlapped)


def check_program(
    program: Program, machine: Machine, mesh: Mesh, model_operations: Operations
) -> Check:
    """Returns what a program needs; it is compiled for a TPU.

    Args:
        program: For the mesh.
        machine: Its devices are those of the mesh.
        mesh: With as many devices as the machine.
        model_operations: Of the program without recomputation.

    Raises:
        InputError: The compiler fails for another reason than too little memory.
    """
    used = used_arguments(program.function, *program.arguments)
    leaves = jax.tree.leaves(program.arguments)
    unread = sum(
        _device_size(leaf) for leaf, is_used in zip(leaves, used, strict=True) if not is_used
    )
    make = _compiled if machine.chip.is_tpu else _reckoned
    return make(program, machine, mesh, model_operations, unread)


def _compiled(
    program: Program, machine: Machine, mesh: Mesh, model_operations: Operations, unread: float
) -> Check:
    start = time.perf_counter()
    lowered = program.compiled.lower(*program.arguments)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return _too_large(program, machine, mesh, model_operations, str(error))
    seconds = time.perf_counter() - start
    found = compiled.memory_analysis()
    memory = Memory(
        arguments=found.argument_size_in_bytes,
        outputs=found.output_size_in_bytes,
        aliased=found.alias_size_in_bytes,
        temporaries=found.temp_size_in_bytes,
        code=found.generated_code_size_in_bytes,
        unread=unread,
        capacity=machine.chip.memory,
    )
    usage = usage_of(compiled.as_text())
    sent = sum(times * collective.sent for collective, times in usage.collectives.items())
    notes = tuple(
        f"loop {name} was counted once: nothing says how often it runs"
        for name in usage.unknown_loops
    )
    return Check(
        machine, dict(mesh.shape), program.name, program.batch_size, True, seconds, memory,
        model_operations, dict(usage.operations), usage.traffic,
        tuple(usage.collectives.items()),
        roofline(machine.chip, usage.operations, usage.traffic, sent), notes=notes,
    )  # fmt: skip


def _too_large(
    program: Program, machine: Machine, mesh: Mesh, model_operations: Operations, error: str
) -> Check:
    """Returns a check that says how much memory is missing.

    Raises:
        InputError: The program cannot be compiled for another reason.
    """
    sizes = re.findall(r"([\d.]+)([KMG])\b", error)
    if "RESOURCE_EXHAUSTED" not in error or not sizes:
        raise InputError(f"{program.name} cannot be compiled for {machine.name}: {error[:400]}")
    scale = {"K": 2**10, "M": 2**20, "G": 2**30}
    needed = float(sizes[0][0]) * scale[sizes[0][1]]
    arguments = sum(map(_device_size, jax.tree.leaves(program.arguments)))
    memory = Memory(arguments, 0, 0, max(0, needed - arguments), 0, 0, machine.chip.memory)
    return Check(
        machine, dict(mesh.shape), program.name, program.batch_size, False, 0.0, memory,
        model_operations, {}, 0.0, (), Roofline(0, 0, 0),
        failure=error.splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: "),
    )  # fmt: skip


def _reckoned(
    program: Program, machine: Machine, mesh: Mesh, model_operations: Operations, unread: float
) -> Check:
    """Returns a check without compiling: weights, optimiser and gradients, but no activations."""
    whole = count_operations(program.function, *program.arguments)
    operations = {name: count / len(machine.devices) for name, count in whole.items()}
    size = sum(map(_device_size, jax.tree.leaves(program.arguments))) - unread
    train = program.name == "train"
    state = _tree_size(program.arguments[0]) if train else 0.0
    memory = Memory(size, state, state, 0.0, 0.0, unread, machine.chip.memory)
    collectives: tuple[tuple[Collective, float], ...] = ()
    if train:
        collectives = tuple(_gradient_exchange(program.arguments[0].params, mesh))
    sent = sum(times * collective.sent for collective, times in collectives)
    traffic = size + state  # all is read, and the state is written
    return Check(
        machine, dict(mesh.shape), program.name, program.batch_size, False, 0.0, memory,
        model_operations, operations, traffic, collectives,
        roofline(machine.chip, operations, traffic, sent),
    )  # fmt: skip


def _gradient_exchange(params: PyTree, mesh: Mesh) -> list[tuple[Collective, float]]:
    """Returns how gradients are summed: over `data`, and what is divided over `fsdp` gathered."""
    size, groups = _tree_size(params), []
    if mesh.shape["data"] > 1:
        groups.append((Collective("all-reduce", size, mesh.shape["data"]), 1.0))
    if mesh.shape["fsdp"] > 1:
        shards = mesh.shape["fsdp"]
        groups.append((Collective("all-gather", size, shards), 2.0))
        groups.append((Collective("reduce-scatter", size * shards, shards), 1.0))
    return groups


def _tree_size(tree: PyTree) -> float:
    return sum(map(_device_size, jax.tree.leaves(tree)))


def _device_size(leaf: Any) -> float:
    """Returns the bytes of an array on one device; a random key has eight."""
    shape = leaf.sharding.shard_shape(leaf.shape)
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return 8.0 * math.prod(shape)
    return float(leaf.dtype.itemsize * math.prod(shape))
