"""What one run of a compiled program uses on each device, read from its text.

Everything counts as often as it runs: the body of a loop once for each of its passes; of the
branches of a condition the one with the largest traffic counts.

Operations are those of products, two for each multiplication with a number that is there.

Traffic is what is read from and written to HBM. In a scheduled program every instruction outside
of fusions makes its result anew, so
- an instruction reads its operands and writes its result, both with the padding of their tiles;
- a fusion is one instruction: what happens inside of it stays on the chip. Of an operand that it
  only slices or gathers it reads what these take;
- dynamic-slice, slice and gather read what they give; dynamic-update-slice and scatter, which
  work in place, read the update, and write it (scatter also reads what it adds to);
- what lies in the chip's own memory, `S(1)`, counts only where it is copied from or to HBM;
- renamings (bitcast, tuples, parameters, buffers that are only allocated or handed on) cost
  nothing, and of a collective that goes on beside several fusions only the first counts.
Caches are ignored, and whatever a compiler's own calls do beside their operands and results.

Collectives move bytes as a ring does, with g devices in a group and operands of b bytes: an
all-reduce sends 2 (g - 1) / g b, a reduce-scatter and an all-to-all (g - 1) / g b, an all-gather
(g - 1) b, a collective-permute b from each device. What only passes through a device, as it does
in an all-to-all around a ring, does not count.
"""

import math
import re
from collections import Counter
from typing import NamedTuple

from maskgit_jax.performance.hlo import Computation, Instruction, Module, Shape
from maskgit_jax.performance.operations import number_kind, window_pairs

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
    "replica-id", "opt-barrier", "async-update", "async-done", "domain", "send-done",
}  # fmt: skip
_FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound")
_TAKES_PARTS = ("dynamic-slice", "slice", "gather")
_IN_PLACE = ("dynamic-update-slice", "scatter")


class Collective(NamedTuple):
    """One collective, as often as it runs the same way.

    Attributes:
        kind: One of `KINDS`.
        operand: Bytes that each device puts in.
        group: Devices that take part in it together.
    """

    kind: str
    operand: float
    group: int

    @property
    def payload(self) -> float:
        """Returns the bytes of the whole array: what goes in, or for an all-gather comes out."""
        return self.operand * (self.group if self.kind == "all-gather" else 1)

    @property
    def sent(self) -> float:
        """Returns the bytes that each device sends around a ring."""
        if self.kind == "collective-permute":
            return self.operand
        share = (self.group - 1) / self.group
        return share * self.payload * (2 if self.kind == "all-reduce" else 1)


class Usage(NamedTuple):
    """What a computation uses on each device.

    Attributes:
        operations: One of `chips.NUMBERS` -> floating-point operations.
        traffic: Bytes read from and written to HBM.
        collectives: Collective -> how often it runs.
        unknown_loops: Loops that were counted once, for nothing says how often they run.
    """

    operations: Counter[str]
    traffic: float
    collectives: Counter[Collective]
    unknown_loops: tuple[str, ...]

    def plus(self, other: "Usage", times: float = 1) -> "Usage":
        """Returns the sum, of the other `times`."""
        operations, collectives = self.operations.copy(), self.collectives.copy()
        operations.update({name: times * value for name, value in other.operations.items()})
        collectives.update({name: times * value for name, value in other.collectives.items()})
        return Usage(
            operations,
            self.traffic + times * other.traffic,
            collectives,
            tuple(dict.fromkeys(self.unknown_loops + other.unknown_loops)),
        )


def _nothing() -> Usage:
    return Usage(Counter(), 0.0, Counter(), ())


def usage_of(text: str) -> Usage:
    """Returns what one run of a program uses on each device.

    Args:
        text: Of a compiled program, `compiled.as_text()`.
    """
    module = Module(text)
    return _Reader(module).whole(module.entry)


