"""Reads the text of a compiled program (`compiled.as_text()`): computations and instructions.

Only what is needed to know how often an instruction runs, how large its arrays are and where they
lie. TPUs mark arrays in memory on the chip by `S(1)` in the layout, and pad arrays to tiles,
`T(8,128)`; the text of other devices has neither.
"""

import math
import re
from functools import cached_property
from typing import NamedTuple

_BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0, "c64": 64, "c128": 128}
_SHAPE = re.compile(r"([a-z]\w*)\[([0-9,<=]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_TILE = re.compile(r"T\(([0-9,]+)\)")
_SPACE = re.compile(r"S\((\d+)\)")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations|true_computation|"
    r"false_computation)=(\{[^}]*\}|%[\w.\-]+)"
)


class Shape(NamedTuple):
    """An array of a program.

    Attributes:
        dtype: As "f32".
        dims: Sizes.
        layout: Order of the dimensions from the fastest on, tiles and place, as the text has it.
    """

    dtype: str
    dims: tuple[int, ...]
    layout: str = ""

    @property
    def bits(self) -> int:
        """Returns the size of a number."""
        known = _BITS.get(self.dtype)
        return int(re.sub(r"^\D+(\d+).*", r"\1", self.dtype)) if known is None else known

    @property
    def size(self) -> float:
        """Returns the bytes of the numbers."""
        return math.prod(self.dims) * self.bits / 8

    @property
    def padded_size(self) -> float:
        """Returns the bytes with what fills up the tiles."""
        tile = _TILE.search(self.layout)
        if tile is None or not self.dims:
            return self.size
        sides = [int(side) for side in tile[1].split(",")]
        order = [int(axis) for axis in self.layout.split(":")[0].split(",") if axis]
        padded = [self.dims[axis] for axis in order]
        for place, side in enumerate(reversed(sides[-len(padded) :])):
            padded[place] = -(-padded[place] // side) * side
        return math.prod(padded) * self.bits / 8

    @property
    def is_counter(self) -> bool:
        """Returns whether this is one whole number."""
        return self.dims == () and self.dtype in ("s32", "u32", "s64", "u64")

    @property
    def in_main_memory(self) -> bool:
        """Returns whether the array lies in HBM."""
        space = _SPACE.search(self.layout)
        return space is None or space[1] == "0"


def read_shapes(text: str) -> tuple[Shape, ...]:
    """Returns the arrays of a type, in order; those of nested tuples one after another."""
    return tuple(
        Shape(kind, tuple(int(size.lstrip("<=")) for size in dims.split(",") if size), layout)
        for kind, dims, layout in _SHAPE.findall(re.sub(r"/\*.*?\*/", "", text))
    )


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
        name: Of its result.
        shapes: Of its result; several for a tuple.
        opcode: What is done.
        operands: Names.
        inside: What stands between the parentheses, as of `constant(5)`.
        attributes: What follows them.
        root: Whether it is the result of its computation.
    """

    name: str
    shapes: tuple[Shape, ...]
    opcode: str
    operands: tuple[str, ...]
    inside: str
    attributes: str
    root: bool

    @property
    def called(self) -> tuple[str, ...]:
        """Returns the names of the computations that it runs."""
        return tuple(
            name for group in _CALLED.findall(self.attributes) for name in _NAME.findall(group)
        )

    def attribute(self, name: str) -> str:
        """Returns the text of an attribute up to the next comma outside of braces; "" without."""
        found = re.search(rf"\b{name}=(\{{[^}}]*\}}|[^\s,]+)", self.attributes)
        return found[1] if found else ""

    def sizes(self, name: str) -> tuple[int, ...]:
        """Returns the numbers of an attribute such as `dimensions={0,1}`."""
        return tuple(map(int, re.findall(r"-?\d+", self.attribute(name))))

    @property
    def padded_size(self) -> float:
        """Returns the bytes of the result in HBM."""
        return sum(shape.padded_size for shape in self.shapes if shape.in_main_memory)


class Computation:
    """A list of instructions; as a module's entry or the body of a loop, in the order they run."""

    def __init__(self, name: str, instructions: list[Instruction]):
        self.name, self.instructions = name, instructions
        self.by_name = {instruction.name: instruction for instruction in instructions}

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Name -> the instructions that read it."""
        users: dict[str, list[Instruction]] = {}
        for instruction in self.instructions:
            for name in set(instruction.operands):
                users.setdefault(name, []).append(instruction)
        return users

    @cached_property
    def parameters(self) -> dict[int, Instruction]:
        """Number -> parameter."""
        return {int(i.inside): i for i in self.instructions if i.opcode == "parameter"}

    @property
    def root(self) -> Instruction:
        """Returns the instruction whose result is the computation's."""
        return next(i for i in reversed(self.instructions) if i.root)


class Module:
    """A program.

    Attributes:
        computations: By name.
        entry: The computation that the program begins with.
        num_partitions: Devices that it is divided among.
    """

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self.entry: Computation
        header = text.split("\n", 1)[0]
        counts = re.findall(r"(?:num_partitions|replica_count)=(\d+)", header)
        self.num_partitions = math.prod(map(int, counts))
        name, entry, lines = "", False, []
        for line in text.splitlines():
            if line.endswith("{") and not line.startswith((" ", "HloModule")):
                entry = line.startswith("ENTRY")
                name, lines = re.sub(r"^ENTRY\s+", "", line).split()[0].lstrip("%"), []
            elif line.startswith("}") and name:
                self.computations[name] = Computation(name, lines)
                if entry:
                    self.entry = self.computations[name]
                name = ""
            elif name and " = " in line:
                lines.append(read_instruction(line))

    def called(self, instruction: Instruction) -> list[Computation]:
        """Returns the computations that an instruction runs."""
        return [self.computations[name] for name in instruction.called]

    def trip_count(self, loop: Instruction, inside: Computation) -> int | None:
        """Returns how often a `while` runs; None if the text does not say it.

        From `known_trip_count`, or from a condition that compares a counter with a constant.
        Where the text does not show it, the counter begins with 0 and rises by 1.

        Args:
            loop: The `while`.
            inside: The computation that it is in.
        """
        known = re.search(r'known_trip_count[^0-9}]*"?n"?[^0-9}]*(\d+)', loop.attributes)
        if known:
            return int(known[1])
        condition, body = (
            self.computations[loop.attribute(name).lstrip("%")] for name in ("condition", "body")
        )
        pieces = [condition, *(c for i in condition.instructions for c in self.called(i))]
        lines = [i for piece in pieces for i in piece.instructions]
        compared = [i for i in lines if i.opcode == "compare"]
        limits = [i for i in lines if i.opcode == "constant" and i.shapes[0].is_counter]
        counters = [i for i in condition.instructions if i.opcode == "get-tuple-element"]
        if [len(compared), len(limits), len(counters)] != [1, 1, 1]:
            return None
        if "direction=LT" not in compared[0].attributes:
            return None
        (index,) = counters[0].sizes("index")
        entered = inside.by_name[loop.operands[0]]
        first = _constant(inside, _element(inside, entered, index), default=0)
        return -(-(int(limits[0].inside) - first) // _step(body, index))


def _element(place: Computation, value: Instruction, index: int) -> Instruction | None:
    """Returns what made an element of a tuple; None if the tuple was not put together here."""
    if value.opcode != "tuple":
        return None
    found = place.by_name[value.operands[index]]
    while found.opcode in ("copy", "bitcast", "copy-done", "copy-start"):
        found = place.by_name[found.operands[0]]
    return found


def _constant(place: Computation, value: Instruction | None, default: int) -> int:
    if value is None or value.opcode != "constant":
        return default
    return int(value.inside)


def _step(body: Computation, index: int) -> int:
    """Returns by how much one pass of a loop raises its counter."""
    raised = _element(body, body.root, index)
    if raised is None or raised.opcode != "add":
        return 1
    added = [body.by_name[name] for name in raised.operands]
    steps = [_constant(body, value, default=0) for value in added]
    return max(steps) if max(steps) > 0 else 1


def read_instruction(line: str) -> Instruction:
    """Returns the instruction of a line.

    Args:
        line: As `  ROOT %add.1 = f32[4]{0} add(%a, %b), metadata={...}`.
    """
    left, right = line.strip().split(" = ", 1)
    end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    kind, rest = right[:end], right[end:].lstrip()
    opcode, start = rest[: rest.index("(")], rest.index("(")
    stop = _closing(rest, start)
    inside = rest[start + 1 : stop]
    operands = () if opcode in ("constant", "parameter") else tuple(_NAME.findall(inside))
    name = left.removeprefix("ROOT ").strip().lstrip("%")
    return Instruction(
        name, read_shapes(kind), opcode, operands, inside, rest[stop + 1 :], left.startswith("ROOT")
    )


def _closing(text: str, start: int) -> int:
    """Returns where the parenthesis that opens at `start` closes."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    raise ValueError(f"no parenthesis closes that of {text[start : start + 80]}")
