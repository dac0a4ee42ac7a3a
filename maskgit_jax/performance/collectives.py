"""Collectives of a compiled program, read from its text (`compiled.as_text()`).

`compiled.cost_analysis()` lists no collectives and counts the body of a loop once. This module
reads of a program only what is needed to know which collectives run on each device, how often,
and with how many bytes.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_LAYOUT = re.compile(r"(?<=\])\{[^}]*\}")
_INSTRUCTION = re.compile(
    r"\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>\(.*?\)|\S+) "
    r"(?P<opcode>[\w\-]+)\((?P<operands>[^()]*)\)(?P<attributes>.*)"
)
_ARRAY = re.compile(r"([a-z]\w*)\[([0-9,<=]*)\]")
_COUNTER = re.compile(r"[su](32|64)\[\]")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply)=%([\w.\-]+)")
_BRANCHES = re.compile(
    r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=(%[\w.\-]+))"
)


class Collective(NamedTuple):
    """A collective operation.

    Attributes:
        kind: One of `KINDS`.
        operand: Bytes of each device's operand.
        group: Number of devices that take part together.
    """

    kind: str
    operand: float
    group: int

    @property
    def payload(self) -> float:
        """The bytes of the whole array: the operand, or the result of an all-gather."""
        return self.operand * (self.group if self.kind == "all-gather" else 1)

    @property
    def sent(self) -> float:
        """The bytes that each device sends around a ring.

        With g devices and operands of b bytes: an all-reduce sends 2 (g - 1) / g b, a
        reduce-scatter and an all-to-all (g - 1) / g b, an all-gather (g - 1) b, a
        collective-permute b. Bytes that pass through a device do not count.
        """
        if self.kind == "collective-permute":
            return self.operand
        share = (self.group - 1) / self.group
        return share * self.payload * (2 if self.kind == "all-reduce" else 1)


class _Instruction(NamedTuple):
    name: str
    type: str
    opcode: str
    operands: list[str]
    attributes: str
    text: str  # between the parentheses

    def computation(self, name: str) -> str:
        match = re.search(rf"\b{name}=%([\w.\-]+)", self.attributes)
        assert match is not None, f"{self.name} has no {name}"
        return match[1]


def read_collectives(text: str) -> tuple[Counter[Collective], tuple[str, ...]]:
    """Returns how often each collective runs, and the loops of unknown length.

    The body of a loop counts once for each iteration, and once where the number is unknown. Of
    the branches of a condition the one that sends the most counts.

    Args:
        text: Text of the compiled program.
    """
    program = _Program(text)
    return program.collectives(program.entry), tuple(program.unknown_loops)


class _Program:
    """The computations of a program: name -> instructions by name."""

    def __init__(self, text: str):
        counts = re.findall(r"(?:num_partitions|replica_count)=(\d+)", text.split("\n", 1)[0])
        self.num_devices = math.prod(map(int, counts))
        self.computations: dict[str, dict[str, _Instruction]] = {}
        self.entry, self.unknown_loops = "", list[str]()
        self._known: dict[str, Counter[Collective]] = {}
        current: dict[str, _Instruction] = {}
        for line in text.splitlines():
            if line.endswith("{") and not line.startswith((" ", "HloModule")):
                name = line.removeprefix("ENTRY").split()[0].lstrip("%")
                current = self.computations.setdefault(name, {})
                self.entry = name if line.startswith("ENTRY") else self.entry
            elif match := _INSTRUCTION.match(_LAYOUT.sub("", line)):
                inside = match["operands"]
                current[match["name"]] = _Instruction(
                    match["name"], match["type"], match["opcode"], _NAME.findall(inside),
                    match["attributes"], inside,
                )  # fmt: skip

    def collectives(self, name: str) -> Counter[Collective]:
        """Returns how often each collective runs in one run of a computation."""
        if name not in self._known:
            total: Counter[Collective] = Counter()
            for instruction in self.computations[name].values():
                total.update(self._of_instruction(instruction, self.computations[name]))
            self._known[name] = total
        return self._known[name]

    def _of_instruction(
        self, instruction: _Instruction, computation: dict[str, _Instruction]
    ) -> Counter[Collective]:
        if instruction.opcode == "while":
            iterations = self._iterations(instruction)
            if iterations is None:
                self.unknown_loops.append(instruction.name)
            body = self.collectives(instruction.computation("body"))
            return Counter({key: (iterations or 1) * times for key, times in body.items()})
        if instruction.opcode == "conditional":
            names = [name for groups in _BRANCHES.findall(instruction.attributes)
                     for name in _NAME.findall("".join(groups))]  # fmt: skip
            return max(map(self.collectives, names), key=bytes_sent)
        total: Counter[Collective] = Counter()
        for name in _CALLED.findall(instruction.attributes):
            total.update(self.collectives(name))
        kind = instruction.opcode.removesuffix("-start")
        if kind in KINDS and not _is_continued(instruction, computation):
            if kind == "all-reduce" and _is_sliced(instruction, computation):
                kind = "reduce-scatter"
            size = sum(array_bytes(computation[name].type) for name in instruction.operands)
            group = group_size(instruction.attributes, self.num_devices)
            total[Collective(kind, size, group)] += 1
        return total

    def _iterations(self, loop: _Instruction) -> int | None:
        """Returns how often a `while` runs, None if its text does not contain it.

        CPUs and GPUs write `known_trip_count`. TPUs do not: there the condition compares a
        counter, which starts at 0 and rises by 1 as that of `lax.scan` does, with a constant.
        """
        known = re.search(r'known_trip_count[^0-9}]*"?n"?[^0-9}]*(\d+)', loop.attributes)
        if known:
            return int(known[1])
        condition = self.computations[loop.computation("condition")]
        called = [name for i in condition.values() for name in _CALLED.findall(i.attributes)]
        lines = [i for name in called for i in self.computations[name].values()]
        lines += condition.values()
        limits = [i.text for i in lines if i.opcode == "constant" and _COUNTER.fullmatch(i.type)]
        compared = [i for i in lines if i.opcode == "compare"]
        if len(limits) != 1 or len(compared) != 1 or "direction=LT" not in compared[0].attributes:
            return None
        return int(limits[0])


def bytes_sent(collectives: Mapping[Collective, float]) -> float:
    """Returns the bytes that each device sends in all of the collectives."""
    return sum(times * collective.sent for collective, times in collectives.items())


def array_bytes(text: str) -> float:
    """Returns the bytes of the arrays of a type, without the padding of their tiles."""
    total = 0.0
    for dtype, dims in _ARRAY.findall(text):
        bits = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0, "c64": 64, "c128": 128}.get(dtype)
        bits = int(re.findall(r"\d+", dtype)[0]) if bits is None else bits
        total += math.prod(int(size.lstrip("<=")) for size in dims.split(",") if size) * bits / 8
    return total


def _is_continued(collective: _Instruction, computation: dict[str, _Instruction]) -> bool:
    """Whether a collective started in another fusion: TPUs spread one over all that overlap it."""
    if "chain_id" not in collective.attributes:
        return False
    return not any("AsyncCollectiveStart" in other.attributes for other in computation.values())


def _is_sliced(reduce: _Instruction, computation: dict[str, _Instruction]) -> bool:
    """Whether each device keeps only its slice of an all-reduce: a reduce-scatter on TPUs."""
    users = [other for other in computation.values() if reduce.name in other.operands]
    return bool(users) and all(user.opcode == "dynamic-slice" for user in users)


def group_size(attributes: str, num_devices: int) -> int:
    """Returns the number of devices that take part in a collective together.

    Args:
        attributes: With `replica_groups` in any of their forms: {{0,1},{2,3}}, [2,2]<=[4] or
            mesh['x'=2,'y'=2] {'x'}; {} are all devices.
        num_devices: Devices of the program.
    """
    if listed := re.search(r"replica_groups=\{\{([0-9,]*)\}", attributes):
        return len(listed[1].split(","))
    if counted := re.search(r"replica_groups=\[([0-9,]+)\]<=", attributes):
        return int(counted[1].split(",")[-1])
    if meshed := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", meshed[1]))
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", meshed[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return num_devices