class _Reader:
    """Adds up; every computation once."""

    def __init__(self, module: Module):
        self.module = module
        self._known: dict[tuple[str, bool], Usage] = {}

    def whole(self, computation: Computation, fused: bool = False) -> Usage:
        """Returns what a computation uses; of a fused one the traffic is not counted."""
        key = computation.name, fused
        if key not in self._known:
            total = _nothing()
            for instruction in computation.instructions:
                total = total.plus(self._one(instruction, computation, fused))
            self._known[key] = total
        return self._known[key]

    def _one(self, instruction: Instruction, place: Computation, fused: bool) -> Usage:
        opcode, called = instruction.opcode, self.module.called(instruction)
        if opcode == "while":
            body = self.whole(self.module.computations[instruction.attribute("body").lstrip("%")])
            times = self.module.trip_count(instruction, place)
            loops = () if times is not None else (instruction.name,)
            return Usage(Counter(), 0.0, Counter(), loops).plus(body, 1 if times is None else times)
        if opcode == "conditional":
            return max((self.whole(branch) for branch in called), key=lambda use: use.traffic)
        if opcode in ("call", "async-start"):
            return self.whole(called[0], fused)
        operations, collectives = Counter(), Counter()
        if opcode in ("dot", "convolution"):
            kind, count = _products(instruction, place)
            operations[kind] = count
        if opcode.removesuffix("-start") in KINDS and not _goes_on(instruction, place):
            collectives[self._collective(instruction, place)] = 1
        traffic = 0.0 if fused else self._traffic(instruction, place)
        own = Usage(operations, traffic, collectives, ())
        return own.plus(self.whole(called[0], fused=True)) if opcode == "fusion" else own

    def _collective(self, instruction: Instruction, place: Computation) -> Collective:
        shapes = [shape for name in instruction.operands for shape in place.by_name[name].shapes]
        kind = instruction.opcode.removesuffix("-start")
        if kind == "all-reduce" and _is_scattered(instruction, place):
            kind = "reduce-scatter"
        group = group_size(instruction.attributes, self.module.num_partitions)
        return Collective(kind, sum(shape.size for shape in shapes), group)

    def _traffic(self, instruction: Instruction, place: Computation) -> float:
        opcode = instruction.opcode
        if opcode in _FREE or any(name in instruction.attributes for name in _FREE_CALLS):
            return 0.0
        operands = [place.by_name[name] for name in instruction.operands]
        if opcode == "slice-start":  # ((the operand), the slice, ...), the slice is on the chip
            taken = instruction.shapes[1].padded_size
            return taken if operands[0].shapes[0].in_main_memory else 0.0
        if opcode.endswith("-done"):
            return instruction.padded_size
        if opcode in _TAKES_PARTS:
            taken = sum(shape.padded_size for shape in instruction.shapes)
            reads = taken if operands[0].shapes[0].in_main_memory else 0.0
            return reads + instruction.padded_size + sum(o.padded_size for o in operands[1:])
        if opcode in _IN_PLACE:
            return self._update(instruction, place)
        if opcode == "fusion":
            return self._fusion_traffic(instruction, operands)
        reads = sum(operand.padded_size for operand in _each_once(operands))
        return reads if opcode.endswith("-start") else reads + instruction.padded_size

    def _update(self, instruction: Instruction, place: Computation) -> float:
        """Returns what an instruction that works in place reads and writes, its indices too."""
        main = instruction.shapes[0].in_main_memory
        others = [place.by_name[name] for name in instruction.operands[1:]]
        update = others[-1 if instruction.opcode == "scatter" else 0]
        written = sum(shape.padded_size for shape in update.shapes) if main else 0.0
        reads = sum(operand.padded_size for operand in others)
        return reads + written * (2 if instruction.opcode == "scatter" else 1)

    def _fusion_traffic(self, fusion: Instruction, operands: list[Instruction]) -> float:
        (inside,) = self.module.called(fusion)
        if any("AsyncCollectiveDone" in i.attributes for i in inside.instructions):
            return 0.0
        reads: dict[str, float] = {}
        for place, operand in enumerate(operands):
            if operand.padded_size:
                taken = self._taken(inside, inside.parameters[place], operand.padded_size)
                reads[operand.name] = max(reads.get(operand.name, 0.0), taken)
        roots = self._results(inside, inside.root)
        writes = [
            self._written(inside, root, shape)
            for root, shape in zip(roots, fusion.shapes, strict=True)
            if shape.in_main_memory
        ]
        return sum(reads.values()) + sum(writes)

    def _taken(self, inside: Computation, value: Instruction, whole: float) -> float:
        """Returns the bytes of an operand, `whole` at most, that a fused computation reads."""
        total = 0.0
        for user in inside.users.get(value.name, ()):
            first_only = user.operands[0] == value.name and user.operands.count(value.name) == 1
            if user.opcode in _TAKES_PARTS and first_only:
                total += sum(shape.padded_size for shape in user.shapes)
            elif user.opcode in ("bitcast", "get-tuple-element"):
                total += self._taken(inside, user, whole)
            elif user.opcode == "fusion":
                (inner,) = self.module.called(user)
                for place, name in enumerate(user.operands):
                    if name == value.name:
                        total += self._taken(inner, inner.parameters[place], whole)
            elif user.opcode == "dynamic-update-slice" and first_only:
                pass  # it is written, not read
            elif user.opcode != "tuple" and not _goes_on(user, inside):
                return whole
        return min(whole, total)

    def _results(self, inside: Computation, root: Instruction) -> list[Instruction]:
        """Returns the instructions whose values a fused computation gives, one for each array."""
        if root.opcode != "tuple":
            return [root] * len(root.shapes)
        inner = [inside.by_name[name] for name in root.operands]
        return [result for value in inner for result in self._results(inside, value)]

    def _written(self, inside: Computation, root: Instruction, shape: Shape) -> float:
        """Returns the bytes that a fused computation writes of one of its results."""
        if root.opcode == "parameter" or _goes_on(root, inside):
            return 0.0
        if root.opcode == "bitcast":
            return self._written(inside, inside.by_name[root.operands[0]], shape)
        if root.opcode == "fusion" and len(root.shapes) == 1:
            (inner,) = self.module.called(root)
            return self._written(inner, inner.root, shape)
        if root.opcode == "dynamic-update-slice":
            update = inside.by_name[root.operands[1]]
            return min(shape.padded_size, sum(part.padded_size for part in update.shapes))
        return shape.padded_size


def _each_once(operands: list[Instruction]) -> list[Instruction]:
    return list({operand.name: operand for operand in operands}.values())


def _goes_on(collective: Instruction, place: Computation) -> bool:
    """Whether a collective began in another fusion: TPUs spread one over all that overlap it."""
    if "chain_id" not in collective.attributes:
        return False
    return not any("AsyncCollectiveStart" in other.attributes for other in place.instructions)


def _is_scattered(reduce: Instruction, place: Computation) -> bool:
    """Whether each device keeps only its slice of an all-reduce: how TPUs scatter, in a fusion."""
    users = place.users.get(reduce.name, [])
    return bool(users) and all(user.opcode == "dynamic-slice" for user in users)


def group_size(attributes: str, everybody: int) -> int:
    """Returns how many devices take part in a collective together.

    Args:
        attributes: With `replica_groups` in any of their forms: {{0,1},{2,3}}, [2,2]<=[4] or
            mesh['x'=2,'y'=2] {'x'}; {} are all devices.
        everybody: Devices of the program.
    """
    listed = re.search(r"replica_groups=\{\{([0-9,]*)\}", attributes)
    if listed:
        return len(listed[1].split(","))
    counted = re.search(r"replica_groups=\[([0-9,]+)\]<=", attributes)
    if counted:
        return int(counted[1].split(",")[-1])
    meshed = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", attributes)
    if meshed:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", meshed[1]))
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", meshed[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return everybody


def _products(instruction: Instruction, place: Computation) -> tuple[str, float]:
    """Returns the kind of numbers and the operations of a dot or a convolution."""
    left, right = (place.by_name[name].shapes[0] for name in instruction.operands[:2])
    dtype = "bfloat16" if left.dtype == right.dtype == "bf16" else "float32"
    kind = number_kind(dtype, instruction.attribute("operand_precision"))
    result = instruction.shapes[0].dims
    if instruction.opcode == "dot":
        contracted = instruction.sizes("lhs_contracting_dims")
        length = math.prod(left.dims[axis] for axis in contracted)
        return kind, 2.0 * math.prod(result) * length
    return kind, _convolution(instruction, left.dims, right.dims)


def _convolution(
    instruction: Instruction, image: tuple[int, ...], kernel: tuple[int, ...]
) -> float:
    labels = re.split("_|->", instruction.attribute("dim_labels"))
    window = dict(re.findall(r"(\w+)=([^\s}]+)", instruction.attribute("window")))
    result = instruction.shapes[0].dims
    pairs = 1
    for axis in range(len(labels[0]) - 2):

        def setting(name: str, default: int, axis: int = axis) -> int:
            values = window.get(name)
            return default if values is None else int(values.split("x")[axis].split("_")[0])

        size, taps, out = (
            shape[label.index(str(axis))]
            for shape, label in zip((image, kernel, result), labels, strict=True)
        )
        pairs *= window_pairs(
            size, taps, out, setting("stride", 1), setting("pad", 0),
            setting("lhs_dilate", 1), setting("rhs_dilate", 1),
        )  # fmt: skip
    batch, features = (result[labels[2].index(letter)] for letter in "bf")
    return 2.0 * batch * features * kernel[labels[1].index("i")] * pairs
